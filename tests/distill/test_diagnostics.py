"""Every diagnostic says the truth where the truth is known, and names what is wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.distill.toys import ring_teacher
from vdd_ros.core.errors import VddError
from vdd_ros.distill.diagnostics.calibration import (
    LEVELS,
    Calibration,
    calibration,
    density_ranks,
)
from vdd_ros.distill.diagnostics.coverage import (
    Coverage,
    GateUse,
    cluster_actions,
    cluster_coverage,
    gate_use,
    mode_mass,
)
from vdd_ros.distill.diagnostics.distances import (
    Policy,
    draw_actions,
    monte_carlo_kl,
    sliced_wasserstein,
)
from vdd_ros.distill.diagnostics.opinion import Finding, findings
from vdd_ros.distill.diagnostics.report import (
    Diagnosis,
    DiagnosisSettings,
    TeacherDiagnosis,
    diagnose,
)
from vdd_ros.distill.diagnostics.stein import (
    MOVED,
    SteinComparison,
    SteinDiscrepancy,
    compare_discrepancies,
    stein_discrepancy,
    stein_kernel,
)
from vdd_ros.distill.mixtures.student import GaussianMixtureOfExperts, StudentSettings
from vdd_ros.distill.teachers.analytic import AnalyticTeacher


def gaussian(std: float, *, mean: float = 0.0, dim: int = 2) -> Policy:
    """Return one round Gaussian at every state."""
    teacher = AnalyticTeacher(
        torch.ones(1), torch.full((1, 1, dim), mean), (std**2 * torch.eye(dim))[None]
    )
    return lambda obs: teacher.blurred(torch.zeros(len(obs)), obs)


def states(n: int) -> Tensor:
    return torch.zeros(n, 1, 1)


# -- distances ---------------------------------------------------------------------------------


def test_divergence_of_two_gaussians_is_the_closed_form() -> None:
    first = torch.distributions.Normal(0.0, 1.0)
    second = torch.distributions.Normal(0.5, 2.0)
    exact = 2 * float(torch.distributions.kl_divergence(first, second))
    found = monte_carlo_kl(gaussian(1.0), gaussian(2.0, mean=0.5), states(4), n_samples=20000)
    assert found == pytest.approx(exact, abs=0.01)


def test_moving_a_cloud_costs_the_mean_projected_way() -> None:
    """In the plane the mean of |cos| is 2 / pi, its root mean square 1 / sqrt 2."""
    cloud = torch.randn(300, 2)
    moved = (cloud + torch.tensor([3.0, 4.0]))[torch.randperm(300)]
    assert sliced_wasserstein(cloud, cloud.flip(0)) == pytest.approx(0.0, abs=1e-6)
    one = sliced_wasserstein(cloud, moved, n_projections=20000)
    two = sliced_wasserstein(cloud, moved, order=2, n_projections=20000)
    assert one == pytest.approx(5 * 2 / math.pi, rel=0.02)
    assert two == pytest.approx(5 / math.sqrt(2), rel=0.02)


def test_on_a_line_it_is_the_exact_distance() -> None:
    first, second = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[6.0], [0.0], [2.0]])
    assert sliced_wasserstein(first, second) == pytest.approx(2 / 3, rel=1e-5)


def test_sets_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(VddError, match="two equal, non-empty"):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(4, 2))


# -- coverage ----------------------------------------------------------------------------------


def _components(points: np.ndarray, radius: float) -> list[set[int]]:
    """The slow twin: flood every sample's neighbourhood."""
    near = np.linalg.norm(points[:, None] - points[None], axis=-1) <= radius
    left, groups = set(range(len(points))), []
    while left:
        front, group = {left.pop()}, set[int]()
        while front:
            node = front.pop()
            group.add(node)
            new = {int(j) for j in np.nonzero(near[node])[0]} & left
            left -= new
            front |= new
        groups.append(group)
    return groups


@pytest.mark.parametrize("radius", [0.1, 0.3, 0.8])
def test_clusters_are_the_connected_components(radius: float) -> None:
    points = torch.randn(5, 40, 2)
    found = cluster_actions(points, radius=radius)
    for state in range(5):
        groups = _components(points[state].numpy(), radius)
        kept = {frozenset(g) for g in groups if len(g) >= 0.05 * 40}
        kept = kept or {frozenset(sorted(groups, key=len)[-1])}
        labels = found.label[state]
        own = {
            frozenset(torch.nonzero(labels == c)[:, 0].tolist())
            for c in range(int(labels.max()) + 1)
        }
        assert own == kept


