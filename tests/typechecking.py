"""The type checker that jaxtyping's import hook puts around annotated functions in tests."""

from beartype import BeartypeConf, beartype

# An int where a float is annotated is what Python's own typing rules allow.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
