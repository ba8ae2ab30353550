"""An SQLite file of ours: held by one process, brought up to date, and which epoch its rooms are in.

Everything here blocks and belongs to one thread. Driver's errors become StartupError where the server starts,
and are left to the caller after that.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from realtime.backends import migrations
from realtime.backends.broker_memory import new_epoch
from realtime.backends.migrations import Applied, Migration
from realtime.errors import StartupError

DIALECT: Final = "sqlite"
BUSY_TIMEOUT_S: Final = 5.0  # another program, such as a backup, may hold the file's write lock for a moment
CACHE_KB: Final = 16 * 1024
# Pages of the log before it is copied into the file, which holds a commit up for 20 to 50 ms. Every room
# writes to a page of its own, the same one again and again, and each is copied once: groups of 64 rows in 64
# rooms went at 17k rows/s with the default of 1000 pages and at 39k with 10,000.
CHECKPOINT_PAGES: Final = 10_000
WAL_BYTES: Final = 64 * 1024 * 1024  # a log that a long read let grow is cut back to this

Synchronous = Literal["normal", "full"]


def machine_boot_id() -> str:
    """Name the run of this machine's kernel, whose page cache holds what was not synced; empty: unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Lock:
    """Keeps a second server from the same file, as long as this process lives.

    It belongs to the open file, so a process that is given its descriptor has it too: as long as one of the
    two lives.
    """

    def __init__(self, path: Path, inherited: int | None = None) -> None:
        """Take it, or share the one that was `inherited`, a descriptor.

        Raises:
            StartupError: another process has it, or its file cannot be made.
        """
        self._path = path.with_name(path.name + ".lock")
        if inherited is not None:
            if not os.path.samestat(os.fstat(inherited), self._path.stat()):
                raise StartupError(f"{self._path} is another file than the one that was handed over")
            self._fd = inherited
            return
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartupError(
                f"cannot write beside {path}: {error.strerror}; make its folder and let this user write "
                f"there, or name another file by --sqlite-path (empty: keep nothing)"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 20, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise StartupError(
                f"{path} is in use by another server{f', process {holder}' if holder else ''}; "
                f"stop that one, or name another file by --sqlite-path"
            ) from error
        self.sign()

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self._fd

    def sign(self) -> None:
        """Say whose it is."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let others have the file. The lock's own file stays: removing it would race with them."""
        os.close(self._fd)


class Database:
    """The file, open in autocommit mode: `db` for writing and `reading` for another thread.

    `epoch` is what its rooms are in from now on. `ours`: this process is the one that writes; while it takes
    over from another one two have the file open, and only who writes may mark it as whole.
    """

    def __init__(
        self,
        path: Path,
        synchronous: Synchronous,
        now: Callable[[], float],
        boot_id: Callable[[], str] = machine_boot_id,
        inherited: int | None = None,
    ) -> None:
        """Open `path`, made if absent; beside the process whose lock was `inherited`, a descriptor.

        Raises:
            StartupError: it is in use, cannot be written, is not ours or is newer than we are.
        """
        # Two names of one file must meet at one lock.
        self.path = path.resolve()
        self._now = now
        self._lock = Lock(self.path, inherited)
        self.ours = inherited is None
        try:
            with startup_errors(self.path):
                self.db = connect(self.path)
        except BaseException:
            self._lock.release()
            raise
        try:
            with startup_errors(self.path):
                self._prepare()
                self.migrate(migrations.CORE, migrations.CORE_FOLDER)
                self.epoch = self._take_over(synchronous, boot_id())
                if synchronous == "normal":
                    self.db.execute("PRAGMA synchronous = NORMAL")
                self.reading = connect(self.path)
                self.reading.execute("PRAGMA query_only = ON")
                # SQLite's locks are on other files: it loses none when this is closed.
                self._log_fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.db.close()
            self._lock.release()
            raise

    def migrate(self, feature: str, folder: Path) -> list[str]:
        """As `Store.migrate`."""
        with startup_errors(self.path):
            return migrate(self.db, feature, folder, int(self._now()))

    def sync(self) -> None:
        """Have the log on the disk, as far as it is written. It may run beside the writer. Raises OSError."""
        os.fdatasync(self._log_fd)

    @property
    def lock_fd(self) -> int:
        """What a process needs that is to take over."""
        return self._lock.fd

    def take_over(self) -> None:
        """Be the one that writes from here on."""
        self.ours = True
        self._lock.sign()

    def close(self) -> None:
        """Mark the file as whole, where it is `ours`, and close it.

        Raises sqlite3.Error: the mark or the rest may be missing.
        """
        self.reading.close()
        os.close(self._log_fd)
        try:
            if not self.ours:
                return
            # Synced, and with it all that was committed before.
            self.db.execute("PRAGMA synchronous = FULL")
            self._put("clean", "yes")
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.db.close()
            self._lock.release()

    def _prepare(self) -> None:
        (mode,) = self.db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StartupError(
                f"{self.path} cannot have a write-ahead log (journal mode {mode}): put it on a local disk"
            )
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        # What is deleted is not left in free space; many builds of SQLite do so anyway.
        self.db.execute("PRAGMA secure_delete = ON")
        self.db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self.db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")

    def _take_over(self, synchronous: Synchronous, boot_id: str) -> bytes:
        """Return the epoch: a new one only where the last writer may have told of rows that are lost.

        What is committed is in the kernel's hands, and kill -9 takes nothing back. Only where nobody synced
        it and the kernel went down too may the tail be missing; offsets go on, so the rooms' order has to be
        another. That this writer has begun is synced before it writes: else a power cut could take back the
        mark together with the rows.
        """
        known = dict(self.db.execute("SELECT name, value FROM store").fetchall())
        rebooted = not boot_id or known.get("boot_id") != boot_id
        lost = known.get("synchronous") != "full" and known.get("clean") != "yes" and rebooted
        epoch = known.get("epoch")
        if epoch is None or lost:
            epoch = new_epoch().decode()
        marks = {"epoch": epoch, "boot_id": boot_id, "synchronous": synchronous, "clean": "no"}
        with transaction(self.db):
            for name, value in marks.items():
                self._put(name, value)
        return epoch.encode()

    def _put(self, name: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO store (name, value) VALUES (?, ?)", (name, value))


def applied(path: Path) -> list[Applied]:
    """Return what the file has had, by feature and number, without opening it for writing.

    Raises:
        StartupError: it is not a database of ours.
    """
    if not path.exists():
        return []
    with startup_errors(path):
        db = connect_reading(path)
        try:
            return _applied(db)
        finally:
            db.close()


def migrate(db: sqlite3.Connection, feature: str, folder: Path, now_s: int) -> list[str]:
    """Apply the files of `folder` that `feature` has not had yet, each whole; return their names.

    Of several processes that do so at once each file is one's. Raises StartupError, and sqlite3.Error.
    """
    db.execute(
        "CREATE TABLE IF NOT EXISTS migrations (feature TEXT NOT NULL, number INTEGER NOT NULL, "
        "name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at INTEGER NOT NULL, "
        "PRIMARY KEY (feature, number)) WITHOUT ROWID"
    )
    done = []
    while due := migrations.due(feature, migrations.files(feature, folder, DIALECT), _applied(db)):
        if _apply(db, feature, due[0], now_s):
            done.append(due[0].name)
    return done


@contextmanager
def startup_errors(path: Path, option: str = "--sqlite-path") -> Iterator[None]:
    """Turn what the driver says into StartupErrors that name the file, and the option that names it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StartupError(
            f"cannot use {path}: {error}; it and its folder must be writable, or name another file by "
            f"{option}"
        ) from error
    except sqlite3.Error as error:
        raise StartupError(
            f"{path} is not a database of ours: {error}; name another file by {option}"
        ) from error


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, made if absent, in autocommit mode. Raises sqlite3.Error."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def connect_reading(path: Path) -> sqlite3.Connection:
    """Open a file that is there for reading, whoever writes it. Raises sqlite3.Error."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _applied(db: sqlite3.Connection) -> list[Applied]:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'").fetchone():
        return []
    rows = db.execute(
        "SELECT feature, number, name, sha256, applied_at FROM migrations ORDER BY feature, number"
    )
    return [Applied(*row) for row in rows]


def _apply(db: sqlite3.Connection, feature: str, migration: Migration, now_s: int) -> bool:
    """Apply one file; False where another process has just done so."""
    mark = (feature, migration.number, migration.name, migration.sha256, now_s)
    try:
        with transaction(db):
            if any((row.feature, row.number) == mark[:2] for row in _applied(db)):
                return False
            for statement in _statements(migration):
                db.execute(statement)
            db.execute(
                "INSERT INTO migrations (feature, number, name, sha256, applied_at) VALUES (?, ?, ?, ?, ?)",
                mark,
            )
    except sqlite3.Error as error:
        raise StartupError(f"migrations of {feature}: {migration.name} failed: {error}") from error
    return True


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do all of what follows, or nothing. Raises sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _statements(migration: Migration) -> Iterator[str]:
    """The statements of a file, one by one: `executescript` would commit what stands before it."""
    statement = ""
    for piece in migration.sql.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    rest = statement.removesuffix(";")
    if any(line.partition("--")[0].strip() for line in rest.splitlines()):
        raise StartupError(f"{migration.name}: its last statement has no end: {rest.strip()[:80]!r}")
