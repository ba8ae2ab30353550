"""Lost connections: who lingers in a room, for how long, and what the others are told meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime.core.limits import Limits
from tests.core.workers import Watcher
from tests.core.world import World

LOBBY = "chat:lobby"
GRACE_S = 10.0


@pytest.fixture
def world() -> World:
    return World(limits=Limits(presence_grace_s=GRACE_S, connections_per_user=100))


@pytest.fixture
def alice(world: World) -> Watcher:
    return Watcher(world.member("alice"), LOBBY)


def test_who_lost_the_connection_is_gone_exactly_when_the_grace_period_ends(world, alice):
    bob = world.member("bob")
    bob.join(LOBBY)
    world.pass_time(1)
    bob.leave()
    world.pass_time(GRACE_S - 0.01)
    assert alice.read().left == []
    assert alice.member.ask("presence", room=LOBBY)["content"] == {"members": ["alice", "bob"], "count": 2}
    world.pass_time(0.01)
    assert alice.read().left == ["bob"]
    assert alice.names == ["alice"]


def test_who_comes_back_in_time_was_never_gone(world, alice):
    bob = world.member("bob")
    bob.join(LOBBY)
    world.pass_time(1)
    alice.read()
    bob.leave()
    world.pass_time(GRACE_S - 1)
    again = world.member("bob")
    assert again.join(LOBBY)["members"] == ["alice", "bob"]
    world.pass_time(3 * GRACE_S)
    assert (alice.read().left, alice.joined.count("bob")) == ([], 1)
    again.ask("leave", room=LOBBY)
    world.pass_time(0.2)
    assert alice.read().left == ["bob"]


def test_a_second_loss_begins_a_grace_period_of_its_own(world, alice):
    for _ in range(2):
        bob = world.member("bob")
        bob.join(LOBBY)
        world.pass_time(1)
        bob.leave()
        world.pass_time(GRACE_S - 1)
    assert alice.read().left == []
    world.pass_time(1)
    assert alice.read().left == ["bob"]


def test_who_says_leave_is_gone_at_once(world, alice):
    bob = world.member("bob")
    bob.join(LOBBY)
    world.pass_time(1)
    bob.ask("leave", room=LOBBY)
    bob.leave()
    world.pass_time(0.2)
    assert alice.read().left == ["bob"]
    assert world.core.stats()["lingering_users"] == 0


def test_who_is_gone_for_good_does_not_linger(world, alice):
    bob = world.member("bob")
    bob.join(LOBBY)
    world.pass_time(1)
    bob.leave(for_good=True)
    world.pass_time(0.2)
    assert alice.read().left == ["bob"]


def kick(world: World, *given: Any, **options: Any) -> None:
    """Carry out a kick to its end."""
    asyncio.run(world.core.control.kick(*given, **options))


def test_who_is_kicked_is_out_of_all_rooms_before_the_connection_is_gone(world, alice):
    bob = world.member("bob")
    bob.join(LOBBY)
    bob.join("chat:attic")
    world.pass_time(1)
    kick(world, "bob")
    world.pass_time(0.2)
    assert alice.read().left == ["bob"]
    assert world.core.stats()["rooms"] == 1
    bob.leave(for_good=True)
    world.pass_time(1)
    assert (alice.read().left, world.core.stats()["lingering_users"]) == (["bob"], 0)


def test_who_is_kicked_and_may_come_back_lingers(world, alice):
    bob = world.member("bob")
    bob.join(LOBBY)
    world.pass_time(1)
    kick(world, "bob", code=4000)
    bob.leave()
    world.pass_time(1)
    assert alice.read().left == []


def test_whoever_lingers_and_is_kicked_is_gone_at_once_in_all_rooms_of_the_tenant(world, alice):
    other = Watcher(world.member("alice", tenant="other"), LOBBY)
    for tenant in ("default", "other"):
        for name in ("bob", "carol"):
            member = world.member(name, tenant=tenant)
            member.join(LOBBY)
            member.join("chat:attic")
            member.leave()
    world.pass_time(1)
    kick(world, "bob")
    world.pass_time(1)
    assert (alice.read().names, other.read().names) == (["alice", "carol"], ["alice", "bob", "carol"])
    asyncio.run(world.core.control.kick_tenant("other"))
    world.pass_time(1)
    assert world.core.stats()["lingering_users"] == 2
    assert world.core.stats()["rooms"] == 2


def test_who_lingers_and_is_revoked_is_gone_at_once(world, alice):
    bob = world.member("bob")
    bob.join(LOBBY)
    bob.leave()
    world.pass_time(1)
    asyncio.run(world.core.control.revoke(user="bob"))
    world.pass_time(0.2)
    assert alice.read().left == ["bob"]


def test_while_one_connection_of_a_user_stays_the_loss_of_another_is_nothing(world, alice):
    first, second = world.member("bob"), world.member("bob")
    first.join(LOBBY)
    second.join(LOBBY)
    world.pass_time(1)
    first.leave()
    world.pass_time(2 * GRACE_S)
    assert alice.read().left == []
    second.ask("leave", room=LOBBY)
    world.pass_time(0.2)
    assert alice.read().left == ["bob"]


def test_a_room_with_nobody_but_who_may_come_back_lives_until_the_grace_period_ends(world):
    bob = world.member("bob")
    joined = bob.join("chat:attic")
    bob.publish("chat:attic", "kept")
    bob.leave()
    world.pass_time(GRACE_S - 1)
    assert world.core.stats()["rooms"] == 1
    late = world.member("carol").join("chat:attic")
    assert (late["members"], late["epoch"]) == (["bob", "carol"], joined["epoch"])
    world.pass_time(2)
    assert world.core.stats()["rooms"] == 1


def test_when_everybody_is_gone_and_the_grace_period_over_nothing_is_left(world):
    for number in range(20):
        member = world.member(f"user-{number}", tenant=f"tenant-{number % 3}")
        member.join(f"chat:{number % 5}")
        member.leave()
    world.pass_time(GRACE_S)
    stats = world.core.stats()
    assert (stats["rooms"], stats["tenants"], stats["lingering_users"]) == (0, 0, 0)


def test_above_the_most_that_may_linger_those_are_gone_at_once_who_went_first():
    world = World(limits=Limits(presence_grace_s=GRACE_S, presence_lingering=2))
    alice = Watcher(world.member("alice"), LOBBY)
    members = [world.member(name) for name in ("bob", "carol", "dave")]
    for member in members:
        member.join(LOBBY)
        member.join(f"chat:{member.session.identity.user}")
    world.pass_time(1)
    for member in members:
        member.leave()
    world.pass_time(1)
    assert alice.read().names == ["alice", "dave"]
    stats = world.core.stats()
    assert (stats["lingering_users"], stats["rooms"]) == (2, 2)


def test_where_nobody_may_linger_rooms_end_with_their_last_member():
    world = World(limits=Limits(presence_grace_s=GRACE_S, presence_lingering=0))
    member = world.member("bob")
    member.join(LOBBY)
    member.leave()
    world.pass_time(1)
    assert (world.core.stats()["rooms"], world.core.stats()["tenants"]) == (0, 0)


def test_in_a_room_that_tells_nobody_who_is_there_nobody_lingers(world):
    member = world.member("bob")
    member.join("user:bob")
    member.leave()
    assert (world.core.stats()["rooms"], world.core.stats()["lingering_users"]) == (0, 0)


def test_ten_thousand_who_linger_cost_their_end_and_no_tick_before(world, alice):
    members = [world.member(f"user-{number}") for number in range(10_000)]
    for member in members:
        member.join(LOBBY)
    for member in members:
        member.leave()
    world.pass_time(GRACE_S)
    assert alice.read().count == 5001, "half of them a tick"
    world.pass_time(0.1)
    world.pass_time(1)
    assert alice.read().count == 1
