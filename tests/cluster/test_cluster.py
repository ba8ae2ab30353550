"""The harness of the cluster's chaos, first where nothing goes wrong; `make chaos-cluster` goes on."""

import asyncio
import functools
import os
import random

import pytest

from tests.chaos.world import BrokenPromiseError
from tests.cluster.drive import SETTINGS, Plan, Run
from tests.cluster.hosts import Host
from tests.cluster.judge import ClusterJudge
from tests.cluster.scene import scene
from tests.cluster.world import Stalls


class ByHearing(ClusterJudge):
    """For a server alone, whose epochs are no numbers: they rise in the order in which they are heard of."""

    def age(self, epoch: str) -> int:
        return self._heard.setdefault(epoch, len(self._heard))

    @functools.cached_property
    def _heard(self) -> dict[str, int]:
        return {}


def _seed() -> int:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(1 << 32)))
    print(f"CHAOS_SEED={seed}")
    return seed


def test_clients_of_one_embedded_server_find_nothing_wrong():
    host = Host("alone", SETTINGS, workers=1)
    deeds = frozenset({"ack", "push", "page", "signal", "recovered"})
    plan = Plan(_seed(), seconds=1.0, members=9, sdk=3, rate=600.0, deeds=deeds)

    async def go() -> None:
        outcome = await Run(plan, [host], None, judge=ByHearing).go()
        print(outcome)
        assert deeds <= set(outcome.counts)
        assert outcome.written > 20
        assert outcome.turns == outcome.lost == 0

    try:
        asyncio.run(go())
    finally:
        host.finish()


def test_a_server_that_forgets_is_found_out():
    """Its rooms go on in new epochs, and no trouble of Redis is the cause."""
    host = Host("alone", SETTINGS, workers=1)

    async def go() -> None:
        run = Run(Plan(_seed(), seconds=1.0, members=4, sdk=0, rate=300.0), [host], None, judge=ByHearing)
        running = asyncio.create_task(run.go())
        await run.world.until(lambda: run.world.counts["ack"] > 100)
        await asyncio.to_thread(host.server.kill)
        await asyncio.to_thread(host.server.start)
        await running

    try:
        with pytest.raises(BrokenPromiseError):
            asyncio.run(go())
    finally:
        host.finish()


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_nothing_is_lost_in_silence_while_workers_and_a_master_die():
    faults = ("tail lost", "worker killed")
    plan = Plan(_seed(), seconds=0.0, members=8, sdk=2, rate=150.0, faults=faults)
    with scene(SETTINGS) as here:
        outcome = asyncio.run(here.play(plan, print))
    print(outcome)
    # A run in which nothing was lost, recovered or owned anew would prove nothing.
    assert set(outcome.faults) == set(plan.faults)
    assert outcome.lost > 0
    assert outcome.turns > 0
    assert outcome.owners > 0
    assert outcome.counts["recovered"] > 0


def test_a_stall_is_the_longest_time_of_any_room():
    stalls = Stalls()
    for at_s in (1.0, 2.0, 6.0, 9.0):
        stalls.acked("a", at_s)
    for at_s in (1.0, 3.0, 5.0, 7.0, 9.0):
        stalls.acked("b", at_s)
    assert stalls.longest_s(0.0, 9.0) == 4.0
    assert stalls.longest_s(2.5, 5.0) == 2.5
    assert stalls.last_s("a") == 9.0
