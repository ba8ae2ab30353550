"""What each tenant may take: its own table, everybody's, the settings'; over connections, rooms and rates."""

import pytest

from realtime.core.audit import Action, Outcome
from realtime.core.auth import Identity
from realtime.core.limits import Limits
from realtime.core.quotas import TOLD_EVERY_S, Quota, QuotaBook, QuotaRefusals
from realtime.errors import ConnectionLimit
from realtime.ids import TenantId, UserId
from realtime.policy import Quotas
from tests.core.world import World
from tests.oracles.hub import FakeClock

LENIENT = {"connections_per_user": 100, "errors_burst": 1e6}
ACME, GLOBEX = TenantId("acme"), TenantId("globex")


def acks(member, count):
    """Publish so often; return how many were taken, and the last refusal."""
    taken, refusal = 0, None
    for _ in range(count):
        answer = member.ask("chat_message", room="chat:lobby", content="x")
        if answer["type"] == "ack":
            taken += 1
        else:
            refusal = answer["content"]
    return taken, refusal


# -- whose table holds --------------------------------------------------------------------------------------


def test_a_field_comes_from_the_tenants_table_or_everybodys_or_the_setting():
    book = QuotaBook(
        Quota(connections=1, rooms=2, storage_bytes=3, burst_s=4.0),
        {"*": Quotas(rooms=20, storage_bytes=30), "acme": Quotas(storage_bytes=300)},
    )
    assert book.of(ACME) == Quota(connections=1, rooms=20, storage_bytes=300, burst_s=4.0)
    assert book.of(GLOBEX) == Quota(connections=1, rooms=20, storage_bytes=30, burst_s=4.0)


def test_a_tenants_0_lifts_everybodys_limit_from_it():
    book = QuotaBook(tables={"*": Quotas(connections=5), "acme": Quotas(connections=0)})
    assert (book.of(ACME).connections, book.of(GLOBEX).connections) == (0, 5)


def test_a_table_of_another_tenant_is_nobody_elses():
    book = QuotaBook(tables={"acme": Quotas(rooms=1)})
    assert book.of(GLOBEX) == Quota()
    assert not book.limits_storage
    book.replace({"globex": Quotas(storage_bytes=1)})
    assert (book.of(ACME), book.limits_storage) == (Quota(), True)


# -- connections --------------------------------------------------------------------------------------------


def test_a_tenants_connections_are_limited_and_another_tenants_are_not():
    world = World(limits=Limits(connections_per_tenant=2, **LENIENT))
    first = world.member("alice", tenant="acme")
    world.member("bob", tenant="acme")
    with pytest.raises(ConnectionLimit) as caught:
        world.member("carol", tenant="acme")
    assert (caught.value.limit, caught.value.allowed) == ("connections_per_tenant", 2)
    world.member("carol", tenant="globex")
    first.leave()
    world.member("carol", tenant="acme")


def test_who_is_refused_over_the_tenants_quota_leaves_nothing_behind():
    world = World(limits=Limits(connections_per_tenant=1, **LENIENT))
    only = world.member("alice", tenant="acme")
    with pytest.raises(ConnectionLimit):
        world.core.admit(Identity(UserId("bob"), ACME))
    only.leave()
    assert world.core.stats()["tenants"] == 0


def test_a_lowered_quota_closes_nobody_and_refuses_the_next():
    world = World(limits=Limits(**LENIENT))
    members = [world.member(f"u{i}", tenant="acme") for i in range(3)]
    world.core.quotas.replace({"acme": Quotas(connections=1)})
    assert all(each.connection.open for each in members)
    with pytest.raises(ConnectionLimit):
        world.member("late", tenant="acme")
    world.core.quotas.replace({})
    world.member("late", tenant="acme")


# -- rooms --------------------------------------------------------------------------------------------------


def test_a_tenants_live_rooms_are_limited_and_who_leaves_the_last_makes_place():
    world = World(limits=Limits(rooms_per_tenant=2, **LENIENT))
    alice, bob = world.member("alice", tenant="acme"), world.member("bob", tenant="acme")
    other = world.member("alice", tenant="globex")
    alice.join("chat:1")
    alice.join("chat:2")
    refused = bob.ask("join", room="chat:3")["content"]
    assert (refused["name"], refused["limit"], refused["allowed"]) == ("room_limit", "rooms_per_tenant", 2)
    bob.join("chat:2")
    other.join("chat:3")
    alice.ask("leave", room="chat:1")
    bob.join("chat:3")


