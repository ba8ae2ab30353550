"""What every store promises: rows kept in order, told of in order, found again after a kill."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from realtime.core.contracts import Page, Remembered
from realtime.errors import StartupError, Unavailable
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from tests.contract.stores import FOREIGN, LOBBY, OTHER, Owner, a_row, offsets
from tests.tree import ROOT


def a_room(number: int) -> RoomId:
    return RoomId(DEFAULT_TENANT, RoomName(f"chat:{number}"))


# ---------------------------------------------------------------- appending


async def test_rows_are_kept_in_order_and_told_of_in_order(store):
    owner = Owner(store)
    await owner.keep(a_row(store, offset) for offset in range(1, 10_001))
    assert owner.kept() == list(range(1, 10_001))
    assert await store.read(LOBBY, 0, 10_000) == [
        (a_row(store, offset).position, b'{"offset":%d}' % offset) for offset in range(1, 10_001)
    ]


async def test_nothing_is_told_before_append_has_returned(store):
    owner = Owner(store)
    for offset in range(1, 100):
        owner.append(a_row(store, offset))
        assert not owner.told
    await owner.all_told()


async def test_a_row_that_is_there_already_is_kept_and_not_changed(store):
    owner = Owner(store)
    await owner.keep([a_row(store, 1), a_row(store, 2)])
    await owner.keep([a_row(store, 1, push=b"other"), a_row(store, 2), a_row(store, 3)])
    assert [push for _, push in await store.read(LOBBY, 0, 10)] == [
        b'{"offset":1}',
        b'{"offset":2}',
        b'{"offset":3}',
    ]
    assert owner.kept() == [1, 2, 1, 2, 3]


async def test_many_rooms_at_once_each_keep_their_order(store):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    owner = Owner(store)
    last = dict.fromkeys(map(a_room, range(300)), 0)
    for _ in range(20):  # turns of the loop
        for _ in range(rng.randrange(1, 200)):
            room = rng.choice(list(last))
            last[room] += 1
            owner.append(a_row(store, last[room], room))
        await asyncio.sleep(0)
    await owner.all_told()
    for room, offset in last.items():
        assert owner.kept(room) == list(range(1, offset + 1))
        assert await offsets(store, room) == list(range(1, offset + 1))
        assert await store.remembered(room, 0) == Remembered(offset, [])


@pytest.mark.parametrize(
    "push",
    ['{"text":"grüße 🎵 \\u0000"}'.encode(), b"", b"\x00\xff'\"\\ \x00", bytes(range(256)) * 1024],
    ids=["unicode", "empty", "binary", "256 KB"],
)
async def test_a_push_comes_back_as_it_was(store, push):
    await Owner(store).keep([a_row(store, 1, push=push)])
    assert await store.read(LOBBY, 0, 1) == [(a_row(store, 1).position, push)]
    assert await store.page(LOBBY, None, None, 1) == Page([push], False)


async def test_a_callback_that_fails_keeps_the_news_from_nobody(store, caplog):
    owner = Owner(store)

    def fails(row, error):
        raise ValueError("the owner's mistake")

    owner.append(a_row(store, 1))
    store.append(a_row(store, 2), fails)
    owner.append(a_row(store, 3))
    await owner.all_told()
    assert owner.kept() == [1, 3]
    assert "what waited for offset 2 failed" in caplog.text
    assert await offsets(store) == [1, 2, 3]


# ---------------------------------------------------------------- what is known of a room


async def test_an_unknown_room_has_nothing(store):
    assert await store.remembered(LOBBY, 0) == Remembered(0, [])
    assert await store.read(LOBBY, 0, 10) == []
    assert await store.page(LOBBY, None, None, 10) == Page([], False)


async def test_keys_are_remembered_by_sender_from_a_time_on(store):
    rows = [
        a_row(store, 1, key="old"),
        a_row(store, 2),
        a_row(store, 3, key="ключ\x00'"),
        a_row(store, 4, key="mine", sender=b'"b\xc3\xb6b"'),
        a_row(store, 5, key="mine", sender=None),
        a_row(store, 6),
    ]
    await Owner(store).keep([*rows, a_row(store, 1, OTHER, key="elsewhere")])
    offset, keys = await store.remembered(LOBBY, 1_002)
    assert offset == 6
    assert list(keys) == [
        (b'"alice"', "ключ\x00'", 3, 1_003),
        (b'"b\xc3\xb6b"', "mine", 4, 1_004),
        (None, "mine", 5, 1_005),
    ]


async def test_tenants_and_rooms_are_kept_apart(store):
    owner = Owner(store)
    await owner.keep(
        [a_row(store, 1, key="a"), a_row(store, 1, OTHER), a_row(store, 1, FOREIGN, push=b"theirs")]
    )
    assert await store.read(FOREIGN, 0, 10) == [(a_row(store, 1).position, b"theirs")]
    assert await store.remembered(FOREIGN, 0) == Remembered(1, [])
    assert await offsets(store) == [1]


async def test_reading_goes_on_after_an_offset_up_to_a_limit(store):
    await Owner(store).keep(a_row(store, offset) for offset in range(1, 11))
    assert [position.offset for position, _ in await store.read(LOBBY, 3, 4)] == [4, 5, 6, 7]
    assert [position.offset for position, _ in await store.read(LOBBY, 8, 4)] == [9, 10]
    assert await store.read(LOBBY, 10, 4) == []
    assert await store.read(LOBBY, 99, 4) == []


@pytest.mark.parametrize(
    ("before", "after", "limit", "expected", "more"),
    [
        (None, None, 3, [8, 9, 10], True),
        (None, None, 10, list(range(1, 11)), False),
        (None, None, 99, list(range(1, 11)), False),
        (8, None, 3, [5, 6, 7], True),
        (4, None, 3, [1, 2, 3], False),
        (1, None, 3, [], False),
        (0, None, 3, [], False),
        (99, None, 2, [9, 10], True),
        (None, 0, 3, [1, 2, 3], True),
        (None, 7, 3, [8, 9, 10], False),
        (None, 6, 3, [7, 8, 9], True),
        (None, 10, 3, [], False),
        (None, 99, 3, [], False),
    ],
)
async def test_history_is_paged_both_ways(store, before, after, limit, expected, more):
    await Owner(store).keep(a_row(store, offset) for offset in range(1, 11))
    assert await store.page(LOBBY, before, after, limit) == Page(
        [b'{"offset":%d}' % offset for offset in expected], more
    )


# ---------------------------------------------------------------- failing


async def test_a_failed_group_fails_what_waits_for_its_rooms_and_nothing_else(place, store):
    owner = Owner(store)
    await owner.keep([a_row(store, 1), a_row(store, 1, OTHER)])
    await place.refuse(LOBBY)
    for offset in range(2, 12_000):  # more than one group
        owner.append(a_row(store, offset))
    owner.append(a_row(store, 2, OTHER))
    await owner.all_told()
    assert owner.failed() == list(range(2, 12_000))
    assert all(error.retry_after_s > 0 for _, error in owner.told if error)
    assert owner.kept(OTHER) == [1, 2]
    await place.accept()
    owner.append(a_row(store, 2))
    await owner.all_told()
    assert owner.kept() == [1, 2]
    assert await offsets(store) == [1, 2]


async def test_an_episode_of_failures_is_logged_once_and_its_end_too(place, store, caplog):
    owner = Owner(store)
    await owner.keep([a_row(store, 1)])
    await place.refuse(LOBBY)
    for offset in range(2, 12):
        owner.append(a_row(store, offset))
        await owner.all_told()
    assert len([line for line in caplog.messages if "cannot be written" in line]) == 1
    assert not store.ok
    await place.accept()
    owner.append(a_row(store, 2))
    await owner.all_told()
    assert len([line for line in caplog.messages if "is written again" in line]) == 1
    assert store.ok


async def test_what_an_owner_appends_when_it_is_told_of_a_failure_is_stored(place, store):
    owner = Owner(store)
    await owner.keep([a_row(store, 1)])
    await place.refuse(LOBBY)
    elsewhere = Owner(store)
    all_failed = asyncio.Event()

    def kept(row, error):
        assert error is not None
        elsewhere.append(a_row(store, row.position.offset - 1, OTHER))
        if row.position.offset == 5:
            all_failed.set()

    for offset in range(2, 6):
        store.append(a_row(store, offset), kept)
    await all_failed.wait()
    await elsewhere.all_told()
    assert elsewhere.kept(OTHER) == [1, 2, 3, 4]


async def test_a_full_queue_refuses_and_says_when_to_try_again(place):
    store = await place.open(queue_rows=10)
    owner = Owner(store)
    for offset in range(1, 11):
        owner.append(a_row(store, offset))
    with pytest.raises(Unavailable) as refused:
        owner.append(a_row(store, 11))
    assert refused.value.retry_after_s > 0
    await owner.all_told()
    await owner.keep([a_row(store, 11)])
    assert owner.kept() == list(range(1, 12))
    await store.close()


async def test_the_queue_is_bounded_in_bytes_too(place):
    store = await place.open(queue_bytes=1_000_000)
    owner = Owner(store)
    owner.append(a_row(store, 1, push=b"x" * 600_000))
    with pytest.raises(Unavailable):
        owner.append(a_row(store, 2, push=b"x" * 600_000))
    owner.append(a_row(store, 2, push=b"x" * 300_000))
    await owner.all_told()
    await owner.keep([a_row(store, 3, push=b"x" * 600_000)])
    assert store.stats()["store_queued_bytes"] == 0
    await store.close()


# ---------------------------------------------------------------- opening, closing, being killed


async def test_closing_commits_what_is_queued(place):
    store = await place.open()
    owner = Owner(store)
    for offset in range(1, 10_001):
        owner.append(a_row(store, offset))
    await store.close()
    assert owner.kept() == list(range(1, 10_001))
    again = await place.open()
    assert (await again.remembered(LOBBY, 0)).offset == 10_000
    await again.close()


async def test_a_closed_store_answers_unavailable(place):
    store = await place.open()
    await store.close()
    await store.close()
    with pytest.raises(Unavailable):
        store.append(a_row(store, 1), lambda row, error: None)
    with pytest.raises(Unavailable):
        await store.read(LOBBY, 0, 1)
    with pytest.raises(Unavailable):
        await store.remembered(LOBBY, 0)
    with pytest.raises(Unavailable):
        await store.page(LOBBY, None, None, 1)


async def test_the_epoch_is_made_with_the_store_and_stays(place):
    store = await place.open()
    epoch = store.epoch
    assert len(epoch) == 8
    await Owner(store).keep([a_row(store, 1)])
    await store.close()
    again = await place.open()
    assert again.epoch == epoch
    await Owner(again).keep([a_row(again, 2)])
    assert await offsets(again) == [1, 2]
    await again.close()


async def test_a_second_server_is_refused(place, store):
    with pytest.raises(StartupError, match="in use by another server"):
        await place.open(**place.at_once)
    await Owner(store).keep([a_row(store, 1)])


async def test_what_was_kept_is_there_after_kill_9_and_the_epoch_is_the_same(place):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    last = 0
    epochs = set()
    for _ in range(5):
        epoch, acked = write_and_kill(place.arguments, acks=rng.randrange(1, 1000))
        epochs.add(epoch)
        assert acked == list(range(last + 1, last + 1 + len(acked)))
        store = await place.open()
        epochs.add(store.epoch)
        there = await offsets(store)
        assert there == list(range(1, len(there) + 1)), "the offsets have a hole"
        assert there[-1] >= acked[-1]
        last = there[-1]
        await store.close()
    assert len(epochs) == 1


def write_and_kill(arguments: list[str], acks: int) -> tuple[bytes, list[int]]:
    """Let a process write until it has had so many acks, kill it; return its epoch and all it was acked."""
    writing = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.writer", *arguments], cwd=ROOT, stdout=subprocess.PIPE
    )
    with writing.stdout as lines:
        epoch = lines.readline().strip()
        acked = [int(lines.readline()) for _ in range(acks)]
        writing.kill()
        acked += [int(line) for line in lines if line.endswith(b"\n")]
    writing.wait()
    return epoch, acked


# ---------------------------------------------------------------- migrations


@pytest.fixture
def folder(tmp_path: Path, place) -> Path:
    """The migrations of a feature: one table, then one column more."""
    where = tmp_path / "migrations" / place.dialect
    where.mkdir(parents=True)
    (where / "001_songs.sql").write_text(
        "-- what; is played\nCREATE TABLE songs (title TEXT);\nINSERT INTO songs VALUES ('a;b');\n"
    )
    (where / "002_artists.sql").write_text("ALTER TABLE songs ADD COLUMN artist TEXT;\n")
    return where.parent


async def test_migrations_are_applied_once_in_order(place, store, folder):
    assert await store.migrate("playlist", folder) == ["001_songs.sql", "002_artists.sql"]
    assert await store.migrate("playlist", folder) == []
    (folder / place.dialect / "003_more.sql").write_text("INSERT INTO songs VALUES ('c', 'd')")
    assert await store.migrate("playlist", folder) == ["003_more.sql"]
    assert await place.execute("SELECT title, artist FROM songs ORDER BY title") == [
        ("a;b", None),
        ("c", "d"),
    ]


async def test_a_failed_migration_leaves_nothing_behind(place, store, folder):
    (folder / place.dialect / "003_broken.sql").write_text(
        "CREATE TABLE albums (title TEXT);\nINSERT INTO nowhere VALUES (1);\n"
    )
    with pytest.raises(StartupError, match=r"003_broken\.sql"):
        await store.migrate("playlist", folder)
    (folder / place.dialect / "003_broken.sql").unlink()
    (folder / place.dialect / "003_albums.sql").write_text("CREATE TABLE albums (title TEXT);\n")
    assert await store.migrate("playlist", folder) == ["003_albums.sql"]
    await Owner(store).keep([a_row(store, 1)])


async def test_a_changed_migration_is_named(place, store, folder):
    await store.migrate("playlist", folder)
    with (folder / place.dialect / "001_songs.sql").open("a") as file:
        file.write("-- a thought\n")
    with pytest.raises(StartupError, match=r"playlist: 001_songs\.sql has changed since it was applied"):
        await store.migrate("playlist", folder)


async def test_a_gap_in_the_numbers_is_named(place, store, folder):
    (folder / place.dialect / "004_late.sql").write_text("CREATE TABLE late (a TEXT);")
    with pytest.raises(StartupError, match=r"playlist: 004_late\.sql follows number 002"):
        await store.migrate("playlist", folder)
    assert await store.migrate("core", ROOT / "realtime" / "backends" / "migrations") == []


async def test_a_repeated_number_is_named(place, store, folder):
    (folder / place.dialect / "002_other.sql").write_text("CREATE TABLE late (a TEXT);")
    with pytest.raises(StartupError, match=r"playlist: 002_other\.sql follows number 002"):
        await store.migrate("playlist", folder)


async def test_a_migration_of_comments_alone_does_nothing(place, store, folder):
    (folder / place.dialect / "003_later.sql").write_text("-- Nothing yet.")
    assert await store.migrate("playlist", folder) == ["001_songs.sql", "002_artists.sql", "003_later.sql"]
    assert await store.migrate("playlist", folder) == []


async def test_a_badly_named_migration_is_named(place, store, folder):
    (folder / place.dialect / "3-late.sql").write_text("CREATE TABLE late (a TEXT);")
    with pytest.raises(StartupError, match=r"3-late\.sql must be named NNN_words\.sql"):
        await store.migrate("playlist", folder)


async def test_a_feature_without_files_for_the_dialect_is_named(store, tmp_path):
    with pytest.raises(StartupError, match="migrations of playlist: there is no folder"):
        await store.migrate("playlist", tmp_path / "nowhere")


async def test_a_database_that_is_newer_than_we_are_is_refused(place, store, folder):
    await store.migrate("playlist", folder)
    (folder / place.dialect / "002_artists.sql").unlink()
    with pytest.raises(StartupError, match=r"newer than this version: it has 002_artists\.sql of playlist"):
        await store.migrate("playlist", folder)


async def test_a_store_of_a_newer_version_is_not_opened(place):
    await (await place.open()).close()
    await place.execute(
        "INSERT INTO migrations (feature, number, name, sha256, applied_at) "
        "VALUES ('core', 99, '099_future.sql', 'x', 0)"
    )
    with pytest.raises(StartupError, match=r"newer than this version: it has 099_future\.sql of core"):
        await place.open()
