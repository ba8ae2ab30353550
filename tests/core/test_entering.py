"""Coming and going: tokens, limits, expiry, and what a stranger may do."""

import pytest

from realtime.core.auth import Identity
from realtime.core.limits import Limits
from realtime.errors import CloseCode, ConnectionLimit, TokenExpired
from realtime.protocol.session import State
from tests.core.world import World
from tests.oracles.hub import FakeConnection

LOBBY = "chat:lobby"


def with_token(world, user="alice", *, token="t", expires_in=None, tenant="default"):
    expires_at = None if expires_in is None else world.clock.time() + expires_in
    world.tokens[token] = Identity(user, tenant, expires_at=expires_at)
    return token


def test_a_stranger_enters_with_a_token_and_is_greeted(world):
    token = with_token(world)
    stranger = world.stranger()
    greeting = stranger.ask("connect", content={"token": token})
    assert (greeting["type"], greeting["content"]["user_id"]) == ("connected", "alice")
    assert stranger.connection.confirmed
    assert stranger.join(LOBBY)["members"] == ["alice"]


def test_the_greeting_comes_without_an_id_too(world):
    stranger = world.stranger(variant=1)
    stranger.send("connect", content={"token": with_token(world)})
    (greeting,) = stranger.read()
    assert (greeting["type"], "id" in greeting) == ("connected", False)


def test_messages_behind_the_token_in_one_frame_are_the_users(world):
    stranger = world.stranger()
    token = with_token(world)
    stranger.send_frame(
        {"type": "connect", "content": {"token": token}}, {"type": "join", "id": 1, "room": LOBBY}
    )
    assert stranger.answer(1)["type"] == "joined"


@pytest.mark.parametrize(
    "command", ["join", "leave", "presence", "history", "ping", "refresh", "chat_message", "nonsense"]
)
def test_a_stranger_may_do_nothing_else(world, command):
    assert world.stranger().error(command, room=LOBBY) == "unauthorized"
    assert world.core.stats()["rooms"] == 0


def test_a_bad_token_is_told_and_closed(world):
    stranger = world.stranger()
    assert stranger.error("connect", content={"token": "guess"}) == "unauthorized"
    assert stranger.connection.closed == (CloseCode.BAD_TOKEN, b'{"r":"unauthorized"}')
    assert not stranger.connection.confirmed


def test_what_follows_a_bad_token_is_not_looked_at(world):
    stranger = world.stranger()
    stranger.send_frame(
        {"type": "connect", "id": 1, "content": {"token": "guess"}},
        {"type": "connect", "id": 2, "content": {"token": with_token(world)}},
        {"type": "join", "id": 3, "room": LOBBY},
        {"type": "nonsense", "id": 4},
    )
    stranger.send_bytes(b"{")
    assert [each["id"] for each in stranger.read()] == [1]
    assert stranger.connection.closed[0] == CloseCode.BAD_TOKEN
    assert (world.core.stats()["tenants"], sum(world.core.errors.values())) == (0, 1)


def test_whom_the_path_names_is_entered_by_that_users_token_alone(world):
    token = with_token(world)
    alice, bob = world.stranger(user="alice"), world.stranger(user="bob")
    for stranger in (alice, bob):
        stranger.send_frame(
            {"type": "connect", "id": 1, "content": {"token": token}},
            {"type": "join", "id": 2, "room": LOBBY},
        )
    assert alice.answer(2)["content"]["members"] == ["alice"]
    (refused,) = bob.read()
    assert (refused["id"], refused["content"]["name"]) == (1, "forbidden")
    assert bob.connection.closed == (CloseCode.FORBIDDEN, b'{"r":"forbidden"}')
    assert not bob.connection.confirmed
    alice.leave()
    bob.leave()
    assert world.core.stats()["tenants"] == 0, "nobody is counted twice, or for good"


def test_a_session_goes_from_new_to_closed(world):
    stranger = world.stranger()
    session = stranger.session
    assert session.state is State.NEW
    stranger.ask("connect", content={"token": with_token(world)})
    assert session.state is State.READY
    session.close(CloseCode.DISCONNECTED_BY_SERVER)
    session.close(CloseCode.INTERNAL)
    assert session.state is State.CLOSING
    assert stranger.connection.closed[0] == CloseCode.DISCONNECTED_BY_SERVER
    stranger.send("join", id=2, room=LOBBY)
    assert world.core.stats()["rooms"] == 0
    stranger.leave()
    assert session.state is State.CLOSED


