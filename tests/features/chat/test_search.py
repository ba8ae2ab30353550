"""Search on a real server with a real store: what is found is what a look at all messages finds."""

# ruff: noqa: RUF001 - letters of other languages are meant here.

import random
import sqlite3
from pathlib import Path

import asyncpg
import pytest_asyncio

from realtime.features.chat.ids import read_id
from realtime.features.chat.search.language import STOP_WORDS
from tests.features.chat.rooming import Person
from tests.features.chat.search_questions import a_question
from tests.oracles.chat_search import Message, find

IRC = Path(__file__).parents[2] / "data/irc/ubuntu_irc_sample.tsv"
POLICY = """
[[access.rules]]
effect = "allow"
actions = ["chat_import", "chat_moderate"]
rooms = ["chat:*"]
[[access.rules]]
effect = "deny"
actions = ["history"]
rooms = ["chat:not-for-{user}"]
[[rooms]]
rooms = ["chat:sealed"]
end_to_end = true
"""
WORLD = [
    "Die Häuser der Straße sind groß, und das Haus auch.",
    "In der Strasse steht ein HAUS mit Garten: schöner geht es nicht",
    "Où est la crème brûlée ? Elle mange des crêpes avec ses enfants",
    "les enfants mangeaient une creme au chocolat",
    "¿Dónde está el niño? Mañana comemos con los niños",
    "Ёлка стоит в лесу, и ещё елки там",
    "привет, как дела? читаю книгу о книгах",
    "東京都に住んでいます。京都へ行きたい",
    "我们在北京吃饭,明天去上海",
    "上海的天气很好 and Ubuntu中文 works",
    "서울에서 만나요, 안녕하세요",
    "สวัสดีครับ วันนี้อากาศดี",
    "مَرْحَبًا يا صديقي كيف حالك",
    "أحمد واحمد في البيت",
    "running runs ran runner: hoping to hop, I hope",
    "the tests are testing what was tested 🤖robot ❤️heart",
    "see http://example.org/apt-get?x=1 or www.example.org",
    "it's \\ a 'quoted' \"thing\" & (more) | ! :* <-> %_",
    "soft\u00adhyphen zero\u200cwidth e\u0301te\u0301 ﬁn Ｆｕｌｌ",
]


class Place:
    """A server on a store, and what is in it."""

    def __init__(self, settings):
        self._settings = settings
        self._people = []

    async def come(self, user):
        """Connect as a user."""
        self._people.append(await Person.come(self.server, user))
        return self._people[-1]

    async def leave(self):
        """Close all connections: a server that is told to end waits for them."""
        while self._people:
            await self._people.pop().close()

    async def execute(self, *statements):
        """Ask the store itself, beside the server; return the rows of the last statement."""
        if "sqlite_path" in self._settings:
            db = sqlite3.connect(self._settings["sqlite_path"], isolation_level=None, timeout=10)
            try:
                return [db.execute(statement).fetchall() for statement in statements][-1]
            finally:
                db.close()
        db = await asyncpg.connect(
            self._settings["postgres_url"], server_settings={"search_path": "realtime"}
        )
        try:
            return [[tuple(row) for row in await db.fetch(statement)] for statement in statements][-1]
        finally:
            await db.close()

    async def messages(self):
        """All messages that can be found."""
        rows = await self.execute(
            "SELECT m.id, r.name, m.sender, m.text, m.lang, m.content FROM chat_messages m "
            "JOIN rooms r ON r.id = m.room WHERE m.deleted_ms = 0 AND m.hidden_ms = 0"
        )
        return [Message(*row[:5], attachments='"attachments":[{' in row[5]) for row in rows]


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def place(request, serve, tmp_path):
    if request.param == "sqlite":
        store = {"sqlite_path": str(tmp_path / "rooms.sqlite")}
    else:
        store = {"postgres_url": await request.getfixturevalue("postgres").new_database()}
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    made = Place(store)
    made.server = serve(policy_path=str(policy), **store)
    yield made
    await made.leave()


def irc():
    """By day: who said what when."""
    days = {}
    for line in IRC.read_text(encoding="utf-8").splitlines()[1:]:
        day, minute, kind, nick, text = line.split("\t")
        if kind == "msg" and text.strip():
            days.setdefault(day, []).append({"from": nick, "at": f"{day}T{minute}:00Z", "text": text})
    return days


async def fill(who, room, messages):
    """Import messages into a room."""
    await who.ask("join", room)
    for at in range(0, len(messages), 100):
        await who.do("chat_import", room, messages=messages[at : at + 100])


async def fill_world(who):
    times = [{"from": "eve", "at": f"2010-01-01T00:{minute:02}:00Z"} for minute in range(len(WORLD))]
    await fill(who, "chat:world", [at | {"text": text} for at, text in zip(times, WORLD, strict=True)])


