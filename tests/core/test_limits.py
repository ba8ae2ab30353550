"""What a user and a tenant may send together, however many connections they spread it over."""

import json
import random

import pytest

from realtime.core.auth import Identity
from realtime.core.limits import LIMITS, Allowances, Limits
from realtime.errors import CloseCode
from realtime.ids import TenantId, UserId
from realtime.settings import KNOBS
from tests.core.world import World
from tests.oracles.hub import FakeClock

LOBBY = "chat:lobby"
LENIENT = {"connections_per_user": 100, "errors_burst": 1e6}


def flood(members, count=40):
    """Publish so often from each; return how many of them were published, and the refusals."""
    acks, refusals = 0, []
    for _ in range(count):
        for member in members:
            answer = member.ask("chat_message", room=LOBBY, content="x")
            if answer["type"] == "ack":
                acks += 1
            else:
                refusals.append(answer["content"])
    return acks, refusals


def test_all_connections_of_a_user_share_one_rate_and_others_have_their_own():
    world = World(limits=Limits(messages_per_second_per_user=20, rate_burst_s=2, **LENIENT))
    alice = [world.member("alice", variant=i % 2) for i in range(5)]
    bob = world.member("bob")
    for member in [*alice, bob]:
        member.join(LOBBY)
    acks, refusals = flood(alice)
    assert acks == 40 - 5, "the joins were messages too"
    assert {each["limit"] for each in refusals} == {"messages_per_second_per_user"}
    assert {each["allowed"] for each in refusals} == {20}
    assert all(each["temporary"] and each["code"] == 429 for each in refusals)
    assert flood([bob], 30)[0] == 30
    world.clock.advance(refusals[-1]["retry_after"])
    assert flood(alice, 1)[0] == 1
    refused = {limit: count for limit, count in world.core.refusals.items() if count}
    assert refused == {"messages_per_second_per_user": len(refusals) + 4}


def test_all_users_of_a_tenant_share_one_rate_and_other_tenants_have_their_own():
    world = World(limits=Limits(messages_per_second_per_tenant=10, rate_burst_s=2, **LENIENT))
    crowd = [world.member(f"user{i}", tenant="acme") for i in range(4)]
    other = world.member("user0", tenant="globex")
    for member in [*crowd, other]:
        member.join(LOBBY)
    acks, refusals = flood(crowd)
    assert acks == 20 - 4
    assert refusals[0]["limit"] == "messages_per_second_per_tenant"
    assert flood([other], 19)[0] == 19


def test_a_publication_costs_as_many_deliveries_as_the_room_has_members():
    world = World(limits=Limits(deliveries_per_second_per_user=10, rate_burst_s=1, **LENIENT))
    alice = world.member("alice")
    readers = [world.member(f"reader{i}") for i in range(4)]
    for member in [alice, *readers]:
        member.join(LOBBY)
    assert flood([alice], 3)[0] == 2, "two publications to five members"
    assert len(readers[0].pushes("chat_message")) == 2, "what is refused is not published"
    assert alice.ask("history", room=LOBBY)["type"] == "history", "only publishing costs deliveries"
    refused = alice.ask("chat_message", room=LOBBY)["content"]
    assert (refused["limit"], refused["retry_after"]) == ("deliveries_per_second_per_user", 0.5)
    world.clock.advance(0.5)
    assert flood([alice], 2)[0] == 1
    for reader in readers:
        reader.ask("leave", room=LOBBY)
    world.clock.advance(1)
    assert flood([alice], 12)[0] == 10, "alone it costs one"


def test_a_room_larger_than_the_burst_can_be_published_to_and_the_mean_holds():
    world = World(limits=Limits(deliveries_per_second_per_tenant=2, rate_burst_s=1, **LENIENT))
    members = [world.member(f"user{i}") for i in range(6)]
    for member in members:
        member.join(LOBBY)
    acks = 0
    for _ in range(301):
        acks += flood(members[:1], 1)[0]
        world.clock.advance(0.1)
    assert acks == 11, "one in three seconds"


@pytest.mark.parametrize("variant", [0, 1])
def test_a_frame_over_the_byte_rate_is_refused_with_all_its_messages(variant):
    world = World(limits=Limits(bytes_per_second_per_user=1000, rate_burst_s=1, **LENIENT))
    alice = world.member("alice", variant=variant)
    alice.join(LOBBY)
    world.clock.advance(1)
    small = {"type": "ping", "id": 1}
    large = {"type": "chat_message", "id": 2, "room": LOBBY, "content": "x" * 900}
    alice.send_frame(large)
    alice.read()
    alice.send_frame(small, large)
    refusals = [alice.answer(id)["content"] for id in (1, 2)]
    assert [each["limit"] for each in refusals] == ["bytes_per_second_per_user"] * 2
    world.clock.advance(max(each["retry_after"] for each in refusals))
    alice.send_frame(small, large)
    assert [alice.answer(1)["type"], alice.answer(2)["type"]] == ["pong", "ack"]


def test_requests_cost_a_message_each():
    world = World(limits=Limits(messages_per_second_per_user=4, rate_burst_s=1, **LENIENT))
    alice = world.member("alice")
    alice.join(LOBBY)
    for type in ("history", "presence", "leave"):
        assert alice.ask(type, room=LOBBY)["type"] != "error"
    assert [alice.error(type, room=LOBBY) for type in ("join", "ping", "nonsense")] == ["rate_limited"] * 3


