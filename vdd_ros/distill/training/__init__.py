"""How whatever is trained here is trained: data, loop, run folder."""