def test_the_radius_fits_itself_to_the_samples() -> None:
    """Eight narrow modes, one wide one, an arc and a constant: 8, 1, 1 and 1 clusters."""
    teacher = ring_teacher()
    eight = draw_actions(lambda obs: teacher.blurred(torch.zeros(len(obs)), obs), states(1), 256)
    angle = torch.linspace(0, math.pi, 256)
    arc = torch.stack([angle.cos(), angle.sin()], -1)[None] + 0.03 * torch.randn(1, 256, 2)
    several = torch.cat([eight, torch.randn(1, 256, 2), arc, torch.ones(1, 256, 2)])
    assert cluster_actions(several).count.tolist() == [8, 1, 1, 1]


def _two_modes(gate: tuple[float, ...], places: tuple[float, ...]) -> tuple[float, float]:
    """Share of clusters and of samples covered, of a teacher with modes at -1 (25 %) and 1."""
    samples = torch.cat([torch.full((1, 16, 1), -1.0), torch.full((1, 48, 1), 1.0)], 1)
    samples = samples + 0.01 * torch.randn(1, 64, 1)
    mean = torch.tensor(places)[:, None, None]
    weights = torch.tensor(gate)
    student = AnalyticTeacher(weights, mean, 0.01 * torch.ones(len(places), 1, 1))
    mixture = student.blurred(torch.zeros(1), states(1))
    found = cluster_coverage(samples, cluster_actions(samples), mixture)
    assert found.clusters == 2
    return found.covered, found.mass


def test_a_mode_is_covered_by_an_expert_that_is_there_and_chosen() -> None:
    assert _two_modes((0.25, 0.75), (-1.0, 1.0)) == (1.0, 1.0)
    assert _two_modes((0.25, 0.75), (1.02, 1.0)) == (0.5, 0.75)
    assert _two_modes((0.01, 0.99), (-1.0, 1.0)) == (0.5, 0.75)
    assert _two_modes((0.5, 0.5), (0.0, 0.5)) == (0.0, 0.0)


def test_experts_at_one_mode_add_up() -> None:
    """Four experts of .05 each carry the quarter's share that none carries alone."""
    gate = (0.05, 0.05, 0.05, 0.05, 0.8)
    assert _two_modes(gate, (-1.0, -1.01, -0.99, -1.02, 1.0)) == (1.0, 1.0)


def test_mass_goes_to_the_nearest_known_mode_within_reach() -> None:
    place = torch.tensor([[[0.0], [0.2], [1.0], [3.0]]])
    weight = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    centre = torch.tensor([[[0.0], [0.15], [1.1]]])
    mass = mode_mass(place, weight, centre, torch.tensor([0, 0, 1]), radius=0.5)
    torch.testing.assert_close(mass, torch.tensor([[0.3, 0.3]]))


def test_the_gates_use_is_counted() -> None:
    gate = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.4, 0.1, 0.0]]).clamp(min=1e-9)
    use = gate_use(gate.log())
    entropies = [math.log(2), -0.5 * math.log(0.5) - 0.4 * math.log(0.4) - 0.1 * math.log(0.1)]
    assert use.perplexity == pytest.approx(sum(map(math.exp, entropies)) / 2, rel=1e-5)
    assert use.usage == pytest.approx((0.5, 0.45, 0.05, 0.0), abs=1e-6)
    assert use.dead == (3,)
    assert set(use.never_first) >= {2, 3}


# -- calibration -------------------------------------------------------------------------------


