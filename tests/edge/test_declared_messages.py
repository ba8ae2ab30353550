"""What a real server sends holds exactly what `protocol.messages` declares, so that the reference is true."""

import json

import msgspec
import pytest
from websockets.sync.client import ClientConnection, connect

from realtime.protocol.messages import FROM_SERVER
from tests.conftest import Server

TIMEOUT_S = 60.0


def receive(connection: ClientConnection) -> dict[str, object]:
    """Return the next message; fail where it has what is not declared, or lacks what is."""
    message = json.loads(connection.recv(TIMEOUT_S))
    declared = FROM_SERVER[message["type"]]
    content = msgspec.convert(message["content"], declared.content)
    assert msgspec.to_builtins(content) == message["content"]
    if declared.room == "named" and message["type"] != "ack":
        assert isinstance(message["room"], str)
    return message


def ask(connection: ClientConnection, **message: object) -> dict[str, object]:
    """Return the answer to a message, past the pushes before it."""
    connection.send(json.dumps(message))
    while (answer := receive(connection)).get("id") != message["id"]:
        pass
    return answer


@pytest.fixture
def alice(server):
    with connect(f"{server.ws_url}/alice", compression=None) as connection:
        yield connection


def test_every_answer_holds_what_is_declared(alice: ClientConnection, server: Server):
    assert receive(alice)["type"] == "connected"
    room = "events:declared"
    assert ask(alice, type="join", id=1, room=room)["type"] == "joined"
    position = ask(alice, type="join", id=2, room=room)["content"]
    assert ask(alice, type="presence", id=3, room=room)["type"] == "presence"
    assert ask(alice, type="history", id=4, room=room, content={"limit": 5})["type"] == "history"
    assert ask(alice, type="ping", id=5)["type"] == "pong"
    since = {"offset": position["offset"], "epoch": position["epoch"]}
    assert ask(alice, type="join", id=6, room=room, content={"since": since})["content"]["recovered"] is True
    assert ask(alice, type="passive", id=9, room=room)["content"] == since
    assert ask(alice, type="nonsense", id=7)["type"] == "error"
    assert ask(alice, type="publish", id=10, room=room)["type"] == "ack"
    while (unread := receive(alice))["type"] != "unread":
        pass
    assert unread["content"] == {"count": 1, "offset": since["offset"] + 1, "epoch": since["epoch"]}
    assert ask(alice, type="leave", id=8, room=room)["type"] == "ack"


def test_a_publication_is_acknowledged_as_declared_and_pushed_as_the_protocol_says(alice: ClientConnection):
    receive(alice)
    room = "events:declared-push"
    ask(alice, type="join", id=1, room=room)
    alice.send(json.dumps({"type": "publish", "id": 2, "room": room, "content": {"n": 1}}))
    kinds = {}
    while len(kinds) < 2:
        message = json.loads(alice.recv(TIMEOUT_S))
        if message["type"] in ("publish", "ack"):
            kinds[message["type"]] = message
    assert msgspec.convert(kinds["ack"]["content"], FROM_SERVER["ack"].content).offset == 1
    push = kinds["publish"]
    assert list(push) == ["type", "room", "from", "offset", "epoch", "content", "timestamp"]
    assert (push["from"], push["offset"], push["content"]) == ("alice", 1, {"n": 1})
