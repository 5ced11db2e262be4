"""The robot's side of a node test: real topics, real processes, no sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, Float64MultiArray, String

from tests.policy_files import (
    Graph,
    MoeTwin,
    make_moe_file,
    save,
    tensors,
)
from vdd_ros.core.config_io import dump_yaml, load_yaml
from vdd_ros.core.contract import PolicyContract
from vdd_ros.core.shipped import shipped_file
from vdd_ros.nodes.diagnostics import LATCHED, read_labelled
from vdd_ros.nodes.driver import Driver
from vdd_ros.nodes.process import NodeProcess

TIMEOUT_S = 20.0
"""For what takes a tenth of it on a machine with nothing else to do."""
ANSWER_S = 2.0
"""After this a question is asked again: a node that has not found the client's reader yet gives up
its answer after a tenth of a second."""
GOALS: Mapping[int, str] = {
    Transition.TRANSITION_CONFIGURE: "inactive",
    Transition.TRANSITION_ACTIVATE: "active",
    Transition.TRANSITION_DEACTIVATE: "inactive",
    Transition.TRANSITION_CLEANUP: "unconfigured",
}
"""Where the transitions that tests ask for lead."""
PULSE_S = 0.05
"""Period in which unanswered states are repeated: a third of what the contract calls stale."""
DEFAULTS: Mapping[str, object] = {"autostart": True, "discovery_s": 0.0}
"""Parameters of the nodes under test, unless the test says otherwise."""
START = (0.52493, -0.27974)
"""Where the Avoiding robot starts."""


def avoiding() -> PolicyContract:
    """The contract of the simulated robot."""
    return load_yaml(PolicyContract, shipped_file("config/contracts/avoiding.yaml"))


class Robot:
    """Publishes states in a namespace and records what comes back."""

    def __init__(self, driver: Driver, *, namespace: str = "", node: str = "policy") -> None:
        self.driver = driver
        self.prefix = f"/{namespace}" if namespace else ""
        self.path = f"{self.prefix}/{node}"
        self.commands: list[tuple[int, tuple[float, float]]] = []
        self.shadow: list[int] = []
        self.reasons: list[str] = []
        self.status: dict[int, dict[str, float]] = {}
        ros, many = driver.node, QoSProfile(depth=100)
        self._state = ros.create_publisher(JointState, f"{self.prefix}/robot_state", many)
        self._reset = ros.create_publisher(Empty, f"{self.prefix}/episode_start", many)
        self._last_stamp = 0
        self._last_pulse = 0.0
        for kind, topic, callback, qos in (
            (PointStamped, f"{self.prefix}/command", self._on_command, many),
            (PointStamped, f"{self.path}/shadow_action", self._on_shadow, many),
            (String, f"{self.path}/reason", self._on_reason, LATCHED),
            (Float64MultiArray, f"{self.path}/status", self._on_status, many),
        ):
            ros.create_subscription(kind, topic, callback, qos)

    def publish(
        self, x: float, y: float, *, names: tuple[str, ...] = (), stamp_ns: int = 0
    ) -> int:
        """Publish one state, standing still at x, y, stamped now by default; return its stamp."""
        message = JointState(name=list(names or ("x", "y", "x_desired", "y_desired")))
        message.position = [x, y, x, y][: len(message.name)]
        stamp_ns = stamp_ns or max(time.time_ns(), self._last_stamp + 1)
        self._last_stamp = stamp_ns
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        self._state.publish(message)
        return stamp_ns

    def ask(self, x: float, y: float) -> tuple[float, float]:
        """Publish states until one is answered; return the command that answers it."""
        answers = self.ask_until(lambda: dict(self.commands), x, y)
        return answers[0]

    def status_of(self, x: float, y: float) -> dict[str, float]:
        """Publish states until one is answered; return the status of that tick."""
        return self.ask_until(lambda: self.status, x, y)[0]

    def ask_until(self, answers: Callable[[], dict[int, Any]], x: float, y: float) -> list[Any]:
        """Publish states until ``answers`` has something under the stamp of one of them."""
        sent: list[int] = []

        def answered() -> bool:
            if any(stamp in answers() for stamp in sent):
                return True
            self.pulse(lambda: sent.append(self.publish(x, y)))
            return False

        self.quiet()
        self.until(answered, "answer to an observation")
        return [answers()[stamp] for stamp in sent if stamp in answers()]

    def pulse(self, send: Callable[[], Any]) -> None:
        """Send at a robot's pace however often this is called: a flood would only queue up."""
        now = time.monotonic()
        if now - self._last_pulse >= PULSE_S:
            self._last_pulse = now
            send()

    def quiet(self) -> None:
        """Forget when the last pulse was: the next one is sent at once."""
        self._last_pulse = 0.0

    def restart(self) -> None:
        """Announce a new episode."""
        self._reset.publish(Empty())

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Handle events until ``done``."""
        self.driver.spin_until(done, timeout_s=TIMEOUT_S, what=what)

    def until_reason(self, text: str) -> str:
        """Wait for the newest reason to contain ``text``."""
        self.until(lambda: bool(self.reasons) and text in self.reasons[-1], f"reason '{text}'")
        return self.reasons[-1]

    def active(self) -> None:
        """Wait until the node answers."""
        self.ask(*START)

    def transition(self, number: int) -> bool:
        """Ask for a lifecycle transition; return whether it succeeded.

        If an answer was lost, the second request may find the transition done, and be refused.
        """
        request = ChangeState.Request(transition=Transition(id=number))
        answer, times = self._ask(ChangeState, "change_state", request)
        return bool(answer.success) or (times > 1 and self.state() == GOALS[number])

    def state(self) -> str:
        """Return the label of the lifecycle state."""
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def set(self, **values: Any) -> tuple[bool, str]:
        """Set parameters (``__`` stands for a dot); return success and reason of the first."""
        parameters = [
            Parameter(name.replace("__", "."), value=value).to_parameter_msg()
            for name, value in values.items()
        ]
        request = SetParameters.Request(parameters=parameters)
        result = self.call(SetParameters, "set_parameters", request).results[0]
        return result.successful, result.reason

    def describe(self, *names: str) -> list[Any]:
        """Return parameter descriptors."""
        request = DescribeParameters.Request(names=list(names))
        return list(self.call(DescribeParameters, "describe_parameters", request).descriptors)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service of the node and return its answer; it may be asked more than once."""
        return self._ask(kind, name, request)[0]

    def _ask(self, kind: Any, name: str, request: Any) -> tuple[Any, int]:
        client = self.driver.node.create_client(kind, f"{self.path}/{name}")
        asked: list[Any] = []
        due = 0.0

        def answered() -> bool:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + ANSWER_S
                asked.append(client.call_async(request))
            return any(future.done() for future in asked)

        try:
            self.until(client.service_is_ready, f"service {name}")
            self.until(answered, f"answer of {name}")
            return next(f.result() for f in asked if f.done()), len(asked)
        finally:
            self.driver.node.destroy_client(client)

    def _on_command(self, message: PointStamped) -> None:
        stamp = message.header.stamp
        point = (message.point.x, message.point.y)
        self.commands.append((stamp.sec * 10**9 + stamp.nanosec, point))

    def _on_shadow(self, message: PointStamped) -> None:
        self.shadow.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)

    def _on_reason(self, message: String) -> None:
        self.reasons.append(message.data)

    def _on_status(self, message: Float64MultiArray) -> None:
        row = read_labelled(message)
        self.status[int(row["stamp_sec"]) * 10**9 + int(row["stamp_nanosec"])] = row


