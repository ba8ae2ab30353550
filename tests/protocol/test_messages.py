"""The declared messages: PROTOCOL's list, and that the encoders send what is declared."""

import json
from typing import get_type_hints

import msgspec
import pytest

from realtime.native.envelope import encode_ack, encode_error
from realtime.protocol.messages import (
    FROM_CLIENT,
    FROM_SERVER,
    Ack,
    Content,
    Error,
    Gap,
    History,
    Join,
    Since,
)


def test_all_messages_of_the_protocol_are_declared():
    assert set(FROM_CLIENT) == {
        "connect",
        "refresh",
        "join",
        "leave",
        "passive",
        "publish",
        "presence",
        "history",
        "ping",
    }
    assert set(FROM_SERVER) == {
        "connected",
        "joined",
        "left",
        "token_expiring",
        "ack",
        "presence",
        "history",
        "pong",
        "error",
        "gap",
        "unread",
        "notification",
    }


def test_every_answer_is_a_message_of_the_server():
    assert {each.answer for each in FROM_CLIENT.values()} <= set(FROM_SERVER)
    assert {each.answer for each in FROM_SERVER.values()} == {None}


def test_everything_says_what_it_is_in_a_sentence():
    for each in (*FROM_CLIENT.values(), *FROM_SERVER.values()):
        assert each.description.endswith("."), each.name


def test_every_content_has_a_schema_for_the_reference():
    contents = {each.content for each in (*FROM_CLIENT.values(), *FROM_SERVER.values())} - {None}
    schemas, components = msgspec.json.schema_components(sorted(contents, key=lambda each: each.__name__))
    assert len(schemas) == len(contents)
    assert {each.__name__ for each in contents} <= set(components)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (b"{}", Join()),
        (b'{"since":null}', Join()),
        (b'{"since":{"offset":41,"epoch":"k3f9"},"other":1}', Join(since=Since(offset=41, epoch="k3f9"))),
        (b'{"before":7,"limit":5}', History(before=7, limit=5)),
    ],
)
def test_contents_that_clients_send_are_read(text, content):
    assert msgspec.json.decode(text, type=type(content)) == content


@pytest.mark.parametrize(
    ("text", "type"),
    [
        (b"[]", Join),
        (b'{"since":{"offset":-1}}', Join),
        (b'{"since":{"offset":1.5}}', Join),
        (b'{"since":{"offset":"1"}}', Join),
        (b'{"limit":0}', History),
        (b'{"before":9007199254740993}', History),
    ],
)
def test_contents_out_of_bounds_are_refused(text, type):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=type)


def test_what_the_encoders_send_is_what_is_declared():
    ack = json.loads(encode_ack(b"1", b'"r"', 45, b"k3f9", True))["content"]
    assert msgspec.to_builtins(msgspec.convert(ack, Ack)) == ack
    error = json.loads(encode_error(b"1", 429, "rate_limited", "slow down", True, 1.5))["content"]
    assert msgspec.to_builtins(msgspec.convert(error, Error)) == error


def test_a_gap_names_its_ends_as_the_protocol_does():
    gap = Gap(first=3, last=5, reason="slow_consumer")
    assert msgspec.json.decode(msgspec.json.encode(gap)) == {"from": 3, "to": 5, "reason": "slow_consumer"}


def test_contents_are_frozen():
    for each in Content.__subclasses__():
        assert each.__struct_config__.frozen, each
        assert bool(get_type_hints(each)) == bool(each.__struct_fields__)
