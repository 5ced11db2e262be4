"""Is this student any good? Coverage, calibration, distances, and what to do about it."""
