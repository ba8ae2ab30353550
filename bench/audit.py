"""What does it cost that everything is on record?

    python -m bench.audit [--short] [--rounds N] [--events N] [--clients N] [--only record,kept,handshakes]

Three parts. `record`: microseconds of the event loop for one event: a new one each time, repeats, and where
no log is kept. `kept`: entries a second from a full queue into an empty log until the last one is kept; they
are read again, and their chain is verified. `handshakes`: clients with a token of their own each come to a
server as fast as it lets them, with a log, with none of the admissions in it, and without; the entries are
counted. The clients are one Python process on core 1 and slower than the server, so the figure to look at is
the server's CPU time for one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import report
from bench.run import bounded
from bench.servers import GENERATOR_CORE, Server, Traffic, realtime_command, running
from bench.store import postgres_url
from realtime.backends import audit_postgres, audit_sqlite
from realtime.backends.audit_keeper import AuditKeeper
from realtime.backends.auth.minting import make_token
from realtime.core.audit import NO_AUDITOR, Action, Auditor, Event, Outcome
from realtime.core.audit_store import AuditReader, AuditStore
from realtime.core.audit_verify import Verifier
from realtime.core.clock import SystemClock
from realtime.ids import TenantId

QUESTION = "what does it cost that everything is on record?"
ACME = TenantId("acme")
KEY = os.urandom(32).hex()
TOGETHER = 64
STORES = ("sqlite-normal", "sqlite-full", "postgres")
LOGS = ("no log", "refusals", "all")


class WrongResultError(RuntimeError):
    """Entries are missing, or their chain does not verify."""


@dataclass(frozen=True)
class Run:
    """One cell of the report in one round."""

    part: str
    what: str
    per_second: float
    cpu_us: float


# ---------------------------------------------------------------- record


def record_cost(what: str, events: int) -> Run:
    """Measure what the caller of `record` waits, into a queue that nobody empties meanwhile."""

    async def measured() -> float:
        auditor: Auditor = NO_AUDITOR
        if what != "no log":
            auditor = AuditKeeper(Nowhere(), SystemClock(), window_s=10.0, notes_per_second=1e9)
        users = [f"user{number}" if what == "new ones" else "user" for number in range(events)]
        began = time.perf_counter()
        for user in users:
            auditor.record(
                Event(
                    tenant=ACME,
                    action=Action.JOIN,
                    outcome=Outcome.DENIED,
                    actor=user,
                    source="192.0.2.1",
                    target="chat:lobby",
                )
            )
        taken = time.perf_counter() - began
        if isinstance(auditor, AuditKeeper) and auditor.stats()["audit_events_total"] != events:
            raise WrongResultError("events were not counted")
        return taken

    taken = uvloop.run(measured())
    return Run("record", what, events / taken, taken / events * 1e6)


class Nowhere:
    """A store that never answers."""

    async def append(self, notes: object) -> None:
        await asyncio.Event().wait()


# ---------------------------------------------------------------- kept


async def kept(name: str, place: str, events: int) -> Run:
    """Have a full queue kept, and verify what is there.

    Raises:
        WrongResultError: some are missing, or the chain does not verify.
    """
    keeper = AuditKeeper(
        await opened(name, place), SystemClock(), window_s=0.0, notes_per_second=1e9, queue_notes=events
    )
    cpu, began = time.process_time(), time.perf_counter()
    for number in range(events):
        keeper.record(
            Event(
                tenant=ACME,
                action=Action.JOIN,
                outcome=Outcome.DENIED,
                actor=f"user{number}",
                source="192.0.2.1",
                target="chat:lobby",
                detail={"code": "forbidden"},
            )
        )
    await keeper.flush()
    taken, cpu = time.perf_counter() - began, time.process_time() - cpu
    await keeper.close()
    found = await count(await reader(name, place))
    if found < events:
        raise WrongResultError(f"{name}: {events} events were recorded, and {found} are there")
    return Run("kept", name, events / taken, cpu / events * 1e6)


async def count(log: AuditReader) -> int:
    """Verify the chain; return how many events are in it."""
    verifier, events = Verifier(ACME), 0
    try:
        async for entry in log.entries(ACME):
            verifier.take(entry)
            events += entry.count
        heads = [head for head in await log.heads() if head.tenant == ACME]
        verdict = verifier.finish(heads[0] if heads else None)
    finally:
        await log.close()
    if not verdict.whole:
        raise WrongResultError(f"the chain does not verify: {verdict.flaws[0]}")
    return events


async def opened(name: str, place: str) -> AuditStore:
    """Return a log for writing; `place` is a URL of PostgreSQL or a folder."""
    clock = SystemClock()
    if name == "postgres":
        return await audit_postgres.open_audit(place, synchronous="normal", clock=clock, key=b"")
    synchronous = "full" if name == "sqlite-full" else "normal"
    path = Path(place) / f"{name}.sqlite"
    return await audit_sqlite.open_audit(path, synchronous=synchronous, clock=clock, key=b"")


async def reader(name: str, place: str) -> AuditReader:
    """Return the log for reading."""
    if name == "postgres":
        return await audit_postgres.open_reader(place)
    return audit_sqlite.SqliteAuditReader(Path(place) / f"{name}.sqlite")


# ---------------------------------------------------------------- handshakes


def handshakes(what: str, clients: int, folder: Path) -> Run:
    """Let clients with a token each come to a fresh server.

    Raises:
        WrongResultError: not all were let in, or not all are on record.
    """
    log = folder / f"log-{time.monotonic_ns()}.sqlite"
    settings = {} if what == "no log" else {"audit_path": str(log)}
    environ = {"REALTIME_JWT_SECRET": KEY, "REALTIME_AUDIT_CONNECTIONS": str(what == "all").lower()}
    server = Server(
        name="realtime",
        what="",
        command=lambda port: realtime_command(port, **settings),
        room=Traffic("/ws"),
        environ=environ,
    )
    heads = [head(f"user{number}") for number in range(clients)]
    with running(server) as up:
        come(up.port, heads[:TOGETHER])  # it answers from here on
        cpu, began = cpu_s(up.pid), time.perf_counter()
        come(up.port, heads[TOGETHER:])
        taken, cpu = time.perf_counter() - began, cpu_s(up.pid) - cpu
    if what == "all":
        found = asyncio.run(count(audit_sqlite.SqliteAuditReader(log)))
        if found != clients:
            raise WrongResultError(f"{clients} clients came, and {found} are on record")
    came = clients - TOGETHER
    return Run("handshakes", what, came / taken, cpu / came * 1e6)


def head(user: str) -> bytes:
    """Return a handshake with a token of `user`."""
    token = make_token(KEY, user=user, ttl_s=3600.0, tenant=ACME)
    return (
        f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


def come(port: int, heads: Sequence[bytes]) -> None:
    """Connect with each of these handshakes, some at a time, and be greeted.

    Raises:
        WrongResultError: somebody was not let in.
    """
    for start in range(0, len(heads), TOGETHER):
        sockets = []
        for each in heads[start : start + TOGETHER]:
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall(each)
            sockets.append(one)
        answers = dict.fromkeys(sockets, b"")
        waiting = set(sockets)
        while waiting:
            for one in select.select(list(waiting), [], [], 10.0)[0] or [None]:
                got = b"" if one is None else one.recv(4096)
                if not got:
                    raise WrongResultError("somebody was not let in")
                answers[one] += got
                if b'"connected"' in answers[one]:
                    waiting.discard(one)
        for one in sockets:
            one.close()


def cpu_s(pid: int) -> float:
    """Return what CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- the report


