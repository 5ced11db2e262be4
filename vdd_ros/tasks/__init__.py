"""Simulated robots behind one small protocol: reset, observe, step, outcome."""
