"""The parameters of the nodes, a line each: name, default, description, range, choices."""

from __future__ import annotations

from vdd_ros.nodes.declaration import Spec

EXECUTOR = Spec(
    "executor",
    "auto",
    "events is the fastest but newer; auto takes it where it works, else single.",
    choices=("auto", "events", "single"),
    at_start=True,
)
"""What runs a node's callbacks; the same for every node."""

SHELL = (
    Spec(
        "policy",
        "",
        "Policy file (.onnx). Empty: the one shipped with the package. Set while the node is "
        "configured, the file is checked first and then acts from the next tick on.",
        changeable=True,
    ),
    Spec(
        "contract",
        "",
        "Contract YAML replacing topics, limits and rates of the one inside the "
        "policy file. Empty: the file's own.",
    ),
    Spec(
        "role",
        "command",
        "command publishes the contract's action topics; shadow publishes "
        "~/shadow_action instead and never commands; standby takes over when its partner cannot "
        "command any more, and gives back after a healthy spell.",
        choices=("command", "shadow", "standby"),
    ),
    Spec(
        "partner",
        "",
        "Node that the command is shared with, by name or path, for example teacher: a standby "
        "watches it, a commanding node comes back through it. Empty: none.",
    ),
    Spec(
        "healthy_s",
        2.0,
        "Role standby: how long the partner has to be well before it gets the command back.",
        low=0.0,
        high=3600.0,
    ),
    Spec(
        "listen_s",
        5.0,
        "Role command with a partner: how long to listen for it after activation before "
        "commanding alone. Nodes may need seconds to find each other.",
        low=0.0,
        high=3600.0,
    ),
    Spec(
        "rate_hz",
        0.0,
        "Control rate in Hz, for the limits and the count of missed ticks. 0.0: the contract's.",
        low=0.0,
        high=10_000.0,
    ),
    Spec(
        "trigger",
        "observation",
        "observation answers every complete observation at once; timer "
        "ticks at rate_hz with the newest one.",
        choices=("observation", "timer"),
    ),
    Spec(
        "inference",
        "inline",
        "inline asks the policy inside the tick, which waits for it; async asks it beside the "
        "ticks and executes what was planned before meanwhile, for a policy of chunks "
        "(horizon of at least 2) that takes longer than a control period.",
        choices=("inline", "async"),
    ),
    Spec(
        "max_latency_ms",
        0.0,
        "An answer of the policy that took longer is not used. 0.0: no limit.",
        low=0.0,
        high=600_000.0,
    ),
    Spec(
        "autostart",
        False,
        "Configure and activate without a lifecycle manager.",
        at_start=True,
    ),
    Spec(
        "provider",
        "cpu",
        "Where the network runs; auto takes the fastest that reproduces the file's golden sample.",
        choices=("cpu", "cuda", "tensorrt", "auto"),
    ),
    Spec(
        "n_threads",
        1,
        "Threads for one network pass. More than one rarely pays for a network this small.",
        low=1,
        high=64,
    ),
    EXECUTOR,
    Spec("frame_id", "", "Put into the header of stamped commands."),
    Spec(
        "discovery_s",
        1.0,
        "Longest wait at configure for publishers of the observed topics, so that a wrong type is "
        "refused before anything moves. Later ones are found later, and held.",
        low=0.0,
        high=60.0,
    ),
    Spec(
        "black_box.seconds",
        10.0,
        "How much of the past is kept in memory and written as an MCAP bag on a fault or when "
        "~/dump is called. 0.0: nothing. Needs the Python package rosbags.",
        low=0.0,
        high=600.0,
    ),
    Spec(
        "black_box.folder",
        "",
        "Where the bags of the black box go. Empty: black_box beside the ROS logs.",
    ),
    Spec(
        "black_box.max_dumps",
        20,
        "Bags kept in that folder; the oldest are removed.",
        low=1,
        high=10_000,
    ),
    Spec(
        "black_box.max_mb",
        500.0,
        "Megabytes kept in that folder; the oldest bags are removed.",
        low=1.0,
        high=1e6,
    ),
    Spec(
        "diagnostics.max_tick_ms",
        0.0,
        "A tick that takes longer is late. 0.0: the control period, after which the next is due.",
        low=0.0,
        high=60_000.0,
    ),
    Spec(
        "diagnostics.delays_warn",
        3,
        "Late ticks in a row from which /diagnostics says WARN.",
        low=1,
        high=1_000_000,
    ),
    Spec(
        "diagnostics.delays_error",
        10,
        "Late ticks in a row from which /diagnostics says ERROR.",
        low=1,
        high=1_000_000,
    ),
    Spec(
        "prediction_rate_hz",
        2.0,
        "Raw predictions per second on ~/prediction while somebody subscribes: a student's node "
        "audits its teacher's. 0.0: none.",
        low=0.0,
        high=1000.0,
    ),
)
"""Parameters of every node on the lifecycle shell."""

