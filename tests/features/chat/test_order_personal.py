"""A user of the chat is handed out and erased, and leaves no trace, on both stores."""

import asyncio
import contextlib
import json
import os
import sys
import urllib.parse
from asyncio.subprocess import PIPE

from tests.conftest import ROOT
from tests.features.chat.ordered import ROOM, put, send
from tests.features.chat.uploader import patch

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
    arguments = ["-m", "realtime", "user", "erase", "alice-7d2e", "--tenant", "acme"]
    for number in range(1, 4):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=os.environ | place.variables, cwd=ROOT, stdout=PIPE, stderr=PIPE
        )
        # Killed while it works: at another point each time, wherever the machine is just then.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.3 * number)
        if process.returncode is None:
            process.kill()
        await process.communicate()
    done = await place.run("user", "erase", "alice-7d2e", "--tenant", "acme")
    assert done.returncode == 0, done
    left = await everything(place)
    assert MARKER.encode() not in left
    assert b"alice-7d2e" not in left.replace(b"@alice-7d2e", b"")


async def test_attachments_are_exported_and_an_erased_user_has_none(place):
    place.start()
    alice = await place.member("alice-7d2e")
    asked = await put(alice, "chat_upload", name="a letter of alice-7d2e.txt", bytes=5)
    url = urllib.parse.urljoin(place.server.url, asked["url"])
    status, _, _ = await asyncio.to_thread(patch, url, 0, b"hello")
    assert status == 204
    said = await send(alice, "see this", attachments=[asked["id"]])
    out = place.folder / "out"
    done = await place.run("chat", "export", "--tenant", "acme", "--room", ROOM, str(out))
    assert done.returncode == 0, done
    lines = [json.loads(line) for line in (out / "export.jsonl").read_text().splitlines()]
    (attachment,) = [line for line in lines if line["kept"] == "attachment"]
    assert (attachment["message"], attachment["name"]) == (said["id"], "a letter of alice-7d2e.txt")
    assert (out / attachment["file"]).read_bytes() == b"hello"
    place.server.stop()
    erased = await place.run("user", "erase", "alice-7d2e", "--tenant", "acme")
    assert json.loads(erased.stdout)["features"]["chat_attachment"] == 1
    ((name, removed),) = await place.rows("SELECT name, removed_ms FROM chat_files")
    assert (name, removed > 0) == ("", True)
    assert b"alice-7d2e" not in await everything(place)


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
