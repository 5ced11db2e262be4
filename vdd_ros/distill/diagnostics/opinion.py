"""What the figures of a student mean, in words, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vdd_ros.distill.diagnostics.calibration import Calibration
from vdd_ros.distill.diagnostics.report import Diagnosis, TeacherDiagnosis
from vdd_ros.distill.diagnostics.stein import SteinComparison

# A gate that is this sure of one expert has not got a second.
_COLLAPSED = 1.2
# A teacher with more clusters than this has several ways to act at many states.
_SEVERAL = 1.5
_COVERED = 0.9
_BIAS = 0.05
# Standard errors beyond which an excess is not chance.
_SURE = 3.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    """What was measured."""
    figure: str
    """The figure, in words."""
    fine: bool
    """Whether nothing has to be done about it."""
    remedy: str
    """What to do; empty where it is fine."""


def findings(diagnosis: Diagnosis, training: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return the figures with an opinion on each.

    Args:
        diagnosis: of a student.
        training: its training settings, which say what remedies are left; may be empty.
    """
    return tuple(_findings(diagnosis, training))


def _findings(diagnosis: Diagnosis, training: Mapping[str, Any]) -> Iterator[Finding]:
    yield _gate(diagnosis, training)
    yield _usage(diagnosis)
    yield Finding("likelihood of the data", f"{diagnosis.nll:.2f} nat per action", True, "")
    yield _calibration("calibration on the data", diagnosis.calibration, training)
    beside = diagnosis.teacher
    if beside is None:
        return
    yield _coverage(beside, training)
    yield Finding("likelihood of teacher samples", f"{beside.nll:.2f} nat per action", True, "")
    yield _calibration("calibration on teacher samples", beside.calibration, training)
    for row in beside.stein:
        yield _stein(row)


def _gate(diagnosis: Diagnosis, training: Mapping[str, Any]) -> Finding:
    perplexity, beside = diagnosis.gate.perplexity, diagnosis.teacher
    figure = f"{perplexity:.2f} of {diagnosis.n_experts} experts in play per state"
    if beside is None or diagnosis.n_experts == 1:
        return Finding("gate", figure, True, "")
    clusters = beside.coverage.clusters
    figure += f", the teacher's samples form {clusters:.2f} clusters"
    if perplexity >= _COLLAPSED or clusters <= _SEVERAL:
        return Finding("gate", figure, True, "")
    remedy = "the gate has collapsed onto one expert where the teacher has several modes"
    return Finding("gate", figure, False, f"{remedy}: {_more_modes(training, clusters)}")


def _usage(diagnosis: Diagnosis) -> Finding:
    gate, beside = diagnosis.gate, diagnosis.teacher
    figure = (
        f"{len(gate.dead)} of {diagnosis.n_experts} experts dead, "
        f"{len(gate.never_first)} never the most likely"
    )
    if not gate.dead:
        return Finding("experts", figure, True, "")
    if beside is not None and beside.coverage.mass >= _COVERED:
        figure += "; none is missed (prune: 0.1 takes them out)"
        return Finding("experts", figure, True, "")
    if len(gate.dead) <= diagnosis.n_experts // 2:
        return Finding("experts", figure, True, "")
    return Finding(
        "experts",
        figure,
        False,
        "most experts never act; start them where there is something to do (warm_start: em or "
        "kmeans) and let every expert learn (expert_weight: floor)",
    )


def _coverage(beside: TeacherDiagnosis, training: Mapping[str, Any]) -> Finding:
    coverage = beside.coverage
    figure = (
        f"{100 * coverage.covered:.0f} % of {coverage.clusters:.2f} clusters per state, with "
        f"{100 * coverage.mass:.0f} % of the teacher's samples"
    )
    if coverage.mass >= _COVERED:
        return Finding("coverage of the teacher", figure, True, "")
    remedy = f"modes of the teacher have no expert: {_more_modes(training, coverage.clusters)}"
    return Finding("coverage of the teacher", figure, False, remedy)


def _calibration(name: str, found: Calibration, training: Mapping[str, Any]) -> Finding:
    figure = (
        f"error {found.expected_error:.3f}, bias {found.bias:+.3f} "
        f"(90 % region holds {100 * found.coverage[-1]:.0f} %)"
    )
    # The ranks of a calibrated student are uniform: their mean has this standard error.
    noise = (1 / 12 / found.n_actions) ** 0.5
    if abs(found.bias) <= _BIAS + 2 * noise:
        return Finding(name, figure, True, "")
    if found.bias > 0:
        remedy = (
            "over-dispersed, the actions lie in the middle of wider Gaussians: estimator: "
            "diffused, or deblur: true, or a lower sigma_end"
        )
        if training.get("estimator") == "diffused":
            remedy = (
                "over-dispersed, the actions lie in the middle of wider Gaussians: more "
                "iterations (n_iters), a lower sigma_end or a smaller min_std"
            )
        return Finding(name, figure, False, remedy)
    return Finding(
        name,
        figure,
        False,
        "over-confident, actions lie outside of what it holds likely: a share of maximum "
        "likelihood (forward_kl: 0.3), more experts, or more data; do not use log q as an alarm "
        "for strange states before",
    )


def _stein(row: SteinComparison) -> Finding:
    name = f"Stein discrepancy at sigma {row.sigma:g}"
    figure = (
        f"{row.student.u_statistic:.3g} (the teacher's own samples "
        f"{row.teacher.u_statistic:.3g}, moved by a third of sigma {row.moved.u_statistic:.3g})"
    )
    noise = _SURE * row.excess_error
    if row.excess > max(row.tolerance, noise):
        remedy = (
            "experts are beside the teacher's modes or between them, or wider or narrower: train "
            "longer, more experts, a lower sigma_end, or a richer covariance"
        )
        return Finding(name, figure, False, remedy)
    if noise <= row.tolerance:
        return Finding(name, figure, True, "")
    remedy = (
        f"too noisy to tell: the error of the student's figure is {row.excess_error:.2g}; look at "
        "more states (--states) or take more samples of each (--samples)"
    )
    return Finding(name, figure, False, remedy)


def _more_modes(training: Mapping[str, Any], clusters: float) -> str:
    """Say what brings modes back, leaving out what the run did already."""
    advice: list[str] = []
    n_experts = (training.get("student") or {}).get("n_experts", 0)
    if training.get("warm_start", "none") == "none":
        advice.append("start from k-means or EM (warm_start: em)")
    if training.get("expert_weight") == "gate":
        advice.append("put a floor under the experts' weights (expert_weight: floor)")
    if n_experts < 2 * clusters:
        advice.append(f"more experts (n_experts: {max(2 * n_experts, round(2 * clusters) + 1)})")
    if training.get("learn_gate") is False:
        advice.append("learn the gate (learn_gate: true)")
    advice.append("a share of maximum likelihood (forward_kl: 0.3 to 0.5)")
    advice.append("a wider first noise level (sigma_start)")
    return "; ".join(advice)
