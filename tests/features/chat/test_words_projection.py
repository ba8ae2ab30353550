"""The tables of messages follow the log: a plain fold of what was published says the same, on both stores."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import realtime.features.chat
from realtime.core.contracts import Position, Row
from realtime.core.personal import tombstone
from realtime.features.chat.words.shown import columns, shown
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from realtime.native.encode import encode_push, json_string
from tests.contract.stores import PostgresPlace, SqlitePlace

MIGRATIONS = Path(realtime.features.chat.__file__).with_name("migrations")
STAMP = b"2026-01-01T00:00:00.000Z"
FIRST_ID = 1763730000000 << 21
USERS = ("alice", "bob")


class Log:
    """Rooms of one store, one after another, and what the server's writer does to them."""

    def __init__(self, place, store):
        self.place = place
        self.store = store
        self.rooms = 0

    def next_room(self):
        self.rooms += 1
        self.room = RoomId(DEFAULT_TENANT, RoomName(f"chat:r{self.rooms}"))
        self.offset = 0
        self.first_id = FIRST_ID + (self.rooms << 21)

    def id(self, number):
        return f"{self.first_id + number:019}"

    async def publish(self, *pushes):
        """Keep pushes in one group; each is (type, sender, content), or raw bytes."""
        told, done = [], asyncio.Event()

        def kept(row, error):
            told.append(error)
            if len(told) == len(pushes):
                done.set()

        for push in pushes:
            self.offset += 1
            sender = b'"alice"'
            if not isinstance(push, bytes):
                type, user, content = push
                sender, body = json_string(user), json.dumps(content, ensure_ascii=False).encode()
                push = encode_push(
                    type, json_string(self.room.room), sender, self.offset, self.store.epoch, body, STAMP
                )
            row = Row(self.room, Position(self.offset, self.store.epoch), push, sender, None, at(self.offset))
            self.store.append(row, kept)
        await done.wait()
        assert told == [None] * len(pushes)

    async def rewrite(self, offset, push):
        """Put another push in the place of one: None takes the row out, as a retention does."""
        where = (
            f"WHERE \"offset\" = {offset} AND room = (SELECT id FROM rooms WHERE name = '{self.room.room}')"
        )
        if push is None:
            await self.place.execute(f"DELETE FROM publications {where}")
            return
        lead, end = ("'\\x", "'::bytea") if self.place.dialect == "postgres" else ("X'", "'")
        await self.place.execute(f"UPDATE publications SET push = {lead}{push.hex()}{end} {where}")

    async def pushes(self):
        return {place.offset: push for place, push in await self.store.read(self.room, 0, 1000)}

    async def tables(self):
        """What the tables say of the room."""

        async def rows(table, *names):
            listed = ", ".join(f't."{name}" AS {name}_' for name in names)
            return await self.store.tables.read(
                f"SELECT {listed} FROM {table} t JOIN rooms r ON r.id = t.room WHERE r.name = $1",
                self.room.room,
            )

        names = ("id", "offset", "sender", "text", "lang", "thread", "edited_ms", "deleted_ms", "expires_ms")
        return {
            "messages": sorted(await rows("chat_messages", *names)),
            "edits": sorted(await rows("chat_edits", "message", "offset", "text", "at_ms")),
            "reactions": sorted(await rows("chat_reactions", "message", "emoji", "user_id", "at_ms")),
            "pins": sorted(await rows("chat_pins", "message", "at_ms")),
            "mentions": sorted(await rows("chat_mentions", "user_id", "message")),
        }

    async def contents(self):
        """The contents of messages, by their ids."""
        found = await self.store.tables.read(
            "SELECT m.id AS id, m.content AS content FROM chat_messages m JOIN rooms r ON r.id = m.room "
            "WHERE r.name = $1",
            self.room.room,
        )
        return {id: json.loads(content) for id, content in found}


def at(offset):
    return 1_800_000_000_000 + offset


