"""The ways to learn a toy: one recipe, and what the other variants change in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from vdd_ros.core.errors import VddError, did_you_mean
from vdd_ros.distill.methods.mixture_training import DistillSettings
from vdd_ros.distill.teachers.edm import TeacherSettings
from vdd_ros.distill.toys.truths import TOYS, Toy

Variant = Literal["vdd-diffused", "vdd-mixed", "vdd", "vdd-warm", "em", "paper", "teacher"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

_SCRATCH_SIGMA = 0.3


@dataclass(frozen=True)
class ToySettings:
    """How toys are learnt. The plane's own units; nothing is normalised."""

    distill: DistillSettings = field(default_factory=DistillSettings)
    """The recipe of `vdd-diffused`; the other variants differ from it as their names say."""
    n_experts: dict[str, int] = field(default_factory=dict)
    """Experts by toy; twice its modes where not named. `paper` takes one per mode."""
    sigma_end: dict[str, float] = field(default_factory=dict)
    """Last sigma of `vdd-diffused` and `vdd-mixed` by toy, where it differs from the recipe's."""
    forward_kl: float = 0.02
    """Share of maximum likelihood on teacher samples in the expert loss of `vdd-mixed`.

    Beside steps of VDD in units of the action (`natural`), which are shorter than the likelihood's
    by an expert's variance, a hundredth counts as much as the rest.
    """
    n_iters: dict[str, int] = field(default_factory=dict)
    """Iterations by variant where they differ from the recipe's."""
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    """The learned teacher of `moons`; `exact-moons` is asked at the same sigmas."""
    sampler_steps: int = 16
    """Steps of Heun's method per teacher sample."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for known, given in ((TOYS, self.n_experts), (VARIANTS, self.n_iters)):
            for name, number in given.items():
                if name not in known:
                    raise VddError(f"unknown name '{name}'{did_you_mean(name, known)}")
                if number < 1:
                    raise VddError(f"{name}: got {number}, expected at least 1")
        for toy, sigma in self.sigma_end.items():
            if toy not in TOYS:
                raise VddError(f"sigma_end: unknown toy '{toy}'{did_you_mean(toy, TOYS)}")
            if not 0 < sigma <= self.distill.sigma_start:
                raise VddError(
                    f"sigma_end of {toy}: got {sigma}, expected above 0 and not above "
                    f"sigma_start ({self.distill.sigma_start})"
                )
        if not 0 < self.forward_kl < 1:
            raise VddError(
                f"forward_kl: got {self.forward_kl}, expected between 0 (which is vdd-diffused) "
                "and 1 (which is em)"
            )
        if self.sampler_steps < 2:
            raise VddError(f"sampler_steps: got {self.sampler_steps}, expected at least 2")


def recipe(variant: str, toy: Toy, settings: ToySettings) -> DistillSettings:
    """Return the training settings of a variant.

    ``paper`` is the published recipe (Zhou et al., 2024, and its code): one expert per mode,
    unit deviations around random places near the origin, noise levels uniform in [.2, .5], its
    estimator, expert steps weighted by the gate. Learning rates and iterations are ours.
    """
    base = settings.distill
    n_iters = settings.n_iters.get(variant, base.n_iters)
    n_experts = settings.n_experts.get(toy.name, 2 * toy.n_modes)
    base = replace(base, n_iters=n_iters, student=replace(base.student, n_experts=n_experts))
    if variant == "em":
        return base
    if variant in ("vdd-diffused", "vdd-mixed"):
        share = settings.forward_kl if variant == "vdd-mixed" else base.forward_kl
        end = settings.sigma_end.get(toy.name, base.sigma_end)
        return replace(base, forward_kl=share, sigma_end=end)
    if variant == "vdd-warm":
        return replace(base, estimator="path")
    if variant == "vdd":
        # From k-means alone the experts still have to find their modes: sigma begins wider.
        start = max(base.sigma_start, _SCRATCH_SIGMA)
        return replace(
            base, estimator="path", warm_start="kmeans", warm_start_iters=0, sigma_start=start
        )
    return replace(
        base,
        student=replace(base.student, n_experts=toy.n_modes, init_std=1.0),
        estimator="paper",
        expert_weight="gate",
        natural=False,
        warm_start="none",
        warm_start_iters=0,
        sigma_rule="uniform",
        sigma_start=0.5,
        sigma_end=0.2,
    )


def describe_variants() -> Mapping[str, str]:
    """Return a readable name of every variant."""
    return {
        "vdd-diffused": "VDD, diffused (default)",
        "vdd-mixed": "VDD with forward KL",
        "vdd": "VDD",
        "vdd-warm": "VDD after EM",
        "em": "EM on teacher samples",
        "paper": "VDD, published settings",
        "teacher": "the teacher's samples",
    }
