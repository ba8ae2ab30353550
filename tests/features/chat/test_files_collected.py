"""What is collected of attachments, and what is not: rules over the tables of both stores and a folder."""

import asyncio
import hashlib
from types import SimpleNamespace

import pytest_asyncio

from realtime.backends.blobs_directory import DirectoryBlobs
from realtime.core.database import Statement
from realtime.features.chat import FEATURE
from realtime.features.chat.files import rows
from realtime.features.chat.files.about import About, Shown
from realtime.features.chat.files.collecting import EVERY_S, GRACE_MS, LISTED_GRACE_MS, Collector
from realtime.features.chat.files.keys import ABOUT, file_key, piece_key, tenant_key, upload_prefix
from realtime.features.chat.files.rows import File
from realtime.ids import DEFAULT_TENANT, RoomName, UserId
from realtime.settings import Settings
from tests.contract.stores import PostgresPlace, SqlitePlace
from tests.features.chat.uploader import pieces
from tests.oracles.hub import FakeClock

FOLDER = tenant_key(DEFAULT_TENANT)
UPLOAD_MS = 60_000
FIRST_ID = 3_700_000_000_000_000_000


class Stage:
    """A store and a folder; time is told, and is far ahead of the disk's own."""

    def __init__(self, place, store, folder):
        self.place, self.database = place, store.tables
        self.blobs = DirectoryBlobs(folder)
        self.clock = FakeClock()
        self.now_ms = 4_000_000_000_000  # in 2096
        self.held = set()
        self.files = 0
        self.tasks = []
        settings = Settings(chat_upload_s=UPLOAD_MS // 1000)
        chat = SimpleNamespace(
            services=SimpleNamespace(
                clock=self.clock, database=self.database, settings=settings, spawn=self.spawn
            ),
            core=SimpleNamespace(cluster=SimpleNamespace(fence=lambda room: 1)),
            rooms=self,
            order=SimpleNamespace(held=self.is_held),
        )
        self.collector = Collector(chat, self.blobs)

    async def __aenter__(self):
        await self.database.write(
            Statement("INSERT INTO rooms (tenant, name) VALUES ($1, $2)", (DEFAULT_TENANT, "chat:lobby"))
        )
        ((self.number,),) = await self.database.read("SELECT id AS id FROM rooms")
        return self

    async def __aexit__(self, *_):
        await self.blobs.close()

    def spawn(self, coroutine):
        self.tasks.append(asyncio.ensure_future(coroutine))

    async def is_held(self, room):
        return room.room in self.held

    async def begun(self, content=b"hello", user="alice"):
        """An upload that is asked for; return its id."""
        self.files += 1
        id = FIRST_ID + self.files
        file = File(
            *(id, DEFAULT_TENANT, RoomName("chat:lobby"), UserId(user), "a", len(content), "", "", ""),
            *(self.now_ms + UPLOAD_MS, 0, None, 0),
        )
        *_, kept = await self.database.write(
            *rows.beginning(file, FOLDER, self.now_ms, user_bytes=0, tenant_bytes=0, awaited=100)
        )
        assert kept
        return id

    async def whole(self, content=b"hello"):
        """Keep a file by its hash; return what there is to say of it."""
        sha256 = hashlib.sha256(content).hexdigest()
        await self.blobs.put(file_key(DEFAULT_TENANT, sha256), pieces(content))
        return About(file=Shown(sha256=sha256, bytes=len(content), type="text/plain"))

    async def used(self, content=b"hello", **how):
        """An attachment that a message claimed."""
        id = await self.begun(content, **how)
        about = await self.whole(content)
        touched = await self.database.write(*rows.touching(FOLDER, {about.file.sha256}, self.now_ms))
        (done,) = await self.database.write(rows.using(id, about, "{}", "", self.now_ms))
        assert all(touched)
        assert done
        return id

    async def sent(self, *ids, message=1):
        """Let a message have them."""
        told = ", ".join(f'{{"id": "{id}", "name": "a"}}' for id in ids)
        await self.database.write(
            Statement(
                'INSERT INTO chat_messages (id, room, "offset", epoch, sender, text, content) '
                "VALUES ($1, $2, $1, 'e', 'alice', 'x', $3)",
                (message, self.number, f'{{"id": "1", "attachments": [{told}]}}'),
            )
        )

    async def run(self, after_ms=UPLOAD_MS + LISTED_GRACE_MS + 2 * GRACE_MS):
        self.now_ms += after_ms
        await self.collector.collect()

    async def kept(self):
        """The ids of rows, and how many files and pieces of uploads there are."""
        ids = {id - FIRST_ID for (id,) in await self.database.read("SELECT id AS id FROM chat_files")}
        keys = [blob.key async for blob in self.blobs.list()]
        return (
            ids,
            sum(key.startswith("files/") for key in keys),
            sum(key.startswith("uploads/") for key in keys),
        )

    async def usage(self, user="alice"):
        found = await self.database.read(rows.OF_USER, DEFAULT_TENANT, user)
        return found[0][:2]


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def stage(request, tmp_path):
    if request.param == "sqlite":
        place = SqlitePlace(tmp_path)
    else:
        place = PostgresPlace(await request.getfixturevalue("postgres").new_database())
    store = await place.open()
    await store.migrate("chat", FEATURE.migrations)
    async with Stage(place, store, tmp_path / "files") as stage:
        yield stage
    await store.close()


async def test_what_a_message_has_stays(stage):
    id = await stage.used()
    await stage.sent(id)
    for _ in range(3):
        await stage.run()
    assert await stage.kept() == ({1}, 1, 0)
    assert await stage.usage() == (5, 5)


async def test_what_was_never_sent_goes_with_its_bytes(stage):
    await stage.begun()
    await stage.used(b"claimed, and the message was never kept")
    unfinished = await stage.begun()
    prefix = upload_prefix(DEFAULT_TENANT, str(unfinished))
    await stage.blobs.put(piece_key(prefix, 0), pieces(b"hel"))
    whole = await stage.begun()
    await stage.whole(b"whole, and in no message")
    await stage.blobs.put(upload_prefix(DEFAULT_TENANT, str(whole)) + ABOUT, pieces(b"{}"))
    assert await stage.kept() == ({1, 2, 3, 4}, 2, 2)
    await stage.run()
    await stage.run()
    assert await stage.kept() == (set(), 0, 0)
    assert await stage.usage() == (0, 0)


async def test_before_its_time_nothing_goes(stage):
    await stage.begun()
    await stage.used()
    await stage.run(after_ms=UPLOAD_MS - 1)
    assert (await stage.kept())[0] == {1, 2}


async def test_what_waits_in_a_scheduled_message_stays(stage):
    id = await stage.used()
    await stage.database.write(
        Statement(
            "INSERT INTO chat_scheduled (id, tenant, room, user_id, at_ms, draft) "
            "VALUES (1, $1, $2, $3, 9, $4)",
            (DEFAULT_TENANT, "chat:lobby", "alice", f'{{"files": [{{"id":"{id}"}}]}}'),
        )
    )
    await stage.run()
    assert (await stage.kept())[:2] == ({1}, 1)
    await stage.database.write(Statement("DELETE FROM chat_scheduled"))
    await stage.run()
    await stage.run()
    assert (await stage.kept())[:2] == (set(), 0)


async def test_a_deleted_message_takes_what_only_it_refers_to(stage):
    first, again, other = await stage.used(), await stage.used(), await stage.used(b"another")
    await stage.sent(first, message=1)
    await stage.sent(again, other, message=2)
    await stage.database.write(Statement("UPDATE chat_messages SET deleted_ms = 5 WHERE id = 2"))
    await stage.run()
    await stage.run()
    assert await stage.kept() == ({1}, 1, 0)  # the same bytes, by another message
    await stage.database.write(Statement("DELETE FROM chat_messages WHERE id = 1"))
    await stage.run()
    await stage.run()
    assert await stage.kept() == (set(), 0, 0)
    assert await stage.database.read("SELECT sha256 AS a FROM chat_blobs") == []


async def test_a_hold_keeps_what_was_deleted_or_erased(stage):
    stage.held.add("chat:lobby")
    await stage.sent(await stage.used())
    await stage.database.write(Statement("UPDATE chat_messages SET deleted_ms = 5"))
    await stage.sent(await stage.used(b"2", user="bob"), message=2)
    await stage.database.write(Statement(rows.ERASE, (DEFAULT_TENANT, "bob", stage.now_ms)))
    await stage.run()
    await stage.run()
    assert await stage.kept() == ({1, 2}, 2, 0)
    stage.held.clear()
    await stage.run()
    await stage.run()
    assert await stage.kept() == (set(), 0, 0)


async def test_what_is_being_deleted_cannot_be_claimed(stage):
    about = await stage.whole()
    sha256 = about.file.sha256
    await stage.database.write(
        Statement(
            "INSERT INTO chat_blobs (folder, sha256, touched_ms, going) VALUES ($1, $2, 0, 1)",
            (FOLDER, sha256),
        )
    )
    assert await stage.database.write(*rows.touching(FOLDER, {sha256}, stage.now_ms)) == [[]]
    await stage.run()  # whoever marked it has died: it is deleted all the same
    assert (await stage.kept())[1] == 0
    assert await stage.database.write(*rows.touching(FOLDER, {sha256}, stage.now_ms)) == [[(sha256,)]]


async def test_what_was_claimed_a_moment_ago_is_not_taken_away(stage):
    about = await stage.whole()
    stage.now_ms += UPLOAD_MS + LISTED_GRACE_MS
    await stage.database.write(*rows.touching(FOLDER, {about.file.sha256}, stage.now_ms))
    await stage.run(after_ms=GRACE_MS - 1)  # no row of chat_files refers to it yet
    assert (await stage.kept())[1] == 1
    await stage.run(after_ms=2)
    assert (await stage.kept())[1] == 0


async def test_odd_contents_harm_no_message(stage):
    id = await stage.used()
    odd = [
        '{"attachments": 5}',
        '{"attachments": [5, "x", null, {}, {"id": 5}, {"id": "x"}, {"id": {}}]}',
        '{"attachments": [{"id": "9999999999999999999"}]}',
        '{"attachments": {"id": "1"}}',
        '{"text": "\\"attachments\\""}',
    ]
    for number, content in enumerate(odd, start=10):
        await stage.database.write(
            Statement(
                'INSERT INTO chat_messages (id, room, "offset", epoch, sender, text, content) '
                "VALUES ($1, $2, $1, 'e', 'alice', 'x', $3)",
                (number, stage.number, content),
            )
        )
    await stage.sent(id, message=99)
    assert await stage.database.read("SELECT message AS m FROM chat_files") == [(99,)]


async def test_one_worker_collects_now_and_then(stage):
    await stage.begun()
    stage.now_ms += UPLOAD_MS + 1
    stage.collector.tick()
    assert stage.tasks == []
    stage.clock.advance(EVERY_S)
    stage.collector.tick()
    stage.collector.tick()
    assert len(stage.tasks) == 1
    await stage.tasks[0]
    assert await stage.kept() == (set(), 0, 0)
    stage.collector._chat.core.cluster.fence = lambda room: None
    await stage.begun()
    stage.now_ms += UPLOAD_MS + 1
    stage.clock.advance(EVERY_S)
    stage.collector.tick()
    await stage.tasks[1]
    assert len((await stage.kept())[0]) == 1
