"""The control loop: from an observation to a command, without ROS and without training code."""