def start_policy(
    driver: Driver, policy: Path, *, namespace: str = "", **parameters: object
) -> NodeProcess:
    """Start a policy node that starts itself (``__`` in names stands for a dot)."""
    named = {name.replace("__", "."): value for name, value in parameters.items()}
    values: Mapping[str, object] = {"policy": str(policy), **DEFAULTS, **named}
    return driver.start("policy_node", parameters=values, namespace=namespace)


def write_contract(path: Path, contract: PolicyContract) -> str:
    """Write a contract as YAML; return the path."""
    path.write_text(dump_yaml(contract))
    return str(path)


def small_policy(path: Path) -> MoeTwin:
    """A student for the Avoiding contract: random affine experts."""
    return make_moe_file(path, contract=avoiding(), n_experts=4)


def driving_policy(path: Path, *, nan_below_y: float = -10.0) -> Path:
    """A student of two experts that both drive one way through all three rows.

    Args:
        path: where it is written.
        nan_below_y: the experts answer NaN while the desired y is below this.
    """
    # The way as a function of y, piecewise linear: slopes change at the hinges.
    y = np.array([-0.28, -0.14, -0.06, 0.03, 0.13, 0.2, 0.4])
    x = np.array([0.525, 0.44, 0.44, 0.5, 0.5, 0.425, 0.425])
    slope = np.diff(x) / np.diff(y)
    bend = np.diff(slope, prepend=0.0).astype(np.float32)
    graph = Graph()
    flat = graph.op("Reshape", "observation", np.array([0, 4]))
    now_x = graph.op("Gather", flat, np.array([0]), axis=1)
    now_y = graph.op("Gather", flat, np.array([1]), axis=1)
    past = graph.op("Relu", graph.op("Sub", now_y, y[None, :-1].astype(np.float32)))
    way = graph.op("Add", graph.op("MatMul", past, bend[:, None]), np.float32(x[0]))
    side = graph.op("Clip", graph.op("Sub", way, now_x), np.float32(-0.012), np.float32(0.012))
    ahead = graph.op("Add", graph.op("Mul", now_y, np.float32(0)), np.float32(0.008))
    # 0/0 is NaN, 0/1 is 0: the fault is made of arithmetic, as a real one would be.
    good = graph.op("Greater", now_y, np.float32(nan_below_y))
    zero = graph.op("Mul", now_y, np.float32(0))
    fault = graph.op("Div", zero, graph.op("Cast", good, to=1))
    step = graph.op("Add", graph.op("Concat", side, ahead, axis=1), fault)
    one = graph.op("Unsqueeze", step, np.array([1, 2]))
    graph.op("Concat", one, one, axis=1, out="expert_actions")
    graph.op("Concat", zero, zero, axis=1, out="gating_logits")
    contract = avoiding()
    shapes = {"gating_logits": ["B", 2], "expert_actions": ["B", 2, 1, 2]}
    model = graph.build({"observation": ["B", 1, 4]}, shapes)
    sample = np.array([[[0.525, -0.28, 0.525, -0.28]]], np.float32)
    if nan_below_y > -1.0:
        sample[..., 1] = nan_below_y + 0.28
    at_x, at_y = float(sample[0, 0, 0]), float(sample[0, 0, 1])
    aside = np.clip(np.interp(at_y, y, x) - at_x, -0.012, 0.012)
    answer = np.array([aside, 0.008], np.float32)
    golden = {
        "inputs": tensors({"observation": sample}),
        "outputs": tensors(
            {
                "gating_logits": np.zeros((1, 2)),
                "expert_actions": np.tile(answer, (1, 2, 1, 1)),
            }
        ),
        "atol": 1e-4,
    }
    provenance = {"format_version": 1, "kind": "moe", "n_experts": 2}
    return save(path, model, contract=contract, provenance=provenance, golden=golden)


