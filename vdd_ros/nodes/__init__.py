"""The ROS 2 adapter: lifecycle nodes around the runtime, and what demo and comparison need."""
