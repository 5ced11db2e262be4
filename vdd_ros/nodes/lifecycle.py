"""PolicyShell: the lifecycle node that every policy runs in, whichever method made it.

configure   load and verify the policy, warm it up, create topics, compare their types
activate    start the loop from the measured state, so that the first command cannot jump
deactivate  stop the loop, THEN send the declared stop action
cleanup     remove topics and policy
shutdown    like deactivate where active, then cleanup

rclpy swallows exceptions of these callbacks without a word: each is caught and logged here.
"""

from __future__ import annotations

import dataclasses
import gc
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logging_directory

from vdd_ros.control.planning import PlanSettings
from vdd_ros.core.config_io import load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.errors import VddError
from vdd_ros.core.health import HealthSettings
from vdd_ros.core.safety import SafetyLevel
from vdd_ros.nodes.audit import AuditSettings
from vdd_ros.nodes.black_box import BlackBoxSettings
from vdd_ros.nodes.declaration import Spec, declare, read
from vdd_ros.nodes.executor import EXIT_USER_ERROR, SPIN_TIMEOUT_S
from vdd_ros.nodes.operation import Operation
from vdd_ros.nodes.parameters import SHELL
from vdd_ros.nodes.watchers import WatchSettings
from vdd_ros.nodes.wiring import Loaded, RunSettings, Wiring

_LOADING_S = 0.01
"""How often a node without anything else to do looks whether a policy is loaded."""
_Inherited = Callable[[LifecycleState], TransitionCallbackReturn]