class Fold:
    """The same in plain Python: the specification."""

    def __init__(self, log):
        self.log = log
        self.messages = {}
        self.by_offset = {}

    def take(self, offset, type, user, content):
        self.by_offset[offset] = (type, content)
        id = int(content["id"])
        known = self.messages.get(id)
        if type == "chat_message":
            if known is None:
                self.messages[id] = {
                    "offset": offset,
                    "sender": user,
                    "thread": int(content["thread"]) if "thread" in content else None,
                    "content": content,
                    "edited": 0,
                    "deleted": 0,
                    "versions": [],
                    "reactions": {},
                    "pinned": None,
                    "expires": 1_798_761_600_123 if "expires_at" in content else None,
                }
            return
        if known is None or known["deleted"]:
            return
        if type == "chat_edit":
            written = known["edited"] or id >> 21
            known["versions"].append((offset, known["content"]["text"], written))
            known["content"], known["edited"] = content, at(offset)
        elif type == "chat_delete":
            self._blank(known, at(offset))
        elif type == "chat_react":
            who = content["emoji"], content["user"]
            if content["remove"]:
                known["reactions"].pop(who, None)
            else:
                known["reactions"].setdefault(who, at(offset))
        elif type == "chat_pin":
            known["pinned"] = (known["pinned"] or at(offset)) if content["pinned"] else None

    def erase(self, offset, pseudonym):
        """What `realtime user erase` does to one publication."""
        type, content = self.by_offset[offset]
        for known in self.messages.values():
            if known["offset"] == offset:
                self._blank(known, known["deleted"] or at(offset))
                known["sender"] = pseudonym
        known = self.messages.get(int(content["id"]))
        if known is None:
            return
        if type == "chat_edit" and not known["deleted"]:
            self._blank(known, at(offset))
        if type == "chat_react":
            known["reactions"].pop((content["emoji"], content["user"]), None)

    def remove(self, offset):
        """What a retention does to one publication."""
        self.messages = {id: each for id, each in self.messages.items() if each["offset"] != offset}

    def _blank(self, known, at_ms):
        known |= {"deleted": at_ms, "versions": [], "reactions": {}, "pinned": None, "expires": None}
        known["content"] = {"id": known["content"]["id"], "deleted": True}

    def tables(self):
        listed = sorted(self.messages.items())
        return {
            "messages": [
                (
                    *(id, m["offset"], m["sender"], m["content"].get("text", "")),
                    *(m["content"].get("lang", ""), m["thread"], m["edited"], m["deleted"], m["expires"]),
                )
                for id, m in listed
            ],
            "edits": sorted((id, *version) for id, m in listed for version in m["versions"]),
            "reactions": sorted((id, *who, at) for id, m in listed for who, at in m["reactions"].items()),
            "pins": sorted((id, m["pinned"]) for id, m in listed if m["pinned"]),
            "mentions": sorted(
                (user, id)
                for id, m in listed
                for user in (*m["content"].get("mentions", ()), *([""] if m["content"].get("here") else ()))
            ),
        }

    def contents(self):
        return {id: m["content"] for id, m in self.messages.items()}


@pytest.fixture(params=["sqlite", "postgres"])
def log(request, tmp_path):
    with asyncio.Runner() as runner:
        if request.param == "sqlite":
            place = SqlitePlace(tmp_path)
        else:
            place = PostgresPlace(runner.run(request.getfixturevalue("postgres").new_database()))
        store = runner.run(place.open())
        runner.run(store.migrate("chat", MIGRATIONS))
        found = Log(place, store)
        found.run = runner.run
        yield found
        runner.run(store.close())


texts = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=20
) | st.sampled_from(["\\u0000", '"quoted" \\ud800', "a\\", "👍 emoji", "\x01"])
numbers = st.integers(0, 3)
messages = st.fixed_dictionaries(
    {"id": numbers, "text": texts},
    optional={
        "thread": numbers,
        "lang": st.sampled_from(["de", "en"]),
        "mentions": st.lists(st.sampled_from(USERS), min_size=1, max_size=2, unique=True),
        "here": st.just(True),
        "expires_at": st.just("2027-01-01T00:00:00.123Z"),
    },
)
edits = st.fixed_dictionaries(
    {"id": numbers, "text": texts},
    optional={"mentions": st.lists(st.sampled_from(USERS), min_size=1, max_size=2, unique=True)},
)
reactions = st.fixed_dictionaries(
    {
        "id": numbers,
        "emoji": st.sampled_from("👍👎"),
        "user": st.sampled_from(USERS),
        "remove": st.booleans(),
    }
)
steps = st.lists(
    st.lists(
        st.tuples(st.just("chat_message"), st.sampled_from(USERS), messages)
        | st.tuples(st.just("chat_edit"), st.sampled_from(USERS), edits)
        | st.tuples(st.just("chat_delete"), st.sampled_from(USERS), st.fixed_dictionaries({"id": numbers}))
        | st.tuples(st.just("chat_react"), st.sampled_from(USERS), reactions)
        | st.tuples(
            st.just("chat_pin"),
            st.sampled_from(USERS),
            st.fixed_dictionaries({"id": numbers, "pinned": st.booleans()}),
        ),
        min_size=1,
        max_size=6,
    )
    | st.tuples(st.just("erase"), st.integers(1, 12))
    | st.tuples(st.just("remove"), st.integers(1, 12)),
    max_size=12,
)


def test_a_repeated_id_in_one_group_calls_nobody(log):
    first = {"id": 0, "text": "one"}
    again = {"id": 0, "text": "two", "here": True, "mentions": ["bob"]}
    log.run(agree(log, [[("chat_message", "alice", first), ("chat_message", "alice", again)]]))


