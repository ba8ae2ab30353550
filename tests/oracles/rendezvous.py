"""Rendezvous hashing as one draws it: the twin of `rendezvous.owners`."""

from __future__ import annotations

from collections.abc import Sequence

SLOTS = 16384
MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """SplitMix64's step."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def hash_of(name: bytes) -> int:
    """FNV-1a, mixed."""
    value = 0xCBF29CE484222325
    for byte in name:
        value = (value ^ byte) * 0x100000001B3 & MASK
    return mix(value)


def owners(names: Sequence[bytes], slots: Sequence[int] = range(SLOTS)) -> list[int]:
    """Return the place in `names` of the owner of each of `slots`: whose weight is highest, then whose name
    comes first.
    """
    hashes = [(hash_of(name), place) for place, name in sorted(enumerate(names), key=lambda each: each[1])]
    return [max(hashes, key=lambda each: mix(each[0] ^ mix(slot)))[1] for slot in slots]
