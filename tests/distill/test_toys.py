"""Toys are what they say, are learnt to the last mode, and a study of them can be interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.errors import VddError
from vdd_ros.core.shipped import shipped_file
from vdd_ros.distill.denoisers import score
from vdd_ros.distill.diagnostics.distances import draw_actions
from vdd_ros.distill.methods.kmeans import kmeans
from vdd_ros.distill.teachers.analytic import AnalyticTeacher
from vdd_ros.distill.toys import study as toy_study
from vdd_ros.distill.toys import training as toy_training
from vdd_ros.distill.toys.recipes import ToySettings, recipe
from vdd_ros.distill.toys.study import read_toy_rows, render_toys, run_toys
from vdd_ros.distill.toys.training import ToyFigures, run_toy
from vdd_ros.distill.toys.truths import TOYS, make_toy, train_toy_teacher


@pytest.fixture(scope="module")
def shipped() -> ToySettings:
    return load_yaml(ToySettings, shipped_file("config/study/toys.yaml"))


def hurried(settings: ToySettings) -> ToySettings:
    """Return settings that run through every line and learn nothing."""
    quick = replace(settings.distill, n_iters=4, warm_start_iters=2, batch_size=4, cache_states=64)
    quick = replace(quick, student=replace(quick.student, width=8, depth=1, head_width=4))
    teacher = replace(settings.teacher, width=8, depth=1, n_iters=2, batch_size=8)
    return replace(settings, distill=quick, teacher=teacher, sampler_steps=2, n_experts={})


@pytest.mark.parametrize("name", TOYS)
def test_a_toys_score_is_the_gradient_of_its_density(name: str) -> None:
    toy = make_toy(name)
    obs = toy.states(6)
    x = torch.randn(6, 1, 2).requires_grad_()
    sigma = torch.full((6,), 0.3)
    density = toy.truth.blurred(sigma, obs).log_prob(x.flatten(1)[:, None])
    (exact,) = torch.autograd.grad(density.sum(), x)
    torch.testing.assert_close(score(toy.truth, x.detach(), sigma, obs), exact, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", TOYS)
def test_samples_of_the_truth_are_near_its_modes(name: str) -> None:
    """Within three deviations of a component of their mode, in the proportions of the weights."""
    toy = make_toy(name)
    action = draw_actions(toy.density, toy.obs, 2000)
    gap, nearest = torch.cdist(action, toy.density(toy.obs).flat_mean).min(-1)
    assert float((gap <= toy.radius).float().mean()) > 0.97
    share = torch.bincount(toy.mode[nearest].flatten(), minlength=toy.n_modes) / gap.numel()
    torch.testing.assert_close(share, toy.mode_weight(), atol=0.03, rtol=0)


def test_the_ring_turns_with_the_observation() -> None:
    """A quarter of a turn between the ends of the range: the modes are where they were."""
    toy = make_toy("rotating-ring")
    ends = torch.tensor([-1.0, 0.0, 0.5, 1.0])[:, None, None]
    low, middle, half, high = toy.density(ends).flat_mean
    torch.testing.assert_close(low.roll(-2, 0), high, atol=1e-5, rtol=0)
    assert float(torch.cdist(middle, half).amin(1).min()) > 0.7


def test_round_components_of_one_width_need_no_covariances() -> None:
    """The moons' denoiser is that of any mixture of Gaussians, in fewer operations."""
    toy = make_toy("exact-moons")
    sigma = torch.linspace(0.02, 3.0, 64)
    x = draw_actions(toy.density, toy.obs, 64)[0][:, None]
    x = x + sigma[:, None, None] * torch.randn_like(x)
    exact = AnalyticTeacher.denoise(toy.truth, x, sigma, toy.states(64))
    found = toy.truth.denoise(x, sigma, toy.states(64))
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=0)


def test_an_unknown_toy_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(VddError, match="did you mean 'ring'"):
        make_toy("rign")


@pytest.mark.parametrize("n_centres", [40, 64])
def test_seeding_misses_none_of_forty_modes(n_centres: int) -> None:
    """Even with one centre per mode; chance alone leaves out several."""
    toy = make_toy("grid")
    for seed in range(5):
        torch.manual_seed(seed)
        points = draw_actions(toy.density, toy.obs, 4096)[0]
        gap = torch.cdist(toy.truth.means[:, 0], kmeans(points, n_centres)).amin(1)
        assert int((gap <= toy.radius).sum()) == 40


