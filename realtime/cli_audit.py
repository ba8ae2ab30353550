"""The command `audit`: show, export, verify, head, retention. It reads the log beside running servers."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realtime.cli_control import AddConfig, Read
from realtime.errors import BadMessage
from realtime.ids import TenantId, parse_tenant
from realtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from realtime.core.audit_store import AuditReader, Filter

Run = Callable[[Settings, argparse.Namespace], Coroutine[Any, Any, int]]

LIMIT = 50


def add_commands(commands: Any, add_config: AddConfig, read: Read) -> None:
    """Add them to the parser's `commands`."""
    audit = commands.add_parser(
        "audit",
        help="what was decided: show it, export it, find out whether it was changed",
        description="Read the audit log that the settings name. Servers may be running on it.",
    )
    verbs = audit.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (_add_show, _add_export, _add_verify, _add_head, _add_retention):
        parser, run = add(verbs)
        add_config(parser)
        _add_place(parser)
        parser.set_defaults(run=_runner(run, read))


def _runner(run: Run, read: Read) -> Callable[[argparse.Namespace], int]:
    def command(parsed: argparse.Namespace) -> int:
        return asyncio.run(run(read(parsed), parsed))

    return command


# ---------------------------------------------------------------- show, export


def _add_show(verbs: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = verbs.add_parser(
        "show",
        help="print the newest entries",
        description="Print the newest entries that match, oldest first.",
    )
    _add_filters(parser)
    parser.add_argument("--limit", type=_limit, default=LIMIT, help=f"at most so many (default: {LIMIT})")
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="how to print them (default: table)"
    )
    return parser, _show


async def _show(settings: Settings, parsed: argparse.Namespace) -> int:
    from realtime.core.audit_export import json_line
    from realtime.edge import audit_reading

    tenant, wanted = _tenant(parsed), _wanted(parsed)
    async with _reading(settings) as reader:
        found = await audit_reading.newest(reader, tenant, wanted, parsed.limit)
    for line in map(json_line, found) if parsed.format == "json" else audit_reading.table(found):
        print(line)
    return 0


