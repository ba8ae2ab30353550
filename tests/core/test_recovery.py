"""History and recovery: whole or refused, after any break."""

import random

import pytest

from realtime.core.limits import Limits
from tests.core.world import World

LOBBY = "chat:lobby"


def contents(messages):
    return [each["content"] for each in messages]


def test_whoever_comes_back_gets_exactly_what_was_missed(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    epoch = bob.join(LOBBY)["epoch"]
    alice.publish(LOBBY, "seen")
    bob.leave()
    for text in ("missed 1", "missed 2"):
        alice.publish(LOBBY, text)
    bob = world.member("bob")
    joined = bob.join(LOBBY, offset=1, epoch=epoch)
    assert (joined["recovered"], joined["offset"]) == (True, 3)
    assert contents(joined["messages"]) == ["missed 1", "missed 2"]
    alice.publish(LOBBY, "next")
    assert contents(bob.pushes()) == ["next"]


def test_recovered_messages_are_the_pushes_that_the_others_got(world):
    alice = world.member("alice")
    epoch = alice.join(LOBBY)["epoch"]
    alice.publish(LOBBY, {"a": [1]})
    pushes = alice.pushes()
    assert world.member("bob").join(LOBBY, offset=0, epoch=epoch)["messages"] == pushes


def test_whoever_missed_nothing_is_recovered_with_nothing(world):
    alice = world.member("alice")
    epoch = alice.join(LOBBY)["epoch"]
    assert alice.join(LOBBY, offset=0, epoch=epoch)["recovered"] is True
    alice.publish(LOBBY)
    again = alice.join(LOBBY, offset=1, epoch=epoch)
    assert (again["recovered"], again["messages"]) == (True, [])


@pytest.mark.parametrize(
    "since",
    [
        {"offset": 1, "epoch": "another"},
        {"offset": 1, "epoch": ""},
        {"offset": 1},
        {"offset": 1, "epoch": None},
        {"epoch": "THIS"},
        {"offset": None, "epoch": "THIS"},
        {"offset": 3, "epoch": "THIS"},
        {"offset": 2**53, "epoch": "THIS"},
    ],
    ids=str,
)
def test_a_position_that_is_none_here_is_refused_and_never_half_answered(world, since):
    alice = world.member("alice")
    epoch = alice.join(LOBBY)["epoch"]
    for text in ("one", "two"):
        alice.publish(LOBBY, text)
    if since.get("epoch") == "THIS":
        since = since | {"epoch": epoch}
    joined = world.member("bob").join(LOBBY, **since)
    assert (joined["recovered"], joined["messages"]) == (False, [])
    assert (joined["offset"], joined["epoch"]) == (2, epoch)


def test_an_epoch_learned_from_a_push_recovers(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.publish(LOBBY, "one")
    alice.publish(LOBBY, "two")
    first = alice.pushes()[0]
    joined = world.member("bob").join(LOBBY, offset=first["offset"], epoch=first["epoch"])
    assert (joined["recovered"], contents(joined["messages"])) == (True, ["two"])


@pytest.mark.parametrize("variant", [0, 1], ids=["json", "msgpack"])
def test_every_answer_and_push_names_the_same_epoch(world, variant):
    alice = world.member("alice", variant=variant)
    epoch = alice.join(LOBBY)["epoch"]
    assert epoch
    assert alice.publish(LOBBY)["epoch"] == epoch
    assert alice.publish(LOBBY, key="k")["epoch"] == epoch
    assert alice.publish(LOBBY, key="k") == {"offset": 2, "epoch": epoch, "duplicate": True}
    assert {push["epoch"] for push in alice.pushes()} == {epoch}
    assert {push["epoch"] for push in alice.ask("history", room=LOBBY)["content"]["messages"]} == {epoch}
    assert alice.ask("passive", room=LOBBY)["content"]["epoch"] == epoch
    assert alice.join(LOBBY, offset=1, epoch=epoch)["epoch"] == epoch


def test_offset_0_recovers_everything_from_the_first_on(world):
    alice, bob = world.member("alice"), world.member("bob")
    start = alice.join(LOBBY)
    assert start["offset"] == 0
    for text in ("one", "two"):
        alice.publish(LOBBY, text)
    joined = bob.join(LOBBY, offset=start["offset"], epoch=start["epoch"])
    assert (joined["recovered"], contents(joined["messages"])) == (True, ["one", "two"])


def test_whoever_was_refused_gets_the_pushes_after_the_answers_offset_all_the_same(world):
    alice, bob = world.member("alice"), world.member("bob")
    epoch = alice.join(LOBBY)["epoch"]
    alice.publish(LOBBY, "before")
    for since in ({"offset": 7, "epoch": epoch}, {"offset": 1, "epoch": "another"}, {"offset": 1}):
        joined = bob.join(LOBBY, **since)
        assert (joined["recovered"], joined["offset"], joined["epoch"]) == (False, 1, epoch)
    alice.publish(LOBBY, "after")
    assert [(push["content"], push["offset"]) for push in bob.pushes()] == [("after", 2)]


def test_a_changed_epoch_is_refused_and_its_own_positions_recover():
    world = World(recovery_window_s=300)
    alice = world.member("alice")
    old = alice.join(LOBBY)["epoch"]
    alice.publish(LOBBY, "lost")
    alice.leave()
    world.pass_time(301)  # nobody is there, and the room is forgotten
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    alice.publish(LOBBY, "new")
    push = alice.pushes()[0]
    joined = bob.join(LOBBY, offset=1, epoch=old)
    assert (joined["recovered"], joined["messages"], joined["offset"]) == (False, [], 1)
    assert joined["epoch"] == push["epoch"] != old
    joined = bob.join(LOBBY, offset=0, epoch=push["epoch"])
    assert (joined["recovered"], contents(joined["messages"])) == (True, ["new"])


def test_what_the_history_no_longer_reaches_is_refused():
    world = World(history_messages=3)
    alice = world.member("alice")
    epoch = alice.join(LOBBY)["epoch"]
    for number in range(5):
        alice.publish(LOBBY, number)
    assert world.member("bob").join(LOBBY, offset=1, epoch=epoch)["recovered"] is False
    joined = world.member("bob").join(LOBBY, offset=2, epoch=epoch)
    assert contents(joined["messages"]) == [2, 3, 4]


def test_history_is_bounded_in_bytes_too():
    world = World(history_bytes=2000)
    alice = world.member("alice")
    alice.join(LOBBY)
    for _ in range(50):
        alice.publish(LOBBY, "x" * 100)
    messages = alice.ask("history", room=LOBBY)["content"]["messages"]
    assert 5 < len(messages) < 20
    assert messages[-1]["offset"] == 50


def test_an_empty_room_is_recovered_within_the_window_and_new_after_it():
    world = World(recovery_window_s=300)
    alice = world.member("alice")
    epoch = alice.join(LOBBY)["epoch"]
    alice.publish(LOBBY, "kept")
    alice.leave()
    assert world.core.stats()["rooms"] == 0
    world.pass_time(299)
    alice = world.member("alice")
    joined = alice.join(LOBBY, offset=0, epoch=epoch)
    assert (joined["recovered"], contents(joined["messages"])) == (True, ["kept"])
    alice.leave()
    world.pass_time(301)
    assert world.core.stats()["broker_rooms"] == 0
    joined = world.member("alice").join(LOBBY, offset=0, epoch=epoch)
    assert joined["epoch"] != epoch
    assert (joined["recovered"], joined["messages"], joined["offset"]) == (False, [], 0)


def test_history_pages_both_ways_until_there_is_no_more(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    for number in range(1, 8):
        alice.publish(LOBBY, number)

    def page(**asked):
        content = alice.ask("history", room=LOBBY, content=asked)["content"]
        return contents(content["messages"]), content["more"]

    assert page(limit=3) == ([5, 6, 7], True)
    assert page(before=5, limit=3) == ([2, 3, 4], True)
    assert page(before=2, limit=3) == ([1], False)
    assert page(before=1, limit=3) == ([], False)
    assert page(before=0, limit=3) == ([], False)
    assert page(before=100, limit=3) == ([5, 6, 7], True)
    assert page(after=0, limit=3) == ([1, 2, 3], True)
    assert page(after=3, limit=4) == ([4, 5, 6, 7], False)
    assert page(after=7, limit=4) == ([], False)
    assert page(after=100, limit=4) == ([], False)
    assert page() == ([1, 2, 3, 4, 5, 6, 7], False)


def test_any_walk_of_pages_sees_everything_once():
    for seed in range(30):
        dice = random.Random(seed)
        world = World(history_messages=dice.choice([0, 1, 7, 100]))
        alice = world.member("alice")
        alice.join(LOBBY)
        total = dice.randrange(30)
        for number in range(1, total + 1):
            alice.publish(LOBBY, number)
        alice.read()
        kept = (
            list(range(1, total + 1))[-world.broker._history_messages :]
            if world.broker._history_messages
            else []
        )
        for direction in ("before", "after"):
            seen: list[int] = []
            asked: dict[str, int] = {} if direction == "before" else {"after": 0}
            more = True
            while more:
                limit = dice.randrange(1, 6)
                answer = alice.ask("history", room=LOBBY, content=asked | {"limit": limit})["content"]
                offsets = [push["offset"] for push in answer["messages"]]
                assert len(offsets) <= limit, f"seed {seed}"
                more = answer["more"]
                assert offsets or not more, f"seed {seed}"
                seen = offsets + seen if direction == "before" else seen + offsets
                if offsets:
                    asked = {direction: offsets[0] if direction == "before" else offsets[-1]}
            assert seen == kept, f"seed {seed}, {direction}"


@pytest.mark.parametrize(
    "asked", [{"before": 1, "after": 1}, {"limit": 0}, {"limit": "5"}, {"before": -1}, {"after": 1.5}, 5]
)
def test_a_wrong_history_request_is_a_bad_message(world, asked):
    alice = world.member("alice")
    alice.join(LOBBY)
    assert alice.error("history", room=LOBBY, content=asked) == "bad_message"


def test_a_page_has_at_most_the_servers_limit():
    world = World(limits=Limits(history_page=2, history_page_max=4))
    alice = world.member("alice")
    alice.join(LOBBY)
    for number in range(9):
        alice.publish(LOBBY, number)
    assert len(alice.ask("history", room=LOBBY)["content"]["messages"]) == 2
    assert len(alice.ask("history", room=LOBBY, content={"limit": 10**9})["content"]["messages"]) == 4


def test_history_and_presence_are_for_members(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    alice.publish(LOBBY, "private")
    for command in ("history", "presence"):
        assert bob.error(command, room=LOBBY) == "not_joined"


def test_a_recovery_too_large_for_one_answer_is_refused_and_pages_carry_it():
    world = World(limits=Limits(answer_bytes=2000))
    alice = world.member("alice")
    epoch = alice.join(LOBBY)["epoch"]
    for number in range(30):
        alice.publish(LOBBY, number)
    bob = world.member("bob")
    joined = bob.join(LOBBY, offset=0, epoch=epoch)
    assert (joined["recovered"], joined["messages"], joined["offset"]) == (False, [], 30)
    assert bob.join(LOBBY, offset=25, epoch=epoch)["recovered"] is True
    for asked in ({"after": 0}, {}):
        seen, more = [], True
        while more:
            answer = bob.ask("history", room=LOBBY, content=asked)["content"]
            page, more = [push["offset"] for push in answer["messages"]], answer["more"]
            assert 0 < len(page) < 20
            if "after" in asked:
                seen, asked = seen + page, {"after": page[-1]}
            else:
                seen, asked = page + seen, {"before": page[0]}
        assert seen == list(range(1, 31))


def test_one_message_larger_than_an_answer_still_comes():
    world = World(limits=Limits(answer_bytes=10))
    alice = world.member("alice")
    alice.join(LOBBY)
    for number in range(3):
        alice.publish(LOBBY, number)
    for asked, expected in (({}, [2]), ({"after": 0}, [0])):
        answer = alice.ask("history", room=LOBBY, content=asked)["content"]
        assert (contents(answer["messages"]), answer["more"]) == (expected, True)
