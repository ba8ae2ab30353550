"""Messages on a real server with a real store: sent, changed, answered, found again; and their order."""

import asyncio
import json
import sqlite3
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest_asyncio

from realtime.features.chat.ids import text_of
from tests.features.chat.talking import LOBBY, hang_up, leave_all, member  # noqa: F401 - a fixture

GRANTED = ["chat_moderate", "chat_here", "chat_import"]
NO_ID = text_of(2**62)


class Place:
    """A store, and servers on it. In `chat:mods` everybody is a moderator, and may import."""

    def __init__(self, serve, settings, policy):
        self._serve = serve
        self.settings = settings
        self.policy = policy

    def start(self, **settings):
        return self._serve(policy_path=str(self.policy), **self.settings, **settings)

    async def select(self, question):
        """Ask the store itself, beside the server."""
        if "sqlite_path" in self.settings:
            db = sqlite3.connect(self.settings["sqlite_path"])
            try:
                return db.execute(question).fetchall()
            finally:
                db.close()
        db = await asyncpg.connect(self.settings["postgres_url"], server_settings={"search_path": "realtime"})
        try:
            return [tuple(row) for row in await db.fetch(question)]
        finally:
            await db.close()

    async def all_that_is_kept(self):
        """The text of all rows of publications and of the tables of messages."""
        pushes = [bytes(push).decode() for (push,) in await self.select("SELECT push FROM publications")]
        tables = [
            str(await self.select(f"SELECT * FROM {table}"))
            for table in ("chat_messages", "chat_edits", "chat_reactions", "chat_pins", "chat_mentions")
        ]
        return "\n".join(pushes + tables)


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def place(request, serve, tmp_path):
    if request.param == "sqlite":
        store = {"sqlite_path": str(tmp_path / "rooms.sqlite")}
    else:
        store = {"postgres_url": await request.getfixturevalue("postgres").new_database()}
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'[[access.rules]]\neffect = "allow"\nactions = {json.dumps(GRANTED)}\nrooms = ["chat:mods*"]\n'
    )
    return Place(serve, store, policy)


async def test_a_message_is_heard_by_all_and_found_again(place):
    server = place.start()
    alice, bob = await member(server), await member(server, "bob")
    id = await alice.say("hello *you*, see https://example.org/a_b.", lang="en")
    push = await bob.push("chat_message")
    assert (push["from"], push["content"]["id"], push["content"]["text"][:5]) == ("alice", id, "hello")
    assert [(each["kind"], each["from"], each["to"]) for each in push["content"]["entities"]] == [
        ("italic", 6, 11),
        ("url", 17, 40),
    ]
    (found,) = await bob.history()
    assert (found["id"], found["from"], found["room"]) == (id, "alice", LOBBY)
    assert {name: found[name] for name in push["content"]} == push["content"]
    assert found["offset"] == push["offset"]


async def test_a_resend_is_harmless_and_tells_the_firsts_id(place):
    server = place.start()
    alice = await member(server)
    first = await alice.ask("chat_message", {"text": "once"}, key="k")
    again = await alice.ask("chat_message", {"text": "once"}, key="k")
    assert again == first | {"duplicate": True}
    await leave_all()
    server.restart()  # what the owner had in memory is gone
    alice = await member(server)
    assert await alice.ask("chat_message", {"text": "once"}, key="k") == first | {"duplicate": True}
    assert len(await alice.history()) == 1
    both = [await alice.send("chat_message", {"text": "twice"}, key="l") for _ in range(2)]
    one, two = [(await alice.answer(id))["content"] for id in both]
    assert two == one | {"duplicate": True}


async def test_what_cannot_be_sent_is_refused_with_what_is_allowed(place):
    server = place.start(chat_message_chars=10)
    alice = await member(server)
    for content, words in [
        ({"text": "x" * 11}, "11 characters; 10"),
        ({"text": " \n"}, "a text or an attachment"),
        ({}, "a text or an attachment"),
        ({"text": "a\0b"}, "U+0000"),
        ({"text": "x", "reply_to": NO_ID}, "`reply_to`: there is no message"),
        ({"text": "x", "thread": "7"}, "'7' is no message id"),
        ({"text": "x", "reply_to": "9" * 19}, "is no message id"),
        ({"text": "x", "lang": "no language"}, "$.lang"),
        ({"text": "x", "expires_s": 0}, "$.expires_s"),
        ({"text": 7}, "$.text"),
    ]:
        name, message = await alice.refused("chat_message", content)
        assert (name, words in message) == ("bad_message", True), message
    assert await alice.history() == []


