"""For operators: is everything there (`reconcile`), what could not be taken (`letters`), the same again (`replay`)."""
