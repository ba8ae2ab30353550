"""What a store says of itself, changing nothing: a PostgreSQL server, a SQLite file, the disk below it."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from realtime.backends.postgres_database import dial, startup_errors

ROUNDS: Final = 20
SYNCS: Final = 5
ASKED: Final = (
    "server_encoding",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "max_connections",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
)
_HEADER: Final = b"SQLite format 3\x00"
_JOURNALS: Final = {1: "delete", 2: "wal"}
# File systems that are somebody else's: a write-ahead log needs memory that all processes share.
NETWORK: Final = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "afs"}


class Postgres(NamedTuple):
    """A server. `version` is as in 150004; `settings` has what `ASKED` names, where it knows it."""

    version: int
    settings: dict[str, str]
    connections: int
    standbys: int
    latency_s: tuple[float, ...]
    clock_ahead_s: float


async def look_at_postgres(url: str) -> Postgres:
    """Ask the server.

    Raises:
        StartupError: it does not answer, or lets us not in.
    """
    with startup_errors(url):
        # Without our session settings: what the server, or this user's role, says by itself.
        connection = await dial(url, {"application_name": "realtime doctor"})
        try:
            rows = await connection.fetch(
                "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])", list(ASKED)
            )
            settings = dict(map(tuple, rows))
            asked = time.time()
            now = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
            ahead = now - (asked + time.time()) / 2
            return Postgres(
                version=int(await connection.fetchval("SELECT current_setting('server_version_num')")),
                settings=settings,
                connections=await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datid > 0"
                ),
                standbys=await connection.fetchval("SELECT count(*) FROM pg_stat_replication"),
                latency_s=await _latency(connection),
                clock_ahead_s=ahead,
            )
        finally:
            await connection.close()


async def _latency(connection: Any) -> tuple[float, ...]:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await connection.fetchval("SELECT 1")
        took.append(time.perf_counter() - began)
    return tuple(sorted(took))


def journal_mode(path: Path) -> str | None:
    """Return the journal mode that a SQLite file's header says, without opening it as a database.

    None where it is none.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or not head.startswith(_HEADER):
        return None
    return _JOURNALS.get(head[18], "unknown")


class Disk(NamedTuple):
    """The file system below a folder, and how long it takes to have one page on the disk."""

    free_bytes: int
    free_inodes: int
    kind: str
    sync_s: tuple[float, ...]

    @property
    def remote(self) -> bool:
        """Whether it lies on another machine."""
        return self.kind in NETWORK


def look_at_disk(folder: Path, mounts: str) -> Disk:
    """Look at the file system of `folder`, and write a page there a few times; `mounts` is /proc/mounts.

    Raises:
        OSError: nothing can be written there.
    """
    found = os.statvfs(folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        took = []
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    inodes = found.f_favail if found.f_files else 1 << 62  # a file system without a number of them
    return Disk(found.f_bavail * found.f_frsize, inodes, _kind(folder, mounts), tuple(sorted(took)))


def _kind(folder: Path, mounts: str) -> str:
    """The file system's type: that of the deepest place where one is mounted, the last one there."""
    real, best = folder.resolve(), ("", "")
    for line in mounts.splitlines():
        words = line.split()
        if len(words) > 2 and real.is_relative_to(words[1]) and len(words[1]) >= len(best[0]):
            best = words[1], words[2]
    return best[1]
