"""The durable broker on a store that commits and fails when told: what is delivered and acknowledged when."""

import asyncio
import json
import random
from functools import partial

import pytest

from realtime.backends import broker_durable
from realtime.backends.broker_durable import DurableBroker
from realtime.backends.broker_memory import MemoryBroker
from realtime.core.contracts import Page, Position, Recovery, RoomKey, Row, Terms
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict, Unavailable
from realtime.ids import RoomId, TenantId
from tests.core.slow_broker import settle
from tests.oracles.hub import FakeClock, FakeHub
from tests.oracles.store import FakeStore

CHAT = RoomKind(name="chat", durable=True)
LOBBY = RoomKey(TenantId("default"), RoomId("chat:lobby"))
ALICE, BOB = b'"alice"', b'"bob"'


class Stage:
    """A broker on a store, one room with a subscriber, and a protocol of what happened in which order."""

    def __init__(self, store: FakeStore | None = None, **options) -> None:
        self.clock = FakeClock()
        self.store = store or FakeStore()
        self.happened: list[tuple[str, object]] = []
        self.broker = self.make_broker(**options)
        self.stream = self.open()

    def make_broker(self, **options) -> DurableBroker:
        durable = {name: options.pop(name) for name in ("recovery_bytes",) if name in options}
        hub = FakeHub(self.clock)
        memory = MemoryBroker(self.clock, hub, **options)
        shared = {name: options[name] for name in ("recovery_window_s", "idle_rooms") if name in options}
        return DurableBroker(memory, self.store, self.clock, hub, **shared, **durable)

    def open(self, room: RoomKey = LOBBY):
        return self.broker.open(room, CHAT, self._deliver)

    def _deliver(self, push: bytes, offset: int) -> None:
        assert json.loads(push)["offset"] == offset
        self.happened.append(("delivered", offset))

    @property
    def delivered(self) -> list[object]:
        return [what for kind, what in self.happened if kind == "delivered"]

    @property
    def answers(self) -> list[object]:
        return [what for kind, what in self.happened if kind == "answered"]

    def say(self, content: object = None, *, sender: bytes = ALICE, stream=None, **terms) -> None:
        """Publish; the receipt, or the error's name, is noted when it comes."""
        given = Terms(**terms) if terms else None
        text = json.dumps(content).encode()
        receipt = (stream or self.stream).publish("chat_message", sender, text, given)
        receipt.then(lambda outcome: self.happened.append(("answered", brief(outcome))))

    async def ready(self) -> "Stage":
        """Load the room."""
        await self.stream.recover(None)
        self.store.asked.clear()
        return self

    def crash(self) -> None:
        """Lose the process: what is queued, and what was in memory. What it still does, it does elsewhere."""
        disk, self.store.rows = self.store.rows, {}
        self.store = FakeStore()
        self.store.rows = disk
        self.broker = self.make_broker()
        self.stream = self.open()


def brief(outcome):
    if isinstance(outcome, Exception):
        return outcome.code
    offset, _, duplicate = outcome
    return (offset, "again") if duplicate else offset


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


async def test_kinds_that_are_not_durable_never_touch_the_store(stage):
    room = RoomKey(TenantId("default"), RoomId("events:news"))
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


# ---------------------------------------------------------------- recovery and history


def kept_before(stage: Stage, rows: int, size: int = 10, epoch: bytes = b"epoch1") -> None:
    """Let the store have rows of an earlier run."""
    for offset in range(1, rows + 1):
        push = json.dumps({"offset": offset, "pad": "x" * size}).encode()
        stage.store.write(Row(LOBBY, Position(offset, epoch), push, ALICE, None, 0))


def offsets(answer: Recovery | Page) -> list[int]:
    return [json.loads(push)["offset"] for push in answer.messages]


@pytest.mark.parametrize(
    ("history_messages", "commits"), [(1000, 1), (1000, 7), (7, 3), (3, 3), (3, 7), (0, 2)]
)
async def test_what_commits_while_a_recovery_reads_continues_it_without_gap_or_repeat(
    history_messages, commits
):
    stage = Stage(history_messages=history_messages)
    kept_before(stage, 5)
    await stage.ready()
    stage.store.answers = asyncio.Event()
    recovering = asyncio.ensure_future(stage.stream.recover(Position(2, b"epoch1")))
    await settle()
    assert stage.store.asked == ["read"]
    for _ in range(commits):
        stage.say()
    stage.store.commit()
    stage.store.answers.set()
    recovery = await recovering
    assert (recovery.recovered, recovery.offset) == (True, 5)
    last = 5 + commits
    assert offsets(recovery) + stage.delivered == list(range(3, last + 1))
    for since in range(last + 1):
        again = await get(stage.stream.recover(Position(since, b"epoch1")))
        assert (again.offset, offsets(again)) == (last, list(range(since + 1, last + 1)))


