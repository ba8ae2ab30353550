"""The two codecs, and reading what the server says."""

import msgspec
import pytest

from realtime.client.errors import UnknownError, UnknownTemporaryError, from_wire
from realtime.client.wire import JsonCodec, Message, MsgpackCodec, unix_s, user_ids
from realtime.errors import Forbidden, Internal, RateLimited, Unauthorized


@pytest.fixture(params=[JsonCodec, MsgpackCodec])
def codec(request):
    return request.param()


@pytest.mark.parametrize("count", [1, 2, 50])
def test_what_is_framed_together_is_read_one_by_one(codec, count):
    sent = [{"type": "chat_message", "id": number, "content": {"text": "hé\n😀"}} for number in range(count)]
    read = codec.decode(codec.frame([codec.encode(message) for message in sent]))
    assert [message.id for message in read] == list(range(count))
    assert all(message.content == {"text": "hé\n😀"} for message in read)


def test_a_json_frame_has_one_message_a_line():
    codec = JsonCodec()
    assert codec.frame([b'{"type":"a"}', b'{"type":"b"}']) == '{"type":"a"}\n{"type":"b"}'


def test_a_push_is_read_with_its_place_and_sender(codec):
    push = {"type": "x", "room": "chat:a", "from": "al", "offset": 3, "epoch": "e", "content": 1, "new": 2}
    read = codec.decode(codec.frame([codec.encode(push)]))
    assert read == [Message("x", 1, "chat:a", "al", 3, "e")]


@pytest.mark.parametrize("frame", ["{", '{"content":1}', "[]", b"\xc1", b"\x93"])
def test_a_frame_that_is_none_is_a_decode_error(codec, frame):
    with pytest.raises(msgspec.DecodeError):
        codec.decode(frame)


@pytest.mark.parametrize(
    ("content", "kind", "retryable"),
    [
        ({"name": "forbidden", "message": "no"}, Forbidden, False),
        ({"name": "unauthorized"}, Unauthorized, False),
        ({"name": "rate_limited", "retry_after": 2}, RateLimited, True),
        ({"name": "brand_new", "temporary": True}, UnknownTemporaryError, True),
        ({"name": "brand_new"}, UnknownError, False),
        ({}, Internal, True),
        (None, Internal, True),
    ],
)
def test_an_error_gets_the_class_of_its_name(content, kind, retryable):
    error = from_wire(content)
    assert type(error) is kind
    assert error.retryable is retryable


@pytest.mark.parametrize("name", ["rate_limited", "brand_new"])
def test_an_error_says_when_to_retry_and_which_limit_it_met(name):
    error = from_wire({"name": name, "retry_after": 1.5, "limit": "messages_per_second", "allowed": 10})
    assert (error.retry_after_s, error.limit, error.allowed) == (1.5, "messages_per_second", 10)
    strange = from_wire({"name": name, "retry_after": "soon", "limit": 3, "allowed": None})
    assert (strange.retry_after_s, strange.limit, strange.allowed) == (None, None, None)


@pytest.mark.parametrize(
    ("members", "names"),
    [
        (["a", "b", "a"], ("a", "b")),
        ([{"user_id": "a"}, {"user": "b"}, {"id": "c"}, {}, 3], ("a", "b", "c")),
        (None, ()),
        ("ab", ()),
    ],
)
def test_a_roster_is_read_as_user_ids(members, names):
    assert user_ids(members) == names


def test_a_timestamp_is_read_as_unix_seconds():
    assert unix_s("1970-01-01T00:00:01.500Z") == 1.5
    assert unix_s("yesterday") is None
    assert unix_s(5) is None
