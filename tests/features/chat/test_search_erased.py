"""Nothing of an erased message is left: neither in the list of words, nor in an index's pages, nor in a log.

The files of SQLite are read byte by byte, PostgreSQL by pg_dump: its dead rows are VACUUM's.
"""

import asyncio
import subprocess

import asyncpg
import pytest

from realtime.core.clock import SystemClock
from realtime.features.chat.search.forms import Forms, prune_some
from tests.edge.peer import PATIENCE_S, ask
from tests.features.chat.ordered import put, send
from tests.postgres import programs

# No other word begins so: a page of the index does not have a part of it as that of its neighbour.
DELETED, EDITED, EXPIRED, ERASED = "xylquorvanth", "qzimbledork", "vjworpelnaught", "zhquistelmop"
KEPT = "ubiquitous"
SOON = {"chat_search_forget_s": 1}
on_postgres = pytest.mark.parametrize("order_store", ["postgres"], indirect=True)


async def kept(place) -> bytes:
    """All that the store keeps, as bytes, in lower case."""
    if place.url is None:
        return place.contents().lower()
    command = [programs() / "pg_dump", "--schema=realtime", place.url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    return done.stdout.lower()


async def until_gone(place, ws, *words) -> bytes:
    """Wait until the store has none of these, and return all that it has."""
    async with asyncio.timeout(PATIENCE_S * 4):
        while True:
            found = await kept(place)
            if not any(word.encode()[3:] in found for word in words):
                return found
            await ask(ws, type="ping", id="waiting")


async def listed(place, word) -> bool:
    return bool(await place.rows(f"SELECT 1 FROM chat_words WHERE word = '{word}'"))


async def say(place, ws, word, **content) -> str:
    """Say it beside a word that stays, and wait until it is listed; return its id."""
    told = await send(ws, f"{word.title()} and {KEPT}", **content)
    async with asyncio.timeout(PATIENCE_S):
        while not await listed(place, word):
            await ask(ws, type="ping", id="waiting")
    return told["id"]


async def test_what_was_deleted_edited_or_has_expired_is_gone_while_the_server_runs(place):
    place.start(**SOON)
    alice = await place.member("alice")
    await say(place, alice, KEPT)
    deleted, edited = await say(place, alice, DELETED), await say(place, alice, EDITED)
    expiring = await say(place, alice, EXPIRED)
    for word in (DELETED, EDITED, EXPIRED):
        assert word.encode() in await kept(place)
    await put(alice, "chat_delete", id=deleted)
    # What an edited message said before is kept with it (`chat_edits`); its words are not in the list.
    await put(alice, "chat_edit", id=edited, text=f"only {KEPT}")
    await place.change(f"UPDATE chat_messages SET expires_ms = 1 WHERE id = {int(expiring)}")
    left = await until_gone(place, alice, DELETED, EXPIRED)
    assert KEPT.encode() in left
    assert await listed(place, KEPT)
    assert not await listed(place, EDITED)
    await put(alice, "chat_delete", id=edited)
    await until_gone(place, alice, EDITED)


async def test_when_a_user_has_been_erased_nothing_is_left_of_their_words(place):
    place.start()
    alice, bob = await place.member("alice-7d2e"), await place.member("bob")
    await say(place, bob, KEPT)
    await say(place, alice, ERASED)
    found = await put(bob, "chat_search", query=ERASED)
    assert len(found["hits"]) == 1
    place.server.stop()
    assert ERASED.encode() in await kept(place)
    done = await place.run("user", "erase", "alice-7d2e", "--tenant", "acme")
    assert done.returncode == 0, done
    left = await kept(place)
    assert ERASED.encode()[3:] not in left
    assert KEPT.encode() in left


@on_postgres
async def test_a_dump_is_read_back_with_what_is_found(place, request):
    place.start()
    alice = await place.member("alice")
    await send(alice, f"{DELETED}, ÉTÉ 東京都 see https://example.org/{KEPT}")
    place.server.stop()
    url = await request.getfixturevalue("postgres").new_database()
    connection = await asyncpg.connect(url)
    dump = (
        await asyncio.to_thread(
            subprocess.run,
            [programs() / "pg_dump", "--schema=realtime", place.url],
            capture_output=True,
            check=True,
        )
    ).stdout
    await asyncio.to_thread(
        subprocess.run,
        [programs() / "psql", "-v", "ON_ERROR_STOP=1", "-q", url],
        input=dump,
        capture_output=True,
        check=True,
    )
    terms = "SELECT tsvector_to_array(terms) FROM chat_messages"
    ((said,),) = await place.rows(terms)
    assert said == (await connection.fetchval(terms.replace("chat_messages", "realtime.chat_messages")))
    assert {DELETED, "ete", "東京都", "#hlink"} <= set(said)
    await connection.close()


class Tables:
    """A store's tables, on a connection of our own; `before` is called with each statement that is to be."""

    def __init__(self, connection, before):
        self.dialect = "postgres"
        self._connection = connection
        self._before = before

    async def read(self, sql, *values):
        return [tuple(row) for row in await self._connection.fetch(sql, *values)]

    async def write(self, *statements):
        async with self._connection.transaction():
            told = []
            for sql, values in statements:
                await self._before(sql)
                told.append([tuple(row) for row in await self._connection.fetch(sql, *values)])
            return told


@on_postgres
async def test_a_word_that_is_taken_from_the_list_while_it_is_said_again_is_listed(place):
    """On two workers: what one remembers as listed, another is just taking from the list. A file has one."""
    place.start()
    place.server.stop()  # it has made the tables
    path = {"server_settings": {"search_path": "realtime"}}
    one, two, three = [await asyncpg.connect(place.url, **path) for _ in range(3)]

    async def say_it(id):
        await three.execute(
            f'INSERT INTO chat_messages (id, room, "offset", epoch, text, content) '
            f"VALUES ({id}, 1, {id}, 'e', '{DELETED}', '{{}}')"
        )

    async def words():
        return [row["word"] for row in await three.fetch("SELECT word FROM chat_words")]

    listing = asyncio.Event()
    pruning = asyncio.Event()
    listed = []

    async def before_listing(sql):
        if "FOR SHARE" in sql:
            listing.set()

    async def before_pruning(sql):
        if "DELETE FROM chat_unsaid" in sql and not pruning.is_set():
            # The word is taken and that is not committed: it is said again, and the other worker lists it.
            pruning.set()
            await say_it(2)
            listing.clear()
            listed.append(asyncio.ensure_future(forms.list()))
            await listing.wait()

    forms = Forms(Tables(one, before_listing), SystemClock())
    await say_it(1)
    await forms.list()
    assert await words() == [DELETED]
    await three.execute("DELETE FROM chat_messages")
    await prune_some(Tables(two, before_pruning))
    await listed[0]
    assert pruning.is_set()
    assert await words() == [DELETED]
    await three.execute("DELETE FROM chat_messages")
    await prune_some(Tables(two, before_pruning))
    assert await words() == []
    for connection in (one, two, three):
        await connection.close()
