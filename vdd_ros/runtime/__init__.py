"""Policies on the robot: open, verify and run policy files. numpy and onnxruntime only."""
