"""What ``/diagnostics`` says about planning: how long the policy takes, and what that costs."""

from __future__ import annotations

from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.health import Health
from vdd_ros.nodes.control_loop import ControlLoop
from vdd_ros.nodes.diagnostics import Section


class PlanWatch:
    """Looks at a loop's planner once a second."""

    def __init__(self, loop: ControlLoop, contract: PolicyContract, *, rate_hz: float) -> None:
        """Remember what a plan is worth.

        Args:
            loop: its planner is watched.
            contract: how long a plan is.
            rate_hz: control rate.
        """
        self._loop = loop
        self._contract = contract
        self._lasts_ms = contract.horizon * 1e3 / rate_hz
        self._seen = (0, 0)

    def section(self) -> Section:
        """Return the status: WARN where answers are not usable, or one does not come."""
        loop, contract = self._loop, self._contract
        planner, tick = loop.planner, loop.tick
        latency = planner.latency.summary()
        running_ms = planner.running_ns * 1e-6
        values: dict[str, object] = {
            "mode": planner.mode,
            "horizon": contract.horizon,
            "n_action_steps": contract.n_action_steps,
            "execution": contract.execution,
            "plans": planner.latency.count,
            "plan_p50_ms": f"{latency.p50_us * 1e-3:.2f}",
            "plan_p99_ms": f"{latency.p99_us * 1e-3:.2f}",
            "plan_max_ms": f"{latency.max_us * 1e-3:.2f}",
            "max_latency_ms": f"{planner.settings.max_latency_ms:g}",
            "plan_age_steps": tick.plan_age,
            "queued": tick.queued,
            "expired": tick.expired,
            "late": planner.late,
            "failed": planner.failed,
            "running_ms": f"{running_ms:.1f}",
        }
        if not loop.active:
            return Section("planning", Health.STALE, "not active", values)
        late, failed = (
            max(now - before, 0)
            for now, before in zip((planner.late, planner.failed), self._seen, strict=True)
        )
        self._seen = planner.late, planner.failed
        troubles = []
        if running_ms > self._lasts_ms:
            troubles.append(
                f"inference has been running for {running_ms:.0f} ms, a plan lasts "
                f"{self._lasts_ms:g} ms"
            )
        if late:
            troubles.append(f"{late} answers took longer than max_latency_ms")
        if failed:
            troubles.append(f"the policy failed {failed} times")
        level = Health.WARN if troubles else Health.OK
        return Section("planning", level, "; ".join(troubles) or "ok", values)
