"""Who may do what to whom, and what an owner keeps in memory. No sockets."""

import itertools
from types import SimpleNamespace

import pytest

from realtime.errors import Forbidden, RateLimited
from realtime.features.chat.rooms import contents, powers, rooms
from realtime.features.chat.rooms.state import (
    DELETED,
    DIRECT,
    PRIVATE,
    Role,
    RoomState,
    Standing,
    check_send,
)
from realtime.features.chat.rules import direct_name
from realtime.ids import UserId

ROLES = list(Role)


def allowed(check, *arguments, **named) -> bool:
    try:
        check(*arguments, **named)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(("actor", "target"), [*itertools.product(ROLES, ROLES)])
def test_nobody_acts_on_who_is_above_or_equal(actor, target):
    assert allowed(powers.check_rank, actor, target) is (target < actor)


def test_who_makes_what_of_whom():
    given = {
        (actor, target, wanted)
        for actor, target, wanted in itertools.product(ROLES, ROLES, ROLES)
        if allowed(powers.check_role, actor, target, wanted, oneself=False)
    }
    assert {actor for actor, _, _ in given} == {Role.MODERATOR, Role.OWNER}
    assert all(target < actor for actor, target, _ in given)
    assert {wanted for actor, _, wanted in given if actor is Role.MODERATOR} == set(ROLES[:3])
    assert {wanted for actor, _, wanted in given if actor is Role.OWNER} == set(ROLES)
    for role, wanted in itertools.product(ROLES, ROLES):
        assert allowed(powers.check_role, role, role, wanted, oneself=True) is (wanted <= role)


def test_who_may_send():
    room, member = RoomState(number=1, slow_s=10), Standing(role=Role.MEMBER, sent_ms=1000)
    with pytest.raises(RateLimited) as caught:
        check_send(room, member, 4000)
    assert caught.value.retry_after_s == 7
    check_send(room, member, 11_000)
    check_send(room, Standing(role=Role.MODERATOR, sent_ms=1000), 4000)
    for state, standing in (
        (RoomState(number=1, archived_ms=1), member),
        (RoomState(number=1, visibility=DELETED), Standing(role=Role.OWNER)),
        (RoomState(number=1, visibility=PRIVATE), Standing()),
        (RoomState(number=1, visibility=DIRECT), Standing()),
        (RoomState(number=1), Standing(role=Role.READER)),
        (RoomState(number=1), Standing(muted_until_ms=5001)),
        (RoomState(number=1), Standing(banned_until_ms=5001)),
    ):
        assert not allowed(check_send, state, standing, 5000)


def test_a_direct_name_follows_from_who_they_are_and_nobody_elses_does():
    a, b, c = UserId("a"), UserId("b"), UserId("c")
    assert direct_name([a, b]) == direct_name([b, a, b])
    assert len({direct_name(users) for users in ([a, b], [a, c], [b, c], [a, b, c], [UserId("ab"), c])}) == 5


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "a\u202eb", "\ud800"])
def test_a_title_is_what_can_be_shown(text):
    assert not allowed(_titled, text)
    assert allowed(_titled, "Straße 👩‍👩‍👧 10\u00a0%")


def _titled(text: str) -> None:
    try:
        contents.check_text("title", text)
    except contents.BadMessage as error:
        raise Forbidden(error.message) from error


class Tables:
    """A database in which nobody is anything."""

    async def read(self, sql, *values):
        if "FROM chat_notices" in sql:
            return []
        return [(7, "v", "public", "", "", 5, "", 0, 0, 0, 0, 0, None, None, None, None)]


def bare() -> rooms.Rooms:
    """The rooms of a worker without anything else."""
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    services = SimpleNamespace(database=Tables(), clock=clock, settings=None)
    return rooms.Rooms(SimpleNamespace(services=services))


async def test_what_an_owner_knows_is_bounded(monkeypatch):
    monkeypatch.setattr(rooms, "ROOMS_MAX", 10)
    monkeypatch.setattr(rooms, "STANDINGS_MAX", 50)
    kept = bare()
    names = [rooms.RoomId("t", f"chat:{n}") for n in range(100)]
    for name in names:
        await kept.own(name)
    assert kept.stats()["chat_rooms_owned"] == 10
    async with kept.turn(names[0]) as held:
        for name in names:
            for n in range(9):
                await kept.standing(name, UserId(f"u{n}"))
        assert await kept.own(names[0]) is held  # a command looks at it
        assert sum(len(each.standings) for each in kept._owned.values()) <= 50
    for n in range(1000):
        await kept.standing(names[0], UserId(f"u{n}"))
        assert (
            kept.stats()["chat_standings_known"] == sum(len(e.standings) for e in kept._owned.values()) <= 50
        )
    kept.disown(range(16_384))
    assert kept.stats() == {"chat_rooms_owned": 0, "chat_standings_known": 0, "chat_rooms_owing": 0}