async def test_an_edit_keeps_what_was_said_before(place):
    server = place.start(chat_edits_max=2)
    alice, bob = await member(server), await member(server, "bob")
    id = await alice.say("one")
    await alice.ask("chat_edit", {"id": id, "text": "two @bob"})
    push = await bob.push("chat_edit")
    assert (push["content"]["text"], push["content"]["mentions"]) == ("two @bob", ["bob"])
    await alice.ask("chat_edit", {"id": id, "text": "three"})
    assert [each["text"] for each in (await bob.ask("chat_edits", {"id": id}))["edits"]] == [
        "one",
        "two @bob",
    ]
    (found,) = await bob.history()
    assert (found["text"], "edited_at" in found, "mentions" in found) == ("three", True, False)
    assert await place.select("SELECT * FROM chat_mentions") == []
    assert (await alice.refused("chat_edit", {"id": id, "text": "four"}))[0] == "conflict"
    assert await bob.refused("chat_edit", {"id": id, "text": "mine"}) == (
        "forbidden",
        "only its author may edit a message",
    )
    assert (await alice.refused("chat_edit", {"id": NO_ID, "text": "x"}))[0] == "bad_message"


async def test_of_what_is_deleted_no_word_is_left_in_the_store(place):
    server = place.start()
    mods = "chat:mods"
    alice, bob = await member(server, room=mods), await member(server, "bob", room=mods)
    id = await alice.say("the secret0 @bob")
    await bob.ask("chat_react", {"id": id, "emoji": "👍"})
    await bob.ask("chat_pin", {"id": id})
    await alice.ask("chat_edit", {"id": id, "text": "the secret1"})
    reply = await bob.say("an answer", thread=id)
    assert "secret0" in await place.all_that_is_kept()
    await alice.ask("chat_delete", {"id": id})
    kept = await place.all_that_is_kept()
    assert "secret" not in kept
    assert await alice.ask("chat_delete", {"id": id}) == {}
    gone, answer = await bob.history()
    assert gone == {
        **{name: gone[name] for name in ("at", "offset", "epoch")},
        "id": id,
        "room": mods,
        "from": "alice",
        "deleted": True,
        "replies": 1,
    }
    assert answer["id"] == reply
    for type, content in [
        ("chat_edit", {"text": "x"}),
        ("chat_react", {"emoji": "👍"}),
        ("chat_pin", {"pinned": True}),
    ]:
        assert await bob.refused(type, {"id": id, **content}) == ("bad_message", f"message {id} is deleted")
    assert await bob.ask("chat_edits", {"id": id}) == {"edits": []}
    await bob.ask("chat_delete", {"id": await alice.say("a moderator may")})


async def test_a_change_counts_from_when_it_was_published(place):
    """Pipelined: the second is decided while the first is being kept."""
    server = place.start(chat_reaction_kinds=2)
    alice = await member(server)
    id = await alice.say("x")
    wanted = [("chat_react", {"id": id, "emoji": emoji}) for emoji in ("👍", "👍", "👎", "🎉")]
    asked = [await alice.send(*each) for each in wanted]
    answers = [await alice.answer(each) for each in asked]
    assert [each["type"] for each in answers] == ["ack", "ack", "ack", "error"]
    assert answers[1]["content"] == {}
    assert answers[3]["content"]["limit"] == "chat_reaction_kinds"
    asked = [
        await alice.send("chat_delete", {"id": id}),
        await alice.send("chat_edit", {"id": id, "text": "too late"}),
    ]
    assert [(await alice.answer(each))["type"] for each in asked] == ["ack", "error"]
    assert "too late" not in await place.all_that_is_kept()


async def test_each_may_react_once_with_each(place):
    server = place.start()
    alice, bob = await member(server), await member(server, "bob")
    id = await alice.say("x")
    for each in (alice, bob):
        await each.ask("chat_react", {"id": id, "emoji": "👍"})
        assert await each.ask("chat_react", {"id": id, "emoji": "👍"}) == {}
    await bob.ask("chat_react", {"id": id, "emoji": ":tada:"})
    (found,) = await alice.history()
    assert found["reactions"] == {
        "👍": {"count": 2, "mine": True},
        ":tada:": {"count": 1, "mine": False},
    }
    await alice.ask("chat_react", {"id": id, "emoji": "👍", "remove": True})
    assert await alice.ask("chat_react", {"id": id, "emoji": "👍", "remove": True}) == {}
    (found,) = await alice.history()
    assert found["reactions"]["👍"] == {"count": 1, "mine": False}
    for emoji in ("no", "<b>", " ", "👍 👍", "\u202e"):
        assert (await bob.refused("chat_react", {"id": id, "emoji": emoji}))[0] == "bad_message", emoji


