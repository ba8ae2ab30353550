"""Each user's connections: the limit of them, its policies, and notifications to all of them."""

import asyncio

import pytest

from realtime.core.auth import Identity
from realtime.core.limits import Limits
from realtime.core.users import user_key
from realtime.errors import CloseCode, ConnectionLimit
from realtime.ids import TenantId, UserId
from tests.core.world import World
from tests.oracles.hub import FakeConnection

REPLACED = (CloseCode.REPLACED, b'{"r":"replaced","limit":"max_connections_per_user","allowed":2}')
ALICE, BOB = Identity(UserId("alice")), Identity(UserId("bob"))


def world_of(most=2, policy="replace"):
    return World(limits=Limits(connections_per_user=most, connection_limit_policy=policy))


def silent(world, identity, key=None):
    """A connection that was let in and has not said anything."""
    connection = FakeConnection(hub=world.hub)
    connection.state = identity
    connection.belong(world.core.admit(identity) if key is None else key)
    return connection


def test_the_one_too_many_is_rejected_and_all_others_stay():
    world = world_of(policy="reject")
    first, second = world.member("alice"), silent(world, ALICE)
    with pytest.raises(ConnectionLimit, match="2 connections"):
        world.member("alice")
    assert first.connection.open
    assert second.open
    assert world.member("bob").connection.open
    assert world.member("alice", tenant="other").connection.open


def test_the_oldest_is_replaced_whether_it_has_spoken_or_not():
    world = world_of()
    oldest, spoken = silent(world, ALICE), world.member("alice")
    third = silent(world, ALICE)
    assert oldest.closed == REPLACED
    fourth = world.member("alice")
    assert spoken.connection.closed == REPLACED
    assert third.open
    assert fourth.connection.open


def test_one_that_is_closing_is_not_replaced_again():
    world = world_of()
    first, second, third = (silent(world, ALICE) for _ in range(3))
    assert (first.open, second.open, third.open) == (False, True, True)
    third.gone()
    world.core.release(ALICE)
    silent(world, ALICE)
    assert second.open


def test_those_that_do_not_finish_closing_are_cut_so_that_they_do_not_pile_up():
    world = world_of(most=2)
    made = [silent(world, ALICE) for _ in range(20)]
    held = [each for each in made if not each.aborted]
    assert [each.open for each in held] == [False, False, True, True]


def test_another_user_with_the_same_key_is_neither_counted_nor_found():
    world = world_of(most=1, policy="reject")
    key = user_key(TenantId("default"), UserId("alice"))
    stranger = silent(world, BOB, key)
    nobody = silent(world, None, key)
    alice = world.member("alice")
    with pytest.raises(ConnectionLimit):
        world.member("alice")
    sent = notify(world, user_id="alice")
    assert sent.connections == 1
    assert [each["type"] for each in alice.read()] == ["notification"]
    assert stranger.sent == nobody.sent == []


def test_a_renewed_token_counts_as_the_same_connection():
    world = world_of(most=1, policy="reject")
    world.tokens["new"] = Identity(UserId("alice"), expires_at=world.clock.time() + 100)
    alice = world.member("alice", expires_in=50)
    assert alice.ask("refresh", content={"token": "new"})["type"] == "ack"
    assert notify(world, user_id="alice").connections == 1
    alice.leave()
    assert notify(world, user_id="alice").connections == 0
    assert world.core.stats()["tenants"] == 0


def test_a_first_message_that_authenticates_may_replace():
    world = world_of(most=1)
    world.tokens["t"] = ALICE
    first, second = world.stranger(), world.stranger()
    assert first.ask("connect", content={"token": "t"})["type"] == "connected"
    assert second.ask("connect", content={"token": "t"})["type"] == "connected"
    assert first.connection.closed[0] == CloseCode.REPLACED
    first.leave()
    assert notify(world, user_id="alice").connections == 1


def test_a_notification_is_encoded_for_each_connection_and_not_for_those_that_close():
    world = world_of(most=9)
    text, packed, closing = world.member("alice"), world.member("alice", variant=1), world.member("alice")
    closing.connection.open = False
    sent = notify(world, user_id="alice", title="é", data={"n": [1]})
    assert sent.connections == 2
    (got,), (same,) = text.read(), packed.read()
    assert got == same
    assert got == {
        "type": "notification",
        "content": {"id": sent.id, "title": "é", "content": "c", "priority": 1, "data": {"n": [1]}},
        "timestamp": "2025-07-15T10:30:00.123Z",
    }
    assert notify(world, user_id="alice").id != sent.id


def notify(world, **what):
    return asyncio.run(world.core.notifications.send_notification(**{"title": "t", "content": "c", **what}))
