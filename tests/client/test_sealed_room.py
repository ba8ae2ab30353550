"""Sealed rooms of the Python client on a real server: members read, the server and its disk cannot."""

import asyncio
import json
import os
import signal
import uuid
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as dial

import realtime
from realtime.backends.redis_nodes import RedisCluster
from realtime.client import (
    CannotSeal,
    Gap,
    Key,
    Keyring,
    Message,
    Options,
    Place,
    Resumed,
    Room,
    Unreadable,
    connect,
)
from realtime.errors import BadMessage, Forbidden
from realtime.settings import Settings
from tests.edge.peer import ask, receive
from tests.edge.workers import deployment

AT_ONCE = Options(uniform=lambda: 0.0)
POLICY = '[[rooms]]\nrooms = ["chat:secret-*", "events:secret-*"]\nend_to_end = true\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def sealed(serve, path: Path, tmp_path: Path):
    """A server with sealed rooms, on a disk of its own."""
    return serve(policy_path=path, sqlite_path=tmp_path / "store.db", reconnect_min_ms=0, reconnect_max_ms=50)


@pytest.fixture
def key() -> Key:
    return Key.generate("k1")


def ring(*keys: Key) -> Keyring:
    """A keyring of its own, of the same secrets."""
    return Keyring(Key.from_jwk(key.to_jwk()) for key in keys)


async def heard(room: Room, count: int) -> list:
    """The contents of the next messages."""
    found: list = []
    async with asyncio.timeout(60):
        async for message in room:
            found.append(message if isinstance(message, Gap) else message.content)
            if len(found) == count:
                return found
    return found


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_members_hear_each_other_and_the_disk_holds_none_of_it(sealed, key, tmp_path, codec):
    marker = uuid.uuid4().hex
    said = {"text": f"{marker} 😀", "n": [1, None]}
    async with (
        connect(sealed.ws_url, user="ada", codec=codec) as ada,
        connect(sealed.ws_url, user="bo") as bo,
    ):
        hers = await ada.join("chat:secret-a", keys=ring(key))
        his = await bo.join("chat:secret-a", keys=ring(key))
        assert hers.end_to_end
        for _ in range(3):
            assert await hers.publish("chat_message", said)
        assert await heard(his, 3) == [said] * 3
        assert await heard(hers, 3) == [said] * 3
        assert [each.content for each in (await his.history()).messages] == [said] * 3
        open_room = await ada.join("playlist:open")
        await open_room.publish("chat_message", f"plain {marker}")
    sealed.stop()
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("store.db*"))
    openly = f"plain {marker}".encode()
    assert openly in kept
    assert marker.encode() not in kept.replace(openly, b"")
    assert b'"sealed"' in kept


async def test_over_workers_and_redis_it_is_the_same(serve, redis_cluster, path: Path, key):
    marker = uuid.uuid4().hex
    server = serve(**deployment(redis_cluster.url, workers=2, node="n", policy_path=path))
    async with (
        connect(server.ws_url, user="ada") as ada,
        connect(server.ws_url, user="bo", codec="msgpack") as bo,
        connect(server.ws_url, user="cy") as cy,
    ):
        rooms = [await each.join("events:secret-a", keys=ring(key)) for each in (ada, bo, cy)]
        for room in rooms:
            await room.publish("publish", {"text": marker})
        for room in rooms:
            assert await heard(room, 3) == [{"text": marker}] * 3
        prefix, settings = server.settings["redis_prefix"], Settings(policy_path=str(path))
        async with realtime.Publisher(redis_cluster.url, prefix=prefix, settings=settings) as backend:
            place = Place("default", "events:secret-a", None, "publish")
            await backend.publish(place.room, place.type, ring(key).seal({"from": "the server"}, place))
            with pytest.raises(BadMessage, match="sealed end to end"):
                await backend.publish(place.room, place.type, {"from": "the server"})
        assert await heard(rooms[0], 1) == [{"from": "the server"}]
        await (await ada.join("events:open")).publish("publish", {"text": f"plain {marker}"})
        held = await asyncio.to_thread(everything_in, redis_cluster)
    openly = f"plain {marker}".encode()
    assert openly in held
    assert marker.encode() not in held.replace(openly, b"")


