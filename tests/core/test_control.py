"""Kicks, revoked tokens, limits and notifications over several workers, without Redis."""

import asyncio

import pytest

from realtime.core.auth import Identity
from realtime.core.cluster import BODY_BYTES_MAX
from realtime.core.limits import Limits
from realtime.core.revocations import FORGET_EVERY_S
from realtime.errors import BadMessage, CloseCode, TooLarge, Unauthorized, Unavailable
from realtime.ids import TenantId, UserId
from realtime.protocol.priority import Priority
from tests.core.ring import FakeWhereabouts, Ring
from tests.core.world import World
from tests.oracles.hub import FakeConnection

KICKED = (CloseCode.DISCONNECTED_BY_SERVER, b'{"r":"kicked"}')
REVOKED = (CloseCode.BAD_TOKEN, b'{"r":"revoked"}')


def run(coroutine):
    return asyncio.run(coroutine)


def two_workers(**options):
    ring = Ring()
    return ring, ring.world("a", **options), ring.world("b", **options)


def silent(world, identity):
    """A connection that was let in and has not said anything."""
    connection = FakeConnection(hub=world.hub)
    connection.state = identity
    connection.belong(world.core.admit(identity, connection.id))
    return connection


# ---------------------------------------------------------------- kicks


def test_a_kick_closes_the_users_connections_on_all_workers_and_counts_them():
    _, here, there = two_workers()
    mine = [here.member("alice"), there.member("alice"), there.member("alice")]
    idle = silent(there, Identity(UserId("alice")))
    others = [there.member("bob"), there.member("alice", tenant="other")]
    assert run(here.core.control.kick("alice")) == 4
    assert [each.connection.closed for each in mine] == [KICKED] * 3
    assert idle.closed == KICKED
    assert all(each.connection.open for each in others)
    assert run(here.core.control.kick("alice")) == 0, "those that are closing are not closed again"


def test_a_kick_says_what_it_is_told_to_say():
    world = World()
    alice = world.member("alice")
    assert run(world.core.control.kick("alice", reason="spam", code=4000)) == 1
    assert alice.connection.closed == (4000, b'{"r":"spam"}')


def test_a_tenant_is_kicked_whole_and_nobody_else():
    _, here, there = two_workers()
    theirs = [here.member("a", tenant="t"), there.member("b", tenant="t")]
    idle = silent(there, Identity(UserId("c"), TenantId("t")))
    other = there.member("a")
    assert run(here.core.control.kick_tenant("t")) == 3
    assert [each.connection.open for each in (*theirs, other)] == [False, False, True]
    assert not idle.open


def test_a_kick_that_not_all_workers_confirm_says_so_and_is_done_on_the_others():
    ring, here, there = two_workers()
    ring.deaf.add("b")
    mine, theirs = here.member("alice"), there.member("alice")
    with pytest.raises(Unavailable, match="1 of 2 workers"):
        run(here.core.control.kick("alice"))
    assert (mine.connection.open, theirs.connection.open) == (False, True)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({"user": ""}, "empty"),
        ({"user": "a", "tenant": "-"}, "tenant"),
        ({"user": "a", "code": 1006}, "1006"),
        ({"user": "a", "code": 5000}, "5000"),
        ({"user": "a", "reason": "\ud800"}, "no text"),
    ],
)
def test_a_kick_of_nobody_or_with_a_code_that_is_none_is_refused(order, says):
    with pytest.raises(BadMessage, match=says):
        run(World().core.control.kick(**order))


# ---------------------------------------------------------------- revoked tokens


def issued(world, ago_s, *, user="alice", token_id=""):
    return Identity(UserId(user), issued_at=world.clock.time() - ago_s, token_id=token_id)


def test_tokens_from_before_are_closed_and_refused_and_later_ones_let_in():
    world = World()
    old, new = silent(world, issued(world, 10)), silent(world, issued(world, 0))
    unknown = silent(world, Identity(UserId("alice")))
    other = silent(world, issued(world, 10, user="bob"))
    run(world.core.control.revoke(user="alice", issued_before=world.clock.time() - 5))
    assert [each.closed for each in (old, unknown)] == [REVOKED] * 2
    assert new.open
    assert other.open
    with pytest.raises(Unauthorized, match="revoked"):
        world.core.admit(issued(world, 6))
    with pytest.raises(Unauthorized, match="revoked"):
        world.core.admit(Identity(UserId("alice")))
    world.core.admit(issued(world, 5))


def test_a_single_token_is_refused_and_its_connections_closed_with_a_tick():
    world = World()
    bad, good = (silent(world, issued(world, 1, token_id=each)) for each in ("t1", "t2"))
    spoken = world.member("alice")
    run(world.core.control.revoke(token_id="t1"))
    with pytest.raises(Unauthorized):
        world.core.admit(issued(world, 1, token_id="t1"))
    world.pass_time(1)
    assert bad.closed == REVOKED
    assert good.open
    assert spoken.connection.open
    assert world.core.admit(Identity(UserId("alice"), TenantId("other"), token_id="t1"))


def test_a_revoked_token_does_not_renew_a_session_which_goes_on_with_the_one_it_has():
    world = World()
    world.tokens["new"] = Identity(UserId("alice"), token_id="t1", expires_at=world.clock.time() + 9)
    alice = world.member("alice")
    run(world.core.control.revoke(token_id="t1"))
    assert alice.error("refresh", content={"token": "new"}) == "unauthorized"
    assert alice.connection.open


