"""Student and teacher on the same observations: the student commands, the teacher is in shadow.

ros2 launch vdd_ros compare.launch.py nfe:=16
ros2 topic echo /diagnostics
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from vdd_ros.nodes.bringup import flag, node, shipped_params, text
from vdd_ros.nodes.parameters import SAMPLER, SELECTION, SHELL, SIM


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "policy",
                default_value="",
                description="Policy file of the student. Empty: the shipped one.",
            ),
            DeclareLaunchArgument(
                "teacher",
                default_value="",
                description="Denoiser file of the teacher. Empty: the shipped one.",
            ),
            DeclareLaunchArgument(
                "contract",
                default_value="",
                description="The robot: contract YAML for both. Empty: those inside the files.",
            ),
            DeclareLaunchArgument(
                "nfe", default_value="", description="Steps of the teacher's sampler. Empty: 16."
            ),
            DeclareLaunchArgument(
                "rate_hz",
                default_value="",
                description="Control rate in Hz. Empty: the contract's.",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                choices=["true", "false"],
                description="Configure and activate without a lifecycle manager.",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="Namespace of the robot and its nodes."
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=["true", "false"],
                description="Follow /clock; the simulated robot then publishes it.",
            ),
            DeclareLaunchArgument(
                "sim",
                default_value="true",
                choices=["true", "false"],
                description="Start the simulated Avoiding robot too; false on a real robot.",
            ),
            DeclareLaunchArgument(
                "level",
                default_value="ideal",
                choices=["ideal", "panda"],
                description="How the simulated robot follows commands: exactly, or like an arm.",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="Log level of the nodes.",
            ),
            OpaqueFunction(function=_nodes),
        ]
    )


def _nodes(context: LaunchContext) -> list[Node]:
    nodes = [
        node(
            context,
            "policy_node",
            specs=(*SHELL, *SELECTION),
            params_file=shipped_params("policy"),
            arguments=("policy", "contract", "rate_hz", "autostart"),
            fixed={"role": "command"},
        ),
        node(
            context,
            "teacher_node",
            specs=(*SHELL, *SAMPLER),
            params_file=shipped_params("teacher"),
            arguments=("contract", "nfe", "rate_hz", "autostart"),
            fixed={"role": "shadow", "policy": text(context, "teacher")},
        ),
    ]
    if flag(context, "sim"):
        clock = {"publish_clock": flag(context, "use_sim_time"), "use_sim_time": False}
        nodes.append(node(context, "sim_node", specs=SIM, arguments=("level",), fixed=clock))
    return nodes
