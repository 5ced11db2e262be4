"""Measuring finished policies: success in closed loop and speed. No torch, no ROS."""
