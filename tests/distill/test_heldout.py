"""Held-out figures against closed forms: the truth must be the best, and calibrated."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vdd_ros.core.errors import VddError
from vdd_ros.core.normalizer import Normalizer
from vdd_ros.data.demonstrations import Demonstrations
from vdd_ros.data.offline import load_franka
from vdd_ros.distill.judging.action_samplers import (
    climatology_sampler,
    linear_sampler,
    mixture_sampler,
    persistence_sampler,
    teacher_sampler,
)
from vdd_ros.distill.judging.heldout import (
    HeldOut,
    HeldOutSettings,
    held_out,
    sample_figures,
    split_episodes,
    student_figures,
)
from vdd_ros.distill.judging.proper_scores import density_rank, sampled_energy, weighted_energy
from vdd_ros.distill.mixtures.covariance import Triangular
from vdd_ros.distill.mixtures.mixture import MixtureParameters
from vdd_ros.distill.networks.normalization import Affine
from vdd_ros.distill.teachers.analytic import AnalyticTeacher

MEANS = torch.tensor([[-1.0, 0.5, 0.0], [1.0, 0.0, 0.3]])
STDS = torch.tensor([[0.3, 0.5, 0.2], [0.4, 0.2, 0.6]])
GATE = torch.tensor([0.3, 0.7])


class FixedStudent(nn.Module):
    """Answers every window with one mixture of two diagonal Gaussians, spread times `width`."""

    def __init__(self, *, width: float = 1.0, shift: float = 0.0, action: Affine | None = None):
        super().__init__()
        self.observation, self.action = Affine(1), action or Affine(3)
        self.width, self.shift = width, shift

    def forward(self, obs: Tensor) -> MixtureParameters:
        n = len(obs)
        scale = self.action.scale
        mean = (MEANS + self.shift - self.action.offset) / scale
        factor = torch.diag_embed(STDS * self.width / scale)
        return MixtureParameters(
            GATE.log().expand(n, 2),
            mean[:, None].expand(n, 2, 1, 3),
            Triangular.full(factor.expand(n, 2, 3, 3)),
        )


def truth(n: int, *, deviation: float = 1.0) -> HeldOut:
    """Chunks drawn from the mixture that `FixedStudent` answers with by default."""
    generator = torch.Generator().manual_seed(1)
    expert = (torch.rand(n, generator=generator) < GATE[1]).long()
    noise = torch.randn(n, 3, generator=generator)
    action = MEANS[expert] + STDS[expert] * noise
    return HeldOut(torch.zeros(n, 1, 1), action[:, None], torch.full((3,), deviation))


def reference() -> torch.distributions.Distribution:
    """The same mixture by torch."""
    parts = torch.distributions.Independent(torch.distributions.Normal(MEANS, STDS), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(GATE), parts)


def test_the_likelihood_is_that_of_torchs_mixture_whatever_the_students_normaliser() -> None:
    """Exact, raw units, per number of the chunk; a normaliser inside changes nothing."""
    data = truth(500)
    expected = -float(reference().log_prob(data.action[:, 0]).mean()) / 3
    odd = Normalizer(np.float32([0.2, -0.1, 0.4]), np.float32([0.5, 2.0, 0.7]))
    for student in (FixedStudent(), FixedStudent(action=Affine(3, odd))):
        figures = student_figures(student, data)
        assert figures.nll_raw == pytest.approx(expected, abs=1e-5)
        assert figures.nll_normalised == pytest.approx(expected, abs=1e-5)


def test_dividing_by_the_deviation_shifts_the_normalised_likelihood_by_its_logarithm() -> None:
    """Density over a/10 is ten times as high: log 10 nats less per number."""
    wide = student_figures(FixedStudent(), truth(200, deviation=10.0))
    assert wide.nll_normalised == pytest.approx(wide.nll_raw - math.log(10), abs=1e-6)


def test_a_student_that_is_the_truth_covers_exactly_what_it_claims() -> None:
    """Within four standard errors of nominal; too narrow covers less, too wide more."""
    n = 2000
    data = truth(n)
    right, narrow, wide = (student_figures(FixedStudent(width=w), data) for w in (1.0, 0.6, 1.6))
    for level, name in ((0.5, "coverage_50"), (0.9, "coverage_90")):
        tolerance = 4 * math.sqrt(level * (1 - level) / n)
        assert getattr(right, name) == pytest.approx(level, abs=tolerance)
        assert getattr(narrow, name) < level - 2 * tolerance
        assert getattr(wide, name) > level + tolerance


def test_the_density_rank_of_a_gaussian_is_its_chi_square_probability() -> None:
    """Draws denser than y are those nearer to the mean: P(chi^2_3 < |y|^2) of them."""
    n = 400
    identity = Triangular.full(torch.eye(3).expand(n, 1, 3, 3))
    mixture = MixtureParameters(torch.zeros(n, 1), torch.zeros(n, 1, 1, 3), identity)
    radius = math.sqrt(2.366)  # the median of chi^2 with three degrees of freedom
    y = torch.zeros(n, 3)
    y[:, 1] = radius
    rank = density_rank(mixture, y, torch.Generator().manual_seed(0)).double()
    assert float(rank.mean()) / 199 == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(199 * n))


def test_every_proper_score_is_best_at_the_truth() -> None:
    """Likelihood and both energy scores: narrower, wider and shifted students lose."""
    data = truth(800)
    settings = HeldOutSettings(n_samples=24)
    right = student_figures(FixedStudent(), data, settings)
    for wrong in (
        FixedStudent(width=0.3),
        FixedStudent(width=2.5),
        FixedStudent(shift=0.4),
    ):
        figures = student_figures(wrong, data, settings)
        assert figures.nll_raw > right.nll_raw
        assert figures.sampled.energy_score > right.sampled.energy_score


def test_averaging_wins_in_error_and_loses_in_energy() -> None:
    """The mean of both modes has the lowest RMSE, the published trap; the proper score sees it."""
    data = truth(1500)
    settings = HeldOutSettings(n_samples=32)
    middle = (GATE[:, None] * MEANS).sum(0)

    def average(obs: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        return middle.expand(len(obs), n_samples, 1, 3)

    collapsed = sample_figures(average, data, settings)
    faithful = sample_figures(mixture_sampler(FixedStudent()), data, settings)
    assert collapsed.rmse_sample < faithful.rmse_sample
    assert collapsed.energy_score > faithful.energy_score
    assert faithful.rmse_best < faithful.rmse_mean < faithful.rmse_sample


def test_the_energy_score_of_normal_draws_has_its_closed_form() -> None:
    """In one dimension it is the CRPS: y (2 Phi(y) - 1) + 2 phi(y) - 1/sqrt(pi)."""
    y = torch.tensor([0.0, 0.7, -2.0])
    draws = torch.randn(3, 2500, generator=torch.Generator().manual_seed(3))
    normal = torch.distributions.Normal(0.0, 1.0)
    closed = y * (2 * normal.cdf(y) - 1) + 2 * normal.log_prob(y).exp() - 1 / math.sqrt(math.pi)
    assert torch.allclose(sampled_energy((draws - y[:, None])[..., None, None]), closed, atol=0.03)


def test_the_energy_score_is_unbiased_in_the_number_of_draws() -> None:
    """Two draws, averaged over many windows, agree with many draws: figures may be compared."""
    error = torch.randn(8000, 2, 1, 3, generator=torch.Generator().manual_seed(4))
    many = torch.randn(20, 700, 1, 3, generator=torch.Generator().manual_seed(5))
    assert float(sampled_energy(error).mean()) == pytest.approx(
        float(sampled_energy(many).mean()), abs=0.03
    )


def test_weighted_and_sampled_energy_agree_where_they_are_the_same_thing() -> None:
    """K equal points drawn with replacement: the exact value is the limit of many draws."""
    points = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(6))
    weight = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    rows = torch.multinomial(
        weight[0], 3000, replacement=True, generator=torch.Generator().manual_seed(7)
    )
    exact = float(weighted_energy(points, weight))
    assert float(sampled_energy(points[:, rows])) == pytest.approx(exact, rel=0.05)
    loops = sum(weight[0, k] * points[0, k].norm() for k in range(4)) - 0.5 * sum(
        weight[0, k] * weight[0, j] * (points[0, k] - points[0, j]).norm()
        for k in range(4)
        for j in range(4)
    )
    assert exact == pytest.approx(float(loops) / math.sqrt(6), rel=1e-5)


def test_expert_errors_are_those_of_plain_loops() -> None:
    """Best, most probable and drawn expert, with numpy in raw units."""
    data = truth(50)
    action, means = data.action[:, 0].numpy(), MEANS.numpy()
    square = ((means[None] - action[:, None]) ** 2).mean(-1)
    figures = student_figures(FixedStudent(), data)
    assert figures.rmse_best == pytest.approx(np.sqrt(square.min(1).mean()), rel=1e-5)
    assert figures.rmse_argmax == pytest.approx(np.sqrt(square[:, 1].mean()), rel=1e-5)
    assert figures.rmse_drawn == pytest.approx(np.sqrt((square @ GATE.numpy()).mean()), rel=1e-5)
    per_dim = np.sqrt(((means[1] - action) ** 2).mean(0))
    assert figures.rmse_argmax_per_dim == pytest.approx(per_dim.tolist(), rel=1e-5)


class Dressed:
    """An analytic teacher, N(0, .25) per number, with what training adds to one."""

    observation = Affine(1)
    action = Affine(2, Normalizer(np.float32([5.0, -3.0]), np.float32([2.0, 10.0])))
    horizon, dim_act = 1, 2
    sigma_min, sigma_max, schedule = 0.01, 10.0, "exponential"
    denoise = staticmethod(
        AnalyticTeacher(torch.ones(1), torch.zeros(1, 1, 2), 0.25 * torch.eye(2)[None]).denoise
    )


def test_a_teacher_is_sampled_in_raw_units() -> None:
    """Draws of an analytic Gaussian teacher behind a normaliser have its mean and deviation."""
    draws = teacher_sampler(Dressed(), n_steps=64, kind="heun")(
        torch.zeros(3, 1, 1), 2000, torch.Generator().manual_seed(0)
    )
    assert draws.shape == (3, 2000, 1, 2)
    flat = draws.reshape(-1, 2)
    assert torch.allclose(flat.mean(0), torch.tensor([5.0, -3.0]), atol=0.3)
    assert torch.allclose(flat.std(0), torch.tensor([1.0, 5.0]), rtol=0.06)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_one_step_ends_at_the_denoised_noise_it_started_from(sigma: float | None) -> None:
    """v sigma / (v + sigma^2) of a deviation is left, from wherever sampling starts."""
    draws = teacher_sampler(Dressed(), n_steps=1, start_sigma=sigma)(
        torch.zeros(1, 1, 1), 8000, torch.Generator().manual_seed(0)
    )
    start = sigma or Dressed.sigma_max
    left = 0.25 * start / (0.25 + start**2)
    expected = left * torch.tensor([2.0, 10.0])
    assert torch.allclose(draws.reshape(-1, 2).std(0), expected, rtol=0.05)


def episodes(n: int = 10, length: int = 20) -> Demonstrations:
    """Episodes whose numbers name them."""
    index = np.repeat(np.arange(n), length).astype(np.float32)
    return Demonstrations(
        observation=index[:, None],
        action=np.stack([index, index % 3, np.ones_like(index)], 1),
        episode_ends=length * np.arange(1, n + 1),
        mode=None,
        source="numbered",
    )


def test_no_episode_is_in_both_parts_and_the_seed_decides() -> None:
    """Same seed, same split; nothing lost."""
    first, second = (split_episodes(episodes(), HeldOutSettings(seed=s)) for s in (0, 1))
    again = split_episodes(episodes(), HeldOutSettings(seed=0))
    train, test = ({int(v) for v in part.observation[:, 0]} for part in first)
    assert train | test == set(range(10))
    assert not train & test
    assert len(test) == 2
    assert first[1].data_hash() == again[1].data_hash() != second[1].data_hash()


def test_windows_are_thinned_evenly_and_scaled_by_the_training_part() -> None:
    """From the first to the last, and a constant column has scale 1, not 0."""
    train, test = split_episodes(episodes())
    data = held_out(train, test, n_obs_steps=2, horizon=3, settings=HeldOutSettings(max_windows=7))
    assert data.observation.shape == (7, 2, 1)
    assert data.action.shape == (7, 3, 3)
    assert data.deviation[2] == 1.0
    assert data.deviation[0] == pytest.approx(float(train.action[:, 0].std()), rel=1e-5)
    everything = held_out(
        train, test, n_obs_steps=2, horizon=3, settings=HeldOutSettings(max_windows=0)
    )
    assert len(everything.action) == 2 * 18


def test_a_diverged_student_and_other_robots_are_refused() -> None:
    """No table of NaN, and the sets are named."""
    with pytest.raises(VddError, match="log-likelihood on held-out data is nan"):
        student_figures(FixedStudent(shift=math.nan), truth(5))
    train, test = split_episodes(episodes())
    other = Demonstrations(
        observation=test.observation,
        action=test.action[:, :2],
        episode_ends=test.episode_ends,
        mode=None,
        source="other",
    )
    with pytest.raises(VddError, match="other: 1 observation and 2 action columns"):
        held_out(train, other, n_obs_steps=1, horizon=1)
    with pytest.raises(VddError, match="at least 2 samples"):
        HeldOutSettings(n_samples=1)


def test_references_on_the_franka_letters(shared_data: Path) -> None:
    """Staying put beats a random training pose by far: what every model must beat is known."""
    path = shared_data / "franka" / "helloworld_7x8x1000x2_cm.npz"
    if not path.is_file():
        pytest.skip(f"no recordings at {path}")
    train, test = split_episodes(load_franka(path))
    data = held_out(train, test, n_obs_steps=1, horizon=4)
    stay = sample_figures(persistence_sampler(horizon=4, dim_act=2), data)
    any_pose = sample_figures(climatology_sampler(train, horizon=4), data)
    assert stay.windows > 500
    assert stay.rmse_sample < 0.2 * any_pose.rmse_sample
    assert stay.energy_score < any_pose.energy_score


def test_a_linear_regression_finds_what_is_linear_and_draws_with_its_error() -> None:
    """Actions linear in a window of two, with noise of .1: exact mean, spread .1, unit-free."""
    generator = np.random.default_rng(2)
    n, length = 40, 30
    here = generator.normal(size=(n * length, 2)) * [1.0, 50.0] + [0.0, 300.0]
    before = np.roll(here, 1, axis=0)
    before[::length] = here[::length]  # windows repeat the first row of an episode
    action = here @ [[0.5], [0.02]] - before @ [[0.3], [0.01]] + 4.0
    demos = Demonstrations(
        observation=here,
        action=action + 0.1 * generator.normal(size=action.shape),
        episode_ends=length * np.arange(1, n + 1),
        mode=None,
        source="linear",
    )
    sampler = linear_sampler(demos, n_obs_steps=2, horizon=1)
    window = torch.tensor([[[1.0, 280.0], [-1.0, 350.0]]])
    draws = sampler(window, 4000, torch.Generator().manual_seed(0))
    assert draws.shape == (1, 4000, 1, 1)
    expected = 0.5 * -1.0 + 0.02 * 350.0 - 0.3 * 1.0 - 0.01 * 280.0 + 4.0
    assert float(draws.mean()) == pytest.approx(expected, abs=0.02)
    assert float(draws.std()) == pytest.approx(0.1, abs=0.01)


def test_staying_put_is_zero_where_actions_are_differences() -> None:
    """Else it is the newest observation, for the whole chunk."""
    obs = torch.randn(3, 2, 5)
    generator = torch.Generator()
    plain = persistence_sampler(horizon=4, dim_act=2)(obs, 6, generator)
    assert torch.equal(plain, obs[:, -1, None, None, :2].expand(3, 6, 4, 2))
    relative = persistence_sampler(horizon=4, dim_act=2, relative=True)(obs, 6, generator)
    assert torch.equal(relative, torch.zeros(3, 6, 4, 2))