# -- rates --------------------------------------------------------------------------------------------------


def test_each_tenant_has_the_rates_of_its_table():
    world = World(limits=Limits(messages_per_second_per_tenant=100, rate_burst_s=1, **LENIENT))
    world.core.quotas.replace({"acme": Quotas(messages_per_second=10)})
    for tenant, allowed in (("acme", 10), ("globex", 100)):
        member = world.member("alice", tenant=tenant)
        member.join("chat:lobby")
        taken, refusal = acks(member, 120)
        assert taken == allowed - 1, "the join was a message"
        assert (refusal["limit"], refusal["allowed"]) == ("messages_per_second_per_tenant", allowed)


def test_new_rates_hold_for_who_is_connected():
    world = World(limits=Limits(rate_burst_s=1, **LENIENT))
    alice, bob = world.member("alice", tenant="acme"), world.member("bob", tenant="acme")
    alice.join("chat:lobby"), bob.join("chat:lobby")
    assert acks(alice, 50)[0] == 50, "nobody limits anything"
    world.core.quotas.replace({"acme": Quotas(messages_per_second=10)})
    assert acks(alice, 20)[0] + acks(bob, 20)[0] == 10, "one bucket for both"
    world.core.quotas.replace({"acme": Quotas(messages_per_second=10, burst_s=3)})
    assert acks(bob, 40)[0] == 20, "what they owe stays owed"
    world.core.quotas.replace({})
    assert acks(bob, 50)[0] == 50


def test_a_user_and_its_tenant_keep_their_counts_when_quotas_come_and_go():
    world = World(limits=Limits(messages_per_second_per_user=1000, rate_burst_s=1, **LENIENT))
    members = [world.member("alice", tenant="acme") for _ in range(3)]
    for tables in ({"acme": Quotas(messages_per_second=5)}, {}, {"*": Quotas(messages_per_second=7)}):
        world.core.quotas.replace(tables)
    user = members[0].session.allowance
    assert (user.holders, user.above.holders) == (3, 3)
    for member in members:
        member.leave()
    assert (user.holders, user.above.holders) == (0, 0)


# -- who hears of it ----------------------------------------------------------------------------------------


class Ear:
    def __init__(self):
        self.events = []

    def record(self, event):
        self.events.append(event)


def test_the_audit_log_hears_of_a_quota_that_is_met_once_in_a_while():
    clock, ear = FakeClock(), Ear()
    refusals = QuotaRefusals(ear, clock, counted=["acme"])
    for _ in range(1000):
        refusals.note(ACME, UserId("alice"), "rooms_per_tenant", "192.0.2.1")
        refusals.note(GLOBEX, UserId("bob"), "rooms_per_tenant")
    assert [(each.tenant, each.actor, each.source, each.target) for each in ear.events] == [
        ("acme", "alice", "192.0.2.1", "rooms_per_tenant"),
        ("globex", "bob", "", "rooms_per_tenant"),
    ]
    assert {(each.action, each.outcome) for each in ear.events} == {(Action.LIMIT, Outcome.DENIED)}
    clock.advance(TOLD_EVERY_S)
    refusals.note(ACME, UserId("alice"), "rooms_per_tenant")
    assert len(ear.events) == 3
    assert refusals.counts == {("acme", "rooms_per_tenant"): 1001}, "labels are of who was asked about"


def test_tenants_that_are_named_have_numbers_of_their_own_and_nobody_else_has():
    world = World(limits=Limits(tenant_metrics=("acme",), rooms_per_tenant=1, **LENIENT))
    alice, other = world.member("alice", tenant="acme"), world.member("alice", tenant="globex")
    for member in (alice, other):
        member.join("chat:lobby")
        acks(member, 3)
        assert member.error("join", room="chat:2") == "room_limit"
    stats = world.core.tenant_stats()
    assert set(stats) == {"acme"}
    assert (stats["acme"]["connections"], stats["acme"]["rooms"]) == (1, 1)
    assert (stats["acme"]["messages"], stats["acme"]["deliveries"]) == (5, 3)
    assert stats["acme"]["rooms_per_tenant"] == 1