async def all_hits(who, **content):
    """Return the hits of all pages."""
    hits = []
    while True:
        page = await who.do("chat_search", **content)
        hits += page["hits"]
        if not page["more"]:
            return hits
        content["position"] = page["position"]


def found(hits):
    return [read_id(hit["message"]["id"]) for hit in hits]


async def a_world(place):
    """Rooms of all kinds with messages in them; return, by user, their connection and what they may read."""
    alice = await place.come("alice")
    private = (await alice.do("chat_room_create", title="private", visibility="private"))["room"]
    for name in ("2007-01-11", "lobby"):
        await alice.do("chat_room_create", name=name, title=name, visibility="public")
    public = {"chat:2004-12-25", "chat:2007-01-11", "chat:world", "chat:not-for-dave", "chat:lobby"}
    days = irc()
    await fill(alice, "chat:2004-12-25", days["2004-12-25"])
    await fill(alice, "chat:2007-01-11", days["2007-01-11"][:100])
    await fill(alice, private, days["2007-01-11"][100:])
    await fill_world(alice)
    await fill(alice, "chat:not-for-dave", [each | {"from": "frank"} for each in days["2004-12-25"][:60]])
    await alice.do("chat_ban", "chat:2007-01-11", user="carol")
    await alice.do("join", "chat:lobby")
    return {
        "alice": (alice, {*public, private}),
        "bob": (await place.come("bob"), public),
        "carol": (await place.come("carol"), public - {"chat:2007-01-11"}),
        "dave": (await place.come("dave"), public - {"chat:not-for-dave"}),
    }


async def test_200_random_questions_find_what_a_look_at_all_messages_finds(place):
    people = await a_world(place)
    alice = people["alice"][0]
    await place.execute("UPDATE chat_messages SET hidden_ms = 1 WHERE id % 17 = 0")
    first = [
        (await alice.do("chat_message", "chat:lobby", text=text))["id"]
        for text in ("the one to delete", "another one to edit", "has a file")
    ]
    await alice.do("chat_delete", "chat:lobby", id=first[0])
    await alice.do("chat_edit", "chat:lobby", id=first[1], text="an installation that was edited")
    await place.execute(
        f"""UPDATE chat_messages SET content = '{{"text":"has a file","attachments":[{{}}]}}'
        WHERE id = {int(first[2])}"""
    )
    await place.execute("ANALYZE")  # PostgreSQL chooses windows of time by its statistics
    messages = await place.messages()
    users = sorted({each.sender for each in messages})
    seed = random.randrange(10**9)
    rng = random.Random(seed)
    some = 0
    for number in range(200):
        user = rng.choice([*people])
        who, rooms = people[user]
        content, asked, lang = a_question(rng, messages, users, sorted(rooms))
        expected = find(messages, asked, lang, rooms, STOP_WORDS)
        hits = await all_hits(who, **content, limit=rng.choice([3, 20, 50]))
        assert found(hits) == expected, (seed, number, user, content, lang)
        some += bool(expected)
        for hit in hits:
            assert "".join(part["text"] for part in hit["snippet"]).strip("…") in hit["message"]["text"]
    assert some > 60, (seed, some)  # else it proved little


LANGUAGES = [
    ("haus", "de", [0, 1]),
    ("häuser", "de", [0, 1]),
    ("haus", "en", [1, 0]),
    ("straße", "", [1, 0]),
    ('"der strasse"', "", [1, 0]),
    ("creme", "", [3, 2]),
    ("enfant", "fr", [3, 2]),
    ("東京", "", [7]),
    ("京", "", [8, 7]),
    ("上海", "", [9, 8]),
    ("ubuntu", "", [9]),
    ("서울", "", [10]),
    ("อากาศ", "", [11]),
    ("مرحبا", "", [12]),
    ("احمد", "", [13]),
    ("елка", "ru", [5]),
    ("книга", "ru", [6]),
    ("run", "en", [14]),
    ("test", "en", [15]),
    ("robot heart", "", [15]),
    ("has:link", "", [16]),
    ("apt-get", "", [16]),
    ("softhyphen", "", [18]),
    ("été", "", [18]),
    ("-haus has:link", "", [16]),
    ("thing more", "", [17]),
]


async def test_languages(place):
    bob = await place.come("bob")
    await fill_world(bob)
    for query, lang, texts in LANGUAGES:
        hits = await all_hits(bob, query=query, **({"lang": lang} if lang else {}))
        had = [WORLD.index(hit["message"]["text"]) for hit in hits]
        assert had == sorted(texts, reverse=True), (query, lang)


