"""What whoever administers a server may do, each by its name: what rules, keys and tokens speak of.

Nobody has any of it by default. A rule of the policy gives what it calls by its full name (`Access.grants`);
a key of the policy and a token's `scope` may say `admin:*` for all of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from realtime.core.patterns import matcher
from realtime.errors import BadMessage, SettingsError
from realtime.ids import parse_tenant
from realtime.policy import ApiKey

PUBLISH: Final = "admin:publish"
NOTIFY: Final = "admin:notify"
ROOMS: Final = "admin:rooms"
PRESENCE: Final = "admin:presence"
HISTORY: Final = "admin:history"
CONNECTIONS: Final = "admin:connections"
DISCONNECT: Final = "admin:disconnect"
REVOKE: Final = "admin:revoke"
TOKENS: Final = "admin:tokens"
WORKERS: Final = "admin:workers"
OPERATE: Final = "admin:operate"
TENANTS: Final = "admin:tenants"

POWERS: Final = {
    PUBLISH: "publish to rooms and tell their members, in anybody's name",
    NOTIFY: "push notifications to users",
    ROOMS: "list rooms and see how they are",
    PRESENCE: "see who is in a room",
    HISTORY: "read what was published",
    CONNECTIONS: "list connections: whose they are, from where, in which rooms",
    DISCONNECT: "close connections, and put users out of rooms",
    REVOKE: "refuse tokens",
    TOKENS: "issue tokens, which give none of these powers",
    WORKERS: "see all workers and their numbers; for all tenants",
    OPERATE: "drain and shed workers; for all tenants",
    TENANTS: "do what else is allowed in other tenants than one's own",
}
"""Each with what it lets do."""


def powers_named(patterns: Iterable[str]) -> frozenset[str]:
    """Return the powers that `patterns` name, with `*` for any characters."""
    fits = matcher(tuple(patterns))
    return frozenset(power for power in POWERS if fits(power))


def check_keys(keys: Iterable[ApiKey]) -> None:
    """Take the policy's keys, of which each pattern of powers names one at least, and each tenant could be.

    Raises:
        SettingsError: one does not; it names the entry, the pattern, and what there is.
    """
    for number, key in enumerate(keys):
        place = f"policy: api.keys[{number}] ({key.name})"
        for pattern in key.powers:
            if not powers_named((pattern,)):
                near = difflib.get_close_matches(pattern, POWERS, n=1)
                meant = f"; did you mean {near[0]}?" if near else ""
                raise SettingsError(
                    f"{place}: no power is called {pattern!r}{meant}; there are {', '.join(POWERS)}, and "
                    "admin:* for all of them"
                )
        for tenant in key.tenants:
            if "*" not in tenant:
                try:
                    parse_tenant(tenant)
                except BadMessage as error:
                    raise SettingsError(f"{place}: tenants: {error.message}") from error
