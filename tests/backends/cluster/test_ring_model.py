"""Random lives of workers around the ring: late answers, lost news, pauses, deaths, failovers that forget.

The functions are the real ones, in a real Redis; time is the test's. Checked at each step: a version is
never given twice and never goes back; no two workers hold one slot under one version; who has kept a slot
without a break was never overtaken in between; and nobody is removed by time whose own lease still runs,
unless a failover forgot its beats. At the end, when all beat again, every slot has one owner, and all agree.
"""

import random

import pytest

from realtime.core.cluster import SLOTS
from tests.backends.cluster.ring_stage import TTL_MS, RingStage, Worker

STEPS = 120
SEEDS = range(12)
BEAT_MS = TTL_MS // 3


class Lives:
    """A stage, and workers of whom each does what chance says."""

    def __init__(self, node, seed, *, failovers):
        self.chance = random.Random(seed)
        self.stage = RingStage(node)
        self.failovers = failovers
        self.workers = [Worker(f"w{i}") for i in range(4)]
        self.buried = set()
        self.version = 0
        self.kept = self.stage.snapshot()
        self.masterships = 0

    @property
    def now(self):
        return self.stage.now_ms / 1000

    def step(self):
        acts = (
            [self.beat] * 6 + [self.answer] * 6 + [self.news] * 6 + [self.wait] * 3 + [self.rest, self.bury]
        )
        if self.failovers:
            acts += [self.remember, self.fail_over]
        self.chance.choice(acts)(self.chance.choice(self.workers))
        self.check()

    def beat(self, worker):
        self.expire(worker)
        if worker.name in self.buried or len(worker.replies) > 0:
            return
        ring, known = worker.ring, worker.ring.version
        before = self.stage.look()
        placed, news = self.stage.beat(worker.name, known, placed=ring.has_place)
        worker.replies.append((self.now, ring.has_place, placed, news))
        self.spread(before)

    def answer(self, worker):
        if not worker.replies:
            return
        sent, placed, listed, news = worker.replies.pop(0)
        if worker.name in self.buried:
            return
        if self.chance.random() < 0.1:
            return  # the answer is lost
        if listed:
            worker.took(worker.ring.beaten(sent, self.now, news, placed=placed))
        else:
            worker.took(worker.ring.removed())
            if news is not None:
                worker.took(worker.ring.heard(news))

    def news(self, worker):
        if worker.mail and worker.name not in self.buried:
            news = worker.mail.pop(0)
            if self.chance.random() < 0.5:
                worker.took(worker.ring.heard(news))

    def wait(self, worker):
        self.stage.now_ms += self.chance.choice([1, BEAT_MS // 2, BEAT_MS, 2 * BEAT_MS])

    def rest(self, worker):
        """Everybody waits for long: paused, or without Redis."""
        self.stage.now_ms += 4 * TTL_MS

    def bury(self, worker):
        if worker.name in self.buried or len(self.buried) > 1:
            return
        self.buried.add(worker.name)  # its process has ended: nothing of it goes on
        self.leave_now(worker)

    def leave(self, worker):
        """Give all up; the next beat takes a place again."""
        if worker.name not in self.buried:
            self.leave_now(worker)

    def leave_now(self, worker):
        worker.took(worker.ring.removed())
        before = self.stage.look()
        self.stage.bury(worker.name)
        self.spread(before)

    def remember(self, worker):
        self.kept = self.stage.snapshot()

    def fail_over(self, worker):
        """A replica takes over that had not heard of the last changes, some time later."""
        self.stage.now_ms += self.chance.randint(200, 3000)
        self.stage.restore(self.kept)
        self.masterships += 1
        self.stage.become(f"mastership {self.masterships}")

    def spread(self, before):
        """Publish what has changed, and hold Redis to its word."""
        after = self.stage.look()
        if after is None or (before is not None and after.version == before.version):
            return
        assert after.version > self.version, "a version was given again"
        self.version = after.version
        if not self.failovers:
            self.judge_removals(before, after)
        for worker in self.workers:
            worker.mail.append(after)

    def judge_removals(self, before, after):
        for worker in self.workers:
            if before is not None and worker.name in before.workers and worker.name not in after.workers:
                assert not worker.ring.leased(self.now), f"{worker.name} was removed while its lease ran"

    def expire(self, worker):
        worker.took(worker.ring.expire(self.now))

    def check(self):
        held = {}
        for worker in self.workers:
            assert bool(worker.owned) == worker.ring.has_place, f"{worker.name} has a place and owns nothing"
            if not worker.ring.leased(self.now):
                continue
            for slot in list(worker.owned)[::499]:
                place = (slot, worker.ring.version)
                assert place not in held, f"slot {slot} has two owners under {worker.ring.version}"
                held[place] = worker.name

    def judge_breaks(self):
        """Who held a slot from one version to another without a break was the only one to come to it."""
        for worker in self.workers:
            lasting = [(slot, since, worker.ring.version) for slot, since in worker.owned.items()]
            spans = {(slot, since, until) for slot, since, until in worker.held + lasting if slot % 499 == 0}
            for other in self.workers:
                if other is worker:
                    continue
                comings = [(slot, since) for slot, since, _ in other.held] + list(other.owned.items())
                for slot, since, until in spans:
                    overtaken = [at for theirs, at in comings if theirs == slot and since < at <= until]
                    assert not overtaken, f"{other.name} came to slot {slot} while {worker.name} held it"

    def heal(self):
        """All who live beat, and all is delivered."""
        living = [worker for worker in self.workers if worker.name not in self.buried]
        for _ in range(8):
            self.stage.now_ms += BEAT_MS
            for worker in living:
                self.expire(worker)
                worker.mail.clear()
                worker.replies.clear()
                self.beat(worker)
                sent, placed, listed, news = worker.replies.pop()
                if listed:
                    worker.took(worker.ring.beaten(sent, self.now, news, placed=placed))
                else:
                    worker.took(worker.ring.removed())
        return living


@pytest.mark.parametrize("failovers", [False, True], ids=["one Redis", "failovers"])
def test_whatever_happens_nobody_is_overtaken_and_in_the_end_all_agree(own_redis_node, failovers):
    for seed in SEEDS:
        print(f"seed {seed}")
        lives = Lives(own_redis_node, seed, failovers=failovers)
        for _ in range(STEPS):
            lives.step()
        lives.judge_breaks()
        living = lives.heal()
        assert {worker.ring.version for worker in living} == {lives.version}
        assert sorted(slot for worker in living for slot in worker.owned) == list(range(SLOTS))
        assert all(worker.ring.leased(lives.now) for worker in living)
        assert all(len(worker.owned) == len(worker.ring.owned_slots()) for worker in living)
