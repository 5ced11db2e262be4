"""The student's density, log q(a|s), and what its values are where all is well.

A file exported with density holds ``expert_scale`` beside the experts; acting does not compute
it. A file that was calibrated, too, says in its provenance under ``audit`` which scores are
nominal: that is all the robot needs to notice that a teacher and its student have parted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd_ros.core.config_io import from_dict
from vdd_ros.core.conformal import conformal_threshold
from vdd_ros.core.errors import VddError
from vdd_ros.core.mixture import GaussianMixture, log_softmax
from vdd_ros.runtime.policy_file import PolicyFile
from vdd_ros.runtime.session import SessionSettings

Array = NDArray[np.float32]

LEVEL = 0.1
"""Share of nominal scores that may be called a drop. Lower ones leave hardly any below them to
calibrate with; how rare alarms are is decided by what it takes of them, not by this."""
CONFIDENCE = 0.99
"""Share of calibration sets for which the level holds."""
KEY = "audit"
"""Where the calibration stands in a file's provenance."""

_OUTPUTS = ("gating_logits", "expert_actions", "expert_scale")
_BATCH = 256
_N_QUANTILES = 101


@dataclass(frozen=True)
class Calibration:
    """Scores log q(a|s) of a student on held-out demonstrations."""

    actions: str
    """What was scored: ``teacher`` (its samples at the demonstrated states, as on the robot) or
    ``demonstrations`` (the demonstrated actions)."""
    threshold: float
    """At most ``level`` of nominal scores are below it."""
    level: float
    """See `threshold`."""
    confidence: float
    """Probability that this calibration set keeps the level."""
    n: int
    """Number of scores."""
    n_episodes: int
    """Episodes they are from; scores within one are not independent."""
    steps_apart: int
    """Control steps between two scores of one episode, far enough apart to be unlike."""
    horizon: int
    """Actions of every chunk that were scored."""
    quantiles: tuple[float, ...]
    """The scores' distribution, from the smallest to the largest at equal steps."""
    data_hash: str
    """Of the demonstrations."""
    teacher: str
    """SHA-256 of the teacher's file; empty without one."""

    def __post_init__(self) -> None:
        """Check what a file says, which may be anything."""
        numbers = (self.threshold, *self.quantiles)
        if not all(math.isfinite(v) for v in numbers) or len(self.quantiles) < 2:
            raise VddError("audit: threshold and quantiles must be finite numbers")
        if list(self.quantiles) != sorted(self.quantiles) or not 0.0 < self.level < 1.0:
            raise VddError("audit: expected growing quantiles and a level between 0 and 1")
        if min(self.n, self.n_episodes, self.steps_apart, self.horizon) < 1:
            raise VddError("audit: expected at least one score, episode, step and action")

    def percentile(self, score: float) -> float:
        """Return the share of calibration scores below ``score``, in percent; NaN for NaN."""
        at = np.interp(score, self.quantiles, np.linspace(0.0, 100.0, len(self.quantiles)))
        return float(at) if score == score else math.nan


def read_calibration(file: PolicyFile) -> Calibration | None:
    """Return the calibration in a policy file, or None where it was never calibrated.

    Raises:
        VddError: the file says something that is no calibration.
    """
    raw = file.provenance.get(KEY)
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise VddError(f"{file.path}: audit: got {type(raw).__name__}, expected an object")
    return from_dict(Calibration, raw, where=f"{file.path}: audit")


def calibrate(
    scores: NDArray[np.floating],
    *,
    actions: str,
    n_episodes: int,
    steps_apart: int,
    horizon: int,
    data_hash: str,
    teacher: str = "",
) -> Calibration:
    """Return the calibration for nominal scores [N].

    Raises:
        VddError: too few scores, or scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise VddError(
            f"audit: {int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite: "
            "the density of this student cannot be computed; distill it anew"
        )
    return Calibration(
        actions=actions,
        threshold=conformal_threshold(scores, level=LEVEL, confidence=CONFIDENCE),
        level=LEVEL,
        confidence=CONFIDENCE,
        n=len(scores),
        n_episodes=n_episodes,
        steps_apart=steps_apart,
        horizon=horizon,
        quantiles=tuple(np.quantile(scores, np.linspace(0.0, 1.0, _N_QUANTILES)).tolist()),
        data_hash=data_hash,
        teacher=teacher,
    )


class Density:
    """log q(a|s) of a student, computed when it is asked for."""

    def __init__(self, file: PolicyFile, session: SessionSettings | None = None) -> None:
        """Open a session of its own, verified and warmed up.

        Raises:
            VddError: the file has no density, or the provider does not fit.
        """
        if not has_density(file):
            raise VddError(
                f"{file.path}: this policy file has no density; export it with "
                "`vdd export RUN --density`"
            )
        self.contract = file.contract
        self._session = file.session(_OUTPUTS, session or SessionSettings()).session

    def log_prob(self, window: Array, action: NDArray[np.floating]) -> float:
        """Return log q(action | window), in nats.

        Args:
            window: [n_obs_steps, dim_obs] in raw units.
            action: [T, dim_act] in raw units, the first T actions of a chunk; T may be smaller
                than the student's horizon, whose marginal is taken then.

        Raises:
            ValueError: an action of another width, or longer than the student's.
        """
        return float(self.log_prob_batch(window[None], action[None])[0])

    def log_prob_batch(self, windows: Array, actions: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return log q [N] for windows [N, n_obs_steps, dim_obs] and actions [N, T, dim_act]."""
        c, steps = self.contract, actions.shape[1]
        if actions.shape[2] != c.dim_act or not 1 <= steps <= c.horizon:
            raise ValueError(
                f"action: shape {actions.shape[1:]}, expected (1..{c.horizon}, {c.dim_act})"
            )
        size = steps * c.dim_act
        found = [
            self._batch(windows[at : at + _BATCH], actions[at : at + _BATCH], size)
            for at in range(0, len(windows), _BATCH)
        ]
        return np.concatenate(found)

    def _batch(
        self, windows: Array, actions: NDArray[np.floating], size: int
    ) -> NDArray[np.float64]:
        observation = np.ascontiguousarray(windows, np.float32)
        logits, mean, scale = self._session.run({"observation": observation}, _OUTPUTS)
        n, k = logits.shape
        # The leading block of a Cholesky factor is that of the marginal over the first values.
        mixture = GaussianMixture(
            log_softmax(logits.astype(np.float64)),
            mean.reshape(n, k, -1)[..., :size].astype(np.float64),
            scale[..., :size, :size].astype(np.float64),
        )
        flat = np.asarray(actions, np.float64).reshape(n, -1)
        return mixture.log_prob(flat).astype(np.float64)


def has_density(file: PolicyFile) -> bool:
    """Tell whether log q(a|s) can be computed from a file."""
    return any(spec.name == "expert_scale" for spec in file.outputs)


def calibrated(file: PolicyFile, calibration: Calibration) -> dict[str, Any]:
    """Return the file's provenance with a calibration in it, replacing an older one."""
    from vdd_ros.core.config_io import to_dict

    return {**file.provenance, KEY: to_dict(calibration)}
