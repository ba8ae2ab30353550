"""The relay's straight way: a message alone in its frame and one among others must come to the same.

Alone, a repeated publication goes from its text to the room without an object of its own; among others every
message takes the general way. Random conversations are held both ways and compared.
"""

import json
import random

import pytest

from realtime.core.limits import Limits
from tests.core.world import World

ROOMS = ["chat:lobby", "chat:other", "events:é", "user:alice", "nowhere", "chat:"]
TYPES = ["chat_message", "publish", "ping", "join", "leave", "nonsense", "chat_typing", "music_play"]
CONTENTS = [
    *("{}", "null", '"x"', "[1,\n 2]", '{"text":"hi"}'),
    *('{"a":1,"a":2}', "NaN", '"\\ud800"', '"%s"' % ("x" * 600)),
]
IDS = ["1", '"m1"', "-7", '"\\u00e9"', "1.5", '""', "null", '"%s"' % ("i" * 65)]


def message(chance: random.Random) -> str:
    """One message, mostly a sound publication, with its keys in any order."""
    fields = {
        "type": json.dumps(chance.choice([*TYPES[:2] * 4, *TYPES])),
        "room": json.dumps(chance.choice([*ROOMS[:1] * 5, *ROOMS]), ensure_ascii=chance.random() < 0.3),
        "content": chance.choice(CONTENTS),
        "id": chance.choice([*IDS[:2] * 4, *IDS]),
        "key": f'"k{chance.randrange(3)}"',
        "timestamp": '"1999-01-01T00:00:00Z"',
    }
    for name, likely in [("room", 0.95), ("content", 0.9), ("id", 0.7), ("key", 0.1), ("timestamp", 0.3)]:
        if chance.random() > likely:
            del fields[name]
    if chance.random() < 0.05:
        fields.pop("type")
    names = list(fields)
    if chance.random() < 0.3:
        chance.shuffle(names)
    return "{" + ",".join(f'"{name}":{fields[name]}' for name in names) + "}"


def hold(texts: list[list[str]], *, alone: bool, **rates: float) -> list[list[dict]]:
    """Let three members, one of them in two rooms and one reading MessagePack, say all of it."""
    world = World(limits=Limits(content_bytes=500, messages_per_frame=100, errors_burst=1000, **rates))
    members = [world.member("alice"), world.member("bob"), world.member("carol", variant=1)]
    for member in members:
        member.join("chat:lobby")
    members[0].join("chat:other")
    for said in texts:
        for who, member in enumerate(members[:2]):
            mine = said[who::2]
            for frame in mine if alone else ["\n".join(mine)]:
                if frame:
                    member.send_bytes(frame.encode())
    return [[comparable(each) for each in member.read()] for member in members]


@pytest.mark.parametrize("seed", range(60))
def test_a_message_comes_to_the_same_alone_and_among_others(seed):
    chance = random.Random(seed)
    texts = [[message(chance).replace("\n", " ") for _ in range(chance.randrange(1, 30))] for _ in range(6)]
    assert hold(texts, alone=True) == hold(texts, alone=False)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_over_a_shared_rate_is_the_same_alone_and_among_others(seed):
    chance = random.Random(seed)
    texts = [[message(chance).replace("\n", " ") for _ in range(chance.randrange(1, 30))] for _ in range(6)]
    rates = {
        "messages_per_second_per_user": chance.choice([0, 10, 30]),
        "deliveries_per_second_per_user": chance.choice([0, 20, 60]),
        "deliveries_per_second_per_tenant": chance.choice([0, 40]),
        "rate_burst_s": 1.0,
    }
    assert hold(texts, alone=True, **rates) == hold(texts, alone=False, **rates)


def comparable(message: dict) -> dict:
    """Leave out what each world draws anew, its epochs, and where in its frame a bad message stands."""
    message.pop("epoch", None)
    if isinstance(message["content"], dict):
        message["content"].pop("epoch", None)
        if message["type"] == "error" and message["content"]["name"] == "bad_message":
            message["content"].pop("message")
    return message


def test_a_room_left_is_left_on_the_straight_way_too(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join("chat:lobby")
    bob.join("chat:lobby")
    for _ in range(3):
        assert alice.publish("chat:lobby")["offset"]
    alice.ask("leave", room="chat:lobby")
    assert alice.ask("chat_message", room="chat:lobby", content={})["content"]["name"] == "not_joined"