async def test_what_was_read_is_not_joined_to_what_memory_has_where_the_two_do_not_meet():
    stage = Stage(history_bytes=500)
    kept_before(stage, 5)
    await stage.ready()
    stage.store.answers = asyncio.Event()
    recovering = asyncio.ensure_future(stage.stream.recover(Position(2, b"epoch1")))
    await settle()
    stage.say("x" * 1_000)  # too large for memory, which is empty after it
    stage.store.commit()
    stage.store.answers.set()
    assert offsets(await recovering) == [3, 4, 5]
    stage.say()
    stage.store.commit()
    assert stage.delivered == [6, 7]
    assert offsets(await get(stage.stream.recover(Position(3, b"epoch1")))) == [4, 5, 6, 7]


async def test_many_who_come_back_at_once_read_the_store_once():
    stage = Stage()
    kept_before(stage, 900)
    stream = stage.stream
    recoveries = await asyncio.gather(*(stream.recover(Position(700 + n, b"epoch1")) for n in range(100)))
    for n, recovery in enumerate(recoveries):
        assert offsets(recovery) == list(range(701 + n, 901))
    assert stage.store.asked == ["remembered", "read"]
    stage.say()
    stage.store.commit()
    assert stage.delivered == [901]
    assert offsets(stream.recover(Position(700, b"epoch1"))) == list(range(701, 902))