def _add_export(verbs: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = verbs.add_parser(
        "export",
        help="write all entries as JSON lines or CSV",
        description="Write all entries that match to stdout, chain after chain. In CSV each cell that a "
        "spreadsheet would take for a formula has an apostrophe before it; JSON is as it was recorded.",
    )
    _add_filters(parser)
    parser.add_argument(
        "--format", choices=("jsonl", "csv"), default="jsonl", help="how to write them (default: jsonl)"
    )
    parser.add_argument(
        "--proofs",
        action="store_true",
        help="with jsonl: salts and commitments too, which others need to verify the hashes",
    )
    return parser, _export


async def _export(settings: Settings, parsed: argparse.Namespace) -> int:
    from realtime.edge import audit_reading

    tenant, wanted = _tenant(parsed), _wanted(parsed)
    async with _reading(settings) as reader:
        lines = audit_reading.exported(reader, tenant, wanted, parsed.format, proofs=parsed.proofs)
        async for line in lines:
            # Not print: the ends of CSV's lines are what RFC 4180 says, on every system.
            sys.stdout.buffer.write(line.encode())
        sys.stdout.buffer.flush()
    return 0


# ---------------------------------------------------------------- verify, head


def _add_verify(verbs: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = verbs.add_parser(
        "verify",
        help="find out whether anything was changed; exit code 1 if so",
        description="Verify the chains: whatever was changed, taken out, put in or moved is found, and the "
        "first bad entry is named. That an end was cut off is found against ends that were noted before "
        "(--expect-head), and with audit_key by the seals.",
    )
    _add_tenant(parser)
    parser.add_argument(
        "--expect-head",
        action="append",
        default=[],
        metavar="TENANT:SEQ:HASH",
        help="an end that `realtime audit head` printed before; may be given more than once",
    )
    parser.add_argument(
        "--expect-heads", type=Path, metavar="FILE", help="a file of them, one a line, as it printed them"
    )
    return parser, _verify


async def _verify(settings: Settings, parsed: argparse.Namespace) -> int:
    from realtime.edge import audit_reading

    noted = [*parsed.expect_head, *_lines(parsed.expect_heads)]
    expected = audit_reading.expectations(noted)
    tenant, key = _tenant(parsed), settings.audit_key.encode()
    whole = True
    async with _reading(settings) as reader:
        async for verdict in audit_reading.verified(reader, tenant, key=key, expected=expected):
            whole = whole and verdict.whole
            for line in audit_reading.said(verdict):
                print(line)
    return 0 if whole else 1


def _add_head(verbs: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = verbs.add_parser(
        "head",
        help="print the ends of the chains, to be noted elsewhere",
        description="Print the end of each chain as TENANT:SEQ:HASH. Kept where nobody who may write the "
        "database can change it, it tells `realtime audit verify --expect-head` that nothing was cut off.",
    )
    _add_tenant(parser)
    return parser, _head


async def _head(settings: Settings, parsed: argparse.Namespace) -> int:
    only = _tenant(parsed)
    async with _reading(settings) as reader:
        for head in await reader.heads():
            if only is None or head.tenant == only:
                print(f"{head.tenant}:{head.seq}:{head.hash.hex()}")
    return 0


# ---------------------------------------------------------------- retention


def _add_retention(verbs: Any) -> tuple[argparse.ArgumentParser, Run]:
    parser = verbs.add_parser(
        "retention",
        help="drop entries that are too old, now",
        description="Drop what is older than audit_retention_days, as servers do once an hour, and print how "
        "many entries that were. Each chain gets an entry that says what went, and still verifies.",
    )
    parser.add_argument(
        "--days", type=_limit, metavar="DAYS", help="older than so many days (default: audit_retention_days)"
    )
    return parser, _retention


async def _retention(settings: Settings, parsed: argparse.Namespace) -> int:
    from realtime.backends.audit_keeper import DAY_US
    from realtime.core.clock import SystemClock
    from realtime.edge import audit

    days = settings.audit_retention_days if parsed.days is None else parsed.days
    if not days:
        raise BadMessage("audit_retention_days is 0: entries are kept for ever; give --days")
    clock = SystemClock()
    store = await audit.open_store(settings, clock)
    dropped = 0
    try:
        while gone := await store.retain(int(clock.time() * 1e6) - days * DAY_US):
            dropped += gone
    finally:
        await store.close()
    print(f"dropped {dropped} entries older than {days} days")
    return 0


# ---------------------------------------------------------------- options


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--audit-path", metavar="FILE", help="the log's file (default: the setting audit_path)"
    )


def _add_tenant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tenant",
        help="of this tenant alone; an empty one is the chain of what has no tenant (default: all)",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    from realtime.core.audit import Action, Outcome

    _add_tenant(parser)
    parser.add_argument("--user", help="who acted, or whom it was done to")
    parser.add_argument("--action", choices=sorted(Action), metavar="ACTION", help=", ".join(sorted(Action)))
    parser.add_argument("--outcome", choices=sorted(Outcome), help="what came of it")
    parser.add_argument("--since", metavar="TIME", help="from then on: 2026-11-21, 2026-11-21T09:30:00Z")
    parser.add_argument("--until", metavar="TIME", help="before then")


def _wanted(parsed: argparse.Namespace) -> Filter:
    from realtime.core.audit_store import Filter
    from realtime.edge.audit_reading import moment

    return Filter(
        user=parsed.user,
        action=parsed.action,
        outcome=parsed.outcome,
        since_us=None if parsed.since is None else moment(parsed.since),
        until_us=None if parsed.until is None else moment(parsed.until),
    )


def _tenant(parsed: argparse.Namespace) -> TenantId | None:
    if not parsed.tenant:
        return None if parsed.tenant is None else TenantId("")
    return parse_tenant(parsed.tenant)


def _limit(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000000")
    return value


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadMessage(f"{path} cannot be read: {error}") from error


@asynccontextmanager
async def _reading(settings: Settings) -> AsyncIterator[AuditReader]:
    from realtime.edge.audit import open_reader

    reader = await open_reader(settings)
    try:
        yield reader
    finally:
        await reader.close()
