"""The supervisor, with workers that only pretend: who is started when, and how it ends."""

import asyncio
import logging

import pytest

from realtime.edge.handover_wire import HandoverFailed
from realtime.edge.leash import Word
from realtime.edge.supervisor import BACKOFF_MAX_S, STEADY_S, Restarts, Supervisor
from realtime.errors import StartupError


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Child:
    """A worker: `say` and `end` are what it does; it drains at once unless it is `deaf`."""

    def __init__(self, pid, deaf=False):
        self.pid = pid
        self.deaf = deaf
        self.told = []
        self._heard = False
        self._word = asyncio.get_running_loop().create_future()
        self._code = asyncio.get_running_loop().create_future()

    def say(self, word):
        self._word.set_result(word)

    def end(self, code):
        if not self._code.done():
            self._code.set_result(code)
        if not self._word.done():
            self._word.set_result(None)

    async def word(self):
        if self._heard:  # one thing alone: from then on it is silent
            await asyncio.shield(self._code)
            return None
        self._heard = True
        return await self._word

    async def ended(self):
        return await self._code

    def stop(self):
        self.told.append("stop")
        if not self.deaf:
            self.end(0)

    def reload(self):
        self.told.append("reload")

    def abort(self):
        self.told.append("abort")

    def kill(self):
        self.told.append("kill")
        self.end(-9)


class Talker(Child):
    """One that says more than one thing, and can hand over. Two who hear it would each hear a part."""

    def __init__(self, pid, deaf=False):
        super().__init__(pid, deaf)
        self._words = asyncio.Queue()
        self._heard_by = 0

    def say(self, word):
        self._words.put_nowait(word)

    def end(self, code):
        super().end(code)
        self._words.put_nowait(None)

    async def word(self):
        assert not self._heard_by, "another one hears it"
        self._heard_by += 1
        try:
            return await self._words.get()
        finally:
            self._heard_by -= 1

    def hand_over(self, end):
        self.told.append("hand over")


class World:
    """A supervisor of pretended workers; `next()` is the next one it starts."""

    def __init__(self, count=1, stop_timeout_s=5.0, deaf=False, child=Child, silence_s=0.0, leaving=()):
        self._child = child
        self.clock = Clock()
        self.deaf = deaf
        self.buried = []
        self.out_of_processes = 0
        self.ups = 0
        self._started = asyncio.Queue()
        self._pids = 0
        self.supervisor = Supervisor(
            count,
            self._spawn,
            clock=self.clock,
            stop_timeout_s=stop_timeout_s,
            bury=self._bury,
            up=self._up,
            silence_s=silence_s,
            leaving=leaving,
        )
        self.run = asyncio.create_task(self.supervisor.run())

    async def next(self):
        return await asyncio.wait_for(self._started.get(), 60)

    async def _spawn(self, number, place):
        if self.out_of_processes:
            self.out_of_processes -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self._pids += 1
        child = self._child(self._pids, self.deaf)
        await self._started.put((number, child))
        return child

    async def _bury(self, worker):
        self.buried.append(worker)

    def _up(self):
        self.ups += 1


async def turns(count=10):
    for _ in range(count):
        await asyncio.sleep(0)


def test_restarts_wait_longer_and_longer_and_are_quick_again_after_a_good_run():
    restarts = Restarts()
    waits = [restarts.delay_s(1.0) for _ in range(9)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, BACKOFF_MAX_S, BACKOFF_MAX_S]
    assert [restarts.delay_s(STEADY_S), restarts.delay_s(0.0)] == [0.1, 0.2]


async def test_it_is_up_once_when_all_listen_and_ends_well_when_all_do():
    world = World(count=2)
    children = dict([await world.next(), await world.next()])
    assert sorted(children) == [1, 2]
    children[2].say(Word("n-2-x"))
    await turns()
    assert world.ups == 0
    children[1].say(Word("n-1-x"))
    await turns()
    assert world.ups == 1
    world.supervisor.stop()
    assert await world.run == 0
    assert [child.told for child in children.values()] == [["stop"], ["stop"]]
    assert world.buried == []  # who drains leaves the ring by itself


