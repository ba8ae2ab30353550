"""Patterns of names: `*` stands for any number of any characters, all else is meant literally."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return what says whether a name matches one of `patterns`. Its time is linear in the name's length."""
    wanted = tuple(dict.fromkeys(patterns))
    if "*" in wanted:
        return _anything
    plain = frozenset(each for each in wanted if "*" not in each)
    starred = [each for each in wanted if "*" in each]
    if not starred:
        return plain.__contains__
    found = re.compile("|".join(_expression(each) for each in starred), re.DOTALL).fullmatch
    return lambda name: name in plain or found(name) is not None


def _anything(name: str) -> bool:
    return True


def _expression(pattern: str) -> str:
    # Atomic, and each piece at the first place where it fits: no name makes it go back and try again.
    head, *rest = pattern.split("*")
    *middle, tail = rest
    pieces = "".join(f"(?>.*?{re.escape(piece)})" for piece in middle if piece)
    return f"{re.escape(head)}{pieces}.*{re.escape(tail)}"
