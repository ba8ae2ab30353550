"""What is SQLite's alone: when the epoch changes, a full disk, a held lock, files that are not ours."""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from realtime.backends import sqlite_database
from realtime.backends.sqlite_rows import RowWriter
from realtime.backends.store_sqlite import SqliteStore, open_sqlite
from realtime.core.clock import SystemClock
from realtime.errors import StartupError, Unavailable
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from tests.contract.stores import LOBBY, OTHER, Owner, a_row, offsets
from tests.tree import ROOT


async def opened(path: Path, *, synchronous="normal", boot_id="first boot", **options) -> SqliteStore:
    return await open_sqlite(
        path, synchronous=synchronous, clock=SystemClock(), boot_id=lambda: boot_id, **options
    )


# ---------------------------------------------------------------- the epoch


def leave_unclean(path: Path, *, synchronous="normal", boot_id="first boot") -> bytes:
    """Open the store, write one row and end as kill -9 does; return the epoch."""
    script = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from tests.backends.test_store_sqlite import opened\n"
        "from tests.contract.stores import Owner, a_row\n"
        "async def main():\n"
        f"    store = await opened(Path(sys.argv[1]), synchronous={synchronous!r}, boot_id={boot_id!r})\n"
        "    last = (await store.remembered(a_row(store, 1).room, 0)).offset\n"
        "    await Owner(store).keep([a_row(store, last + 1)])\n"
        "    print(store.epoch.decode(), flush=True)\n"
        "    os._exit(9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    return done.stdout.strip().encode()


@pytest.mark.parametrize(
    ("synchronous", "boot_id", "stays"),
    [
        ("normal", "first boot", True),
        ("normal", "second boot", False),
        ("normal", "", False),  # nobody can say whether there was one
        ("full", "first boot", True),
        ("full", "second boot", True),
    ],
)
async def test_the_epoch_changes_only_where_the_tail_may_be_lost(tmp_path, synchronous, boot_id, stays):
    path = tmp_path / "s.sqlite"
    epoch = leave_unclean(path, synchronous=synchronous)
    # How rows were written counts, not how they will be.
    store = await opened(path, synchronous="full" if synchronous == "normal" else "normal", boot_id=boot_id)
    assert (store.epoch == epoch) is stays
    assert (await store.remembered(LOBBY, 0)).offset == 1
    await Owner(store).keep([a_row(store, 2)])  # offsets go on, whatever the epoch
    assert [position.epoch for position, _ in await store.read(LOBBY, 0, 9)] == [epoch, store.epoch]
    await store.close()


async def test_a_store_that_was_closed_keeps_its_epoch_over_a_reboot(tmp_path):
    store = await opened(tmp_path / "s.sqlite")
    epoch = store.epoch
    await Owner(store).keep([a_row(store, 1)])
    await store.close()
    again = await opened(tmp_path / "s.sqlite", boot_id="second boot")
    assert again.epoch == epoch
    await again.close()


async def test_a_second_crash_is_judged_by_its_own_boot(tmp_path):
    path = tmp_path / "s.sqlite"
    first = leave_unclean(path, boot_id="first boot")
    second = leave_unclean(path, boot_id="second boot")
    third = leave_unclean(path, boot_id="second boot")
    assert first != second == third


async def test_that_the_writer_has_begun_is_synced_before_it_writes(tmp_path, monkeypatch):
    """Else a power cut takes the mark back with the rows, and the next start sees a file that was closed."""
    modes = []
    take_over = sqlite_database.Database._take_over

    def watched(self, *given):
        modes.append(self.db.execute("PRAGMA synchronous").fetchone())
        return take_over(self, *given)

    monkeypatch.setattr(sqlite_database.Database, "_take_over", watched)
    store = await opened(tmp_path / "s.sqlite")
    assert modes == [(2,)]  # FULL
    assert store._database.db.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL from there on
    await store.close()


