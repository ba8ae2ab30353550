"""The chat where it does not run: without a store its plain types are events as others are, as they are in
rooms of other kinds; and its README tells the truth.
"""

import re
from pathlib import Path

import pytest

from realtime.features.chat import FEATURE
from realtime.features.chat.rules import NOTICE
from realtime.settings import KNOBS
from tests.core.world import World

README = (Path(__file__).parents[3] / "realtime/features/chat/README.md").read_text()
TABLE = re.compile(r"CREATE (?:VIRTUAL )?TABLE (\w+)")
PLAIN = [message for message in FEATURE.messages if message.plain]
OTHERS = [message for message in FEATURE.messages if not message.plain]


@pytest.mark.parametrize("message", PLAIN, ids=lambda message: message.name)
@pytest.mark.parametrize("room", ["events:news", "chat:lobby", "session:friday", "playlist:p1", "user:alice"])
def test_every_plain_type_reaches_the_members_of_every_room(message, room):
    alice = World().member("alice")
    alice.join(room)
    alice.publish(room, {"any": ["thing"]}, type=message.name)
    (push,) = alice.pushes(message.name)
    assert (push["type"], push["room"], push["content"]) == (message.name, room, {"any": ["thing"]})
    assert ("offset" in push) == (not message.ephemeral)


def test_these_are_the_plain_types_of_the_users_api():
    assert {message.name for message in PLAIN} == {
        "chat_message",
        "chat_typing",
        "chat_read_receipt",
        "chat_presence",
    }


def test_the_plain_message_of_the_users_api_works_as_it_stands():
    world = World()
    alice, bob = world.member("alice"), world.member("bob")
    alice.join("chat:room123")
    bob.join("chat:room123")
    alice.send_bytes(
        b'{"type": "chat_message", "content": {"text": "Great song!", "chat_room_id": "room123"}, '
        b'"timestamp": "2025-07-15T10:30:00Z"}'
    )
    (push,) = bob.pushes()
    assert (push["room"], push["from"], push["content"]["text"]) == ("chat:room123", "alice", "Great song!")


@pytest.mark.parametrize("message", OTHERS, ids=lambda message: message.name)
def test_what_needs_a_store_says_so(message):
    alice = World().member("alice")
    alice.join("chat:lobby")
    answer = alice.ask(message.name, room="chat:lobby", content={})
    assert answer["content"]["name"] in ("unavailable", "bad_message"), answer
    assert "store" in answer["content"]["message"] or answer["content"]["name"] == "bad_message"


def test_nobody_says_what_the_server_says():
    alice = World().member("alice")
    alice.join("chat:lobby")
    assert alice.error(NOTICE, room="chat:lobby", content={}) == "unknown_type"


# -- the README ---------------------------------------------------------------------------------------------


def test_the_readme_names_every_message_and_no_other():
    told = set(re.findall(r"`(chat_\w+)`", README))
    types = {message.name for message in FEATURE.messages}
    known = {*types, *FEATURE.permissions, *FEATURE.room_keys, NOTICE}
    knobs = set(KNOBS)
    tables = {name for sql in FEATURE.migrations.rglob("*.sql") for name in TABLE.findall(sql.read_text())}
    assert types - told == set(), "the README does not tell of these"
    assert told - known - knobs - tables == set(), "the README tells of what there is not"


def test_the_readme_names_every_kind_and_what_it_has():
    section = README.split("## Rooms\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    told = {row[0].strip("`"): (row[2] == "yes", row[3] == "yes") for row in rows if len(row) == 4}
    assert {kind.name: told.get(kind.name) for kind in FEATURE.kinds} == {
        kind.name: (kind.presence, kind.durable) for kind in FEATURE.kinds
    }


def test_the_readme_names_the_room_keys():
    for key, kind in FEATURE.room_keys.items():
        assert f"| `{key}` | `{kind}:…` |" in README