async def test_threads_and_pages(place):
    server = place.start()
    alice = await member(server)
    root = await alice.say("root")
    said = [await alice.say(f"{n}", **({"thread": root} if n % 2 else {})) for n in range(10)]
    assert [each["id"] for each in await alice.history(thread=root)] == said[1::2]
    assert (await alice.history())[0]["replies"] == 5
    assert [each["id"] for each in await alice.history(limit=3)] == said[-3:]
    page = await alice.ask("chat_history", {"before": said[4], "limit": 3})
    assert ([each["id"] for each in page["messages"]], page["more"]) == (said[1:4], True)
    page = await alice.ask("chat_history", {"after": said[4], "limit": 3})
    assert ([each["id"] for each in page["messages"]], page["more"]) == (said[5:8], True)
    page = await alice.ask("chat_history", {"after": said[7], "limit": 3})
    assert ([each["id"] for each in page["messages"]], page["more"]) == (said[8:], False)
    assert (await alice.refused("chat_history", {"after": root, "before": root}))[0] == "bad_message"
    assert "is in thread" in (await alice.refused("chat_message", {"text": "x", "thread": said[1]}))[1]
    other = await member(server, room="chat:other")
    assert (await other.refused("chat_message", {"text": "x", "reply_to": root}))[0] == "bad_message"
    assert await other.history(before=said[5]) == []


async def test_pins_are_the_moderators_and_bounded(place):
    server = place.start(chat_pins_max=2)
    alice = await member(server)
    assert await alice.refused("chat_pin", {"id": await alice.say("x")}) == (
        "forbidden",
        "only moderators pin messages",
    )
    alice = await member(server, room="chat:mods")
    said = [await alice.say(f"{n}") for n in range(3)]
    for id in said[:2]:
        await alice.ask("chat_pin", {"id": id})
    assert (await alice.refused("chat_pin", {"id": said[2]}))[0] == "conflict"
    assert [each["id"] for each in (await alice.ask("chat_pins"))["messages"]] == said[1::-1]
    await alice.ask("chat_pin", {"id": said[0], "pinned": False})
    assert await alice.ask("chat_pin", {"id": said[0], "pinned": False}) == {}
    await alice.ask("chat_pin", {"id": said[2]})
    assert [each.get("pinned") for each in await alice.history()] == [None, True, True]


async def test_who_is_mentioned_and_not_there_is_notified(place):
    server = place.start()
    alice = await member(server, room="chat:mods")
    bob = await member(server, "bob", room="chat:mods", join=False)
    carol = await member(server, "carol", room="chat:mods")
    id = await alice.say("@bob @carol, are you there? @here")
    told = (await bob.push("notification"))["content"]
    assert told["title"] == "alice mentioned you"
    assert told["data"] == {"type": "chat_mention", "room": "chat:mods", "id": id, "from": "alice"}
    push = await carol.push("chat_message")
    assert (push["content"]["mentions"], push["content"]["here"]) == (["bob", "carol"], True)
    await carol.say("done")
    assert not [each for each in carol.heard if each["type"] == "notification"]
    plain = await member(server)
    await plain.say("@here")
    assert "here" not in (await plain.push("chat_message"))["content"]


async def test_what_is_scheduled_is_sent_once_also_after_a_restart(place):
    server = place.start()
    alice, bob = await member(server), await member(server, "bob")
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    asked = {"text": "in time", "at": soon}
    first = await alice.ask("chat_schedule", asked, key="s")
    assert await alice.ask("chat_schedule", asked, key="s") == first
    other = await alice.ask("chat_schedule", {"text": "tomorrow", "at": later})
    listed = (await alice.ask("chat_scheduled"))["scheduled"]
    assert [(each["id"], each["text"]) for each in listed] == [
        (first["id"], "in time"),
        (other["id"], "tomorrow"),
    ]
    assert (await bob.ask("chat_scheduled"))["scheduled"] == []
    assert (await bob.refused("chat_unschedule", {"id": other["id"]}))[0] == "bad_message"
    for at in ("2020-01-01T00:00:00Z", "tomorrow", "2026-01-01"):
        assert (await alice.refused("chat_schedule", {"text": "x", "at": at}))[0] == "bad_message"
    server.kill()
    server.start()
    alice = await member(server)
    await alice.until(alice.history)
    await leave_all()
    server.restart()
    alice = await member(server)
    (found,) = await alice.history()
    assert (found["text"], found["from"]) == ("in time", "alice")
    await alice.ask("chat_unschedule", {"id": other["id"]})
    assert (await alice.ask("chat_scheduled"))["scheduled"] == []


