"""Names: what is one, what is not, and that a refusal says why."""

import pytest

from realtime.errors import BadMessage
from realtime.ids import id_in_kind, parse_room, parse_tenant, parse_user, room_kind


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("chat:room123", "chat", "room123"),
        ("user:alice", "user", "alice"),
        ("events:a:b:c", "events", "a:b:c"),
        ("playlist:Été 2025 🎶", "playlist", "Été 2025 🎶"),
        ("k" * 32 + ":" + "x" * 167, "k" * 32, "x" * 167),
    ],
)
def test_a_room_is_kind_and_id(text, kind, name):
    room = parse_room(text)
    assert (room, room_kind(room), id_in_kind(room)) == (text, kind, name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not kind:id"),
        ("lobby", "not kind:id"),
        (":lobby", "kind must match"),
        ("Chat:lobby", "kind must match"),
        ("k" * 33 + ":x", "kind must match"),
        ("chat\n:x", "kind must match"),
        ("chat:", "empty"),
        ("chat:a\nb", "unprintable"),
        ("chat:a\u202eb", "unprintable"),
        ("chat:\ud800", "unprintable"),
        ("chat: a", "space"),
        ("chat:a ", "space"),
        ("chat:" + "x" * 196, "over 195 bytes"),
        ("chat:" + "é" * 98, "over 195 bytes"),
    ],
)
def test_what_is_no_room_is_refused_with_the_reason(text, reason):
    with pytest.raises(BadMessage, match=reason):
        parse_room(text)


@pytest.mark.parametrize("text", ["alice", "alice@example.org", "auth0|5f7c", "Ada Lovelace", "名前"])
def test_a_user_id_is_any_printable_text(text):
    assert parse_user(text) == text


@pytest.mark.parametrize("text", ["", " a", "a\t", "\x00", "x" * 129, "é" * 65])
def test_what_is_no_user_id_is_refused(text):
    with pytest.raises(BadMessage, match="user id"):
        parse_user(text)


@pytest.mark.parametrize("text", ["", "a/b", "-a", "a" * 65, "é", "a b", "a\n"])
def test_what_is_no_tenant_is_refused(text):
    with pytest.raises(BadMessage, match="tenant"):
        parse_tenant(text)
