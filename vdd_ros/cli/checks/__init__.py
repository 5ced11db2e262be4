"""The checks of `vdd doctor`: libraries, ROS 2, the machine."""
