def shortest(value: float) -> bytes:
    """Return a finite `value` as its repr: the shortest decimal that reads back as the same double.

    Raises:
        ValueError: it is not finite.
    """