async def test_one_that_dies_is_buried_and_started_again_and_the_others_go_on(caplog):
    world = World(count=2)
    children = dict([await world.next(), await world.next()])
    for number, child in children.items():
        child.say(Word(f"n-{number}-x"))
    await turns()
    children[1].end(-11)
    number, again = await world.next()
    assert (number, world.buried, world.ups) == (1, ["n-1-x"], 1)
    assert "worker 1 (pid 1) was ended by SIGSEGV; it is started again in 0.1 s" in caplog.text
    again.say(Word("n-1-y"))
    world.supervisor.stop()
    assert await world.run == 0
    assert (children[2].told, again.told, world.ups) == (["stop"], ["stop"], 1)


async def test_who_cannot_start_three_times_before_any_has_ends_it_all_with_the_reason():
    world = World(count=2)
    good = None
    for _ in range(3):
        number, child = await world.next()
        while number == 2:
            good = child
            number, child = await world.next()
        child.say(Word(failed="the disk is full"))
        child.end(1)
    with pytest.raises(StartupError, match="the disk is full"):
        await world.run
    assert good.told == ["stop"]


async def test_who_cannot_start_is_tried_for_ever_once_any_has_been_up():
    world = World(count=2)
    children = dict([await world.next(), await world.next()])
    children[2].say(Word("n-2-x"))
    child = children[1]
    for _ in range(4):
        child.say(Word(failed="not yet"))
        child.end(1)
        _, child = await world.next()
    child.say(Word("n-1-x"))
    await turns()
    assert world.ups == 1
    world.supervisor.stop()
    assert await world.run == 0


async def test_one_that_does_not_drain_is_killed_and_that_is_no_good_end(caplog):
    world = World(stop_timeout_s=0.05, deaf=True)
    _, child = await world.next()
    world.supervisor.stop()
    assert await world.run == 1
    assert child.told == ["stop", "kill"]
    assert "was ended by SIGKILL while it was to end" in caplog.text


async def test_a_machine_that_has_no_process_to_spare_is_asked_again(caplog):
    world = World()
    world.out_of_processes = 2
    _, child = await world.next()
    assert caplog.text.count("worker 1 cannot be started: [Errno 11]") == 2
    child.say(Word("n-1-x"))
    await turns()
    world.supervisor.stop()
    assert (await world.run, world.ups) == (0, 1)


async def test_nobody_is_started_once_it_stops():
    world = World()
    _, child = await world.next()
    child.say(Word("n-1-x"))
    await turns()
    child.end(-9)
    await turns()
    world.supervisor.stop()  # while it waits to start it again
    assert await world.run == 0  # that it had died is told, and ended nothing
    assert world._started.empty()


async def test_a_second_signal_ends_all_at_once():
    world = World(deaf=True)
    _, child = await world.next()
    world.supervisor.stop()
    world.supervisor.kill()
    assert await world.run == 1
    assert child.told == ["stop", "kill"]


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.ERROR)


async def test_all_workers_are_told_to_reload():
    world = World(count=2)
    children = [(await world.next())[1] for _ in range(2)]
    world.supervisor.reload()
    world.supervisor.reload()
    assert [child.told for child in children] == [["reload", "reload"]] * 2
    world.supervisor.stop()
    assert await world.run == 0


@pytest.mark.parametrize("silence_s", [0.0, 60.0])  # whose words are heard all the time, and whose are not
async def test_what_a_worker_says_of_its_hand_over_is_heard(silence_s):
    world = World(child=Talker, silence_s=silence_s)
    _, old = await world.next()
    old.say(Word("n-1-x"))
    await turns()
    refused = asyncio.create_task(world.supervisor.upgrade())
    _, new = await world.next()
    old.say(Word(stays="it is busy"))
    new.end(1)
    with pytest.raises(HandoverFailed, match="it is busy"):
        await refused
    replaced = asyncio.create_task(world.supervisor.upgrade())
    _, new = await world.next()
    old.say(Word(handed_over={"connections": 7}))
    new.say(Word("n-1-x"))
    assert await replaced == [{"worker": 1, "pid": new.pid, "connections": 7}]
    assert old.told == ["hand over", "hand over"]
    old.end(0)
    await turns()
    assert (world.supervisor.children, world.buried) == ({1: new}, [])
    world.supervisor.stop()
    assert await world.run == 0
    assert new.told == ["stop"]