def test_a_fold_of_the_log_says_what_the_tables_say(log):
    @settings(max_examples=120, suppress_health_check=list(HealthCheck))
    @given(steps)
    def check(steps):
        log.run(agree(log, steps))

    check()


async def agree(log, steps):
    log.next_room()
    fold = Fold(log)
    erased = set()
    for step in steps:
        if isinstance(step, list):
            group = []
            for place, (type, user, content) in enumerate(step, log.offset + 1):
                named = {
                    name: log.id(value) if name in ("id", "thread") else value
                    for name, value in content.items()
                }
                group.append((type, user, named))
                fold.take(place, type, user, named)
            await log.publish(*group)
            continue
        what, offset = step
        if offset not in fold.by_offset or offset in erased:
            continue
        erased.add(offset)
        if what == "remove":
            fold.remove(offset)
            await log.rewrite(offset, None)
        else:
            fold.erase(offset, "erased-1")
            push = (await log.pushes())[offset]
            await log.rewrite(offset, tombstone(push, json.loads(push)["from"], "erased-1", {}))
    assert await log.tables() == fold.tables()
    assert await log.contents() == fold.contents()
    await check_no_word_left(log, fold)


async def check_no_word_left(log, fold):
    """Of what is deleted the log has no text either."""
    for offset, push in (await log.pushes()).items():
        said = json.loads(push)
        if said["type"] not in ("chat_message", "chat_edit") or "id" not in said["content"]:
            continue
        known = fold.messages.get(int(said["content"]["id"]))
        if known is not None and known["deleted"] and known["offset"] <= offset:
            was_seen = offset == known["offset"] or "text" not in said["content"]
            assert "text" not in said["content"] or not was_seen, said


odd_values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(
        [
            "1e999",
            "-0",
            "9" * 400,
            '"\\ud800"',
            '"\\udc00\\ud800"',
            '"\\u0000"',
            '"\\\\u0000"',
            '"x"',
            "{",
            "",
        ]
    )
    | st.sampled_from(['"9999999999999999999"', f'"{FIRST_ID + 5:019}"', '"' + "7" * 19 + '"', '""', '"٣"'])
    | st.integers().map(str),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{','.join(map(str, each))}]")
        | st.dictionaries(st.sampled_from(["id", "text", "x"]), inner, max_size=3).map(
            lambda each: "{" + ",".join(f'"{name}":{value}' for name, value in each.items()) + "}"
        )
    ),
    max_leaves=6,
).map(lambda each: {None: "null", True: "true", False: "false"}.get(each, each))
KEYS = (
    *("id", "text", "lang", "thread", "mentions", "here", "expires_at", "scheduled"),
    *("emoji", "user", "remove", "pinned"),
)
odd_contents = st.dictionaries(st.sampled_from(KEYS), odd_values, max_size=6).map(
    lambda each: "{" + ",".join(f'"{name}":{value}' for name, value in each.items()) + "}"
)
TYPES = ("chat_message", "chat_edit", "chat_delete", "chat_react", "chat_pin", "chat_hide", "chat_other")


def test_nothing_odd_can_keep_a_publication_from_being_kept(log):
    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(
            st.tuples(st.sampled_from(TYPES), odd_contents | odd_values, st.binary(max_size=5)), max_size=6
        )
    )
    def check(pushes):
        log.run(survive(log, pushes))

    check()


async def survive(log, pushes):
    log.next_room()
    real = {"id": f"{FIRST_ID + 5 + (log.rooms << 21):019}", "text": "real"}
    odd = [
        f'{{"type":"{type}","room":"{log.room.room}","from":"x","content":{content}}}'.encode(
            errors="surrogatepass"
        )
        + junk
        for type, content, junk in pushes
    ]
    await log.publish(
        ("chat_message", "alice", real), *odd, ("chat_edit", "alice", real | {"text": "edited"})
    )
    found = await log.store.tables.read(
        f"SELECT {columns(log.place.dialect, '$2')} FROM chat_messages m JOIN rooms r ON r.id = m.room "
        "WHERE r.name = $1",
        log.room.room,
        "alice",
    )
    assert [each["text"] for each in map(shown, found) if each["id"] == real["id"]] == ["edited"]
    for offset in range(1, log.offset + 1):
        await log.rewrite(
            offset, b'{"type":"chat_message","content":{"erased":true}}' if offset % 2 else None
        )


@pytest.mark.parametrize("depth", [500, 5000, 200_000])
def test_nor_what_is_nested_deep(log, depth):
    log.next_room()
    deep = b'{"type":"chat_message","room":"chat:r1","content":' + b"[" * depth + b"]" * depth + b"}"
    real = {"id": log.id(1), "text": "real"}
    log.run(log.publish(deep, ("chat_message", "alice", real)))
    assert [row[0] for row in log.run(log.tables())["messages"]] == [int(real["id"])]
