"""The teacher audit: does the student still find likely what its teacher would do?

Only a policy with a density can be asked that. Every node publishes a few of its raw predictions
on ``~/prediction``; the student's node scores the teacher's, log q(a|s), at the observation they
answer (kept for a moment in a ring), and `core.conformal.DropDetector` finds scores that stay
below what held-out demonstrations led to expect. Observations neither of them was trained on, a
sensor that moved, a changed task: student and teacher part there, and the audit says so while the
commands still look smooth.

``~/audit`` (``std_msgs/Float64MultiArray``, labelled) has a row per scored action.
"""

from __future__ import annotations

import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from vdd_ros.control.tick import Tick
from vdd_ros.core.conformal import DropDetector
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.health import Health
from vdd_ros.nodes.diagnostics import labelled
from vdd_ros.runtime.density import Calibration, Density

PREDICTION_QOS = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
"""A prediction that was lost is not worth another: the next one comes soon."""
AUDIT_FIELDS = (
    "stamp_sec",
    "stamp_nanosec",
    "log_likelihood",
    "percentile",
    "threshold",
    "drop",
    "evidence",
    "alarm",
)
"""Values of ``~/audit`` in order."""

_STAMP = 2
"""Values in front of the chunk in ``~/prediction``: seconds and nanoseconds of its observation."""
_REMEMBERED_S = 2.0
"""How long observations are kept for the teacher's answer: a slow teacher takes a second."""


class PredictionTopic:
    """``~/prediction``: raw predictions at a low rate, for whoever subscribes.

    A Float64MultiArray whose layout says steps and action values, with the stamp of the
    observation answered (s, ns) before them, as ``layout.data_offset`` tells.
    """

    def __init__(self, node: Node, contract: PolicyContract, *, rate_hz: float) -> None:
        """Create the publisher; a rate of 0 publishes nothing."""
        self._node = node
        self._period_ns = round(1e9 / rate_hz) if rate_hz else 0
        self._publisher = node.create_publisher(Float64MultiArray, "~/prediction", PREDICTION_QOS)
        self._wanted = False
        self._next_ns = 0
        self._sent_ns = 0
        self._message = Float64MultiArray()
        names = ",".join(f"{a.key}[{i}]" for a in contract.actions for i in range(a.dim))
        steps, dim = contract.horizon, contract.dim_act
        self._message.layout.dim = [
            MultiArrayDimension(label="step", size=steps, stride=steps * dim),
            MultiArrayDimension(label=names, size=dim, stride=dim),
        ]
        self._message.layout.data_offset = _STAMP

    def destroy(self) -> None:
        """Remove the publisher."""
        self._node.destroy_publisher(self._publisher)

    def look(self) -> None:
        """Find out whether anybody subscribes: asked now and then, not at every tick."""
        self._wanted = bool(self._period_ns) and self._publisher.get_subscription_count() > 0

    def on_tick(self, tick: Tick) -> None:
        """Publish the newest prediction, when it is time for one."""
        output, stamp_ns = tick.output, tick.predicted_ns
        if not self._wanted or output is None or stamp_ns == self._sent_ns:
            return
        # Stamps may be set back, by a bag that loops: then the wait ends, too.
        if 0 < self._next_ns - stamp_ns < self._period_ns:
            return
        self._sent_ns, self._next_ns = stamp_ns, stamp_ns + self._period_ns
        chunk = output.action.astype(np.float64)
        seconds, nanoseconds = divmod(stamp_ns, 10**9)
        values = array.array("d", (seconds, nanoseconds))
        values.frombytes(chunk.tobytes())
        self._message.data = values
        self._publisher.publish(self._message)


def read_prediction(message: Any) -> tuple[int, NDArray[np.float64]]:  # noqa: ANN401
    """Return stamp (ns) and chunk [T, D_act] of a message on ``~/prediction``.

    Raises:
        ValueError: the message is none.
    """
    sizes = [dimension.size for dimension in message.layout.dim]
    values = np.asarray(message.data, np.float64)
    if (
        len(sizes) != 2
        or message.layout.data_offset != _STAMP
        or len(values) != _STAMP + sizes[0] * sizes[1]
        or not np.isfinite(values[:_STAMP]).all()
    ):
        raise ValueError(f"{len(values)} values, layout {sizes}: not a prediction")
    stamp_ns = int(values[0]) * 10**9 + int(values[1])
    return stamp_ns, values[_STAMP:].reshape(sizes)


@dataclass(frozen=True)
class AuditSettings:
    """How the audit is run."""

    topic: str = "teacher/prediction"
    """``~/prediction`` of the teacher."""
    hand_over: bool = False
    """Set ``fault`` in ``~/status`` on an alarm, as well as reporting it."""
    samples_per_false_alarm: float = 1e5
    """Least mean number of samples to a false alarm: at 2 Hz, 1e5 are 14 hours."""


