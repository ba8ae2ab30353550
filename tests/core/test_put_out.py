"""Who is put out of a room: told so after all that came before, and gone for the others."""

from realtime.ids import RoomId, RoomName, TenantId
from tests.core.world import Member, World

LOBBY = RoomId(TenantId("default"), RoomName("chat:lobby"))


def put_out(world: World, member: Member, reason: str = "forbidden") -> None:
    room = world.core._membership.find(LOBBY)
    assert room is not None
    world.core._membership.put_out(member.session, room, reason)


def test_it_is_told_why_after_what_came_before_and_nothing_after(world: World):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join("chat:lobby")
    bob.join("chat:lobby")
    alice.publish("chat:lobby", 1)
    put_out(world, bob)
    alice.publish("chat:lobby", 2)
    told = [each for each in bob.read() if each["type"] in ("chat_message", "left")]
    assert [each["content"] for each in told] == [1, {"reason": "forbidden"}]
    assert told[-1] == {"type": "left", "room": "chat:lobby", "content": {"reason": "forbidden"}}
    assert bob.error("history", room="chat:lobby") == "not_joined"


def test_the_others_see_it_go_at_once(world: World):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join("chat:lobby")
    bob.join("chat:lobby")
    put_out(world, bob)
    assert alice.ask("presence", room="chat:lobby")["content"]["members"] == ["alice"]


def test_a_passive_member_is_put_out_too_and_the_room_is_dropped_after_the_last(world: World):
    bob = world.member("bob")
    bob.join("chat:lobby")
    bob.ask("passive", room="chat:lobby")
    put_out(world, bob)
    assert bob.pushes("left")
    stats = world.core.stats()
    assert (stats["passive_members"], stats["rooms"]) == (0, 0)
