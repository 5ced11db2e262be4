"""Tests, room by room as in vdd_ros."""
