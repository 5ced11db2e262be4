"""Problems whose truth is known, and what every way of learning finds of it."""