class TeacherAudit:
    """Scores the teacher's predictions under the student; knows ROS by its messages alone."""

    def __init__(
        self,
        settings: AuditSettings,
        *,
        contract: PolicyContract,
        rate_hz: float,
        density: Density,
        calibration: Calibration,
    ) -> None:
        """Start without evidence.

        Args:
            settings: see there.
            contract: of the student.
            rate_hz: its control rate.
            density: of the student.
            calibration: what is nominal.
        """
        self.settings = settings
        self.calibration = calibration
        self.detector = DropDetector(
            calibration.threshold,
            level=calibration.level,
            false_alarm_samples=settings.samples_per_false_alarm,
        )
        self.message, self._row = labelled(AUDIT_FIELDS)
        """The newest row of ``~/audit``."""
        self.score = float("nan")
        """log q of the newest sample."""
        self.unmatched = 0
        """Samples that answer an observation this node did not see."""
        self.refused = ""
        """Why the newest message could not be used; empty if it could."""
        self._density = density
        self._dim_act = contract.dim_act
        # Half a step less: stamps jitter, and every second sample would come too early.
        self._apart_ns = round((calibration.steps_apart - 0.5) / rate_hz * 1e9)
        self._last_ns = 0
        size = min(max(round(_REMEMBERED_S * rate_hz), 16), 1024)
        self._stamps = np.zeros(size, np.int64)
        self._windows = np.zeros((size, contract.n_obs_steps, contract.dim_obs), np.float32)
        self._next = 0
        self._waiting: tuple[int, NDArray[np.float64]] | None = None

    def on_tick(self, tick: Tick) -> None:
        """Remember what was observed; on the hot path."""
        window = tick.window
        if window is None:
            return
        at = self._next
        self._stamps[at] = tick.observed_ns
        self._windows[at] = window
        self._next = at + 1 if at + 1 < len(self._stamps) else 0

    def forget(self) -> None:
        """Start anew: a node that was just activated has no evidence."""
        self.detector.reset()
        self._stamps[:] = 0
        self._waiting = None
        self._last_ns = 0

    def on_prediction(self, message: Any) -> bool:  # noqa: ANN401
        """Take a prediction of the teacher; return whether a sample was scored."""
        try:
            stamp_ns, chunk = read_prediction(message)
        except ValueError as error:
            self.refused = str(error)
            return False
        steps = self.calibration.horizon
        if chunk.shape[1] != self._dim_act or len(chunk) < steps:
            self.refused = (
                f"the teacher predicts {chunk.shape[0]} actions of {chunk.shape[1]} values, the "
                f"student was calibrated on {steps} of {self._dim_act}"
            )
            return False
        self.refused = ""
        self._waiting = None
        # Stamps that were set back do not wait for the time they come from.
        if 0 <= stamp_ns - self._last_ns < self._apart_ns:
            return False
        if self._score(stamp_ns, chunk[:steps]):
            return True
        # The teacher may be the quicker one: the student's own tick is still to come.
        self._waiting = (stamp_ns, chunk[:steps])
        return False

    def look_again(self) -> bool:
        """Score a sample that came before the observation it answers; count it if that is lost."""
        if self._waiting is None:
            return False
        waiting, self._waiting = self._waiting, None
        if self._score(*waiting):
            return True
        self.unmatched += 1
        return False

    def _score(self, stamp_ns: int, chunk: NDArray[np.float64]) -> bool:
        (found,) = np.nonzero(self._stamps == stamp_ns)
        if not len(found):
            return False
        self.score = self._density.log_prob(self._windows[found[-1]], chunk)
        self._last_ns = stamp_ns
        before = self.detector.drops
        alarm = self.detector.add(self.score)
        self._row[:] = (
            stamp_ns // 10**9,
            stamp_ns % 10**9,
            self.score,
            self.calibration.percentile(self.score),
            self.calibration.threshold,
            self.detector.drops - before,
            self.detector.evidence,
            alarm,
        )
        return True

    @property
    def fault(self) -> str:
        """Why another node should command; empty where none should, or none was asked for."""
        return self.finding if self.settings.hand_over and self.detector.alarm else ""

    @property
    def finding(self) -> str:
        """What an alarm means, in words; empty without one."""
        if not self.detector.alarm:
            return ""
        return (
            "the teacher's actions have become unlikely under the student and stay so "
            f"(log q below {self.calibration.threshold:.2f}): observations are unlike those it "
            "learnt from; check sensors and calibration of the robot, or let the teacher command"
        )

    def verdict(self) -> tuple[Health, str]:
        """Return level and message for ``/diagnostics``."""
        if self.detector.alarm:
            return Health.ERROR if self.settings.hand_over else Health.WARN, self.finding
        if self.refused:
            return Health.WARN, f"predictions on '{self.settings.topic}': {self.refused}"
        if not self.detector.samples:
            # Whoever asked for a hand-over counts on being watched.
            level = Health.WARN if self.settings.hand_over else Health.OK
            return level, f"nothing to audit yet: no usable prediction on '{self.settings.topic}'"
        return Health.OK, ""

    def values(self) -> dict[str, object]:
        """Return the keys for ``/diagnostics``."""
        d, c = self.detector, self.calibration
        return {
            "log_likelihood": f"{self.score:.3f}",
            "percentile": f"{c.percentile(self.score):.1f}",
            "threshold": f"{c.threshold:.3f}",
            "samples": d.samples,
            "drops": d.drops,
            "evidence": f"{d.evidence:.3g} of {d.limit:.3g}",
            "samples_per_false_alarm": f"at least {d.limit:g} on average",
            "fewest_samples_to_alarm": d.fewest_samples,
            "unmatched": self.unmatched,
            "calibrated_on": f"{c.n} scores of {c.actions}",
            "on_drop": "hand_over" if self.settings.hand_over else "report",
        }