async def test_what_expires_is_deleted_when_it_is_due(place):
    server = place.start()
    alice, bob = await member(server), await member(server, "bob")
    id = await alice.say("soon gone", expires_s=1)
    assert (await bob.push("chat_message"))["content"]["expires_at"]
    push = await bob.push("chat_delete")
    assert push["content"] == {"id": id, "by": None}
    assert "from" not in push
    assert "soon gone" not in await place.all_that_is_kept()


async def test_an_import_keeps_who_and_when_and_finds_its_repeats(place):
    server = place.start()
    alice = await member(server)
    batch = [
        {"from": "old", "at": f"2010-01-01T10:{n // 20:02}:00Z", "text": f"line {n}", "key": f"k{n}"}
        for n in range(90)
    ]
    batch += [{"from": "nobody", "at": "2010-01-02T00:00:00+01:00", "text": "no key"}]
    assert "chat_import" in (await alice.refused("chat_import", {"messages": batch}))[1]
    alice = await member(server, room="chat:mods")
    live = await alice.say("of today")
    told = (await alice.ask("chat_import", {"messages": batch}))["ids"]
    assert len(set(told)) == 91
    assert (await alice.ask("chat_import", {"messages": batch[:90]}))["ids"] == told[:90]
    await leave_all()
    server.restart()
    alice = await member(server, room="chat:mods")
    assert (await alice.ask("chat_import", {"messages": batch[:90]}))["ids"] == told[:90]
    found = await alice.history(limit=100)
    assert [each["id"] for each in found] == [*sorted(told), live]
    assert sorted(each["text"] for each in found[:90]) == sorted(each["text"] for each in batch[:90])
    assert (found[0]["from"], found[0]["at"], found[0]["sent_at"]) == (
        "old",
        "2010-01-01T10:00:00.000Z",
        "2010-01-01T10:00:00.000Z",
    )
    assert found[90]["at"] == "2010-01-01T23:00:00.000Z"
    name, message = await alice.refused(
        "chat_import", {"messages": [batch[0], {"from": "x", "at": "2999-01-01T00:00:00Z", "text": "x"}]}
    )
    assert (name, message[:12]) == ("bad_message", "messages[1]:")


async def test_of_a_room_that_one_may_not_be_in_nothing_is_told(place):
    server = place.start()
    alice = await member(server)
    for room in ("chat:~hidden", "chat:~none"):
        for type, content in [
            ("chat_history", {}),
            ("chat_edits", {"id": NO_ID}),
            ("chat_pins", {}),
        ]:
            assert await alice.refused(type, content, room=room) == (
                "forbidden",
                "you may not join this room",
            )


# -- order --------------------------------------------------------------------------------------------------


async def pipelined(ws_member, count):
    """Send so many without waiting for anything; return the texts of the pushes in order."""
    asked = [await ws_member.send("chat_message", {"text": f"m{n}"}) for n in range(count)]
    for id in asked:
        answer = await ws_member.answer(id)
        assert answer["type"] == "ack", answer
    while sum(each["type"] == "chat_message" for each in ws_member.heard) < count:
        await ws_member.hear()
    return [each["content"]["text"] for each in ws_member.heard if each["type"] == "chat_message"]


async def test_two_hundred_of_one_sender_stay_in_their_order(place):
    server = place.start()
    alice = await member(server)  # nothing of the room is known yet: the first ones wait for the tables
    assert await pipelined(alice, 200) == [f"m{n}" for n in range(200)]
    ids = [each["id"] for each in await alice.history(limit=100)]
    assert ids == sorted(ids)


async def test_what_has_to_wait_is_not_overtaken(place):
    server = place.start()
    alice = await member(server)
    root = await alice.say("root")
    texts = [f"m{n}" for n in range(60)]
    asked = [
        await alice.send("chat_message", {"text": text, **({"reply_to": root} if n % 3 == 0 else {})})
        for n, text in enumerate(texts)
    ]
    for id in asked:
        assert (await alice.answer(id))["type"] == "ack"
    assert [each["text"] for each in (await alice.history(limit=100))[1:]] == texts


async def test_bursts_of_many_senders_are_all_there(place):
    server = place.start()
    members = [await member(server, f"u{n}") for n in range(5)]
    await asyncio.gather(*(burst(each) for each in members))
    found = [*await members[0].history(limit=100)]
    for each in members:
        mine = [one["text"] for one in found if one["from"] == each.user]
        assert mine == [f"m{n}" for n in range(20)]


async def burst(sender):
    asked = [await sender.send("chat_message", {"text": f"m{n}"}) for n in range(20)]
    for id in asked:
        assert (await sender.answer(id))["type"] == "ack"
