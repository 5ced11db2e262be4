"""What reloading costs: ``python -m tests.nodes.reloads`` prints ticks missed and times taken.

One real node at 100 Hz with the shipped model; good and bad files in turn.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from tests.nodes.robot import START, TIMEOUT_S, Robot
from vdd_ros.core.shipped import STUDENT, TEACHER, shipped_file
from vdd_ros.nodes.driver import Driver

RATE_HZ = 100.0
RELOADS = 20


def measure(module: str, model: Path, bad: Path) -> dict[str, object]:
    """Reload good and bad files in turn while observations come at `RATE_HZ`."""
    node = module.removesuffix("_node")
    with Driver("reloads", own_domain=True) as driver:
        parameters = {"autostart": True, "rate_hz": RATE_HZ, "policy": str(model)}
        driver.start(module, parameters=parameters | ({"nfe": 4} if node == "teacher" else {}))
        robot = Robot(driver, node=node)
        robot.active()
        client = driver.node.create_client(SetParameters, f"/{node}/set_parameters")
        robot.until(client.service_is_ready, "service")
        sent: list[int] = []
        due = time.monotonic()

        def pace(seconds: float, done: object = None) -> None:
            nonlocal due
            end = time.monotonic() + seconds
            while time.monotonic() < end and not (done is not None and done.done()):  # type: ignore[attr-defined]
                if time.monotonic() >= due:
                    due += 1.0 / RATE_HZ
                    sent.append(robot.publish(*START))
                driver.spin(max(due - time.monotonic(), 0.0))

        due = time.monotonic()
        pace(1.0)
        before = [row["missed"] for row in robot.status.values()][-1]
        first = len(sent)
        times: dict[str, list[float]] = {"good": [], "bad": []}
        for k in range(RELOADS):
            kind = ("good", "bad")[k % 2]
            value = Parameter("policy", value=str(model if kind == "good" else bad))
            asked = time.monotonic()
            future = client.call_async(
                SetParameters.Request(parameters=[value.to_parameter_msg()])
            )
            pace(TIMEOUT_S, future)
            times[kind].append(time.monotonic() - asked)
            result = future.result().results[0]
            assert result.successful == (kind == "good"), result.reason
            pace(0.1)
        during = len(sent)
        pace(0.5)
        missed = [row["missed"] for row in robot.status.values()][-1] - before
        answered = {stamp for stamp, _ in robot.commands}
        unanswered = sum(stamp not in answered for stamp in sent[first:during])
        ticks = [robot.status[s]["tick_us"] for s in sent[first:during] if s in robot.status]
        return {
            "node": node,
            "ticks": during - first,
            "missed": missed,
            "unanswered": unanswered,
            "tick_us_p99": float(np.percentile(ticks, 99)),
            "tick_us_max": float(np.max(ticks)),
            **{f"{kind}_s_max": max(values) for kind, values in times.items()},
        }


def main() -> int:
    """Print a line per node."""
    with tempfile.TemporaryDirectory() as folder:
        for module, name in (("policy_node", STUDENT), ("teacher_node", TEACHER)):
            model, bad = Path(shipped_file(name)), Path(folder) / "bad.onnx"
            whole = model.read_bytes()
            bad.write_bytes(whole[:-40000])
            print(json.dumps(measure(module, model, bad)), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