def test_a_stranger_with_a_revoked_token_is_told_and_closed():
    world = World()
    world.tokens["t"] = Identity(UserId("alice"), token_id="t1")
    run(world.core.control.revoke(token_id="t1"))
    stranger = world.stranger()
    assert stranger.error("connect", content={"token": "t"}) == "unauthorized"
    assert stranger.connection.closed == (CloseCode.BAD_TOKEN, b'{"r":"unauthorized"}')


def test_of_two_revocations_of_a_user_the_further_goes():
    world = World()
    now = world.clock.time()
    run(world.core.control.revoke(user="alice", issued_before=now - 5, keep_s=1000))
    until = run(world.core.control.revoke(user="alice", issued_before=now - 50, keep_s=10))
    assert until == now + 10
    with pytest.raises(Unauthorized):
        world.core.admit(issued(world, 6))
    world.pass_time(500)
    with pytest.raises(Unauthorized):
        world.core.admit(Identity(UserId("alice"), issued_at=now - 6))


def test_a_revocation_is_forgotten_when_its_tokens_have_ended():
    world = World()
    run(world.core.control.revoke(user="alice", keep_s=10))
    run(world.core.control.revoke(token_id="t1", keep_s=FORGET_EVERY_S * 3))
    assert world.core.stats()["revocations"] == 2
    world.pass_time(FORGET_EVERY_S + 1)
    assert world.core.stats()["revocations"] == 1
    world.core.admit(Identity(UserId("alice")))


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({}, "either"),
        ({"user": "a", "token_id": "t"}, "either"),
        ({"user": " a"}, "space"),
        ({"token_id": ""}, "1 to 256"),
        ({"token_id": "x" * 257}, "1 to 256"),
        ({"token_id": "\ud800"}, "no text"),
        ({"user": "a", "keep_s": 0}, "keep_s"),
        ({"user": "a", "keep_s": float("nan")}, "keep_s"),
        ({"user": "a", "issued_before": -1}, "issued_before"),
        ({"user": "a", "issued_before": float("nan")}, "issued_before"),
    ],
)
def test_a_revocation_of_nothing_or_for_no_time_is_refused(order, says):
    with pytest.raises(BadMessage, match=says):
        run(World().core.control.revoke(**order))


# ---------------------------------------------------------------- counted over workers


def test_connections_are_counted_from_admission_to_their_end_by_number():
    whereabouts = FakeWhereabouts()
    world = World(whereabouts=whereabouts)
    world.tokens["t"] = Identity(UserId("carol"))
    idle = silent(world, Identity(UserId("alice")))
    stranger = world.stranger()
    stranger.ask("connect", content={"token": "t"})
    assert whereabouts.here == [("default", "alice", idle.id), ("default", "carol", stranger.connection.id)]
    world.core.release(idle.state, idle.id)
    stranger.leave()
    assert whereabouts.here == []


@pytest.mark.parametrize(
    ("policy", "closed"),
    [
        ("reject", (4504, b'{"r":"connection_limit","limit":"max_connections_per_user","allowed":2}')),
        ("replace", (4508, b'{"r":"replaced","limit":"max_connections_per_user","allowed":2}')),
    ],
)
def test_the_connection_that_is_one_too_many_over_all_workers_is_closed_and_no_other(policy, closed):
    whereabouts = FakeWhereabouts()
    limits = Limits(connections_per_user=2, connection_limit_policy=policy)
    world = World(limits=limits, whereabouts=whereabouts)
    first, second = silent(world, Identity(UserId("alice"))), silent(world, Identity(UserId("alice")))
    whereabouts.evict(TenantId("default"), UserId("alice"), second.id)
    whereabouts.evict(TenantId("default"), UserId("bob"), first.id)
    whereabouts.evict(TenantId("default"), UserId("alice"), 10**9)
    assert second.closed == closed
    assert first.open


# ---------------------------------------------------------------- notifications


def notify(world, **what):
    notification = {"user_id": "alice", "title": "t", "content": "c", **what}
    return run(world.core.notifications.send_notification(**notification))


def test_a_notification_reaches_the_users_connections_on_the_workers_that_have_them():
    ring, whereabouts = Ring(), FakeWhereabouts()
    here = ring.world("a", whereabouts=whereabouts)
    there, nowhere = ring.world("b"), ring.world("c")
    mine, theirs, packed = here.member("alice"), there.member("alice"), there.member("alice", variant=1)
    unfound = nowhere.member("alice")
    whereabouts.elsewhere = {("default", "alice"): {"a": 9, "b": 2}}
    sent = notify(here, priority=Priority.CRITICAL)
    assert sent.connections == 3, "one here as it is, two there as they were known to be"
    (got,) = mine.read()
    assert theirs.read() == packed.read() == [got]
    assert got["content"]["id"] == sent.id
    assert unfound.read() == []


def test_while_nobody_knows_where_users_are_all_workers_are_told():
    ring, whereabouts = Ring(), FakeWhereabouts()
    here, there = ring.world("a", whereabouts=whereabouts), ring.world("b")
    mine, theirs = here.member("alice"), there.member("alice")
    whereabouts.elsewhere = None
    assert notify(here).connections == 1
    assert len(mine.read()) == len(theirs.read()) == 1


def test_a_notification_over_what_workers_hand_on_is_refused_and_nobody_gets_it():
    limits = Limits(content_bytes=10 * BODY_BYTES_MAX)
    world = Ring().world("a", whereabouts=FakeWhereabouts(), limits=limits)
    alice = world.member("alice")
    with pytest.raises(TooLarge):
        notify(world, content="x" * BODY_BYTES_MAX)
    assert alice.read() == []
