"""The distilled policy, by default driving the simulated robot: something moves at once.

ros2 launch vdd_ros policy.launch.py
ros2 launch vdd_ros policy.launch.py standby:=true   # the teacher takes over if the policy fails
ros2 launch vdd_ros policy.launch.py sim:=false contract:=my_robot.yaml policy:=my_policy.onnx
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
                description="Policy file (.onnx). Empty: what params_file says, else the shipped.",
            ),
            DeclareLaunchArgument(
                "contract",
                default_value="",
                description="The robot: contract YAML with its topics, limits and rate. Empty: "
                "the one inside the policy file.",
            ),
            DeclareLaunchArgument(
                "role",
                default_value="",
                choices=["", "command", "shadow", "standby"],
                description="command moves the robot, shadow only publishes ~/shadow_action, "
                "standby takes over from its partner. Empty: what params_file says.",
            ),
            DeclareLaunchArgument(
                "partner",
                default_value="",
                description="Node to share the command with. Empty: what params_file says.",
            ),
            DeclareLaunchArgument(
                "standby",
                default_value="false",
                choices=["true", "false"],
                description="Start the diffusion teacher too, as the policy's standby: role and "
                "partner of both are then set here.",
            ),
            DeclareLaunchArgument(
                "teacher",
                default_value="",
                description="Denoiser file (.onnx) of the standby. Empty: the shipped.",
            ),
            DeclareLaunchArgument(
                "nfe",
                default_value="",
                description="Steps of the standby's sampler: as many as fit into a control "
                "period. Empty: what its params file says.",
            ),
            DeclareLaunchArgument(
                "rate_hz",
                default_value="",
                description="Control rate in Hz. Empty: what params_file says, else the "
                "contract's.",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="",
                choices=["", "true", "false"],
                description="Configure and activate without a lifecycle manager. Empty: what "
                "params_file says.",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=shipped_params("policy"),
                description="YAML with the node's parameters.",
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
    pair = flag(context, "standby")
    policy = node(
        context,
        "policy_node",
        specs=(*SHELL, *SELECTION),
        params_file=text(context, "params_file"),
        arguments=("policy", "contract", "role", "partner", "rate_hz", "autostart"),
        fixed={"role": "command", "partner": "teacher"} if pair else {},
    )
    nodes = [policy]
    if pair:
        nodes.append(_standby(context))
    if flag(context, "sim"):
        clock = {"publish_clock": flag(context, "use_sim_time"), "use_sim_time": False}
        sim = node(context, "sim_node", specs=SIM, arguments=("level",), fixed=clock)
        nodes.append(sim)
    return nodes


def _standby(context: LaunchContext) -> Node:
    denoiser = {"policy": text(context, "teacher")} if text(context, "teacher") else {}
    return node(
        context,
        "teacher_node",
        specs=(*SHELL, *SAMPLER),
        params_file=shipped_params("teacher"),
        arguments=("contract", "nfe", "rate_hz", "autostart"),
        fixed={"role": "standby", "partner": "policy"} | denoiser,
    )