def test_centres_that_coincide_and_points_that_are_not_finite() -> None:
    assert kmeans(torch.ones(5, 2), 3).tolist() == [[1.0, 1.0]] * 3
    with pytest.raises(VddError, match="not finite"):
        kmeans(torch.tensor([[0.0], [float("nan")]]), 1)


def test_the_ring_is_learnt_to_a_hundredth_of_a_nat(shipped: ToySettings) -> None:
    """All eight modes, evenly, with half the shipped iterations."""
    quick = replace(shipped.distill, n_iters=500, warm_start_iters=200)
    figures, picture = run_toy("ring", "vdd-diffused", 0, replace(shipped, distill=quick))
    assert figures.modes == figures.n_modes == 8
    assert figures.forward_kl is not None
    assert -0.005 < figures.forward_kl < 0.05
    assert figures.entropy > 0.99
    assert figures.sliced_wasserstein < 0.1
    assert picture.action.shape == (1500, 2)


def test_a_learned_teacher_samples_both_moons(shipped: ToySettings) -> None:
    few = replace(shipped, teacher=replace(shipped.teacher, width=64, depth=2, n_iters=400))
    figures, _ = run_toy("moons", "teacher", 0, few)
    assert figures.modes == figures.n_modes == 2
    assert figures.forward_kl is None
    assert figures.sliced_wasserstein < 0.15


def test_a_toy_is_the_same_run_whatever_was_drawn_before(shipped: ToySettings) -> None:
    quick = hurried(shipped)
    first, _ = run_toy("skewed-ring", "vdd-warm", 3, quick)
    torch.rand(7)
    again, _ = run_toy("skewed-ring", "vdd-warm", 3, quick)
    assert replace(first, cpu_s=0) == replace(again, cpu_s=0)


def test_the_published_recipe_is_as_published(shipped: ToySettings) -> None:
    how = recipe("paper", make_toy("ring"), shipped)
    assert (how.student.n_experts, how.student.init_std) == (8, 1.0)
    assert (how.estimator, how.sigma_rule, how.natural) == ("paper", "uniform", False)
    assert (how.sigma_end, how.sigma_start, how.warm_start) == (0.2, 0.5, "none")
    assert recipe("vdd-diffused", make_toy("grid"), shipped).student.n_experts == 64


def test_moons_stop_above_the_sigmas_that_a_learned_score_is_worst_at(
    shipped: ToySettings,
) -> None:
    """They alone; a share of forward KL belongs to the variant that is named after it."""
    moons, ring = make_toy("moons"), make_toy("ring")
    plain = recipe("vdd-diffused", moons, shipped)
    mixed = recipe("vdd-mixed", moons, shipped)
    assert plain.sigma_end == shipped.sigma_end["moons"] > shipped.distill.sigma_end
    assert plain.forward_kl == 0
    assert mixed == replace(plain, forward_kl=shipped.forward_kl)
    assert recipe("vdd-diffused", ring, shipped).sigma_end == shipped.distill.sigma_end


