"""Signals of features: to rooms, to who may see who is there, and to hear of connections."""

from realtime.ids import DEFAULT_TENANT, RoomId, RoomName, UserId

LOBBY = RoomName("chat:lobby")
ALICE = UserId("alice")


def tell(world, rooms, members_max=100):
    world.core.signals.tell_presence(
        DEFAULT_TENANT, rooms, "chat_presence", b'{"user":"alice"}', members_max=members_max
    )
    world.run_waiting()


def test_a_signal_reaches_members_and_is_the_servers_own(world):
    alice, bob = world.member("alice"), world.member("bob", variant=1)
    for member in (alice, bob):
        member.join(LOBBY)
    world.core.signals.send(RoomId(DEFAULT_TENANT, LOBBY), "chat_typing", b'{"users":[]}')
    for member in (alice, bob):
        (push,) = member.pushes("chat_typing")
        assert push["content"] == {"users": []}
        assert push["room"] == LOBBY
        assert "from" not in push
    world.core.signals.send(RoomId(DEFAULT_TENANT, RoomName("chat:nobody")), "chat_typing", b"{}")
    assert alice.read() == []


def test_news_of_presence_reaches_those_who_may_see_who_is_here(world):
    alice, bob = world.member("alice"), world.member("bob", roles=["guest"])
    world.rule({"effect": "deny", "actions": ["presence"], "roles": ["guest"], "rooms": ["chat:*"]})
    for member in (alice, bob):
        member.join(LOBBY)
    tell(world, [RoomName("chat:nobody"), LOBBY])
    assert [push["content"] for push in alice.pushes("chat_presence")] == [{"user": "alice"}]
    assert bob.pushes("chat_presence") == []
    tell(world, [LOBBY], members_max=1)
    assert alice.pushes("chat_presence") == []


def test_news_for_very_many_rooms_go_in_pieces(world):
    alice = world.member("alice")
    rooms = [RoomName(f"chat:{number:0190}") for number in range(1000)]
    for room in (rooms[0], rooms[-1]):
        alice.join(room)
    tell(world, rooms)
    assert [push["room"] for push in alice.pushes("chat_presence")] == [rooms[0], rooms[-1]]


def test_features_hear_of_each_connection_when_it_comes_and_when_it_is_gone(world):
    heard = []
    world.core.watch_connections(lambda identity, came: heard.append((identity.user, came)))
    alice = world.member("alice")
    second = world.member("alice")
    second.leave()
    alice.leave()
    assert heard == [("alice", True), ("alice", True), ("alice", False), ("alice", False)]


def test_a_feature_that_fails_over_a_connection_harms_nobody(world, caplog):
    world.core.watch_connections(lambda *told: 1 / 0)
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.leave()
    assert world.core.stats()["sessions"] == 0
    assert "ZeroDivisionError" in caplog.text


async def test_where_a_user_is_is_known(world):
    signals = world.core.signals
    assert not await signals.is_connected(DEFAULT_TENANT, ALICE)
    alice = world.member("alice")
    alice.join(LOBBY)
    assert await signals.is_connected(DEFAULT_TENANT, ALICE)
    assert not await signals.is_elsewhere(DEFAULT_TENANT, ALICE)
    assert signals.rooms_here(DEFAULT_TENANT, ALICE) == [LOBBY]
    alice.leave()
    assert not signals.is_here(DEFAULT_TENANT, ALICE)