class PolicyShell(LifecycleNode):
    """Everything of a policy node but the policy; see the module's docstring."""

    def __init__(self, name: str, *, extra: tuple[Spec, ...] = ()) -> None:
        """Declare the parameters.

        Args:
            name: node name.
            extra: parameters of the policy.

        Raises:
            VddError: a parameter given at start is refused.
        """
        super().__init__(name)
        self.exit_code: int | None = None
        self.wiring: Wiring | None = None
        self._user_error = False
        self._specs = (*SHELL, *extra)
        try:
            declare(self, self._specs, self._allowed, locked=self._locked)
            self.operation = Operation(self)
        except VddError:
            self.destroy_node()
            raise

    def load(self, values: Mapping[str, Any]) -> Loaded:
        """Load the policy that parameters name; runs in any thread and changes nothing.

        Raises:
            VddError: file or parameters are wrong.
        """
        raise NotImplementedError

    def adopt(self, loaded: Loaded) -> None:
        """A loaded policy is the one that acts from now on."""

    def apply(self, changed: set[str]) -> None:
        """Use parameters that were changed while the policy acts."""

    def refusal(self, values: Mapping[str, Any]) -> str:
        """Return why parameters do not fit the policy; empty where they do."""
        del values
        return ""

    def unload(self) -> None:
        """Let go of what `load` made."""

    def value(self, name: str) -> Any:  # noqa: ANN401 - a ROS parameter is of any simple type
        """Return a parameter's value."""
        return self.get_parameter(name).value

    def values(self) -> dict[str, Any]:
        """Return all parameters of this node by name."""
        return read(self, self._specs)

    def facts(self, loaded: Loaded) -> dict[str, str]:
        """Return what ``/diagnostics`` says about a policy in this node."""
        role, rate_hz = self.value("role"), self.value("rate_hz") or loaded.contract.rate_hz
        own = {"contract": loaded.contract.name, "role": role, "rate_hz": f"{rate_hz:g}"}
        return own | loaded.facts

    def begin(self) -> None:
        """Configure and activate, where ``autostart`` asks for it."""
        if not self.value("autostart"):
            self.get_logger().info("unconfigured, waiting for a lifecycle manager")
            return
        success = TransitionCallbackReturn.SUCCESS
        if self.trigger_configure() == success and self.trigger_activate() == success:
            return
        self.exit_code = EXIT_USER_ERROR if self._user_error else 1

    def pace(self) -> float:
        """Take over what was loaded; all else is driven by observations and timers."""
        self.operation.settle()
        return _LOADING_S if self.operation.busy else SPIN_TIMEOUT_S

    def goodbye(self, reason: str) -> None:
        """Send the stop action, where active, and give everything back."""
        self.get_logger().info(f"ending: {reason}")
        if self._state_machine.current_state[1] in ("active", "inactive", "unconfigured"):
            self.trigger_shutdown()
        self.operation.close()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, verify, warm up, create the topics, compare their types."""
        return self._guarded(self._configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the loop."""
        return self._guarded(self._activate, super().on_activate, state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the loop, then send the stop action."""
        return self._guarded(partial(self._stop, "deactivated"), super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Remove topics and policy."""
        return self._guarded(self._release, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the loop, send the stop action, remove topics and policy."""
        result = self._guarded(partial(self._stop, "shut down"), super().on_shutdown, state)
        self._release()
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured with nothing left behind."""
        self._release()
        super().on_error(state)
        return TransitionCallbackReturn.SUCCESS

    def _guarded(
        self, work: Callable[[], None], inherited: _Inherited, state: LifecycleState
    ) -> TransitionCallbackReturn:
        """Do the work of a transition and log what goes wrong; then rclpy does its own."""
        try:
            work()
        except VddError as error:
            self._user_error = True
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:  # see the module's docstring
            self.get_logger().error(f"unexpected:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        return inherited(state)

    def _configure(self) -> None:
        self._check_role()
        loaded = self.load(self.values())
        try:
            self.adopt(loaded)
            settings = RunSettings(
                rate_hz=self.value("rate_hz") or loaded.contract.rate_hz,
                role=self.value("role"),
                partner=self.value("partner"),
                healthy_s=self.value("healthy_s"),
                listen_s=self.value("listen_s"),
                timed=self.value("trigger") == "timer",
                planning=PlanSettings(self.value("inference"), self.value("max_latency_ms")),
                frame_id=self.value("frame_id"),
                discovery_s=self.value("discovery_s"),
                black_box=self._black_box(),
                watch=watch_settings(self),
            )
            loaded = dataclasses.replace(loaded, facts=self.facts(loaded))
            self.wiring = Wiring(self, loaded, settings)
        except BaseException:
            self.unload()
            raise
        self.get_logger().info("; ".join(f"{k} {v}" for k, v in loaded.facts.items()))
        self.wiring.report.say(SafetyLevel.STOP, "configured, not active")

    def _black_box(self) -> BlackBoxSettings:
        given = self.value("black_box.folder")
        return BlackBoxSettings(
            seconds=self.value("black_box.seconds"),
            folder=Path(given or get_logging_directory() / "black_box").expanduser(),
            max_dumps=self.value("black_box.max_dumps"),
            max_mb=self.value("black_box.max_mb"),
        )

    def _allowed(self, wanted: dict[str, Any]) -> str:
        return self.operation.allows(wanted) or self.refusal(wanted)

    def _locked(self) -> bool:
        return self.wiring is not None

    def _check_role(self) -> None:
        role, partner = self.value("role"), self.value("partner")
        if role == "standby" and not partner:
            raise VddError(
                "role standby needs 'partner', the node it takes over from, for example "
                "partner:=policy"
            )
        if partner in (self.get_name(), self.get_fully_qualified_name()):
            raise VddError(f"partner: '{partner}' is this node itself; name the other one")

    def _activate(self) -> None:
        if self.wiring is None:
            raise RuntimeError("activated without being configured")
        self.wiring.start()
        # What exists now lives as long as the node: looking through it again costs ticks.
        gc.collect()
        gc.freeze()

    def _stop(self, reason: str) -> None:
        if self.wiring is not None:
            self.wiring.stop(reason)
        gc.unfreeze()

    def _release(self) -> None:
        if self.wiring is not None:
            self.wiring.destroy()
            self.wiring = None
        self.unload()


def watch_settings(node: PolicyShell) -> WatchSettings:
    """Return what the parameters say about watching; those of a student are absent elsewhere.

    Raises:
        VddError: the thresholds contradict each other.
    """
    value = node.value
    health = HealthSettings(
        max_tick_ms=value("diagnostics.max_tick_ms"),
        delays_warn=value("diagnostics.delays_warn"),
        delays_error=value("diagnostics.delays_error"),
    )
    rate_hz = value("prediction_rate_hz")
    if not node.has_parameter("audit.topic"):
        return WatchSettings(health=health, prediction_rate_hz=rate_hz)
    return WatchSettings(
        health=health,
        prediction_rate_hz=rate_hz,
        audit=AuditSettings(
            topic=value("audit.topic"),
            hand_over=value("audit.on_drop") == "hand_over",
            samples_per_false_alarm=value("audit.samples_per_false_alarm"),
        ),
        experts_rate_hz=value("experts.rate_hz"),
        expert_size_m=value("experts.size_m"),
    )


def node_contract(own: PolicyContract, override: str) -> PolicyContract:
    """Return the contract a policy is run with: its own, or the YAML that replaces it.

    Args:
        own: the contract inside the policy file.
        override: path of a contract YAML, or an empty text.

    Raises:
        VddError: the YAML is wrong, or describes other vectors than the network has.
    """
    if not override:
        return own
    given = load_yaml(PolicyContract, Path(override).expanduser())
    for name in ("dim_obs", "dim_act", "n_obs_steps", "horizon"):
        want, got = getattr(own, name), getattr(given, name)
        if want != got:
            raise VddError(
                f"{override}: the contract has {name} = {got}, the policy was made for {want}; "
                "give a contract that fits the policy, or leave 'contract' empty to use the "
                "policy's own"
            )
    return given