async def upgraded(world, old):
    """Have the only worker replaced; return the new one, and what is told."""
    upgrade = asyncio.create_task(world.supervisor.upgrade())
    _, new = await world.next()
    old.say(Word(handed_over={"connections": 7}))
    new.say(Word("n-1-x"))
    return new, await upgrade


@pytest.mark.parametrize("silence_s", [0.0, 60.0])
async def test_who_has_taken_a_place_can_hand_it_on_while_the_one_before_still_drains(silence_s, caplog):
    world = World(child=Talker, silence_s=silence_s, stop_timeout_s=60.0)
    _, first = await world.next()
    first.say(Word("n-1-x"))
    await turns()
    second, _ = await upgraded(world, first)
    if silence_s:  # it is heard from now on, whatever becomes of the first
        second.say(Word(connections=7, rooms=2))
        await turns()
        assert world.supervisor.describe() == "1 workers: 7 connections, 2 rooms"
        second.say(Word(connections=8, rooms=2))  # what it says all the time is no answer
    upgrade = asyncio.create_task(world.supervisor.upgrade())
    _, third = await world.next()
    first.end(0)  # in the middle of it
    await turns()
    second.say(Word(handed_over={"connections": 8}))
    third.say(Word("n-1-x"))
    assert await upgrade == [{"worker": 1, "pid": third.pid, "connections": 8}]
    assert world.supervisor.children == {1: third}
    assert world.supervisor.leaving == [second]
    refused = asyncio.create_task(world.supervisor.upgrade())
    _, fourth = await world.next()
    third.say(Word(stays="it is busy"))
    fourth.end(1)
    with pytest.raises(HandoverFailed, match="it is busy"):
        await refused
    world.supervisor.stop()
    assert await world.run == 0
    assert (second.told[-1], third.told[-1]) == ("stop", "stop")
    assert (world.buried, world.supervisor.leaving, caplog.text) == ([], [], "")


async def test_one_that_hangs_is_ended_although_the_one_before_it_still_drains():
    world = World(child=Talker, silence_s=60.0)
    _, first = await world.next()
    first.say(Word("n-1-x"))
    await turns()
    upgrade = asyncio.create_task(world.supervisor.upgrade())
    _, second = await world.next()
    first.say(Word(handed_over={}))
    await turns()
    world.supervisor._silence_s = 0.05  # from here on: the first would be taken for hung on a busy machine
    second.say(Word("n-1-x"))  # and nothing more
    await upgrade
    number, third = await world.next()
    assert (number, second.told) == (1, ["abort", "kill"])
    world.supervisor._silence_s = 60.0
    third.say(Word("n-1-y"))
    await turns()
    assert world.supervisor.leaving == [first]
    world.supervisor.stop()
    assert await world.run == 0


async def test_one_that_is_just_being_started_is_not_replaced():
    world = World(child=Talker)
    _, first = await world.next()
    first.say(Word("n-1-x"))
    await turns()
    first.end(-9)
    _, again = await world.next()
    with pytest.raises(HandoverFailed, match="worker 1 is just being started"):
        await world.supervisor.upgrade()
    again.say(Word("n-1-y"))
    await turns()
    _, told = await upgraded(world, again)
    assert told[0]["connections"] == 7
    world.supervisor.stop()
    assert await world.run == 0


async def test_those_who_were_leaving_before_the_supervisor_was_replaced_are_waited_for():
    leaving = Talker(99, deaf=True)
    world = World(leaving=[leaving])
    _, child = await world.next()
    assert world.supervisor.leaving == [leaving]
    world.supervisor.stop()
    await turns()
    assert not world.run.done()
    assert (leaving.told, child.told) == (["stop"], ["stop"])
    leaving.end(0)
    assert await world.run == 0
