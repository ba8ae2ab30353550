"""The durable broker on a store that commits and fails when told: what is delivered and acknowledged when."""

import asyncio
import json

import pytest

from realtime.backends import broker_durable
from realtime.core.contracts import Position, Recovery, Row
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict, Unavailable
from realtime.ids import RoomId, RoomName, TenantId
from tests.backends.durable_stage import ALICE, BOB, CHAT, LOBBY, Stage, brief
from tests.core.slow_broker import settle


@pytest.fixture
async def stage() -> Stage:
    return await Stage().ready()


# ---------------------------------------------------------------- commit, deliver, acknowledge


async def test_nothing_is_seen_or_acknowledged_before_its_commit_and_all_of_it_in_order_after(stage):
    for _ in range(3):
        stage.say()
    await settle()
    assert stage.happened == []
    stage.store.commit(2)
    assert stage.happened == [("delivered", 1), ("answered", 1), ("delivered", 2), ("answered", 2)]
    stage.store.commit()
    assert stage.happened[4:] == [("delivered", 3), ("answered", 3)]


async def test_what_is_kept_is_what_was_delivered(stage):
    pushes = []
    stage.stream.close()
    stage.stream = stage.broker.open(LOBBY, CHAT, lambda push, offset: pushes.append(push))
    stage.say({"text": "ä"}, key="k")
    stage.store.commit()
    row = stage.store.rows[LOBBY][1]
    assert pushes == [row.push]
    assert row == Row(LOBBY, Position(1, b"epoch1"), row.push, ALICE, "k", round(stage.clock.time() * 1000))


async def test_the_position_is_the_committed_one(stage):
    stage.say()
    stage.store.commit()
    stage.say()
    assert stage.stream.recover(None) == Recovery(1, b"epoch1", False, ())
    assert stage.stream.recover(Position(1, b"epoch1")) == Recovery(1, b"epoch1", True, [])
    assert stage.stream.recover(Position(2, b"epoch1")).recovered is False


async def test_a_delivery_that_fails_is_logged_and_harms_neither_ack_nor_order(stage, caplog):
    stage.stream.close()
    stage.stream = stage.broker.open(LOBBY, CHAT, lambda push, offset: 1 / 0)
    stage.say()
    stage.say()
    stage.store.commit()
    assert stage.answers == [1, 2]
    assert "ZeroDivisionError" in caplog.text


async def test_a_room_left_while_something_is_in_flight_is_acknowledged_and_kept(stage):
    stage.say("x")
    stage.stream.close()
    stage.clock.advance(10_000)
    stage.broker.tick()
    assert stage.broker.stats()["broker_durable_rooms"] == 1
    stage.store.commit()
    assert (stage.delivered, stage.answers) == ([], [1])
    stage.clock.advance(10_000)
    stage.broker.tick()
    assert stage.broker.stats()["broker_durable_rooms"] == 0
    assert (await stage.open().recover(None)).offset == 1


async def test_a_room_that_may_not_stay_loaded_still_gives_each_offset_once():
    stage = Stage(idle_rooms=0)
    stage.stream.close()
    for _ in range(3):
        receipt = stage.broker.publish(LOBBY, CHAT, "chat_message", ALICE, b"1")
        receipt.then(lambda outcome: stage.happened.append(("answered", brief(outcome))))
        await settle()
    stage.store.commit()
    assert stage.answers == [1, 2, 3]


async def test_kinds_that_are_not_durable_never_touch_the_store(stage):
    room = RoomId(TenantId("default"), RoomName("events:news"))
    stream = stage.broker.open(room, RoomKind(name="events"), lambda push, offset: None)
    assert stream.publish("publish", ALICE, b"1")[0] == 1
    assert stage.broker.publish(room, RoomKind(name="events"), "publish", ALICE, b"1")[0] == 2
    assert stream.sequence is not None
    assert stage.stream.sequence is None
    assert (len(stage.store.queue), stage.store.asked) == (0, [])


# ---------------------------------------------------------------- loading


async def test_concurrent_first_uses_share_one_load_and_publications_keep_their_order():
    stage = Stage()
    stage.say("a")
    stage.say("b")
    recoveries = [asyncio.ensure_future(stage.stream.recover(None)) for _ in range(3)]
    outside = stage.broker.publish(LOBBY, CHAT, "chat_message", BOB, b'"c"')
    assert stage.broker.stats()["broker_waiting"] == 3
    await settle()
    assert stage.store.asked == ["remembered"]
    assert [recovery.result().offset for recovery in recoveries] == [0, 0, 0]
    stage.store.commit()
    assert stage.answers == [1, 2]
    assert (await outside)[0] == 3
    assert [json.loads(row.push)["content"] for row in stage.store.rows[LOBBY].values()] == ["a", "b", "c"]
    assert stage.broker.stats()["broker_waiting"] == 0