def test_the_right_density_is_calibrated() -> None:
    obs = states(400)
    teacher = ring_teacher()

    def ring(at: Tensor) -> object:
        return teacher.blurred(torch.zeros(len(at)), at)

    action = draw_actions(ring, obs, 8)  # type: ignore[arg-type]
    found = calibration(density_ranks(ring, obs, action))  # type: ignore[arg-type]
    assert found.expected_error < 0.02
    assert found.n_actions == 3200


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_wrong_widths_show_as_the_closed_form_says(std: float) -> None:
    """In the plane N(0, s^2) holds a share a in |x|^2 < -2 s^2 log(1 - a); of samples of N(0, 1)
    that disc holds 1 - (1 - a)^(s^2).
    """
    obs = states(600)
    action = draw_actions(gaussian(1.0), obs, 10)
    found = calibration(density_ranks(gaussian(std), obs, action))
    exact = [1 - (1 - level) ** (std**2) for level in LEVELS]
    assert found.coverage == pytest.approx(exact, abs=0.03)
    assert (found.bias > 0) == (std > 1)


def test_the_densest_action_has_the_smallest_rank_and_not_zero() -> None:
    """It is one of n + 1 exchangeable draws; a rank of 0 would make every region too full."""
    ranks = density_ranks(gaussian(1.0), states(3), torch.zeros(3, 1, 2), n_draws=49)
    assert ranks.flatten().tolist() == pytest.approx([1 / 50] * 3)


def test_levels_that_are_ranks_are_met_exactly() -> None:
    ranks = torch.arange(1, 201)[None] / 200
    assert calibration(ranks).coverage == pytest.approx(LEVELS, abs=1e-9)
    with pytest.raises(VddError, match="levels between 0 and 1"):
        calibration(ranks, (0.5, 1.0))


# -- Stein -------------------------------------------------------------------------------------


def test_the_stein_kernel_is_what_autograd_makes_of_it() -> None:
    """u(x, y) from the kernel alone, differentiated by machine, sample pair by sample pair."""
    scale, beta = 0.7, -0.4
    x = torch.randn(1, 4, 3, dtype=torch.float64)
    slope = torch.randn(1, 4, 3, dtype=torch.float64)
    found = stein_kernel(x, slope, scale=scale, beta=beta)[0]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (scale**2 + (a - b).square().sum()) ** beta

    for i in range(4):
        for j in range(4):
            a = x[0, i].clone().requires_grad_()
            b = x[0, j].clone().requires_grad_()
            by_a, by_b = torch.autograd.grad(kernel(a, b), (a, b), create_graph=True)
            trace = sum(torch.autograd.grad(by_a[k], b, retain_graph=True)[0][k] for k in range(3))
            exact = slope[0, i] @ slope[0, j] * kernel(a, b)
            exact = exact + slope[0, i] @ by_b + slope[0, j] @ by_a + trace
            assert float(found[i, j]) == pytest.approx(float(exact.detach()), rel=1e-9)


def test_statistics_agree_with_a_slow_twin() -> None:
    x, slope = torch.randn(3, 12, 2), torch.randn(3, 12, 2)
    found = stein_discrepancy(x, slope)
    u, v, own = [], [], []
    for a, s in zip(x.double().numpy(), slope.double().numpy(), strict=True):
        values = np.zeros((12, 12))
        for i in range(12):
            for j in range(12):
                r = a[i] - a[j]
                w = 1.0 + r @ r
                values[i, j] = (
                    s[i] @ s[j] * w**-0.5
                    + (s[i] - s[j]) @ r * w**-1.5
                    + 2 * w**-1.5
                    - 3 * (r @ r) * w**-2.5
                )
        u.append((values.sum() - np.trace(values)) / (12 * 11))
        v.append(values.mean())
        own.append(np.trace(values) / 12)
    assert found.u_statistic == pytest.approx(np.mean(u), rel=1e-4)
    assert found.v_statistic == pytest.approx(np.mean(v), rel=1e-4)
    assert found.self_term == pytest.approx(np.mean(own), rel=1e-4)
    assert found.standard_error == pytest.approx(np.std(u, ddof=1) / math.sqrt(3), rel=1e-4)


def _exact(obs: Tensor, n_samples: int = 64) -> Tensor:
    teacher = ring_teacher()
    return draw_actions(lambda at: teacher.blurred(torch.zeros(len(at)), at), obs, n_samples)


def test_exact_samples_have_none_and_shifted_ones_ever_more() -> None:
    obs = states(32)
    own = _exact(obs)
    found = [
        compare_discrepancies(own + shift, own, ring_teacher(), obs, (1, 2), sigma=0.2)
        for shift in (0.0, 0.05, 0.1, 0.2, 0.3)
    ]
    none = found[0].student
    assert abs(none.u_statistic) < 4 * none.standard_error
    assert found[0].excess == 0
    growing = [row.student.u_statistic for row in found[1:]]
    assert growing[0] > 4 * none.standard_error
    assert growing == sorted(growing)
    assert none.v_statistic > 0