SELECTION = (
    Spec(
        "selection.rule",
        "sample",
        "How the expert is chosen: sample from the gate, argmax, "
        "sticky (keep it while plausible) or pinned.",
        choices=("sample", "argmax", "sticky", "pinned"),
        changeable=True,
    ),
    Spec(
        "selection.seed",
        0,
        "Seed of the choice; the same seed and observations replay the same experts.",
        low=0,
        high=2**31 - 1,
        changeable=True,
    ),
    Spec(
        "selection.pinned_expert",
        0,
        "Rule pinned: the expert that acts.",
        low=0,
        high=4095,
        changeable=True,
    ),
    Spec(
        "selection.temperature",
        1.0,
        "Divides the gating logits before sampling; below 1 prefers likely experts.",
        low=1e-3,
        high=1e3,
        changeable=True,
    ),
    Spec(
        "selection.sticky_ratio",
        0.25,
        "Rule sticky: keep the expert while its probability is at "
        "least this fraction of the largest.",
        low=0.0,
        high=1.0,
        changeable=True,
    ),
)
"""Parameters of the student's expert choice."""

WATCHED = (
    Spec(
        "experts.rate_hz",
        10.0,
        "Marker arrays per second on ~/experts while somebody subscribes.",
        low=0.1,
        high=100.0,
    ),
    Spec(
        "experts.size_m",
        0.01,
        "Diameter in metres of the marker of an expert that is certain to act.",
        low=1e-5,
        high=100.0,
    ),
    Spec(
        "audit.topic",
        "teacher/prediction",
        "The teacher's predictions, whose likelihood under the student is watched; needs a policy "
        "file with density, calibrated by `vdd audit`. Empty: no audit.",
    ),
    Spec(
        "audit.on_drop",
        "report",
        "When the teacher's actions become unlikely and stay so: report it (report), or also set "
        "`fault` in ~/status (hand_over).",
        choices=("report", "hand_over"),
    ),
    Spec(
        "audit.samples_per_false_alarm",
        1e5,
        "Least mean number of audited samples to a false alarm; more make alarms rarer and later. "
        "1e5 at 2 Hz: 14 hours.",
        low=10.0,
        high=1e12,
    ),
)
"""Parameters of what watches the student."""

SAMPLER = (
    Spec(
        "nfe",
        16,
        "Steps of the sampler, the network passes per action (heun takes twice as many less one).",
        low=1,
        high=1024,
    ),
    Spec(
        "sampler",
        "euler",
        "How the noise is removed.",
        choices=("euler", "heun", "ddim", "dpmpp_2m", "euler_ancestral"),
    ),
    Spec(
        "variant",
        "auto",
        "How the sampler is run: unrolled into one graph, bound arrays, or a "
        "plain loop; auto takes the fastest the file offers.",
        choices=("auto", "unrolled", "bound", "loop"),
    ),
    Spec("seed", 0, "Seed of the sampler's noise.", low=0, high=2**31 - 1),
)
"""Parameters of the teacher's sampler."""

SIM = (
    Spec(
        "task",
        "avoiding",
        "Which robot is simulated. avoiding: a rod between six obstacles; pusht: a finger that "
        "pushes a block, which needs gym-pusht.",
        choices=("avoiding", "pusht"),
    ),
    Spec(
        "level",
        "ideal",
        "ideal: the rod is where it is told to be; panda: it follows like the "
        "simulated arm of the benchmark.",
        choices=("ideal", "panda"),
    ),
    Spec("lag", False, "Measured positions are one control step old, as in the benchmark."),
    Spec(
        "episodes",
        0,
        "Episodes to run before the node ends with exit code 0; 0: endless.",
        low=0,
        high=1_000_000,
    ),
    Spec("seed", 0, "Seed of the task's randomness.", low=0, high=2**31 - 1),
    Spec(
        "speed",
        1.0,
        "How much faster than real time; at any other than 1.0 the node publishes "
        "/clock and the other nodes need use_sim_time.",
        low=0.01,
        high=1000.0,
    ),
    Spec(
        "wait_for_start",
        False,
        "Start the first episode at the first message on ~/start: a recorder sends it when it "
        "hears the robot, since two nodes may find each other seconds apart.",
    ),
    Spec("publish_clock", False, "Publish /clock at speed 1.0 too, for nodes with use_sim_time."),
    EXECUTOR,
)
"""Parameters of the simulated robot."""
