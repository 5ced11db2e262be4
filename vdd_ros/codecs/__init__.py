"""Message codecs: from ROS messages to numbers and back, live and from bags alike."""