def test_the_second_yardstick_is_the_teachers_samples_moved_aside() -> None:
    """On a Gaussian of variance v + sigma^2 moved by m every score is off by m / (v + sigma^2), so
    that the discrepancy is |m|^2 / (v + sigma^2)^2 times the mean of the kernel.
    """
    obs, sigma, std = states(200), 0.2, 0.1
    teacher = AnalyticTeacher(torch.ones(1), torch.zeros(1, 1, 2), (std**2 * torch.eye(2))[None])
    own = std * torch.randn(200, 64, 2)
    found = compare_discrepancies(own, own, teacher, obs, (1, 2), sigma=sigma)
    wide = std**2 + sigma**2
    pair = (2 * wide) ** 0.5 * torch.randn(200_000, 2)
    kernel = float(((2 * sigma) ** 2 + pair.square().sum(-1)).rsqrt().mean())
    exact = (MOVED * sigma / wide) ** 2 * kernel
    assert found.tolerance == pytest.approx(exact, rel=0.15)
    assert found.moved.u_statistic == pytest.approx(exact, rel=0.15)


def test_the_excess_is_judged_state_by_state() -> None:
    """States whose discrepancies differ a hundredfold do not drown an excess that all share."""
    obs = states(32)
    own = _exact(obs)
    own[:16] += 0.3
    found = compare_discrepancies(own + 0.03, own, ring_teacher(), obs, (1, 2), sigma=0.2)
    assert found.excess == pytest.approx(found.student.u_statistic - found.teacher.u_statistic)
    assert found.excess_error < 0.5 * found.teacher.standard_error
    alone = compare_discrepancies(own[:1], own[:1], ring_teacher(), obs[:1], (1, 2), sigma=0.2)
    assert math.isnan(alone.excess_error)


def test_an_unsuitable_kernel_is_refused() -> None:
    with pytest.raises(VddError, match="-1 < beta < 0"):
        stein_discrepancy(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), beta=-1.5)
    with pytest.raises(VddError, match="at least 2"):
        stein_discrepancy(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))


# -- the whole ---------------------------------------------------------------------------------

FEW = DiagnosisSettings(n_states=48, n_samples=64, n_steps=12)


def ring_student(std: float, *, preferred: float = 0.0) -> GaussianMixtureOfExperts:
    """Return a student with an expert on each mode of the ring."""
    shape = StudentSettings(n_experts=8, width=8, depth=1, head_width=4, init_std=std)
    student = GaussianMixtureOfExperts(shape, dim_obs=1, dim_act=2, n_obs_steps=1, horizon=1)
    with torch.no_grad():
        for parameter in student.head.parameters():
            parameter.zero_()
        student.head.set_means(ring_teacher().means[:, 0])
        logits = student.gate[-1]
        assert isinstance(logits, torch.nn.Linear)
        logits.bias[0] = preferred
    return student.eval()


def _diagnosed(student: GaussianMixtureOfExperts) -> Diagnosis:
    teacher, obs = ring_teacher(), states(100)
    action = draw_actions(lambda at: teacher.blurred(torch.zeros(len(at)), at), obs, 1)
    return diagnose(student, obs, action, teacher=teacher, settings=FEW)


