"""Who owns which slot, by the names of the workers."""

from array import array
from collections.abc import Sequence

def owners(names: Sequence[bytes]) -> array[int]:
    """Return for each of the 16,384 slots the place of its owner in `names`.

    The owner is the same whatever the order of `names`.

    Raises:
        ValueError: there is no name, one twice, or more than 65,535.
    """
