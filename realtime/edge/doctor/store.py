"""The store: that it answers, has our tables or may get them, keeps what it is given, and is near."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from realtime.backends import store_report
from realtime.backends.store_postgres import LANES, READERS
from realtime.backends.store_report import Disk, Postgres
from realtime.core.feature import Feature
from realtime.edge.doctor.diagnosis import Diagnosis, doubt, fault, fine
from realtime.edge.doctor.host import GB, MB, Host
from realtime.edge.store import outstanding
from realtime.errors import StartupError
from realtime.settings import Settings, mask

AREA: Final = "store"
OLDEST: Final = 140_000  # the oldest that its makers still mend
ENCODING: Final = "UTF8"
# Beside the lanes and the readers: the audit log's two, and one that looks.
CONNECTIONS_PER_WORKER: Final = LANES + READERS + 3
SLOW_S: Final = 0.005
SLOW_SYNC_S: Final = 0.025
CLOCK_OFF_S: Final = 1.0
IDLE_SETTINGS: Final = ("idle_session_timeout", "idle_in_transaction_session_timeout")


def store(settings: Settings, features: Sequence[Feature], host: Host, workers: int) -> Iterator[Diagnosis]:
    """Look at the store that the settings name. Nothing is written to it, no migration is applied."""
    if settings.postgres_url:
        yield from _postgres(settings, features, workers)
    elif settings.redis_url:
        yield doubt(
            AREA,
            "none: durable rooms are kept in Redis only, for recovery_window_s",
            "set POSTGRES_URL, or take it as it is",
        )
    elif not settings.sqlite_path:
        yield doubt(
            AREA, "none: durable rooms are lost with the process", "set REALTIME_SQLITE_PATH or POSTGRES_URL"
        )
    else:
        yield from _sqlite(settings, features, host)


def _migrations(settings: Settings, features: Sequence[Feature]) -> Diagnosis:
    try:
        due = outstanding(settings, features)
    except StartupError as error:
        return fault("migrations", error.message, "do as it says")
    if not due:
        return fine("migrations", "all are applied")
    return fine("migrations", f"{len(due)} are due, and applied by the next start (or `realtime migrate`)")


# ---------------------------------------------------------------- PostgreSQL


def _postgres(settings: Settings, features: Sequence[Feature], workers: int) -> Iterator[Diagnosis]:
    where = mask(settings.postgres_url)
    try:
        found = asyncio.run(store_report.look_at_postgres(settings.postgres_url))
    except StartupError as error:
        yield fault(
            AREA,
            error.message,
            "start PostgreSQL or correct POSTGRES_URL: `psql URL -c 'select 1'` has to answer",
        )
        return
    yield from judge_postgres(found, where, workers)
    yield _migrations(settings, features)


def judge_postgres(found: Postgres, where: str, workers: int) -> Iterator[Diagnosis]:
    """Say what a server's report means."""
    version = f"{found.version // 10_000}.{found.version % 10_000}"
    if found.version < OLDEST:
        yield fault(AREA, f"{where} is PostgreSQL {version}", f"upgrade to {OLDEST // 10_000} or later")
    else:
        yield fine(AREA, f"{where}: PostgreSQL {version}")
    yield from _encoding(found)
    yield from _promises(found)
    yield from _room(found, workers)
    middle = found.latency_s[len(found.latency_s) // 2]
    text = f"answers within {middle * 1000:.2f} ms (half), at most {found.latency_s[-1] * 1000:.2f} ms"
    if middle > SLOW_S:
        yield doubt(
            "store latency", text, "put it into the workers' data centre: each durable ack waits for it"
        )
    else:
        yield fine("store latency", text)
    if abs(found.clock_ahead_s) > CLOCK_OFF_S:
        way = "ahead" if found.clock_ahead_s > 0 else "behind"
        yield doubt(
            "clock", f"PostgreSQL's is {abs(found.clock_ahead_s):.1f} s {way}", "run chrony on both machines"
        )


def _encoding(found: Postgres) -> Iterator[Diagnosis]:
    """A database cannot change its encoding: it is made anew, and what is in it comes along as a dump."""
    encoding = found.settings.get("server_encoding", ENCODING)
    if encoding == ENCODING:
        yield fine(AREA, f"encoding {ENCODING}")
        return
    yield fault(
        AREA,
        f"the database's encoding is {encoding}: what is not ASCII is refused, or not found by search",
        "name another by POSTGRES_URL: CREATE DATABASE … ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE "
        "template0; pg_dump and pg_restore bring over what there is",
    )


def _promises(found: Postgres) -> Iterator[Diagnosis]:
    """What an ack means hangs on these."""
    for name in ("fsync", "full_page_writes"):
        if found.settings.get(name) == "off":
            yield fault(
                AREA,
                f"{name} is off: what was acked is lost, or the database is, when its machine goes down",
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()",
            )
    standbys = found.settings.get("synchronous_standby_names")
    if standbys and not found.standbys:
        yield doubt(
            AREA,
            f"synchronous_standby_names is {standbys!r} and no standby is connected: with store_synchronous "
            "full no commit ever ends",
            "bring the standby back, or empty synchronous_standby_names",
        )
    else:
        how = f"synchronous standbys {standbys!r}" if standbys else "no synchronous standby"
        own = found.settings.get("synchronous_commit", "unknown")
        yield fine(
            AREA, f"fsync on; synchronous_commit {own}, and ours wait for the disk by themselves; {how}"
        )


def _room(found: Postgres, workers: int) -> Iterator[Diagnosis]:
    most, wanted = found.settings.get("max_connections", ""), workers * CONNECTIONS_PER_WORKER
    if most.isdigit() and int(most) - found.connections < wanted:
        yield doubt(
            AREA,
            f"{found.connections} of max_connections {most} are taken, and {workers} workers here may take "
            f"{wanted}",
            "raise max_connections, or run fewer workers",
        )
    for name in IDLE_SETTINGS:
        if found.settings.get(name, "0") != "0":
            yield doubt(
                AREA,
                f"{name} is {found.settings[name]} ms: connections that wait for work are cut, and dialled "
                "again",
                f"ALTER ROLE … SET {name} = 0 for our user",
            )


# ---------------------------------------------------------------- SQLite


def _sqlite(settings: Settings, features: Sequence[Feature], host: Host) -> Iterator[Diagnosis]:
    path = Path(settings.sqlite_path)
    folder = path.resolve().parent
    try:
        mode = store_report.journal_mode(path) if path.exists() else "none yet"
        disk = store_report.look_at_disk(folder, host.text("/proc/mounts") or "")
    except OSError as error:
        yield fault(
            AREA,
            f"{path}: {error.strerror}",
            f"make {folder}, and let this user write there (chown, mode 700)",
        )
        return
    yield from judge_sqlite(path, mode, disk)
    if mode is not None:
        yield _migrations(settings, features)


def judge_sqlite(path: Path, mode: str | None, disk: Disk) -> Iterator[Diagnosis]:
    """Say what a file's header, and the disk below it, mean."""
    if mode is None:
        yield fault(AREA, f"{path} is no SQLite database", "name another file by --sqlite-path")
        return
    if disk.remote:
        yield fault(
            AREA, f"{path} lies on {disk.kind}: a write-ahead log needs a local disk", "move it to one"
        )
    elif mode == "delete":
        yield doubt(
            AREA,
            f"{path} has journal mode {mode}: another program made it, or set it back",
            "nothing: the server sets it to wal when it opens the file",
        )
    else:
        yield fine(AREA, f"{path}: journal mode {mode}")
    if disk.free_bytes < GB or disk.free_inodes < 1000:
        yield (fault if disk.free_bytes < 64 * MB else doubt)(
            "disk",
            f"{disk.free_bytes // MB} MB and {disk.free_inodes} inodes are free at {path.parent}",
            "make room: when it is full, publications to durable rooms are refused",
        )
    else:
        yield fine("disk", f"{disk.free_bytes / GB:.1f} GB free ({disk.kind or 'unknown kind'})")
    middle = disk.sync_s[len(disk.sync_s) // 2]
    text = (
        f"a page is on the disk within {middle * 1000:.2f} ms (half), at most {disk.sync_s[-1] * 1000:.2f} ms"
    )
    if middle > SLOW_SYNC_S:
        yield doubt(
            "disk latency",
            text,
            "use a disk with a write cache of its own: with store_synchronous full each ack waits for it",
        )
    else:
        yield fine("disk latency", text)