async def test_a_failed_load_refuses_those_who_wait_and_is_tried_again_for_the_next():
    stage = Stage()
    stage.store.answers = Unavailable(retry_after_s=7.0)
    stage.say()
    with pytest.raises(Unavailable) as refused:
        await stage.stream.recover(None)
    assert refused.value.retry_after_s == 7.0
    with pytest.raises(Unavailable):
        await stage.stream.history(None, None, 10)
    assert stage.answers == ["unavailable"]
    stage.store.answers = None
    stage.say()
    await settle()
    stage.store.commit()
    assert stage.answers == ["unavailable", 1]


async def test_a_load_that_fails_over_a_mistake_is_unavailable_and_logged(monkeypatch, caplog):
    stage = Stage()

    async def remembered(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(stage.store, "remembered", remembered)
    with pytest.raises(Unavailable):
        await stage.stream.recover(None)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(("bound", "most"), [("WAITING_MAX", 3), ("WAITING_BYTES", 3 * 4)])
async def test_what_waits_for_a_load_is_bounded_in_number_and_bytes(monkeypatch, bound, most):
    monkeypatch.setattr(broker_durable, bound, most)
    stage = Stage()
    stage.store.answers = asyncio.Event()
    for _ in range(3):
        stage.say(None)
    with pytest.raises(Unavailable, match="waits for the store") as refused:
        stage.say(None)
    assert refused.value.retry_after_s is not None
    stage.store.answers.set()
    await settle()
    stage.store.commit()
    assert stage.answers == [1, 2, 3]
    stage.say(None)


async def test_a_recovery_that_is_given_up_does_not_harm_the_others():
    stage = Stage()
    stage.store.answers = asyncio.Event()
    gone, kept = (asyncio.ensure_future(stage.stream.recover(None)) for _ in range(2))
    await settle()
    gone.cancel()
    stage.store.answers.set()
    assert (await kept).offset == 0
    assert gone.cancelled()


# ---------------------------------------------------------------- failure


async def test_a_failed_group_fails_all_in_flight_and_the_room_looks_before_it_goes_on(stage):
    stage.say("kept")
    stage.store.commit()
    for text in ("lost", "lost too"):
        stage.say(text)
    stage.store.fail()
    assert stage.answers == [1, "unavailable", "unavailable"]
    stage.say("next")
    assert len(stage.store.queue) == 0, "no offset is given before the room has looked"
    await settle()
    stage.store.commit()
    assert (stage.delivered, stage.answers[3:]) == ([1, 2], [2])
    assert [json.loads(row.push)["content"] for row in stage.store.rows[LOBBY].values()] == ["kept", "next"]


async def test_what_was_kept_though_its_group_failed_is_delivered_and_found_by_its_key(stage):
    stage.say("one", key="k1")
    stage.say("two", key="k2")
    stage.say("three", key="k3")
    stage.store.fail(written=2)
    assert (stage.delivered, stage.answers) == ([], ["unavailable"] * 3)
    await settle()
    assert stage.delivered == [1, 2]
    for key in ("k2", "k1", "k3"):
        stage.say("repeat", key=key)
    stage.store.commit()
    assert stage.answers[3:] == [(2, "again"), (1, "again"), 3]
    assert stage.delivered == [1, 2, 3]


async def test_the_room_does_not_look_while_the_store_has_rows_still_to_tell_of(stage):
    stage.say("one")
    stage.say("two")
    stage.store.fail(told=1)
    stage.say("three")
    await settle()
    assert stage.answers == ["unavailable", "unavailable"]
    assert stage.store.asked == [], "what is still to be told of might be committed after the look"
    stage.store.fail()
    await settle()
    assert stage.store.asked[0] == "remembered"
    stage.store.commit()
    assert (stage.delivered, stage.answers[2:]) == ([1], [1])


async def test_while_it_cannot_be_found_out_publications_are_refused_and_ticks_try_again(stage):
    stage.say("one")
    stage.store.answers = Unavailable(retry_after_s=2.0)
    stage.store.fail(written=1)
    for _ in range(3):
        stage.say("more")
        await settle()
    assert stage.answers == ["unavailable"] * 4
    assert stage.broker.stats()["broker_unknown_rooms"] == 1
    stage.store.answers = None
    stage.store.asked.clear()
    stage.broker.tick()
    await settle()
    assert stage.delivered == [1], "without anybody asking for it"
    assert stage.broker.stats()["broker_unknown_rooms"] == 0
    asked = len(stage.store.asked)
    stage.clock.advance(100)
    stage.broker.tick()
    await settle()
    assert len(stage.store.asked) == asked


async def test_ticks_do_not_ask_a_broken_store_all_the_time(stage):
    stage.say("one")
    stage.store.answers = Unavailable()
    stage.store.fail()
    await settle()
    stage.store.asked.clear()
    for _ in range(20):
        stage.clock.advance(0.1)
        stage.broker.tick()
        await settle()
    assert 2 <= len(stage.store.asked) <= 3


async def test_many_rows_found_after_a_failure_are_delivered_page_by_page(stage):
    for number in range(1_234):
        stage.say(number)
    stage.store.fail(written=1_234)
    await settle()
    await settle()
    assert stage.delivered == list(range(1, 1_235))


async def test_an_append_that_is_refused_takes_no_offset_and_harms_nothing_in_flight(stage):
    stage.say("one")
    stage.store.takes = Unavailable("full", retry_after_s=1.0)
    with pytest.raises(Unavailable, match="full"):
        stage.say("refused", key="k")
    stage.store.takes = None
    stage.say("two", key="k")
    stage.store.commit()
    assert (stage.delivered, stage.answers) == ([1, 2], [1, 2])


async def test_a_refused_append_of_a_publication_that_waited_is_its_own_alone():
    stage = Stage()
    stage.store.takes = Unavailable("full")
    stage.say("one")
    await settle()
    assert stage.answers == ["unavailable"]


async def test_a_store_that_has_lost_rows_is_told_in_the_log_and_offsets_are_not_given_twice(stage, caplog):
    for _ in range(3):
        stage.say()
    stage.store.commit()
    del stage.store.rows[LOBBY][2], stage.store.rows[LOBBY][3]
    stage.say()
    stage.store.fail()
    await settle()
    assert "has lost what is after offset 1" in caplog.text
    stage.say()
    stage.store.commit()
    assert stage.delivered == [1, 2, 3, 4]


async def test_a_hole_in_the_store_is_told_in_the_log_and_the_order_goes_on_behind_it(stage, caplog):
    for _ in range(3):
        stage.say()
    stage.store.fail(written=3)
    del stage.store.rows[LOBBY][1]
    await settle()
    assert "has a hole after offset 0" in caplog.text
    stage.say()
    stage.store.commit()
    assert stage.delivered == [4]


async def test_a_store_that_comes_back_in_another_epoch_takes_its_rooms_along(stage, caplog):
    for _ in range(3):
        stage.say()
    stage.store.commit()
    stage.say()
    stage.store.epoch = b"epoch2"  # the database was restored without its tail
    del stage.store.rows[LOBBY][3]
    stage.say()
    stage.store.commit()
    recovery = await stage.stream.recover(Position(5, b"epoch1"))
    assert recovery == Recovery(5, b"epoch2", False, ())
    stage.say()
    stage.store.commit()
    assert stage.delivered == [1, 2, 3, 4, 5, 6]
    assert stage.store.rows[LOBBY][5].position.epoch == b"epoch1"
    assert stage.store.rows[LOBBY][6].position.epoch == b"epoch2"
    stage.store.epoch = b"epoch3"
    stage.say()
    await settle()
    stage.store.commit()
    assert stage.store.rows[LOBBY][7].position.epoch == b"epoch3"
    assert stage.broker.stats()["broker_unknown_rooms"] == 0


# ---------------------------------------------------------------- a crash


async def test_a_crash_between_commit_and_ack_is_found_by_the_repeat(stage):
    stage.say("one", key="k")
    stage.store.write(stage.store.queue[0][0])
    stage.crash()
    stage.say("one", key="k")
    await settle()
    stage.say("two")
    stage.store.commit()
    assert stage.answers == [(1, "again"), 2]
    assert stage.delivered == [2]


async def test_a_crash_before_the_commit_leaves_nothing_and_the_repeat_is_the_first(stage):
    stage.say("one", key="k")
    stage.crash()
    stage.say("one", key="k")
    await settle()
    stage.store.commit()
    assert stage.answers == [1]


async def test_a_key_is_remembered_over_a_restart_for_the_window_and_no_longer(stage):
    stage.say("one", key="k")
    stage.store.commit()
    for passed, answer in ((299, (1, "again")), (2, 2)):
        stage.clock.advance(passed)
        stage.crash()
        await stage.ready()
        stage.say("again", key="k")
        stage.store.commit()
        assert stage.answers[-1] == answer


async def test_a_key_that_was_remembered_expires_while_the_room_is_loaded(stage):
    stage.say("one", key="k")
    stage.store.commit()
    stage.clock.advance(200)
    stage.crash()
    await stage.ready()
    stage.clock.advance(101)
    stage.say("again", key="k")
    stage.store.commit()
    assert stage.answers == [1, 2]


# ---------------------------------------------------------------- terms


async def test_a_key_in_flight_gets_the_outcome_of_the_first(stage):
    stage.say("one", key="k")
    stage.say("one", key="k")
    stage.say("one", key="k", sender=BOB)
    assert len(stage.store.queue) == 2
    stage.store.commit()
    assert sorted(stage.answers, key=str) == [(1, "again"), 1, 2]
    stage.say("two", key="k2")
    stage.say("two", key="k2")
    stage.store.fail()
    assert stage.answers[3:] == ["unavailable", "unavailable"]


async def test_terms_are_weighed_against_what_is_ordered_in_flight_included(stage):
    stage.say(expect=0)
    stage.say(expect=1, fence=5)
    with pytest.raises(Conflict, match="at offset 2"):
        stage.say(expect=1)
    with pytest.raises(Conflict, match="ring version 5"):
        stage.say(fence=4)
    stage.store.commit()
    assert stage.answers == [1, 2]


async def test_terms_of_a_publication_that_waits_are_weighed_when_its_turn_comes():
    stage = Stage()
    stage.say(expect=0)
    stage.say(expect=0)
    await settle()
    stage.store.commit()
    assert stage.answers == ["conflict", 1]