async def test_a_read_that_fails_refuses_all_that_wait_for_it_and_the_next_one_is_made():
    stage = Stage()
    kept_before(stage, 10)
    await stage.ready()
    stage.store.answers = Unavailable()
    asked = [asyncio.ensure_future(stage.stream.recover(Position(n, b"epoch1"))) for n in range(5)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert stage.store.asked == ["read"]
    stage.store.answers = None
    assert offsets(await stage.stream.recover(Position(4, b"epoch1"))) == [5, 6, 7, 8, 9, 10]


async def test_whoever_reads_and_is_gone_leaves_the_others_to_read():
    stage = Stage()
    kept_before(stage, 10)
    await stage.ready()
    stage.store.answers = asyncio.Event()
    gone = asyncio.ensure_future(stage.stream.recover(Position(3, b"epoch1")))
    other = asyncio.ensure_future(stage.stream.recover(Position(4, b"epoch1")))
    await settle()
    gone.cancel()
    stage.store.answers.set()
    assert offsets(await other) == [5, 6, 7, 8, 9, 10]


async def test_a_recovery_is_bounded_and_one_too_large_is_read_once_and_not_to_its_end():
    stage = Stage(recovery_bytes=50_000)
    kept_before(stage, 450, size=1_000)
    await stage.ready()
    kept_before(stage, 5_000, size=1_000)
    for since in (10, 10, 5, 0):
        recovery = (
            await stage.stream.recover(Position(since, b"epoch1"))
            if since == 10 and not (stage.store.asked)
            else stage.stream.recover(Position(since, b"epoch1"))
        )
        assert (recovery.recovered, list(recovery.messages), recovery.offset) == (False, [], 450)
    assert stage.store.asked == ["read"]
    assert offsets(await stage.stream.recover(Position(420, b"epoch1"))) == list(range(421, 451))


async def test_more_rows_than_could_ever_fit_are_refused_unread():
    stage = Stage(recovery_bytes=10_000)
    kept_before(stage, 1_000)
    await stage.ready()
    assert stage.stream.recover(Position(1, b"epoch1")).recovered is False
    assert stage.store.asked == []


async def test_recovery_is_whole_or_refused_where_the_store_has_a_hole_or_another_epoch():
    stage = Stage()
    kept_before(stage, 5, epoch=b"earlier")
    stage.store.write(Row(LOBBY, Position(6, b"epoch1"), b'{"offset":6}', None, None, 0))
    stage.store.write(Row(LOBBY, Position(8, b"epoch1"), b'{"offset":8}', None, None, 0))
    await stage.ready()
    for since, epoch, whole in ((3, b"epoch1", False), (5, b"epoch1", False), (7, b"epoch1", True)):
        recovery = await stage.stream.recover(Position(since, epoch))
        assert (recovery.recovered, recovery.offset) == (whole, 8)
        assert offsets(recovery) == ([8] if whole else [])
    assert stage.stream.recover(Position(3, b"earlier")).recovered is False


async def test_history_of_what_memory_has_is_answered_at_once_and_the_rest_by_the_store():
    stage = Stage()
    kept_before(stage, 10)
    await stage.ready()
    for _ in range(5):
        stage.say()
    stage.store.commit()
    for before, after, limit, expected, more, at_once in (
        (None, None, 3, [13, 14, 15], True, True),
        (None, None, 5, [11, 12, 13, 14, 15], True, False),
        (None, None, 7, [9, 10, 11, 12, 13, 14, 15], True, False),
        (15, None, 2, [13, 14], True, True),
        (11, None, 2, [9, 10], True, False),
        (3, None, 5, [1, 2], False, False),
        (None, 12, 2, [13, 14], True, True),
        (None, 10, 9, [11, 12, 13, 14, 15], False, True),
        (None, 9, 2, [10, 11], True, False),
    ):
        page = stage.stream.history(before, after, limit)
        assert isinstance(page, Page) is at_once
        page = page if isinstance(page, Page) else await page
        assert (offsets(page), page.more) == (expected, more), (before, after, limit)


async def test_history_shows_nothing_that_is_not_delivered_yet(stage):
    for _ in range(3):
        stage.say()
    stage.store.commit()
    stage.say()
    stage.store.write(stage.store.queue[0][0])
    assert offsets(await get(stage.stream.history(None, None, 100))) == [1, 2, 3]


async def get(answer):
    return answer if isinstance(answer, tuple) else await answer


# ---------------------------------------------------------------- anything, in any order


class Witness:
    """A subscriber that notes what must never be: a gap, a repeat, two contents, or what is not kept."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._last: int | None = None
        self.seen: dict[int, bytes] = {}
        self.wrong: list[str] = []

    def subscribe(self) -> None:
        """Begin anew, as whoever joins."""
        self._last = None
        store = self._stage.store

        def deliver(push: bytes, offset: int) -> None:
            if self._stage.store is not store:
                return  # of a process that is no more
            if self._last is not None and offset != self._last + 1:
                self.wrong.append(f"{offset} came after {self._last}")
            if self.seen.setdefault(offset, push) != push:
                self.wrong.append(f"{offset} has two contents")
            if store.rows[LOBBY][offset].push != push:
                self.wrong.append(f"{offset} was seen and is not kept")
            self._last = offset

        self._stage.stream = self._stage.broker.open(LOBBY, CHAT, deliver)


ACTIONS = ["say"] * 8 + ["commit", "part", "turn", "turn", "fail", "mute", "crash", "leave", "recover"]


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_each_offset_has_one_content_and_acked_is_kept(seed):
    dice = random.Random(seed)
    stage, acked = Stage(history_messages=dice.choice([0, 3, 1000])), {}
    witness = Witness(stage)
    stage.stream.close()
    witness.subscribe()
    for number in range(400):
        queued = len(stage.store.queue)
        match dice.choice(ACTIONS):
            case "say":
                text, key = b"%d" % number, dice.choice([None, f"k{number}"])
                receipt = stage.stream.publish("chat_message", ALICE, text, Terms(key=key))
                receipt.then(partial(note, acked, number))
            case "commit":
                stage.store.commit()
            case "part":
                stage.store.commit(dice.randint(0, queued))
            case "turn":
                await settle()
            case "fail":
                stage.store.fail(written=dice.randint(0, queued))
            case "mute":
                stage.store.answers = None if stage.store.answers else Unavailable()
            case "crash":
                stage.store.write_oldest(dice.randint(0, queued))
                stage.crash()
                stage.stream.close()
                witness.subscribe()
            case "leave":
                stage.stream.close()
                stage.clock.advance(dice.choice([1, 1000]))
                stage.broker.tick()
                witness.subscribe()
            case "recover":
                await check_recovery(stage, dice)
    stage.store.answers = None
    stage.clock.advance(10)
    stage.broker.tick()
    await settle()
    stage.store.commit()
    kept = stage.store.rows.get(LOBBY, {})
    assert witness.wrong == []
    assert sorted(kept) == list(range(1, len(kept) + 1)), "a hole"
    assert witness.seen.keys() <= kept.keys()
    offset_of = {json.loads(row.push)["content"]: offset for offset, row in kept.items()}
    assert len(offset_of) == len(kept), "kept twice"
    assert {number: offset_of[number] for number in acked} == acked
    assert (stage.broker.in_flight, stage.broker.waiting, stage.broker.waiting_bytes) == (0, 0, 0)


def note(acked: dict[int, int], number: int, outcome) -> None:
    if isinstance(outcome, tuple):
        acked[number] = outcome[0]


async def check_recovery(stage: Stage, dice: random.Random) -> None:
    """Ask for something that is kept, and see that the answer is it, or no answer."""
    since = dice.randint(0, max(stage.store.rows.get(LOBBY, {0: 0})))
    try:
        recovery = await get(stage.stream.recover(Position(since, stage.store.epoch)))
    except Unavailable:
        return
    if recovery.recovered:
        rows = stage.store.rows.get(LOBBY, {})
        wanted = [rows[offset].push for offset in range(since + 1, recovery.offset + 1)]
        assert list(recovery.messages) == wanted
