"""Audit entries as text: a JSON object or a CSV record each, and nothing that a spreadsheet would run."""

from __future__ import annotations

from typing import Final

import msgspec

from realtime.core.audit_chain import PERSONAL, Entry, rfc3339

CSV_COLUMNS: Final = (
    *("tenant", "seq", "at", "until", "count", "action", "outcome"),
    *PERSONAL,
    *("erased", "hash"),
)
# A spreadsheet takes a cell that begins so for a formula, or strips it first and then does; the last ones are
# the same in their full width.
_FORMULA: Final = frozenset("=+-@\t\r\n\"'|%＝＋－＠")  # noqa: RUF001
_BLANKS: Final = " \u00a0\u3000\ufeff"


def csv_head() -> str:
    """Return the record of the columns' names."""
    return csv_record(CSV_COLUMNS)


def csv_line(entry: Entry) -> str:
    """Return an entry as one record of RFC 4180, its end included."""
    numbers = (entry.seq, rfc3339(entry.at_us), rfc3339(entry.until_us), entry.count)
    cells = (entry.tenant, *map(str, numbers), entry.action, entry.outcome, *map(_text, entry.personal))
    return csv_record((*cells, entry.erased or "", entry.hash.hex()))


def csv_record(cells: tuple[str, ...]) -> str:
    """Return cells as one record: each in quotes, and none of them a formula to whoever opens it."""
    return ",".join(f'"{neutral(cell).replace(chr(34), chr(34) * 2)}"' for cell in cells) + "\r\n"


def neutral(cell: str) -> str:
    """Return `cell` as it is text to a spreadsheet too: with an apostrophe before it where it is not."""
    shown = cell.lstrip(_BLANKS)
    return f"'{cell}" if shown and shown[0] in _FORMULA else cell


def json_line(entry: Entry, *, proofs: bool = False) -> str:
    """Return an entry as one line of JSON, without its end; with `proofs`, all that verifying it takes."""
    said: dict[str, object] = {
        "tenant": entry.tenant,
        "seq": entry.seq,
        "at": rfc3339(entry.at_us),
        "until": rfc3339(entry.until_us),
        "count": entry.count,
        "action": entry.action,
        "outcome": entry.outcome,
        "actor": entry.actor,
        "source": entry.source,
        "target": entry.target,
        "detail": None if entry.detail is None else msgspec.Raw(entry.detail.encode()),
        "erased": erased_by(entry),
        "prev": entry.prev.hex(),
        "hash": entry.hash.hex(),
    }
    if proofs:
        said["proofs"] = entry.proofs.hex()
    return msgspec.json.encode(said).decode()


def erased_by(entry: Entry) -> list[int]:
    """Return the seqs of the entries that say what of this one was erased."""
    return [int(seq) for seq in (entry.erased or "").split() if seq.isdigit()]


def _text(value: str | None) -> str:
    return "(erased)" if value is None else value