def test_coming_back_buys_no_new_allowance():
    world = World(limits=Limits(messages_per_second_per_user=1, rate_burst_s=5, **LENIENT))
    sent = 0
    for _ in range(20):
        alice = world.member("alice")
        sent += alice.ask("ping")["type"] == "pong"
        alice.leave()
    assert sent == 5


def test_a_renewed_token_keeps_the_allowance_and_holds_it_once():
    world = World(limits=Limits(messages_per_second_per_user=1, rate_burst_s=3, **LENIENT))
    alice = world.member("alice", expires_in=60)
    allowance = alice.session.allowance
    world.tokens["newer"] = Identity(UserId("alice"), expires_at=world.clock.time() + 600)
    assert alice.ask("refresh", content={"token": "newer"})["type"] == "ack"
    assert alice.session.allowance is allowance
    assert allowance.holders == 1
    alice.leave()
    assert allowance.holders == 0


def test_without_such_limits_sessions_hold_nothing():
    world = World()
    assert world.member("alice").session.allowance is None


def test_only_what_owes_something_is_remembered():
    clock = FakeClock()
    limits = Limits(messages_per_second_per_user=1, messages_per_second_per_tenant=1000, rate_burst_s=10)
    allowances = Allowances(limits, clock)
    held = [allowances.hold(Identity(UserId(f"held{i}"))) for i in range(10)]
    for i in range(500):
        gone = allowances.hold(Identity(UserId(f"gone{i}"), TenantId(f"tenant{i % 7}")))
        if i % 5 == 0:
            gone.take(1, 0, 0)
        allowances.release(gone)
    clock.advance(20)
    for i in range(200):
        allowances.release(allowances.hold(Identity(UserId(f"later{i}"))))
    assert len(allowances) < 10 + 8 + 30
    assert all(
        allowances.hold(each_identity) is each
        for each_identity, each in zip([Identity(UserId(f"held{i}")) for i in range(10)], held, strict=True)
    )


def test_a_tenant_is_one_whoever_of_it_comes_and_goes():
    """Also where a user that still owes comes back after the tenant's allowance was forgotten."""
    clock = FakeClock()
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    limits = Limits(messages_per_second_per_user=0.5, messages_per_second_per_tenant=3, rate_burst_s=2)
    allowances, held, taken = Allowances(limits, clock), [], []
    for _ in range(3000):
        clock.advance(chance.choice([0, 0, 0.01, 0.3, 5]))
        if held and chance.random() < 0.5:
            allowances.release(held.pop(chance.randrange(len(held))))
        else:
            held.append(allowances.hold(Identity(UserId(f"u{chance.randrange(40)}"))))
        if held and chance.choice(held).take(1, 0, 0) is None:
            taken.append(clock.now)
    assert taken, f"seed {seed}"
    for first, begin in enumerate(taken):
        for count, end in enumerate(taken[first : first + 60], 1):
            assert count <= 3 * (end - begin) + 6 + 1e-6, f"seed {seed}"


def test_no_more_than_the_rate_passes_on_the_straight_way_either():
    """A publication alone in its frame goes straight; refusals are the same there as elsewhere."""
    world = World(limits=Limits(deliveries_per_second_per_user=50, rate_burst_s=2, **LENIENT))
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    passed = 0
    for _ in range(1000):
        world.clock.advance(0.01)
        for n in range(3):
            alice.send_bytes(b'{"type":"chat_message","id":%d,"room":"chat:lobby","content":"x"}' % n)
        passed += sum(each["type"] == "ack" for each in alice.read())
    assert passed == (100 + int(9.99 * 50)) // 2
    assert len(bob.pushes()) == passed


def test_the_limit_of_rooms_says_its_name_and_number():
    world = World(limits=Limits(rooms_per_connection=1))
    alice = world.member("alice")
    alice.join(LOBBY)
    refused = alice.ask("join", room="chat:other")["content"]
    assert (refused["name"], refused["limit"], refused["allowed"]) == (
        "room_limit",
        "max_rooms_per_connection",
        1,
    )


def test_the_limit_of_contents_says_its_name_and_number():
    world = World(limits=Limits(content_bytes=10))
    alice = world.member("alice")
    alice.join(LOBBY)
    refused = alice.ask("chat_message", room=LOBBY, content="x" * 20)["content"]
    assert (refused["name"], refused["limit"], refused["allowed"]) == ("too_large", "max_message_bytes", 10)


def test_the_limit_of_messages_in_a_frame_says_its_name_and_number():
    world = World(limits=Limits(messages_per_frame=2))
    alice = world.member("alice")
    alice.send_frame(*[{"type": "ping", "id": n} for n in range(3)])
    refused = alice.read()[2]["content"]
    assert (refused["name"], refused["limit"], refused["allowed"]) == ("bad_message", "messages_per_frame", 2)
    alice.send_bytes(b"x")
    assert "limit" not in alice.read()[0]["content"]


def test_the_limit_of_connections_says_its_name_and_number_in_the_close_reason():
    world = World(limits=Limits(connections_per_user=1))
    world.tokens["alice"] = Identity(UserId("alice"))
    world.member("alice")
    stranger = world.stranger()
    stranger.send("connect", id=1, content={"token": "alice"})
    refused = stranger.answer(1)["content"]
    assert (refused["limit"], refused["allowed"]) == ("max_connections_per_user", 1)
    code, reason = stranger.connection.closed
    assert code == CloseCode.CONNECTION_LIMIT
    told = {"r": "connection_limit", "limit": "max_connections_per_user", "allowed": 1}
    assert json.loads(reason) == told


def test_every_limit_that_an_answer_names_is_a_setting():
    assert set(LIMITS) - KNOBS.keys() == {"backlog_messages"}
