"""What is left of a publication when its sender is erased: the place, and nothing of the person."""

import json

import pytest

from realtime.core.personal import new_pseudonym, stamp, tombstone
from realtime.ids import parse_user

PUSH = {
    "type": "chat_message",
    "room": "chat:lobby",
    "from": "alice",
    "content": {"text": "alice was here"},
    "timestamp": "2026-11-21T09:00:00.123Z",
    "offset": 7,
    "epoch": "mg2x1k3s",
    "something_new": "alice",
}


def left(push: dict | bytes, **known: object) -> dict:
    content = push if isinstance(push, bytes) else json.dumps(push).encode()
    return json.loads(tombstone(content, "alice", "erased-1", known))


def test_the_place_and_the_type_stay_and_the_person_goes():
    assert left(PUSH) == {
        "type": "chat_message",
        "room": "chat:lobby",
        "from": "erased-1",
        "content": {"erased": True},
        "timestamp": "2026-11-21T09:00:00.123Z",
        "offset": 7,
        "epoch": "mg2x1k3s",
    }


def test_in_a_room_of_the_users_own_others_keep_their_names():
    found = left({**PUSH, "room": "user:alice", "from": "bob"})
    assert (found["room"], found["from"]) == ("user:erased-1", "bob")


def test_the_servers_own_has_no_sender_before_or_after():
    push = {name: value for name, value in PUSH.items() if name != "from"}
    assert "from" not in left(push)


@pytest.mark.parametrize("sealed", [b"\xf9sealed", b"", b"[]", b'"alice"'])
def test_one_that_cannot_be_read_keeps_what_the_store_knows_of_it(sealed: bytes):
    known = {"room": "chat:x", "from": "alice", "timestamp": "t", "offset": 3, "epoch": "e"}
    assert left(sealed, **known) == {
        **known,
        "type": "erased",
        "from": "erased-1",
        "content": {"erased": True},
    }


def test_a_pseudonym_is_a_user_id_that_nobody_has_twice():
    assert len({parse_user(new_pseudonym()) for _ in range(1000)}) == 1000


def test_times_are_as_in_messages():
    assert stamp(1_763_717_109_123) == "2025-11-21T09:25:09.123Z"
