"""What an operator may ask of a policy node: hold the robot, act on another policy file.

``~/hold`` (std_srvs/SetBool) holds the robot where it is, or lets it go on. ``~/reload``
(std_srvs/Trigger) reads the file that the parameter ``policy`` names again; setting that parameter
while the node is configured loads the other file first. Both answer when they know how it went,
while ticks go on; a refused file leaves policy and parameter as they were. A lifecycle transition
that the state does not allow is answered, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from vdd_ros.core.errors import VddError
from vdd_ros.nodes.later import Answer, LateService
from vdd_ros.nodes.reload import Loading, check_exchange, give_back
from vdd_ros.nodes.wiring import Loaded, Wiring

if TYPE_CHECKING:
    from vdd_ros.nodes.lifecycle import PolicyShell

_BUSY = "a policy is being loaded already; ask again when that is done"
_BEGUN = "being loaded; /diagnostics says whether it is taken over"


@dataclass(frozen=True, eq=False)
class _Job:
    loading: Loading
    wiring: Wiring
    finish: Callable[[Loaded | None, str], str]
    """From what was loaded and why it was refused to why it is not taken over after all."""


class Operation:
    """The services above, for one node; everything but loading runs in the executor's thread."""

    def __init__(self, node: PolicyShell) -> None:
        """Offer the services; they answer in every state of the node."""
        self._node = node
        self._job: _Job | None = None
        self._said = ""
        self.incoming: Loaded | None = None
        """A policy that was checked and is taken over with the parameter being set."""
        node.create_service(SetBool, "~/hold", self._on_hold)
        reload = node.create_service(Trigger, "~/reload", lambda request, response: response)
        self._late = [LateService(reload, self._on_reload)]
        for service in list(node.services):
            # Their callbacks are rclpy's, which answer at once; kept for all but a policy.
            name = service.srv_name.rpartition("/")[2]
            if name == "change_state":
                service.callback = partial(self._on_change_state, service.callback)
            begin = {
                "set_parameters": self._on_set,
                "set_parameters_atomically": self._on_set_atomically,
            }.get(name)
            if begin is not None:
                self._late.append(LateService(service, partial(begin, service.callback)))
        node.add_post_set_parameters_callback(self._on_changed)

    @property
    def busy(self) -> bool:
        """A policy is being loaded."""
        return self._job is not None

    def settle(self) -> None:
        """Take over, or refuse, what has been loaded; called between any two callbacks."""
        job = self._job
        if job is None or not job.loading.done:
            return
        self._job = None
        loading, node = job.loading, self._node
        if loading.unexpected:
            node.get_logger().error(f"while loading a policy:\n{loading.unexpected}")
        why = loading.refusal
        if not why and job.wiring is not node.wiring:
            why = "the node was cleaned up while the policy was loaded"
        why = job.finish(None if why else loading.result, why)
        if job.wiring is node.wiring:
            job.wiring.report.warn("reload", f"reload refused: {why}" if why else "")
        give_back()

    def close(self) -> None:
        """Refuse what is still being loaded: the node ends."""
        job, self._job = self._job, None
        if job is not None:
            job.finish(None, "the node ends")
            job.loading.join()

    def allows(self, wanted: dict[str, Any]) -> str:
        """Return why the parameter ``policy`` may not become what is wanted; empty if it may."""
        node = self._node
        changed = wanted["policy"] != node.value("policy")
        if node.wiring is None or not changed or self.incoming is not None:
            return ""
        return "policy: set it through the node's parameter services, which load it first"

    def _on_change_state(
        self,
        inherited: Callable[[Any, Any], Any],
        request: Any,  # noqa: ANN401
        response: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        try:
            return inherited(request, response)
        except rclpy_implementation.RCLError as error:
            # rclpy raises where the state does not allow it, and leaves the caller without a word.
            why = str(error).partition(", at /")[0]
            self._node.get_logger().error(f"transition refused: {why}")
            response.success = False
            return response

    def _on_hold(self, request: Any, response: Any) -> Any:  # noqa: ANN401
        wiring = self._node.wiring
        if wiring is None or not wiring.loop.active:
            response.message = "not active: nothing is commanded; activate the node first"
            return response
        loop = wiring.loop
        if request.data == loop.paused:
            response.message = "paused already" if loop.paused else "was not paused"
        elif request.data:
            loop.pause()
            response.message = "paused: the robot is held where it is"
        else:
            loop.resume()
            response.message = "resumed: acts from the next tick on"
        response.success = True
        self._node.get_logger().info(f"hold: {response.message}")
        return response

    def _on_reload(self, request: Any, response: Any, answer: Answer) -> bool:  # noqa: ANN401
        del request

        def finish(loaded: Loaded | None, why: str) -> str:
            if loaded is not None:
                why = self._fits(loaded) or self._take_over(loaded)
            message = why or self._said
            self._send(answer, Trigger.Response(success=not why, message=message))
            return why

        response.message = self._begin({}, finish) or _BEGUN
        return response.message is _BEGUN

    def _on_set(
        self,
        inherited: Callable[[Any, Any], Any],
        request: Any,  # noqa: ANN401
        response: Any,  # noqa: ANN401
        answer: Answer,
    ) -> bool:
        def complete(response: Any, why: str) -> Any:  # noqa: ANN401
            for one in request.parameters:
                if one.name == "policy" and why:
                    response.results.append(SetParametersResult(reason=why))
                else:
                    single = SetParameters.Request(parameters=[one])
                    inherited(single, response)
            return response

        wanted = self._policies(request)
        if not wanted:
            inherited(request, response)
            return False
        if len(wanted) > 1:
            complete(response, "policy: set more than once in one request")
            return False

        def finish(loaded: Loaded | None, why: str) -> str:
            why = self._fits(loaded) if loaded is not None else why
            self.incoming = None if why else loaded
            done = complete(SetParameters.Response(), why)
            self.incoming = None
            self._send(answer, done)
            return why

        why = self._begin({"policy": wanted[0]}, finish)
        if why:
            complete(response, why)
            return False
        response.results = [SetParametersResult(reason=_BEGUN) for _ in request.parameters]
        return True

    def _on_set_atomically(
        self,
        inherited: Callable[[Any, Any], Any],
        request: Any,  # noqa: ANN401
        response: Any,  # noqa: ANN401
        answer: Answer,
    ) -> bool:
        if not self._policies(request):
            inherited(request, response)
            return False

        def finish(loaded: Loaded | None, why: str) -> str:
            done = SetParametersAtomically.Response()
            done.result.reason = why
            if loaded is not None:
                self.incoming = loaded
                inherited(request, done)
                self.incoming = None
            self._send(answer, done)
            return str(done.result.reason)

        changes = {p.name: Parameter.from_parameter_msg(p).value for p in request.parameters}
        why = self._begin(changes, finish)
        response.result = SetParametersResult(reason=why or _BEGUN)
        return not why

    def _policies(self, request: Any) -> list[str]:  # noqa: ANN401
        """Return the policy files a request asks for that have to be loaded first."""
        if self._node.wiring is None:
            return []
        given = [Parameter.from_parameter_msg(p) for p in request.parameters]
        # Of another type than a text it is refused by rclpy.
        return [p.value for p in given if p.name == "policy" and isinstance(p.value, str)]

    def _begin(self, changes: dict[str, Any], finish: Callable[[Loaded | None, str], str]) -> str:
        """Start loading with the parameters as they would be; return why not, or nothing."""
        node, wiring = self._node, self._node.wiring
        if wiring is None:
            return "not configured: the policy is loaded when the node is configured"
        if self._job is not None:
            return _BUSY
        values, running = node.values() | changes, wiring.contract

        def load() -> Loaded:
            loaded = node.load(values)
            check_exchange(running, loaded.contract)
            return loaded

        self._job = _Job(Loading(load), wiring, finish)
        return ""

    def _fits(self, loaded: Loaded) -> str:
        """Ask again: parameters may have changed while the policy was loaded."""
        self.incoming = loaded
        try:
            return self._node.refusal(self._node.values())
        finally:
            self.incoming = None

    def _on_changed(self, changes: list[Parameter]) -> None:
        # In this order: what is changed together with the policy is meant for the new one.
        if self.incoming is not None and any(change.name == "policy" for change in changes):
            self._take_over(self.incoming)
        else:
            self._node.apply({change.name for change in changes})

    def _take_over(self, loaded: Loaded) -> str:
        node = self._node
        if node.wiring is None:
            return "the node was cleaned up while the policy was loaded"
        try:
            node.adopt(loaded)
        except VddError as error:
            return str(error)
        node.wiring.exchange(loaded, node.facts(loaded))
        self._said = f"acts from the next tick on: {loaded.summary}"
        node.get_logger().info(f"policy exchanged, {self._said}")
        return ""

    def _send(self, answer: Answer, response: Any) -> None:  # noqa: ANN401
        trouble = answer.send(response)
        if trouble:
            self._node.get_logger().warning(f"the answer about a policy was not sent: {trouble}")