async def test_a_power_cut_takes_a_tail_and_says_so_by_a_new_epoch(tmp_path):
    """The log loses its end at any byte: what is left are whole groups, and the order is another."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    store = await opened(tmp_path / "s.sqlite")
    owner = Owner(store)
    for first in range(1, 301, 3):
        await owner.keep(a_row(store, offset) for offset in range(first, first + 3))
    log = (tmp_path / "s.sqlite-wal").read_bytes()
    begun = log_bytes_when_opened(tmp_path)
    lengths = set()
    for cut in range(25):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "s.sqlite").write_bytes((tmp_path / "s.sqlite").read_bytes())
        (folder / "s.sqlite-wal").write_bytes(log[: rng.randrange(begun, len(log))])
        after = await opened(folder / "s.sqlite", boot_id="second boot")
        there = await offsets(after)
        assert there == list(range(1, len(there) + 1))
        assert len(there) % 3 == 0, "a group is there in part"
        assert after.epoch != store.epoch
        await Owner(after).keep([a_row(after, len(there) + 1)])
        lengths.add(len(there))
        await after.close()
    assert len(lengths) > 5
    await store.close()


def log_bytes_when_opened(folder: Path) -> int:
    """How long the log is once a store is open: so much is synced before anything is written."""
    database = sqlite_database.Database(folder / "fresh.sqlite", "normal", time.time, lambda: "first boot")
    size = (folder / "fresh.sqlite-wal").stat().st_size
    database.close()
    return size


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
async def test_groups_are_synced_as_the_setting_says(tmp_path, synchronous, level):
    store = await opened(tmp_path / "s.sqlite", synchronous=synchronous)
    assert store._database.db.execute("PRAGMA synchronous").fetchone() == (level,)
    assert store._database.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.close()


async def test_what_was_not_synced_is_synced_soon(tmp_path, monkeypatch):
    synced = watched_syncs(monkeypatch)
    store = await opened(tmp_path / "s.sqlite")
    for offset in (1, 2):
        await Owner(store).keep([a_row(store, offset)])
        await synced.get()
    await store.close()


async def test_with_full_nothing_is_left_to_sync(tmp_path, monkeypatch):
    synced = watched_syncs(monkeypatch)
    store = await opened(tmp_path / "s.sqlite", synchronous="full")
    await Owner(store).keep([a_row(store, 1)])
    assert store._sync is None
    await store.close()
    assert synced.empty()


async def test_a_disk_that_does_not_sync_is_logged_once_and_the_store_goes_on(tmp_path, monkeypatch, caplog):
    synced = watched_syncs(monkeypatch, OSError(5, "Input/output error"))
    store = await opened(tmp_path / "s.sqlite")
    for offset in (1, 2):
        await Owner(store).keep([a_row(store, offset)])
        await synced.get()
    await Owner(store).keep([a_row(store, 3)])
    await store.close()
    assert len([line for line in caplog.messages if "(fsync) cannot be written" in line]) == 1


def watched_syncs(monkeypatch, error: OSError | None = None) -> asyncio.Queue[None]:
    """Let syncs be seen, or fail."""
    seen: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    sync = sqlite_database.Database.sync

    def watched(self) -> None:
        sync(self)
        loop.call_soon_threadsafe(seen.put_nowait, None)
        if error is not None:
            raise error

    monkeypatch.setattr(sqlite_database.Database, "sync", watched)
    return seen


async def test_an_epoch_that_was_taken_out_is_made_anew(tmp_path):
    """What to do after a file was put back from a backup (docs/architecture.md)."""
    path = tmp_path / "s.sqlite"
    store = await opened(path)
    await store.close()
    db = sqlite3.connect(path)
    db.execute("DELETE FROM store WHERE name = 'epoch'")
    db.commit()
    db.close()
    again = await opened(path)
    assert again.epoch != store.epoch
    await again.close()


def test_the_machine_names_its_boot():
    assert len(sqlite_database.machine_boot_id()) == 36


# ---------------------------------------------------------------- failures of the disk


async def test_a_full_disk_fails_rows_and_the_store_goes_on_once_there_is_room(tmp_path):
    store = await opened(tmp_path / "s.sqlite")
    owner = Owner(store)
    await owner.keep([a_row(store, 1), a_row(store, 1, OTHER)])
    (pages,) = store._database.db.execute("PRAGMA page_count").fetchone()
    store._database.db.execute(f"PRAGMA max_page_count = {pages}")
    owner.append(a_row(store, 2, push=b"x" * 100_000))
    await owner.all_told()
    assert owner.failed() == [2]
    assert not store.ok
    owner.append(a_row(store, 2, OTHER))  # small enough for the page that is there
    await owner.all_told()
    assert owner.kept(OTHER) == [1, 2]
    assert store.ok
    store._database.db.execute("PRAGMA max_page_count = 1000000")
    owner.append(a_row(store, 2, push=b"x" * 100_000))
    await owner.all_told()
    assert owner.kept() == [1, 2]
    await store.close()


async def test_a_new_room_whose_first_group_failed_is_written_later(tmp_path):
    """Its id was made in the transaction that was rolled back."""
    store = await opened(tmp_path / "s.sqlite")
    owner = Owner(store)
    (pages,) = store._database.db.execute("PRAGMA page_count").fetchone()
    store._database.db.execute(f"PRAGMA max_page_count = {pages}")
    owner.append(a_row(store, 1, push=b"x" * 100_000))
    await owner.all_told()
    assert owner.failed() == [1]
    await owner.keep([a_row(store, 1, OTHER)])
    store._database.db.execute("PRAGMA max_page_count = 1000000")
    await owner.keep([a_row(store, 1)])
    assert await offsets(store) == await offsets(store, OTHER) == [1]
    await store.close()


async def test_rows_fail_while_another_program_holds_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_database, "BUSY_TIMEOUT_S", 0.01)
    store = await opened(tmp_path / "s.sqlite")
    owner = Owner(store)
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    owner.append(a_row(store, 1))
    await owner.all_told()
    assert owner.failed() == [1]
    other.execute("ROLLBACK")
    await owner.keep([a_row(store, 1)])
    other.close()
    await store.close()


# ---------------------------------------------------------------- files that will not do


async def test_another_process_is_named_by_its_number(tmp_path):
    store = await opened(tmp_path / "s.sqlite")
    with pytest.raises(StartupError, match=f"in use by another server, process {os.getpid()}; stop that one"):
        await opened(tmp_path / "s.sqlite")
    await store.close()


async def test_a_link_to_the_file_meets_the_same_lock(tmp_path):
    store = await opened(tmp_path / "s.sqlite")
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "s.sqlite")
    with pytest.raises(StartupError, match="in use by another server"):
        await opened(tmp_path / "link.sqlite")
    await store.close()


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_text("these are my notes, " * 100)
    with pytest.raises(StartupError, match=r"s\.sqlite is not a database of ours.*--sqlite-path"):
        await opened(path)
    assert path.read_text() == "these are my notes, " * 100


@pytest.mark.parametrize("folder", ["no-such-folder", "/proc"])  # nobody writes there, not even root
async def test_a_folder_that_cannot_be_written_is_refused_with_advice(tmp_path, folder):
    with pytest.raises(StartupError, match=r"cannot write beside .*make its folder.*--sqlite-path"):
        await opened(tmp_path / folder / "s.sqlite")


async def test_a_folder_in_its_place_is_refused_with_advice(tmp_path):
    (tmp_path / "s.sqlite").mkdir()
    with pytest.raises(StartupError, match=r"cannot use .*s\.sqlite.*--sqlite-path"):
        await opened(tmp_path / "s.sqlite")


async def test_a_refused_file_is_free_for_others(tmp_path):
    (tmp_path / "s.sqlite").write_text("not a database" * 100)
    with pytest.raises(StartupError):
        await opened(tmp_path / "s.sqlite")
    (tmp_path / "s.sqlite").unlink()
    await (await opened(tmp_path / "s.sqlite")).close()


async def test_what_a_file_has_had_is_listed_without_opening_it_for_writing(tmp_path):
    path = tmp_path / "s.sqlite"
    assert sqlite_database.applied(path) == []
    assert not path.exists()
    store = await opened(path)
    assert [(row.feature, row.name) for row in sqlite_database.applied(path)] == [
        ("core", "001_publications.sql")
    ]
    await store.close()


# ---------------------------------------------------------------- groups


def test_rooms_beyond_the_cache_are_found_again(tmp_path):
    database = sqlite_database.Database(tmp_path / "s.sqlite", "normal", time.time)
    writer = RowWriter(database.db, rooms_cached=2)
    rooms = [RoomId(DEFAULT_TENANT, RoomName(f"chat:{number}")) for number in range(5)]
    for offset in (1, 2, 3):
        for room in rooms:
            writer.commit([(a_row(database, offset, room), print)])
    assert len(writer._ids) == 2
    assert database.db.execute("SELECT count(*), max(id) FROM rooms").fetchone() == (5, 5)
    assert database.db.execute("SELECT count(*) FROM publications").fetchone() == (15,)
    database.close()


async def test_groups_and_answers_take_few_turns_of_the_interpreter(tmp_path):
    """One step a row would cost a switch interval each beside a loop that never idles: 20 s, and not 0.1."""
    store = await opened(tmp_path / "s.sqlite")
    owner = Owner(store)
    stop = threading.Event()
    busy = threading.Thread(target=spin, args=[stop])
    busy.start()
    try:
        began = time.monotonic()
        await owner.keep(a_row(store, offset, key="k") for offset in range(1, 4001))
        await store.page(LOBBY, None, None, 4000)
        await store.remembered(LOBBY, 0)
        taken = time.monotonic() - began
    finally:
        stop.set()
        busy.join()
    assert taken < 20  # of 60 that one step a row takes
    await store.close()


def spin(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(1000))


async def test_all_rows_of_one_turn_of_the_loop_are_one_group(tmp_path):
    store = await opened(tmp_path / "s.sqlite")
    await Owner(store).keep(a_row(store, offset) for offset in range(1, 501))
    assert store.stats()["store_groups_total"] == 1
    assert store.stats()["store_rows_total"] == 500
    await store.close()


async def test_rows_that_came_during_a_commit_are_the_next_group(tmp_path):
    store = await opened(tmp_path / "s.sqlite")
    owner = Owner(store)
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # the first commit waits for us
    owner.append(a_row(store, 1))
    while len(store._queue):  # noqa: ASYNC110 - the writer's thread takes it and tells nobody
        await asyncio.sleep(0)
    for offset in range(2, 301):
        owner.append(a_row(store, offset))
    other.execute("ROLLBACK")
    await owner.all_told()
    assert owner.kept() == list(range(1, 301))
    assert store.stats()["store_groups_total"] == 2
    other.close()
    await store.close()


async def test_work_beside_the_queue_is_done_however_much_is_queued(tmp_path):
    """Who keeps something else in the file waits for the group under way, and for no other."""
    store = await open_sqlite(tmp_path / "s.sqlite", synchronous="normal", clock=SystemClock())
    last, done = 0, False

    def append() -> None:
        nonlocal last
        last += 1
        store.append(a_row(store, last), kept)

    def kept(row, error) -> None:
        assert error is None
        if not done:
            append()

    for _ in range(256):
        append()
    for _ in range(20):
        assert await store.run(lambda db: db.execute("SELECT 7").fetchone()) == (7,)
    done = True
    await store.close()


async def test_work_that_fails_is_undone_and_the_store_goes_on(tmp_path):
    store = await open_sqlite(tmp_path / "s.sqlite", synchronous="normal", clock=SystemClock())

    def fail(db) -> None:
        db.execute("BEGIN")
        db.execute("INSERT INTO store (name, value) VALUES ('half', 'done')")
        db.execute("SELECT * FROM nowhere")

    with pytest.raises(Unavailable, match="the store failed"):
        await store.run(fail)
    owner = Owner(store)
    await owner.keep([a_row(store, 1)])
    assert await store.run(
        lambda db: db.execute("SELECT count(*) FROM store WHERE name = 'half'").fetchone()
    ) == (0,)
    await store.close()
    with pytest.raises(Unavailable, match="closing"):
        await store.run(fail)
