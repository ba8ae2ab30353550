"""What a command says of the audit log: its newest entries, all of them, whether its chains are whole.

Everything streams: however long a chain is, a few of its entries are in memory.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Final

from realtime.core.audit_chain import Entry, rfc3339
from realtime.core.audit_export import csv_head, csv_line, json_line
from realtime.core.audit_store import AuditReader, Filter
from realtime.core.audit_verify import Verdict, Verifier
from realtime.errors import BadMessage
from realtime.ids import TenantId

Expected = Mapping[TenantId, Mapping[int, bytes]]
"""Hashes that were noted before, by chain and seq."""

_END: Final = re.compile(r"([A-Za-z0-9._-]*):([1-9][0-9]{0,18}):([0-9a-f]{64})")


async def newest(reader: AuditReader, tenant: TenantId | None, wanted: Filter, limit: int) -> list[Entry]:
    """Return the newest entries that match, of one chain or of all, oldest first."""
    found: list[Entry] = []
    for each in await _chains(reader, tenant):
        found = heapq.nlargest(limit, [*found, *await reader.newest(each, wanted, limit)], _age)
    return sorted(found, key=_age)


async def exported(
    reader: AuditReader, tenant: TenantId | None, wanted: Filter, form: str, *, proofs: bool = False
) -> AsyncIterator[str]:
    """Return what matches as text, `csv` or `jsonl`: chain after chain, each by seq. Line ends are in it."""
    if form == "csv":
        yield csv_head()
    for each in await _chains(reader, tenant):
        async for entry in reader.entries(each, wanted):
            yield csv_line(entry) if form == "csv" else json_line(entry, proofs=proofs) + "\n"


async def verified(
    reader: AuditReader, tenant: TenantId | None, *, key: bytes, expected: Expected
) -> AsyncIterator[Verdict]:
    """Verify one chain, or all there are and all that are expected to be there."""
    heads = {head.tenant: head for head in await reader.heads()}
    chains = [tenant] if tenant is not None else sorted({*await reader.tenants(), *expected})
    for each in chains:
        verifier = Verifier(each, key=key, expected=expected.get(each))
        async for entry in reader.entries(each):
            verifier.take(entry)
        yield verifier.finish(heads.get(each))


def said(verdict: Verdict) -> Iterator[str]:
    """Say what became of a chain, the first flaw first."""
    chain = verdict.tenant or "(no tenant)"
    about = f"{verdict.entries} entries"
    if verdict.entries:
        about += f", {verdict.first} to {verdict.last}, head {head_of(verdict)}"
    if verdict.dropped:
        about += f"; up to {verdict.dropped} went for their age"
    if verdict.erased:
        about += f"; {verdict.erased} have erased fields"
    yield f"{'ok  ' if verdict.whole else 'BAD '} {chain}: {about}"
    for flaw in verdict.flaws:
        yield f"BAD  {chain}: entry {flaw.seq}: {flaw.what}"
    if verdict.more_flaws:
        yield f"BAD  {chain}: and {verdict.more_flaws} more"
    for remark in verdict.remarks:
        yield f"note {chain}: {remark}"


def head_of(verdict: Verdict) -> str:
    """Return a chain's end as `expectations` takes it."""
    return f"{verdict.tenant}:{verdict.last}:{verdict.hash.hex()}"


def expectations(texts: Iterable[str]) -> Expected:
    """Read ends of chains as `audit head` prints them: `acme:17:3f…`.

    Raises:
        BadMessage: one of them is no such text.
    """
    expected: dict[TenantId, dict[int, bytes]] = {}
    for text in texts:
        found = _END.fullmatch(text.strip())
        if found is None:
            raise BadMessage(
                f"{text[:99]!r} is no end of a chain: `realtime audit head` prints TENANT:SEQ:HASH"
            )
        tenant, seq, hash = found.groups()
        expected.setdefault(TenantId(tenant), {})[int(seq)] = bytes.fromhex(hash)
    return expected


def table(entries: Iterable[Entry]) -> Iterator[str]:
    """Return entries as lines of a table. Nothing in them moves a terminal's cursor."""
    head = ("AT", "TENANT", "SEQ", "ACTION", "OUTCOME", "ACTOR", "SOURCE", "TARGET", "COUNT", "DETAIL")
    rows = [head, *map(_row, entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def moment(text: str) -> int:
    """Return a time as Unix microseconds: RFC 3339, or a date; without an offset it is UTC.

    Raises:
        BadMessage: it is neither.
    """
    try:
        when = datetime.fromisoformat(text)
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e6)
    except (ValueError, OverflowError):
        raise BadMessage(f"{text[:64]!r} is no time, such as 2026-11-21 or 2026-11-21T09:30:00Z") from None


async def _chains(reader: AuditReader, tenant: TenantId | None) -> list[TenantId]:
    return await reader.tenants() if tenant is None else [tenant]


_age = attrgetter("at_us", "tenant", "seq")


def _row(entry: Entry) -> tuple[str, ...]:
    personal = ("(erased)" if value is None else value for value in entry.personal)
    actor, source, target, detail = map(_shown, personal)
    seq, count = str(entry.seq), str(entry.count)
    about = (_shown(entry.tenant), seq, _shown(entry.action), _shown(entry.outcome))
    return (rfc3339(entry.at_us), *about, actor, source, target, count, "" if detail == "{}" else detail)


def _shown(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