def _by_name(found: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


def test_a_perfect_student_needs_nothing() -> None:
    figures = _diagnosed(ring_student(0.1))
    assert figures.teacher is not None
    assert figures.teacher.coverage.mass == 1.0
    assert figures.teacher.coverage.clusters == pytest.approx(8, abs=0.5)
    assert figures.gate.perplexity == pytest.approx(8)
    # The entropy of eight modes far apart: log 8 of the choice and that of a Gaussian.
    exact = math.log(8) + 1 + math.log(2 * math.pi) + 2 * math.log(0.1)
    assert figures.teacher.nll == pytest.approx(exact, abs=0.1)
    assert all(finding.fine for finding in findings(figures, {}))


def test_a_collapsed_gate_is_named_with_its_remedy() -> None:
    found = findings(
        _diagnosed(ring_student(0.1, preferred=12.0)),
        {"warm_start": "none", "expert_weight": "gate", "student": {"n_experts": 8}},
    )
    gate = _by_name(found)["gate"]
    assert not gate.fine
    assert "collapsed" in gate.remedy
    for word in ("warm_start: em", "expert_weight: floor", "n_experts: 1", "forward_kl"):
        assert word in gate.remedy
    assert not _by_name(found)["coverage of the teacher"].fine
    assert not _by_name(found)["experts"].fine


def _figures(*, bias: float = 0.0, n_actions: int = 1000, clusters: float = 8.0) -> Diagnosis:
    """Return figures of a student whose gate knows one expert, put together by hand."""
    level = Calibration((0.5,), (0.5 + bias,), abs(bias), bias, n_actions)
    gate = GateUse(perplexity=1.0, usage=(1.0, 0.0), dead=(1,), never_first=(1,))
    beside = TeacherDiagnosis(0.0, Coverage(clusters, 1.0, 1.0), level, ())
    return Diagnosis(100, 2, gate, 0.0, level, beside)


def test_one_expert_is_no_collapse_where_the_teacher_has_one_way() -> None:
    assert not _by_name(findings(_figures(clusters=8.0), {}))["gate"].fine
    assert _by_name(findings(_figures(clusters=1.3), {}))["gate"].fine


def test_a_bias_that_few_actions_cannot_tell_from_none_is_fine() -> None:
    """Ranks of a calibrated student have a mean of deviation .29 / sqrt n: .029 for a hundred."""
    for bias in (0.09, -0.09):
        few, many = (findings(_figures(bias=bias, n_actions=n), {}) for n in (100, 10_000))
        assert _by_name(few)["calibration on the data"].fine
        assert not _by_name(many)["calibration on the data"].fine


def test_remedies_do_not_repeat_what_the_run_did() -> None:
    figures = _diagnosed(ring_student(0.1, preferred=12.0))
    did = {"warm_start": "em", "expert_weight": "floor", "student": {"n_experts": 64}}
    remedy = _by_name(findings(figures, did))["gate"].remedy
    assert "warm_start" not in remedy
    assert "expert_weight" not in remedy
    assert "n_experts" not in remedy


def test_widths_are_judged_in_both_directions() -> None:
    wide = _by_name(findings(_diagnosed(ring_student(0.25)), {"estimator": "path"}))
    narrow = _by_name(findings(_diagnosed(ring_student(0.04)), {"estimator": "path"}))
    for name in ("calibration on the data", "calibration on teacher samples"):
        assert "over-dispersed" in wide[name].remedy
        assert "diffused" in wide[name].remedy
        assert "over-confident" in narrow[name].remedy


MANY = replace(FEW, n_states=64)


def _stein_verdicts(
    student: GaussianMixtureOfExperts, settings: DiagnosisSettings = MANY
) -> list[Finding]:
    obs = states(100)
    figures = diagnose(student, obs, _exact(obs, 1), teacher=ring_teacher(), settings=settings)
    found = findings(figures, {})
    return [finding for finding in found if finding.name.startswith("Stein")]


def displaced(by: float) -> GaussianMixtureOfExperts:
    """Return a student whose experts stand beside the modes of the ring."""
    student = ring_student(0.1)
    student.head.set_means(ring_teacher().means[:, 0] + by)
    return student


def test_a_good_student_passes_whatever_the_seed() -> None:
    """Sixteen verdicts: none may be luck."""
    for seed in range(8):
        assert [v.fine for v in _stein_verdicts(ring_student(0.1), replace(MANY, seed=seed))] == [
            True,
            True,
        ]


def _compared(excess: float, *, error: float) -> Finding:
    """Return the verdict on an excess, in units of what is tolerated."""
    teacher, moved, student = (
        SteinDiscrepancy(1.0 + u, 2.0, 3.0, 0.1) for u in (0.0, 1.0, excess)
    )
    row = SteinComparison(0.1, student, teacher, moved, excess=excess, excess_error=error)
    figures = _figures()
    assert figures.teacher is not None
    beside = replace(figures.teacher, stein=(row,))
    return findings(replace(figures, teacher=beside), {})[-1]


def test_an_excess_is_judged_by_its_size_and_by_its_error() -> None:
    """Small is fine however sure; large and sure is not; what cannot be told is not fine."""
    assert _compared(0.9, error=0.01).fine
    assert "wider or narrower" in _compared(1.1, error=0.01).remedy
    assert _compared(-0.5, error=0.3).fine
    for excess in (0.0, 1.1):
        assert "too noisy to tell" in _compared(excess, error=0.4).remedy


@pytest.mark.parametrize(
    ("student", "sigmas"),
    [
        (lambda: displaced(0.1), [0.1]),
        (lambda: displaced(0.3), [0.1, 0.3]),
        (lambda: ring_student(0.4), [0.1]),
        (lambda: ring_student(0.2), [0.1]),
    ],
    ids=["beside", "far beside", "much too wide", "too wide"],
)
def test_bad_students_are_noticed_by_the_score(student, sigmas: list[float]) -> None:  # type: ignore[no-untyped-def]
    """At the noise that is not much wider than what is wrong; a wide one blurs it away."""
    found = _by_name(tuple(_stein_verdicts(student())))
    for sigma in sigmas:
        verdict = found[f"Stein discrepancy at sigma {sigma:g}"]
        assert not verdict.fine, verdict.figure
        assert "wider or narrower" in verdict.remedy
    assert "moved by a third of sigma" in found["Stein discrepancy at sigma 0.1"].figure


def test_a_score_says_nothing_about_a_gate_and_coverage_does() -> None:
    """One mode of eight, shaped right: the reason to read the two together."""
    student, obs = ring_student(0.1, preferred=12.0), states(120)
    settings = replace(FEW, n_states=120)
    figures = diagnose(student, obs, _exact(obs, 1), teacher=ring_teacher(), settings=settings)
    found = _by_name(findings(figures, {}))
    assert found["Stein discrepancy at sigma 0.1"].fine
    assert not found["coverage of the teacher"].fine


def test_too_few_samples_are_not_a_verdict() -> None:
    """Eight samples of two states resolve nothing: not fine, and not the student's fault."""
    for verdict in _stein_verdicts(ring_student(0.1), replace(FEW, n_states=2, n_samples=8)):
        assert not verdict.fine
        assert "too noisy to tell" in verdict.remedy
        assert "--states" in verdict.remedy


def test_without_a_teacher_there_are_figures_of_the_data_alone() -> None:
    teacher, obs = ring_teacher(), states(50)
    action = draw_actions(lambda at: teacher.blurred(torch.zeros(len(at)), at), obs, 1)
    figures = diagnose(ring_student(0.1), obs, action, settings=FEW)
    assert figures.teacher is None
    assert set(_by_name(findings(figures, {}))) == {
        "gate",
        "experts",
        "likelihood of the data",
        "calibration on the data",
    }


def test_the_states_looked_at_reach_from_the_first_to_the_last() -> None:
    """The last of a hundred windows is broken, and ten are looked at."""
    action = torch.zeros(100, 1, 2)
    action[-1] = math.nan
    few = replace(FEW, n_states=10)
    with pytest.raises(VddError, match="not finite"):
        diagnose(ring_student(0.1), states(100), action, settings=few)
    diagnose(ring_student(0.1), states(99), action[:99], settings=few)


def test_a_teacher_is_not_asked_below_what_it_knows() -> None:
    """Noise levels outside of its range are moved into it, and each is judged once."""

    class Coarse(AnalyticTeacher):
        sigma_min, sigma_max = 0.2, 5.0

    ring, few = ring_teacher(), replace(FEW, n_states=4, n_samples=8, sigmas=(0.05, 0.1, 0.3))
    coarse = Coarse(ring.weights, ring.means, ring.covariance)
    found = diagnose(
        ring_student(0.1), states(4), torch.zeros(4, 1, 2), teacher=coarse, settings=few
    ).teacher
    assert found is not None
    assert [row.sigma for row in found.stein] == [0.2, 0.3]


def test_a_diverged_student_is_named() -> None:
    student = ring_student(0.1)
    with torch.no_grad():
        student.head.mean.bias.fill_(math.nan)
    with pytest.raises(VddError, match="diverged"):
        diagnose(student, states(10), torch.zeros(10, 1, 2), settings=FEW)
