"""`[[api.keys]]`: who may use the REST API by a key, what for, and in which tenants."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.policy.section import Patterns, Section

KEYS_MAX = 1000


class ApiKey(Section, frozen=True, kw_only=True):
    """One key. Of the key itself only the hash stands here; `realtime api-key` makes both.

    `powers` are patterns such as `admin:publish` or `admin:*`. It acts in tenants that match `tenants`; the
    first of them is the one where a request names none, unless it has a `*` in it.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    hash: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    powers: Patterns
    tenants: Patterns = ("default",)
    rooms: Patterns = ("*",)
    requests_per_second: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None


class Api(Section, frozen=True, kw_only=True):
    """All keys. There is none without a policy."""

    keys: Annotated[tuple[ApiKey, ...], Meta(max_length=KEYS_MAX)] = ()

    def check(self) -> None:
        """Raise ValueError where two keys have one name."""
        names = [each.name for each in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("keys: two have the same name")
