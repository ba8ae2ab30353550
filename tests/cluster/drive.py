"""Run chaotic clients against a cluster whose parts die, freeze and move, and have all that they saw judged.

The seed decides what each client does and which faults come in which order. Kernel, Redis and workers decide
when things happen, so that a seed gives the same story with other timing.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from tests.chaos.drive import BOUNDS, RECOVERS, RING, ROOMS_PER_MEMBER, Person, report
from tests.chaos.reader import read_all
from tests.chaos.world import BrokenPromiseError, StalledError
from tests.cluster.counting import CountingClient, Tallies
from tests.cluster.faults import Stage, faults_on
from tests.cluster.hosts import Host
from tests.cluster.judge import ClusterJudge, Trouble
from tests.cluster.member import ClusterMember, ClusterSdk, Prober
from tests.cluster.roster import check_rosters
from tests.cluster.world import PROBER, ClusterWorld, after

# Three slots or more on each master, and kinds that a slow reader is cut from and gets gaps from.
ROOMS = [f"{kind}:{name}" for kind in ("playlist", "events", "session") for name in "abcd"]
PROBES = [f"events:{name}" for name in ("probe1", "probe2", "probe3", "probe4")]
PROBERS = 4
TALLIES = [f"tally:{name}" for name in "abcdef"]  # more than workers, so that most own some
COUNTING = 3  # clients who have them counted
CALM_S = 1.0  # between two faults
MOVES_ON_S = 60.0  # after a fault every room has to
SETTINGS: dict[str, object] = {
    **BOUNDS,
    "reconnect_max_ms": 100,
    "drain_timeout_s": 3,
    "presence_grace_s": 1.0,
}


@dataclass
class Outcome:
    """What happened in a run."""

    counts: Counter[str]
    faults: Counter[str] = field(default_factory=Counter)
    stalls_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    owners_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    epochs: int = 0
    turns: int = 0
    lost: int = 0
    doubled: int = 0
    echoes: int = 0
    written: int = 0  # by owners
    owners: int = 0  # changes of them


@dataclass(frozen=True)
class Plan:
    """What a run is to be. `rate` is all publications together, in publications/s."""

    seed: int
    seconds: float = 120.0
    members: int = 12
    sdk: int = 3
    rate: float = 300.0
    faults: Collection[str] = ()  # these only; all there are where it is empty
    deeds: frozenset[str] = frozenset()  # a run without faults goes on until its clients have done these


class Run:
    """One run on hosts that are up; `stage` makes what there is to do harm to, None for no harm."""

    def __init__(
        self,
        plan: Plan,
        hosts: list[Host],
        stage: Callable[[ClusterWorld, random.Random], Stage] | None,
        durable: Collection[str] = (),
        judge: type[ClusterJudge] = ClusterJudge,
        tell: Callable[[str], None] = lambda news: None,
    ) -> None:
        self.plan = plan
        loop = asyncio.get_running_loop()
        self.judge = judge(durable, now=loop.time, keys_last=RING, recovers=RECOVERS)
        self.world = ClusterWorld(hosts, self.judge, f"{plan.seed}:world", plan.members, plan.rate)
        self.outcome = Outcome(self.world.counts)
        self._rng = random.Random(f"{plan.seed}:faults")
        self._stage = stage(self.world, self._rng) if stage is not None else None
        self._tell = tell
        self.tallies = Tallies(self.judge)
        self._people = self._invite(random.Random(f"{plan.seed}:members"))

    async def go(self) -> Outcome:
        """Let it happen, then let everybody catch up, and judge.

        Raises:
            BrokenPromiseError: something was lost in silence, doubled, out of order, or not what was said.
        """
        tasks = [asyncio.create_task(one.live(), name=one.name) for one in self._people]
        for task in tasks:
            task.add_done_callback(lambda done: report(self.world, done))
        tasks.append(asyncio.create_task(self._cut_the_silent()))
        for number in range(COUNTING):
            client = CountingClient(self.world, self.tallies, f"c{number}", TALLIES)
            tasks.append(asyncio.create_task(client.live(), name=client.name))
        for task in tasks[len(self._people) :]:
            task.add_done_callback(lambda done: report(self.world, done))
        try:
            await self._trouble()
            await self._end()
        except BrokenPromiseError as error:
            error.add_note("\n".join(map(str, self._people)))
            error.add_note(f"after {', '.join(f'{n} x{c}' for n, c in self.world.counts.most_common())}")
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._sum_up()

    def _invite(self, rng: random.Random) -> list[Person]:
        people: list[Person] = []
        for number in range(self.plan.members):
            make = ClusterSdk if number < self.plan.sdk else ClusterMember
            rooms = rng.sample(ROOMS, ROOMS_PER_MEMBER)
            people.append(make(self.world, f"m{number}", rooms, f"{self.plan.seed}:{number}"))
        for number in range(PROBERS):
            name = f"{PROBER}-{number}"
            people.append(Prober(self.world, name, PROBES, f"{self.plan.seed}:{name}"))
        return people

    # -- the faults ---------------------------------------------------------------------------------------

    async def _trouble(self) -> None:
        """One fault after the other until the time is over, and each kind once, before any comes again."""
        end_s = self.world.now + self.plan.seconds
        await self._everybody_moves_on("at the start")
        if self._stage is None:
            await after(max(0.0, end_s - self.world.now))
            # What clients do by chance is done when it has come up, not when the time is over.
            await self.world.until(lambda: self.plan.deeds <= set(self.world.counts))
            self.world.check()
            return
        wanted = [kind for kind in faults_on(self._stage) if not self.plan.faults or kind in self.plan.faults]
        whole_rounds = 0
        while not whole_rounds or self.world.now < end_s:
            for kind in self._rng.sample(wanted, len(wanted)):
                if not whole_rounds or self.world.now < end_s:
                    await self._one(self._stage, kind)
            whole_rounds += 1

    async def _one(self, stage: Stage, kind: str) -> None:
        """Do one fault, wait until everybody moves on, and measure."""
        fault = faults_on(stage)[kind]
        await after(CALM_S)
        trouble = Trouble(kind, self.world.now, opens_epochs=fault.opens_epochs, loses=fault.loses)
        self.judge.troubles.append(trouble)
        self.outcome.faults[kind] += 1
        await fault.do(stage)
        await stage.whole()
        await self._everybody_moves_on(f"after: {kind}")
        trouble.end_s = self.world.now
        stall_s = self.world.stalls.longest_s(trouble.begin_s, trouble.end_s)
        self.outcome.stalls_s[kind].append(stall_s)
        owners_s = self.world.counts_of_owners.longest_s(trouble.begin_s, trouble.end_s)
        self.outcome.owners_s[kind].append(owners_s)
        stood = f"{stall_s * 1000:.0f} ms, owners {owners_s * 1000:.0f} ms"
        self._tell(f"{kind}: {stood}; {self.world.counts['ack']} acks")

    async def _everybody_moves_on(self, when: str) -> None:
        """Return when every room that has members has an ack from now on."""
        began_s = self.world.now
        rooms = {books.name for books in self.judge.rooms()}
        late: set[str] = set()

        def moved() -> bool:
            late.clear()
            late.update(room for room in rooms if self.world.moves.last_s(room) < began_s)
            return not late

        try:
            async with asyncio.timeout(MOVES_ON_S):
                await self.world.until(moved)
        except TimeoutError:
            raise BrokenPromiseError(
                f"{when}: no ack for {MOVES_ON_S:.0f} s in {', '.join(sorted(late))}"
            ) from None

    async def _cut_the_silent(self) -> None:
        while not self.world.is_over:
            await after(0.25)
            for one in self._people:
                if isinstance(one, ClusterMember):
                    one.cut_if_silent()

    # -- the end ------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        """No more trouble: wait until everybody has everything, read all there is at each host, and judge."""
        self.world.is_ending = True
        for one in self._people:
            one.end()
        self.world.happened("end is near")
        try:
            async with asyncio.timeout(3 * MOVES_ON_S):
                await self.world.until(lambda: all(one.is_settled and one.has_all for one in self._people))
        except (StalledError, TimeoutError) as stalled:
            self.judge.close()  # it may know what is missing
            late = [str(one) for one in self._people if not (one.is_settled and one.has_all)]
            raise BrokenPromiseError(
                "\n".join(["at the end somebody does not have everything:", *late, *self.judge.faults[:20]])
            ) from stalled
        await check_rosters(self.world, self._rosters())
        for host in self.world.hosts:
            self.world.reading_at = host
            await read_all(self.world)
        self.judge.close()
        self.tallies.close()
        self.world.check()
        self.world.is_over = True

    def _rosters(self) -> dict[str, set[str]]:
        """Who is in which room: from its end on everybody is in all of theirs."""
        rosters: dict[str, set[str]] = defaultdict(set)
        for one in self._people:
            for room in one.rooms:
                rosters[room].add(one.name)
        return rosters

    def _sum_up(self) -> Outcome:
        outcome = self.outcome
        outcome.epochs = sum(len(books.epochs) for books in self.judge.ledgers())
        outcome.turns, outcome.lost, outcome.doubled = self.judge.turns(), self.judge.lost, self.judge.doubled
        outcome.echoes = self.judge.echoes
        outcome.written, outcome.owners = self.tallies.written, self.tallies.owners
        return outcome
