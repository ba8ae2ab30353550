"""`[access]` and `[[access.rules]]`: what which roles may do in which rooms."""

from __future__ import annotations

from typing import Literal

from realtime.policy.section import Patterns, Section

Effect = Literal["allow", "deny"]


class Rule(Section, frozen=True, kw_only=True):
    """Allows or denies `actions` in `rooms` to whoever has one of `roles`. Deny wins over allow."""

    effect: Effect = "allow"
    roles: Patterns = ("*",)
    tenants: Patterns = ("*",)
    actions: Patterns
    rooms: Patterns = ("*",)


class Access(Section, frozen=True, kw_only=True):
    """The rules; `default` is what holds where none speaks: without a policy file everything is allowed."""

    default: Effect = "allow"
    rules: tuple[Rule, ...] = ()
