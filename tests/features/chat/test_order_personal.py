"""A user of the chat is handed out and erased, and leaves no trace, on both stores."""

import asyncio
import json
import os
import subprocess
import sys

from tests.conftest import ROOT
from tests.features.chat.ordered import ROOM, put, send

MARKER = "planted-9c41"


async def talk(place) -> list[dict]:
    """Alice, whose name is nobody else's, leaves traces wherever the chat keeps any."""
    alice, bob = await place.member("alice-7d2e"), await place.member("bob")
    mod = await place.member("mona-5a", "mod")
    said = [await send(alice, f"{MARKER} {number}") for number in range(3)]
    bobs = await send(bob, "bob's own words")
    await send(bob, "@alice-7d2e")
    await put(alice, "chat_report", id=bobs["id"], reason=f"{MARKER} reason")
    await put(mod, "chat_hide", id=said[1]["id"], hidden=True)
    await put(alice, "chat_appeal", id=said[1]["id"], text=f"{MARKER} appeal")
    await put(alice, "chat_react", id=bobs["id"], emoji="+1")
    return said


async def everything(place) -> bytes:
    """All that the store keeps, as bytes."""
    if place.url is None:
        return place.contents()
    tables = await place.rows(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'realtime' "
        "AND table_name LIKE 'chat%' OR table_name = 'publications'"
    )
    return b"".join([repr(await place.rows(f"SELECT * FROM {name}")).encode() for (name,) in tables])


async def test_a_user_is_exported_with_what_they_left_and_then_erased_without_a_trace(place):
    place.start()
    await talk(place)
    place.server.stop()
    done = await place.run("user", "export", "alice-7d2e", "--tenant", "acme")
    kept = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = {line["kept"] for line in kept}
    assert {"publication", "chat_report", "chat_hidden_message"} <= kinds, done
    assert f"{MARKER} 1" in json.dumps([line for line in kept if line["kept"] == "chat_hidden_message"])
    erased = await place.run("user", "erase", "alice-7d2e", "--tenant", "acme")
    assert erased.returncode == 0, erased
    counted = json.loads(erased.stdout)
    assert counted["features"]["chat_report"] == 2
    left = await everything(place)
    assert b"bob's own words" in left
    assert MARKER.encode() not in left
    # In the words of others it stays: they are theirs.
    named = left.replace(b"@alice-7d2e", b"")
    assert b"alice-7d2e" not in named
    again = await place.run("user", "export", "alice-7d2e", "--tenant", "acme")
    assert {json.loads(line)["kept"] for line in again.stdout.splitlines()} <= {"audit"}
    place.server.start()
    bob = await place.member("bob")
    shown = (await put(bob, "history", limit=50))["messages"]
    assert MARKER not in json.dumps(shown)
    assert len({push["offset"] for push in shown}) == len(shown)


async def test_an_erasure_that_is_killed_is_finished_by_the_next_one(place):
    place.start()
    await talk(place)
    place.server.stop()
    arguments = [sys.executable, "-m", "realtime", "user", "erase", "alice-7d2e", "--tenant", "acme"]
    for lines in range(1, 4):
        process = subprocess.Popen(
            arguments,
            env=os.environ | place.variables,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # Killed while it works: at another point each time, wherever the machine is just then.
        try:
            await asyncio.to_thread(process.wait, 0.25 * lines)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    done = await place.run("user", "erase", "alice-7d2e", "--tenant", "acme")
    assert done.returncode == 0, done
    left = await everything(place)
    assert MARKER.encode() not in left
    assert b"alice-7d2e" not in left.replace(b"@alice-7d2e", b"")


async def test_a_room_is_exported_whole_or_not_at_all(place):
    place.start()
    said = await talk(place)
    out = place.folder / "out"
    done = await place.run("chat", "export", "--tenant", "acme", "--room", ROOM, str(out))
    assert done.returncode == 0, done
    lines = [json.loads(line) for line in (out / "export.jsonl").read_text().splitlines()]
    assert json.loads(done.stdout)["lines"] == len(lines)
    kinds = [line["kept"] for line in lines]
    assert (kinds.count("room"), kinds.count("message"), kinds.count("report")) == (1, 5, 2)
    hidden = next(line for line in lines if line.get("id") == said[1]["id"])
    assert hidden["content"]["text"] == f"{MARKER} 1"
    assert hidden["hidden"]
    again = await place.run("chat", "export", "--tenant", "acme", "--room", ROOM, str(out))
    assert (again.returncode, "already" in again.stderr) == (1, True)
    nowhere = await place.run(
        "chat", "export", "--tenant", "acme", "--room", "chat:no", str(place.folder / "x")
    )
    assert nowhere.returncode == 1
    mine = await place.run("chat", "export", "--tenant", "acme", "--user", "bob", str(place.folder / "bob"))
    assert mine.returncode == 0, mine
    texts = (place.folder / "bob/export.jsonl").read_text()
    assert "bob's own words" in texts
    assert MARKER not in texts
