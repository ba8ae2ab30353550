"""Audit entries as rows: the columns and the questions that both databases have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from realtime.core.audit import Event
from realtime.core.audit_chain import Entry
from realtime.core.audit_store import Filter
from realtime.ids import TenantId

FEATURE: Final = "audit"
FOLDER: Final = Path(__file__).parent / "audit_migrations"

COLUMNS: Final = (
    *("tenant", "seq", "at_us", "until_us", "events", "action", "outcome"),
    *("actor", "source", "target", "detail", "proofs", "erased", "prev", "hash"),
)
SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM audit_entries WHERE "
TENANTS: Final = "SELECT tenant FROM audit_chains UNION SELECT tenant FROM audit_entries ORDER BY tenant"
SLICE: Final = 2000
"""Entries that are dropped or erased in one transaction."""
PAGE: Final = 500
"""Entries that are fetched at once."""


def values_of(entry: Entry) -> tuple[Any, ...]:
    """Return an entry's columns."""
    return (
        *(entry.tenant, entry.seq, entry.at_us, entry.until_us, entry.count, entry.action, entry.outcome),
        *entry.personal,
        *(entry.proofs, entry.erased, entry.prev, entry.hash),
    )


def entry_of(row: Sequence[Any]) -> Entry:
    """Return the entry that a row is, whatever somebody may have made of it."""
    tenant, seq, at_us, until_us, count, action, outcome, *personal, proofs, erased, prev, hash = row
    actor, source, target, detail = personal
    return Entry(
        tenant=TenantId(tenant),
        seq=seq,
        at_us=at_us,
        until_us=until_us,
        count=count,
        action=action,
        outcome=outcome,
        actor=actor,
        source=source,
        target=target,
        detail=detail,
        proofs=proofs,
        erased=erased,
        prev=prev,
        hash=hash,
    )


def matching(tenant: TenantId, wanted: Filter, place: Callable[[int], str]) -> tuple[str, list[Any]]:
    """Return a condition for entries, and its values; `place(n)` is how the dialect writes the n-th."""
    conditions = [f"tenant = {place(1)}"]
    values: list[Any] = [tenant]
    for condition, value in (
        ("(actor = {0} OR target = {0})", wanted.user),
        ("action = {0}", wanted.action),
        ("outcome = {0}", wanted.outcome),
        ("until_us >= {0}", wanted.since_us),
        ("at_us < {0}", wanted.until_us),
    ):
        if value is not None:
            values.append(value)
            conditions.append(condition.format(place(len(values))))
    return " AND ".join(conditions), values


def with_entries(told: Event, count: int) -> Event:
    """Return the entry of an erasure with how many entries it was."""
    return Event(
        tenant=told.tenant,
        action=told.action,
        outcome=told.outcome,
        actor=told.actor,
        source=told.source,
        target=told.target,
        detail={**told.detail, "entries": count},
    )
