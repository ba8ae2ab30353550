"""Anything in any order, crashes included: the durable broker keeps its word. Failing seeds are printed."""

import json
import random
from functools import partial

import pytest

from realtime.core.contracts import Position, Terms
from realtime.errors import Unavailable
from tests.backends.durable_stage import ALICE, CHAT, LOBBY, Stage, get
from tests.core.slow_broker import settle


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