def line(runs: Sequence[Run]) -> str:
    """One line of the report, from the rounds of one cell."""
    rates = [run.per_second for run in runs]
    cpu = statistics.median(run.cpu_us for run in runs)
    unit = {"record": "events/s", "kept": "entries/s", "handshakes": "handshakes/s"}[runs[0].part]
    text = f"{report.scaled(statistics.median(rates)):>6} {unit:<12}   {cpu:6.2f} us CPU each"
    return report.row(runs[0].part, runs[0].what, text, rates)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0, or 1 where a count did not come out."""
    parser = argparse.ArgumentParser(prog="python -m bench.audit", description=QUESTION)
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--rounds", type=bounded(int, 1, 50), default=3, help="interleaved rounds (3)")
    parser.add_argument("--events", type=bounded(int, 100, 1_000_000), default=50_000, help="a run (50,000)")
    parser.add_argument("--clients", type=bounded(int, 100, 100_000), default=5000, help="a run (5000)")
    parser.add_argument("--only", default="", metavar="A,B", help="of record, kept, handshakes")
    parsed = parser.parse_args(argv)
    parts = parsed.only.split(",") if parsed.only else ["record", "kept", "handshakes"]
    rounds, events, clients = parsed.rounds, parsed.events, parsed.clients
    if parsed.short:
        rounds, events, clients = 1, 2000, 200
    print(report.headline("audit", QUESTION, short=parsed.short), flush=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {GENERATOR_CORE})
    runs: dict[tuple[str, str], list[Run]] = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="realtime-bench-"))
        url = stack.enter_context(postgres_url()) if "kept" in parts else ""
        for _ in range(rounds):
            try:
                for run in one_round(parts, events, clients, Path(folder), url):
                    runs.setdefault((run.part, run.what), []).append(run)
            except WrongResultError as error:
                print(f"  {error}", file=sys.stderr)
                return 1
    for each in runs.values():
        print(line(each))
    print(f"  kept in {report.keep('audit', {'runs': [run for each in runs.values() for run in each]})}")
    return 0


def one_round(parts: Sequence[str], events: int, clients: int, folder: Path, url: str) -> list[Run]:
    """Measure each cell once."""
    found: list[Run] = []
    if "record" in parts:
        found += [record_cost(what, events) for what in ("no log", "repeats", "new ones")]
    if "kept" in parts:
        places = {name: url if name == "postgres" else str(folder) for name in STORES}
        found += [uvloop.run(kept(name, place, events)) for name, place in places.items()]
    if "handshakes" in parts:
        found += [handshakes(what, clients, folder) for what in LOGS]
    return found


if __name__ == "__main__":
    sys.exit(main())