async def test_whatever_is_typed_is_answered(place):
    """No syntax of ours, of FTS5 or of tsquery breaks out; and no more than words is found."""
    bob = await place.come("bob")
    await fill_world(bob)
    seed = random.randrange(10**9)
    rng = random.Random(seed)
    signs = [
        *"\"'\\()*:&|!<->^{}[]+-~%_#@;,.?\0\n\t",
        "AND",
        "OR",
        "NOT",
        "NEAR(",
        "words:",
        "from:",
        "in:",
        "has:",
    ]
    signs += [
        "before:",
        "chat_found",
        "x",
        "haus",
        "東京",
        "é",
        "\u0301",
        "🤖",
        "\u200d",
        "'; DROP TABLE rooms; --",
        " ",
    ]
    for _ in range(300):
        query = "".join(rng.choice(signs) for _ in range(rng.randint(1, 12)))[:256]
        answer = await bob.ask("chat_search", query=query)
        if answer["type"] == "error":
            assert answer["content"]["name"] in ("bad_message", "forbidden"), (seed, query, answer)
        else:
            assert isinstance(answer["content"]["hits"], list), (seed, query, answer)
    assert len(await all_hits(bob, query="haus", lang="de")) == 2


async def test_rank_orders_what_is_found_and_pages_on(place):
    alice = await place.come("alice")
    texts = [
        "cat",
        "dog",
        "cat cat cat",
        "a cat in a long text about dogs and birds and many other animals",
        "cat dog",
    ]
    times = [{"from": "eve", "at": f"2010-01-01T00:{minute:02}:00Z"} for minute in range(len(texts))]
    await fill(alice, "chat:zoo", [at | {"text": text} for at, text in zip(times, texts, strict=True)])
    hits = await all_hits(alice, query="cat", order="rank", limit=1)
    assert [hit["message"]["text"] for hit in hits] == [texts[2], texts[0], texts[4], texts[3]]
    assert hits[3]["snippet"] == [
        {"text": "a ", "mark": False},
        {"text": "cat", "mark": True},
        {"text": texts[3][5:], "mark": False},
    ]


async def test_what_cannot_be_asked_is_refused_and_says_why(place):
    alice = await place.come("alice")
    private = (await alice.do("chat_room_create", title="private", visibility="private"))["room"]
    await alice.do("join", "chat:not-for-dave")
    await alice.do("chat_message", "chat:not-for-dave", text="hidden from dave")
    dave = await place.come("dave")
    for asked, room, name, words in [
        ({"query": ""}, None, "bad_message", "say what to look for"),
        ({"query": "-word"}, None, "bad_message", "beside"),
        ({"query": "x" * 257}, None, "bad_message", "256"),
        ({"query": "a " * 17}, None, "bad_message", "16"),
        ({"query": "a*"}, None, "bad_message", "2 letters"),
        ({"query": "x before:tomorrow"}, None, "bad_message", "no date"),
        ({"query": "x has:wings"}, None, "bad_message", "has:attachment"),
        ({"query": "x", "position": "r1.2.3"}, None, "bad_message", "position"),
        ({"query": "x", "limit": 51}, None, "bad_message", "limit"),
        ({"query": "x"}, private, "forbidden", "you may not join this room"),
        ({"query": f"x in:{private}"}, None, "forbidden", "you may not join this room"),
        ({"query": "x"}, "chat:~nothere", "forbidden", "you may not join this room"),
        ({"query": "x in:not-for-dave"}, None, "forbidden", "you may not read"),
        ({"query": "x in:events:news"}, None, "bad_message", "no chat room"),
        ({"query": "x"}, "chat:sealed", "forbidden", "sealed"),
    ]:
        had = await dave.fail("chat_search", room, **asked)
        assert had[0] == name, (asked, had)
        assert words in had[1], (asked, had)


async def test_what_expires_is_deleted_or_edited_is_not_found_any_more(place):
    alice = await place.come("alice")
    await alice.do("join", "chat:lobby")
    ids = [
        (await alice.do("chat_message", "chat:lobby", text=f"zebra {word}"))["id"]
        for word in ("one", "two", "three")
    ]
    await alice.do("chat_edit", "chat:lobby", id=ids[0], text="giraffe one")
    await alice.do("chat_delete", "chat:lobby", id=ids[1])
    assert [hit["message"]["id"] for hit in await all_hits(alice, query="zebra")] == [ids[2]]
    assert [hit["message"]["id"] for hit in await all_hits(alice, query="giraffe")] == [ids[0]]
    await place.execute(f"UPDATE chat_messages SET hidden_ms = 1 WHERE id = {int(ids[2])}")
    assert await all_hits(alice, query="zebra") == []
    await place.execute(f"UPDATE chat_messages SET hidden_ms = 0 WHERE id = {int(ids[2])}")
    assert len(await all_hits(alice, query="zebra")) == 1
    # What has expired is deleted within a second: it cannot come back.
    await place.execute(f"UPDATE chat_messages SET expires_ms = 1 WHERE id = {int(ids[2])}")
    assert await all_hits(alice, query="zebra") == []
    await place.execute(f"DELETE FROM chat_messages WHERE id = {int(ids[0])}")
    assert await all_hits(alice, query="giraffe") == []
