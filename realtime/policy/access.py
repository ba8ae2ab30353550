"""`[access]` and `[[access.rules]]`: what which roles may do in which rooms."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta

from realtime.policy.section import Pattern, Patterns, Section

Effect = Literal["allow", "deny"]

OWN: Final = "{user}"
"""In a pattern of rooms: the id of whoever asks, literally."""
RULES_MAX: Final = 10_000
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


class Rule(Section, frozen=True, kw_only=True):
    """Allows or denies `actions` in `rooms` to whoever has one of `roles`. Deny wins over allow.

    An action is `join`, `history`, `presence`, one that a feature declares, or what is sent: `publish`,
    `signal` and `command`, of all types, or as `publish:<type>` of one. In `rooms`, `{user}` stands for the
    id of whoever asks: `user:{user}` is everybody's own.
    """

    effect: Effect = "allow"
    roles: Patterns = ("*",)
    tenants: Patterns = ("*",)
    actions: Patterns
    rooms: Patterns = ("*",)

    def check(self) -> None:
        """Raise ValueError where a pattern of rooms can name none, or more than it seems to."""
        for pattern in self.rooms:
            _check_rooms(pattern)


class Access(Section, frozen=True, kw_only=True):
    """The rules; `default` is what holds where none speaks: without a policy file everything is allowed.

    Where `roles` says which there are, `realtime policy check` names rules that speak of others.
    """

    default: Effect = "allow"
    roles: Annotated[tuple[Pattern, ...], Meta(max_length=1000)] = ()
    rules: Annotated[tuple[Rule, ...], Meta(max_length=RULES_MAX)] = ()


def _check_rooms(pattern: str) -> None:
    for placeholder in _PLACEHOLDER.findall(pattern):
        if placeholder != OWN:
            raise ValueError(f"rooms: {pattern!r} has {placeholder}; {OWN} is the only one that there is")
    if "*" not in pattern and ":" not in pattern:
        raise ValueError(f"rooms: {pattern!r} names no room: they are kind:id, such as chat:lobby")
    # Where the id begins and ends has to be plain, or one id could be read into the middle of another's room.
    for left, right in sides(pattern):
        if left.endswith(("*", OWN)) or right.startswith(("*", OWN)):
            raise ValueError(f"rooms: {pattern!r} needs a sign between {OWN} and what is beside it")
        if "*" in left and "*" in right:
            raise ValueError(f"rooms: {pattern!r} has a * on both sides of {OWN}: whose is the room?")


def sides(pattern: str) -> list[tuple[str, str]]:
    """What stands on the left and on the right of each `{user}` in a pattern of rooms."""
    return [(pattern[: each.start()], pattern[each.end() :]) for each in re.finditer(re.escape(OWN), pattern)]