def test_an_expired_token_is_closed_with_its_own_code(world):
    token = with_token(world, expires_in=10)
    world.clock.advance(10)
    stranger = world.stranger()
    stranger.send("connect", content={"token": token})
    assert stranger.connection.closed[0] == CloseCode.TOKEN_EXPIRED


@pytest.mark.parametrize("content", [None, {}, {"token": 5}, "t"])
def test_a_connect_without_a_token_is_a_bad_message(world, content):
    assert world.stranger().error("connect", content=content) == "bad_message"


def test_a_user_has_so_many_connections_and_one_more_when_one_has_gone():
    world = World(limits=Limits(connections_per_user=2))
    first = world.member("alice")
    world.member("alice")
    with pytest.raises(ConnectionLimit):
        world.member("alice")
    world.member("bob")
    world.member("alice", tenant="other")
    first.leave()
    world.member("alice")


def test_a_stranger_above_the_connection_limit_is_closed_and_counted_out():
    world = World(limits=Limits(connections_per_user=1))
    token = with_token(world)
    first, second = world.stranger(), world.stranger()
    assert first.ask("connect", content={"token": token})["type"] == "connected"
    assert second.error("connect", content={"token": token}) == "connection_limit"
    assert second.connection.closed[0] == CloseCode.CONNECTION_LIMIT
    second.leave()
    first.leave()
    third = world.stranger()
    assert third.ask("connect", content={"token": token})["type"] == "connected"


def test_an_admission_without_a_session_can_be_given_back():
    world = World(limits=Limits(connections_per_user=1))
    alice = Identity("alice")
    for _ in range(2):
        silent = FakeConnection(hub=world.hub)
        silent.state = alice
        silent.belong(world.core.admit(alice))
        with pytest.raises(ConnectionLimit):
            world.core.admit(alice)
        silent.gone()
        world.core.release(alice)
    assert world.core.stats()["tenants"] == 0


def test_a_refused_admission_leaves_nothing_behind():
    world = World()
    with pytest.raises(TokenExpired):
        world.core.admit(Identity("alice", expires_at=world.clock.time()))
    assert world.core.stats()["tenants"] == 0


def test_a_session_ends_with_its_token(world):
    alice = world.member("alice", expires_in=60)
    world.pass_time(59)
    assert alice.connection.open
    world.pass_time(7)
    assert alice.connection.closed == (CloseCode.TOKEN_EXPIRED, b'{"r":"token_expired"}')
    alice.leave()
    assert world.core.stats()["sessions"] == 0


def test_a_refreshed_session_goes_on(world):
    alice = world.member("alice", expires_in=60)
    alice.join(LOBBY)
    token = with_token(world, expires_in=600)
    ack = alice.ask("refresh", content={"token": token})
    assert ack["type"] == "ack"
    assert ack["content"]["expires_at"] == int(world.clock.time() + 600)
    world.pass_time(300)
    alice.publish(LOBBY)
    world.pass_time(310)
    assert alice.connection.closed[0] == CloseCode.TOKEN_EXPIRED


def test_a_session_may_be_refreshed_by_its_own_users_token_alone(world):
    alice = world.member("alice", expires_in=60)
    assert alice.error("refresh", content={"token": "guess"}) == "unauthorized"
    for token in (with_token(world, "mallory"), with_token(world, "alice", tenant="other")):
        assert alice.error("refresh", content={"token": token}) == "forbidden"
    assert alice.connection.open
    world.pass_time(70)
    assert alice.connection.closed[0] == CloseCode.TOKEN_EXPIRED


def test_whoever_is_in_may_not_connect_as_somebody_else(world):
    alice = world.member("alice")
    assert alice.error("connect", content={"token": with_token(world, "mallory")}) == "forbidden"
    assert alice.ask("ping")["type"] == "pong"


def test_a_session_that_is_gone_is_not_kept_until_its_token_ends(world):
    world.member("alice", expires_in=1e6).leave()
    assert len(world.core._entry._ends) == 0


def test_ping_answers_with_the_servers_time(world):
    assert world.member("alice").ask("ping")["content"] == {"server_time": "2025-07-15T10:30:00.123Z"}


def test_commands_without_an_id_get_no_answer(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    for command in ("ping", "presence", "history", "join", "leave"):
        alice.send(command, room=LOBBY)
    assert alice.read() == []
    assert alice.error("leave", room=LOBBY) == "not_joined"


@pytest.mark.parametrize("id", [7, 0, -3, "a1", "☕", ""])
def test_an_id_is_echoed_as_it_came(world, id):
    alice = world.member("alice")
    alice.send("ping", id=id)
    assert [each["id"] for each in alice.read()] == [id]
