"""Demonstrations: the in-memory form, training windows, and the readers of files."""
