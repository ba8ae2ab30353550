"""What is too old goes, what is held stays, on both stores."""

import asyncio
import json

from tests.edge.peer import ask, metric
from tests.features.chat.ordered import ROOM, acts, put, send, until

OLD_MS = 1_000_000_000_000  # in 2001


async def age(place, condition: str) -> None:
    """Let publications that meet a condition be of 2001. The server is stopped meanwhile."""
    place.server.stop()
    await place.change(f"UPDATE publications SET at_ms = {OLD_MS} WHERE {condition}")
    place.server.start()


async def deleted(place, at_least: int) -> None:
    """Wait until retention has deleted so many."""
    async with asyncio.timeout(60):
        while await asyncio.to_thread(metric, place.server, "chat_retention_deleted_total") < at_least:
            pass


async def test_what_is_too_old_goes_from_the_beginning_on_and_never_the_last(place):
    place.start(chat_retention_s=3600, chat_retention_pause_s=0.05)
    alice = await place.member("alice")
    said = [await send(alice, f"message {number}") for number in range(6)]
    await age(place, '"offset" <= 4')
    await deleted(place, 4)
    offsets = [row[0] for row in await place.rows('SELECT "offset" FROM publications ORDER BY 1')]
    assert offsets == [said[4]["offset"], said[5]["offset"]]
    assert await place.rows("SELECT text FROM chat_messages ORDER BY id") == [("message 4",), ("message 5",)]
    bob = await place.member("bob", room=None)
    since = {"offset": 1, "epoch": said[0]["epoch"]}
    joined = await ask(bob, type="join", room=ROOM, id="j", content={"since": since})
    assert joined["content"]["recovered"] is False
    # All of it is too old: the last one stays, and offsets go on.
    await age(place, '"offset" > 0')
    await deleted(place, 1)
    assert len(await place.rows("SELECT 1 FROM publications")) == 1
    alice = await place.member("alice")
    assert (await send(alice, "goes on"))["offset"] == said[5]["offset"] + 1
    assert ("retention", "server", "allowed") in await acts(place)


async def test_a_hold_keeps_a_room_and_what_its_members_change(place):
    place.start(chat_retention_s=3600, chat_retention_pause_s=0.05)
    alice, bob = await place.member("alice"), await place.member("bob")
    said = await send(alice, "what I said at first")
    other = await send(bob, "bob's")
    await ask(alice, type="join", room="chat:other", id="o")
    await send(alice, "elsewhere", "chat:other")
    await send(alice, "and again", "chat:other")
    held = await place.run("chat", "hold", "--tenant", "acme", "--room", ROOM, "--reason", "case 7")
    assert (held.returncode, held.stdout) == (0, "held\n"), held
    listed = await place.run("chat", "holds", "--tenant", "acme")
    assert [json.loads(line)["room"] for line in listed.stdout.splitlines()] == [ROOM]
    mod = await place.member("mona", "mod")
    await put(mod, "chat_hide", id=said["id"], hidden=True)
    await until(bob, "chat_hide")
    assert "name" not in await put(bob, "chat_delete", id=other["id"])
    await age(place, '"offset" > 0')
    await deleted(place, 1)  # of the other room
    assert await place.rows("SELECT text FROM chat_messages WHERE sender = 'bob'") == [("",)]
    assert len(await place.rows("SELECT 1 FROM publications")) == 5
    refused = await place.run("user", "erase", "bob", "--tenant", "acme")
    assert (refused.returncode, "legal hold" in refused.stderr) == (1, True), refused
    exported = await place.run(
        "chat", "export", "--tenant", "acme", "--room", ROOM, str(place.folder / "out")
    )
    assert exported.returncode == 0, exported
    lines = [json.loads(line) for line in (place.folder / "out/export.jsonl").read_text().splitlines()]
    messages = {line["id"]: line for line in lines if line["kept"] == "message"}
    assert messages[said["id"]]["content"]["text"] == "what I said at first"
    assert messages[said["id"]]["held"][0]["text"] == "what I said at first"
    assert messages[other["id"]]["content"] == {"id": other["id"], "deleted": True}
    assert messages[other["id"]]["held"][0]["text"] == "bob's"
    released = await place.run("chat", "release", "--tenant", "acme", "--room", ROOM)
    assert released.stdout == "released\n"
    assert await place.rows("SELECT count(*) FROM chat_held") == [(0,)]
    await deleted(place, 2)
    assert {"chat_hold", "chat_release"} <= {act for act, _, _ in await acts(place)}


async def test_what_a_held_user_said_stays_and_the_log_after_it(place):
    place.start(chat_retention_s=3600, chat_retention_pause_s=0.05)
    alice, bob = await place.member("alice"), await place.member("bob")
    for ws, text in ((bob, "one"), (alice, "two"), (bob, "three"), (bob, "four")):
        await send(ws, text)
    await place.run("chat", "hold", "--tenant", "acme", "--user", "alice", "--reason", "case 8")
    await age(place, '"offset" > 0')
    await deleted(place, 1)
    assert [row[0] for row in await place.rows("SELECT text FROM chat_messages ORDER BY id")] == [
        "two",
        "three",
        "four",
    ]