def test_with_the_exact_score_moons_are_learnt_without_a_teacher_to_train(
    shipped: ToySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With half the shipped iterations, to a tenth of what a learned teacher once cost."""
    monkeypatch.delattr(toy_training, "train_toy_teacher")
    quick = replace(shipped.distill, n_iters=500, warm_start_iters=200)
    figures, _ = run_toy("exact-moons", "vdd-mixed", 0, replace(shipped, distill=quick))
    assert figures.modes == figures.n_modes == 2
    assert figures.forward_kl is not None
    assert -0.005 < figures.forward_kl < 0.05


def test_finished_runs_are_not_computed_again(
    shipped: ToySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = hurried(shipped)
    run_toys(quick, tmp_path, toys=["ring"], variants=["em", "teacher"], seeds=1)
    before = read_toy_rows(tmp_path)
    asked: list[tuple[str, str, int]] = []

    def counted(name: str, variant: str, seed: int, settings: ToySettings) -> object:
        asked.append((name, variant, seed))
        return run_toy(name, variant, seed, settings)

    monkeypatch.setattr(toy_study, "run_toy", counted)
    table = run_toys(quick, tmp_path, toys=["ring"], variants=["em", "paper"], seeds=2)
    assert asked == [("ring", "paper", 0), ("ring", "em", 1), ("ring", "paper", 1)]
    assert read_toy_rows(tmp_path)[:2] == before
    assert table.read_text().count("\n| ring |") == 3
    assert (tmp_path / "toys.png").read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "ring-em.npz", allow_pickle=False) as kept:
        assert kept["action"].shape == (1500, 2)


def test_a_folder_of_other_settings_is_left_alone(shipped: ToySettings, tmp_path: Path) -> None:
    quick = hurried(shipped)
    run_toys(quick, tmp_path, toys=["ring"], variants=["teacher"], seeds=1)
    with pytest.raises(VddError, match="other settings"):
        run_toys(shipped, tmp_path, toys=["ring"], variants=["teacher"], seeds=1)
    # A setting that the folder is too old to name had its default then.
    kept = json.loads((tmp_path / "toys.json").read_text())
    assert kept["distill"].pop("deblur") is False
    (tmp_path / "toys.json").write_text(json.dumps(kept))
    run_toys(quick, tmp_path, toys=["ring"], variants=["teacher"], seeds=1)


@pytest.mark.parametrize(
    ("toys", "variants", "seeds", "message"),
    [
        (["rang"], ["em"], 1, "did you mean"),
        (["ring"], ["vddd"], 1, "did you mean"),
        (["ring"], [], 1, "no variant"),
        (["ring"], ["em"], 0, "at least 1"),
    ],
)
def test_impossible_wishes_are_named(
    shipped: ToySettings,
    tmp_path: Path,
    toys: list[str],
    variants: list[str],
    seeds: int,
    message: str,
) -> None:
    with pytest.raises(VddError, match=message):
        run_toys(shipped, tmp_path, toys=toys, variants=variants, seeds=seeds)
    assert not list(tmp_path.iterdir())


def test_the_table_gives_means_intervals_and_seeds_with_all_modes() -> None:
    row = ToyFigures("ring", "em", 0, 0.1, 0.2, 0.03, 8.0, 8, 1.0, 16.0, 5.0)
    rows = [row, replace(row, seed=1, forward_kl=0.3, modes=7.0)]
    rows.append(replace(row, variant="teacher", forward_kl=None, reverse_kl=None))
    em, teacher = render_toys(rows).splitlines()[2:]
    assert "0.2000 ± 1.2706" in em
    assert "7.5 / 8 | 1 / 2" in em
    assert " - | - |" in teacher


def test_rows_survive_their_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"toy": "ring"}\n')
    with pytest.raises(VddError, match="missing key 'variant'"):
        read_toy_rows(tmp_path)


def test_the_small_teacher_knows_more_than_the_moons_spread(shipped: ToySettings) -> None:
    """Its error at sigma .3 is below that of the best linear denoiser, which knows only that."""
    toy = make_toy("moons")
    how = replace(shipped.teacher, width=64, depth=2, n_iters=800, ema_decay=0.98)
    teacher = train_toy_teacher(toy, how)
    obs, sigma = toy.states(2000), torch.full((2000,), 0.3)
    clean = draw_actions(toy.density, obs, 1)
    with torch.no_grad():
        found = teacher.denoise(clean + 0.3 * torch.randn_like(clean), sigma, obs)
    spread = clean.var((0, 1))
    linear = float((0.09 * spread / (0.09 + spread)).mean())
    assert float((found - clean).square().mean()) < 0.95 * linear


def test_settings_with_unknown_names_are_refused() -> None:
    with pytest.raises(VddError, match="unknown name 'gird'"):
        ToySettings(n_experts={"gird": 3})
    with pytest.raises(VddError, match="unknown toy 'moon'"):
        ToySettings(sigma_end={"moon": 0.05})


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_a_last_sigma_lies_below_the_first(sigma: float) -> None:
    with pytest.raises(VddError, match="not above sigma_start"):
        ToySettings(sigma_end={"moons": sigma})


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_mixture_of_divergences_has_some_of_both(share: float) -> None:
    with pytest.raises(VddError, match=r"vdd-diffused.*em"):
        ToySettings(forward_kl=share)
