"""The equations and the algorithms: VDD and its rivals, one each a file."""
