"""Offline learning: teachers, students, the algorithms between them, and their export."""