def everything_in(cluster: RedisCluster) -> bytes:
    """All keys of a Redis Cluster and what they hold, as it is."""
    found: list[bytes] = []
    for node in (node for node in cluster.nodes if node.ask("ROLE")[0] == b"master"):
        node.ask("CONFIG", "SET", "rdbcompression", "no")
        found += [bytes(key) + (node.ask("DUMP", key) or b"") for key in node.ask("KEYS", "*")]
        node.ask("CONFIG", "SET", "rdbcompression", "yes")
    return b"".join(found)


async def test_who_has_no_key_sends_nothing_plain_and_sees_what_it_cannot_read(sealed, key):
    async with connect(sealed.ws_url, user="ada") as ada, connect(sealed.ws_url, user="eve") as eve:
        hers = await ada.join("chat:secret-a", keys=ring(key))
        without = await eve.join("chat:secret-a")
        with pytest.raises(CannotSeal, match="join it with keys"):
            await without.publish("chat_message", "words")
        with pytest.raises(CannotSeal):
            without.signal("chat_typing", {})
        await hers.publish("chat_message", "words")
        (content,) = await heard(without, 1)
        assert content.keys() == {"sealed"}
    async with connect(sealed.ws_url, user="eve") as eve:
        other = await eve.join("chat:secret-a", keys=ring(Key.generate("other")))
        (message,) = (await other.history()).messages
        assert message.content == Unreadable("unknown_key", "k1", message.content.content)
        wrong = Keyring([Key.generate("k1")])
        other.keys = wrong
        (message,) = (await other.history()).messages
        assert message.content.why == "broken"


async def test_a_room_with_keys_is_sealed_though_the_server_does_not_ask_for_it(sealed, key):
    async with connect(sealed.ws_url, user="ada") as ada, connect(sealed.ws_url, user="eve") as eve:
        hers = await ada.join("playlist:open", keys=ring(key))
        plain = await eve.join("playlist:open")
        assert not hers.end_to_end
        await hers.publish("chat_message", "words")
        await plain.publish("chat_message", "as if it were ours")
        assert (await heard(plain, 1))[0].keys() == {"sealed"}
        assert await heard(hers, 2) == ["words", Unreadable("not_sealed", None, "as if it were ours")]


async def test_the_server_takes_no_plain_words_from_a_client_that_has_no_manners(sealed):
    async with dial(f"{sealed.ws_url}/eve") as eve:
        joined = await ask(eve, type="join", id=1, room="chat:secret-a")
        assert joined["content"]["end_to_end"] is True
        for content in ("words", {"text": "words"}, {"sealed": {"v": 1}, "text": "words"}):
            answer = await ask(eve, type="chat_message", id=2, room="chat:secret-a", content=content)
            assert answer["content"]["name"] == "bad_message"
            assert "words" not in json.dumps(answer)
        assert (await ask(eve, type="history", id=3, room="chat:secret-a"))["content"]["messages"] == []


async def test_a_message_moved_by_whoever_can_is_found_out(sealed, key):
    """A member without the key takes what was sealed elsewhere, and says it as its own."""
    async with connect(sealed.ws_url, user="ada") as ada, dial(f"{sealed.ws_url}/eve") as eve:
        hers = await ada.join("chat:secret-a", keys=ring(key))
        other = await ada.join("chat:secret-b", keys=ring(key))
        for room in ("chat:secret-a", "chat:secret-b"):
            await ask(eve, type="join", id=1, room=room)
        await hers.publish("chat_message", "I agree")
        while (push := await receive(eve)).get("type") != "chat_message":
            pass
        moves = [
            ("chat:secret-a", "chat_message", hers),  # as eve's own
            ("chat:secret-b", "chat_message", other),
            ("chat:secret-a", "chat_read_receipt", hers),
        ]
        assert await heard(hers, 1) == ["I agree"]
        for room, type, where in moves:
            assert (await ask(eve, type=type, id=2, room=room, content=push["content"]))["type"] == "ack"
            (content,) = await heard(where, 1)
            assert content == Unreadable("broken", "k1", push["content"])


