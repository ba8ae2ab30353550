"""Presence pushes: coalesced, bounded, and enough to know who is here."""

import random

import pytest

from realtime.core.limits import Limits
from realtime.core.presence import Roster
from tests.core.world import World

LOBBY = "chat:lobby"


def test_members_are_told_who_came_in_one_push_a_while(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    world.pass_time(1)
    alice.read()
    for name in ("bob", "carol", "dave"):
        world.member(name).join(LOBBY)
    assert alice.read() == []
    world.pass_time(0.2)
    (push,) = alice.read()
    assert push["type"] == "presence"
    assert push["room"] == LOBBY
    assert "offset" not in push
    assert sorted(push["content"]["joined"]) == ["bob", "carol", "dave"]
    assert (push["content"]["left"], push["content"]["count"]) == ([], 4)


def test_two_pushes_of_a_room_are_at_least_200_ms_apart(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    world.pass_time(0.1)
    alice.read()
    bob.join(LOBBY)
    world.pass_time(0.1)
    assert alice.read() == []
    world.pass_time(0.11)
    assert [push["content"]["joined"] for push in alice.read()] == [["bob"]]


def test_nothing_is_told_where_nothing_changes(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    world.pass_time(1)
    alice.read()
    world.pass_time(60)
    assert alice.read() == []


def test_a_second_connection_of_a_member_is_no_news(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    world.pass_time(1)
    alice.read()
    again = world.member("alice")
    again.join(LOBBY)
    again.leave()
    world.pass_time(1)
    assert alice.read() == []


def test_a_room_above_the_limit_tells_its_count_once_a_second_and_everybody_when_it_is_small_again():
    world = World(limits=Limits(presence_members=3))
    members = [world.member(f"user-{number}") for number in range(4)]
    alice = members[0]
    for member in members:
        member.join(LOBBY)
    world.pass_time(0.1)
    assert [push["content"] for push in alice.read()] == [{"count": 4}]
    members[1].leave()
    members[2].leave()
    late = world.member("late")
    late.join(LOBBY)
    world.member("later").join(LOBBY)
    world.pass_time(0.5)
    assert alice.read() == []
    world.pass_time(0.6)
    assert [push["content"] for push in alice.read()] == [{"count": 4}]
    late.leave()
    world.pass_time(0.2)
    (push,) = alice.read()
    assert sorted(push["content"]["members"]) == ["later", "user-0", "user-3"]
    assert push["content"]["count"] == 3


def test_a_joiners_list_is_capped_and_its_count_is_not():
    world = World(limits=Limits(presence_members=2))
    for name in ("alice", "bob"):
        world.member(name).join(LOBBY)
    joined = world.member("carol").join(LOBBY)
    assert (joined["members"], joined["count"]) == (["alice", "bob"], 3)


def test_names_that_need_escapes_arrive_as_they_are(world):
    name = 'a"b\\c☕'
    alice = world.member(name)
    assert alice.join(LOBBY)["members"] == [name]
    world.pass_time(1)
    assert alice.read()[0]["content"]["joined"] == [name]


def test_whoever_applies_the_pushes_to_the_list_it_joined_with_knows_who_is_here():
    for seed in range(40):
        dice = random.Random(seed)
        world = World(limits=Limits(presence_members=6, connections_per_user=100))
        inside: dict[str, list] = {}
        seen: dict[object, set[str]] = {}
        for _ in range(60):
            user = f"user-{dice.randrange(8)}"
            if inside.get(user) and dice.random() < 0.5:
                gone = inside[user].pop()
                gone.leave()
                seen.pop(gone, None)
            else:
                member = world.member(user)
                joined = member.join(LOBBY)
                inside.setdefault(user, []).append(member)
                seen[member] = set(joined["members"])
            if dice.random() < 0.3:
                world.pass_time(dice.choice([0.1, 0.3, 1.1]))
        world.pass_time(1.1)
        world.pass_time(1.1)
        here = {user for user, members in inside.items() if members}
        for member, names in seen.items():
            for push in member.pushes("presence"):
                content = push["content"]
                names = set(content.get("members", names))
                names = (names | set(content.get("joined", ()))) - set(content.get("left", ()))
            if len(here) <= 6:
                assert names == here, f"seed {seed}"


def test_listing_the_first_members_stays_cheap_when_all_before_them_have_left():
    roster = Roster(3)
    for number in range(10_000):
        roster.join(b'"%d"' % number)
    for number in range(9_990):
        roster.leave(b'"%d"' % number)
    assert roster.listed() == b'["9990","9991","9992"]'
    assert roster.users.__sizeof__() < 10_000, "the dict was rebuilt, its graves are gone"


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_diff_names_at_most_as_many_as_the_limit(limit):
    roster = Roster(limit)
    for number in range(20):
        roster.join(b'"%d"' % number)
        roster.leave(b'"%d"' % number)
    content = roster.tell(0.0)
    assert content.count(b'"') <= 2 * (limit + 3)
