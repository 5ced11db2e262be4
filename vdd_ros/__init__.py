"""Diffusion policies distilled into Mixtures of Experts, offline and on a ROS 2 robot.

The rooms, from the inside out: `core` (vocabulary), `data` and `tasks` (demonstrations and
simulated robots), `distill` (offline training), `runtime` (policy files without torch), `nodes`
(ROS 2) and `cli` (the `vdd` command). Importing this package imports none of them.
"""

__version__ = "0.1.0"