async def test_keys_change_under_a_conversation_and_nothing_is_lost_over_a_restart(sealed, key):
    second = Key.generate("k2")
    async with (
        connect(sealed.ws_url, user="ada", options=AT_ONCE) as ada,
        connect(sealed.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        hers = await ada.join("chat:secret-a", keys=ring(key))
        his = await bo.join("chat:secret-a", keys=ring(key))
        await hers.publish("chat_message", 1)
        for room in (hers, his):
            room.keys.add(Key.from_jwk(second.to_jwk()))
        await hers.publish("chat_message", 2)
        await asyncio.to_thread(sealed.restart)
        await his.publish("chat_message", 3)
        await hers.publish("chat_message", 4)
        assert await heard(his, 4) == [1, 2, 3, 4]
    async with connect(sealed.ws_url, user="late") as late:
        room = await late.join("chat:secret-a", keys=ring(second))
        contents = [each.content for each in (await room.history()).messages]
        assert contents[0] == Unreadable("unknown_key", "k1", contents[0].content)
        assert contents[1:] == [2, 3, 4]


async def test_what_is_missed_while_away_is_opened_too(sealed, key):
    async with connect(sealed.ws_url, user="ada") as ada, connect(sealed.ws_url, user="bo") as bo:
        hers = await ada.join("chat:secret-a", keys=ring(key))
        his = await bo.join("chat:secret-a", keys=ring(key))
        await his.passive()
        for number in range(5):
            await hers.publish("chat_message", number)
        await his.active()
        found: list = []
        async with asyncio.timeout(60):
            async for item in his.events():
                if isinstance(item, Message):
                    found.append(item.content)
                if isinstance(item, Resumed):
                    break
        assert found == list(range(5))


async def test_typing_is_sealed_too(sealed, key):
    async with connect(sealed.ws_url, user="ada") as ada, dial(f"{sealed.ws_url}/eve") as eve:
        hers = await ada.join("chat:secret-a", keys=ring(key))
        await ask(eve, type="join", id=1, room="chat:secret-a")
        hers.signal("chat_typing", {"to": "bo"})
        while (push := await receive(eve)).get("type") != "chat_typing":
            pass
        assert push["content"].keys() == {"sealed"}
        assert await heard(hers, 1) == [{"to": "bo"}]


async def test_who_is_put_out_of_a_room_hears_it_and_does_not_come_back(sealed, path: Path):
    async with connect(sealed.ws_url, user="ada", options=AT_ONCE) as ada:
        room = await ada.join("playlist:open")
        change(sealed, path, '[[access.rules]]\neffect = "deny"\nactions = ["join"]\n')
        with pytest.raises(Forbidden, match="let us out of playlist:open: forbidden"):
            await heard(room, 1)
        assert not room.joined
        with pytest.raises(Forbidden, match="may not join"):
            await ada.join("playlist:open")


async def test_a_room_that_is_sealed_under_a_member_without_a_key_takes_nothing_plain(sealed, path: Path):
    async with connect(sealed.ws_url, user="ada", options=AT_ONCE) as ada:
        room = await ada.join("playlist:open")
        await room.publish("chat_message", "words")
        change(sealed, path, POLICY.replace("events:secret-*", "playlist:open"))
        await asyncio.to_thread(sealed.wait_for_line, "reloaded")
        with pytest.raises(BadMessage, match="sealed end to end"):
            await room.publish("chat_message", "words")


def change(server, path: Path, text: str) -> None:
    """Write another policy, and have the server read it."""
    path.write_text(text)
    os.kill(server.pid, signal.SIGHUP)