def chasing_policy(path: Path) -> Path:
    """A student for the Push-T contract whose experts send the finger to where the block is."""
    contract = load_yaml(PolicyContract, shipped_file("config/contracts/pusht.yaml"))
    graph = Graph()
    last = graph.op("Gather", "observation", np.array([contract.n_obs_steps - 1]), axis=1)
    block = graph.op("Gather", last, np.array([2, 3]), axis=2)  # [B, 1, 2]
    one = graph.op("Unsqueeze", block, np.array([1]))
    graph.op("Tile", one, np.array([1, 2, contract.horizon, 1]), out="expert_actions")
    logits = graph.op("Mul", block, np.float32(0))
    graph.op("Squeeze", logits, np.array([1]), out="gating_logits")
    shapes = {"gating_logits": ["B", 2], "expert_actions": ["B", 2, contract.horizon, 2]}
    model = graph.build({"observation": ["B", contract.n_obs_steps, contract.dim_obs]}, shapes)
    sample = np.tile(np.array([100.0, 120.0, 250.0, 300.0, 1.0, 0.0], np.float32), (1, 2, 1))
    golden = {
        "inputs": tensors({"observation": sample}),
        "outputs": tensors(
            {
                "gating_logits": np.zeros((1, 2)),
                "expert_actions": np.tile([250.0, 300.0], (1, 2, contract.horizon, 1)),
            }
        ),
        "atol": 1e-4,
    }
    provenance = {"format_version": 1, "kind": "moe", "n_experts": 2}
    return save(path, model, contract=contract, provenance=provenance, golden=golden)
