"""What the audit log is told: who did what, when, from where, and what came of it.

Whoever decides something that matters to security tells an `Auditor`, at once and without waiting. How it is
kept, chained and exported is the business of a backend; here is only what is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from realtime.ids import TenantId

NO_TENANT: Final = TenantId("")
"""Of an event before anybody knows whose it is, such as a refused address; it has a chain of its own."""
SERVER: Final = "server"
"""The actor of what the server does by itself."""
OPERATOR: Final = "operator"
"""The actor of what is done by command; `by` in the detail says who gave it, as they call themselves."""
NO_DETAIL: Final[Mapping[str, str | int]] = {}


class Outcome(StrEnum):
    """What came of it."""

    ALLOWED = "allowed"
    DENIED = "denied"
    FAILED = "failed"  # neither: what the decision needs gave no answer


class Action(StrEnum):
    """What was done or tried. The values are stable: exports and alerts match on them."""

    CONNECT = "connection.open"  # with a token, or refused over one
    REFRESH = "token.refresh"
    REVOKE = "token.revoke"
    CLOSE = "connection.close"  # by the server, over a token's end, a revocation, a kick or an offence
    JOIN = "room.join"
    PUBLISH = "room.publish"
    READ = "room.read"  # history, presence
    MANAGE = "room.manage"  # by who has a say there: `act` in the detail says what
    ADDRESS = "network.address"  # refused by lists, country or penalty
    PENALTY = "network.penalty"
    LIMIT = "limit.exceeded"  # of a tenant's quota, or what ended a connection
    ADMIN = "admin.act"  # by the REST API: `what` in the detail says what; refused, whatever it was
    KICK = "admin.kick"
    ADMIN_PUBLISH = "admin.publish"
    NOTIFY = "admin.notify"
    RECORD = "connection.record"  # of its frames a recording was begun, taken, or written to a file
    RELOAD = "admin.reload"  # of the policy or of certificates
    KEY = "key.use"  # a key made, rotated, or missing
    EXPORT = "personal.export"
    ERASE = "personal.erase"
    RETENTION = "audit.retention"  # entries dropped for their age
    LOST = "audit.lost"  # so many events could not be kept
    SEAL = "audit.seal"  # a chain that bore no seal of ours is sealed from here on


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event. The auditor adds the time and its place in the tenant's chain.

    `actor` is a user id, or `server` or `operator`; `source` the peer's address, empty where there is none;
    `target` what it was done to: a room, a user, an id of a token, an address. None of it is a secret, and
    no token, key or message content ever stands in `detail`.
    """

    tenant: TenantId
    action: Action
    outcome: Outcome
    actor: str
    source: str = ""
    target: str = ""
    detail: Mapping[str, str | int] = NO_DETAIL
    count: int = 1  # so many of the same


class Auditor(Protocol):
    """Takes events. What it cannot keep it counts and says loudly; a decision never waits for it."""

    def record(self, event: Event) -> None:
        """Take one event. It neither waits nor raises."""
        ...


class NoAuditor:
    """Keeps nothing: where no audit log is configured."""

    def record(self, event: Event) -> None:
        """See `Auditor`."""


NO_AUDITOR: Final = NoAuditor()
