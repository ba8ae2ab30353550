"""Sharing connections out: who closes how many and which, that it ends; on real workers too."""

import asyncio
import contextlib
import heapq
import json
import os
import random
import signal
import sys
from collections import Counter

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

import realtime
from realtime.core.cluster import Change, NotServed
from realtime.edge.returns import Returns
from realtime.edge.shed import SHED, Order, Shedder, balanced, choose, read_load, surplus
from realtime.errors import BadMessage, Unavailable
from tests.edge.workers import deployment, until_ready, worker_pids
from tests.oracles.hub import FakeClock
from tests.tree import ROOT

TICK_S = 0.1
LOOP = asyncio.new_event_loop()  # of the simulated workers


@pytest.fixture(scope="module", autouse=True)
def loop_ends():
    """Close the simulated workers' loop at the end."""
    yield
    LOOP.close()


class FakeConnection:
    """A connection of a user, in rooms, silent for some time."""

    def __init__(self, state=None, silent_s=0.0):
        self.state = state
        self.silent_s = silent_s
        self.hub = None
        self.open = True

    def close(self, code, reason):
        assert code == 4006
        self.open = False
        self.hub.there.remove(self)
        self.hub.world.returns(self, json.loads(reason))


class FakeHub:
    def __init__(self, world):
        self.world = world
        self.there = []

    def connections(self):
        return list(self.there)

    def stats(self):
        return {"connections": len(self.there)}


class FakeCluster:
    def __init__(self, world, worker):
        self.world = world
        self.worker = worker
        self.answers = {}

    @property
    def workers(self):
        return tuple(self.world.workers)

    def answer(self, verb, answer):
        self.answers[verb] = answer

    async def ask(self, worker, verb, body):
        if worker in self.world.silent:
            raise NotServed("an older version")
        return self.world.workers[worker].cluster.answers[verb](self.worker, body)

    def watch(self, on_change):
        self.on_change = on_change


class FakeWorker:
    def __init__(self, world, name, **how):
        self.cluster = FakeCluster(world, name)
        self.hub = FakeHub(world)
        self.stopping = False
        self.shedder = Shedder(
            self.hub,
            self.cluster,
            world.clock,
            spawn=world.spawn,
            returns_per_second=lambda: 2000.0,
            stopping=lambda: self.stopping,
            least_ms=500,
            **how,
        )


class World:
    """Workers whose connections come back to any of them, as the kernel deals them out."""

    def __init__(self, counts, seed=1, **how):
        self.clock = FakeClock()
        self.random = random.Random(seed)
        self.workers = {}
        self.on_the_way = []
        self.moves = Counter()
        self.silent = set()
        for number, count in enumerate(counts):
            name = f"w-{number}"
            self.workers[name] = FakeWorker(self, name, **how)
            for _ in range(count):
                self.arrive(name, FakeConnection())

    def arrive(self, name, connection):
        connection.open, connection.hub = True, self.workers[name].hub
        connection.hub.there.append(connection)

    def returns(self, connection, reason):
        assert reason["r"] == "rebalance"
        self.moves[connection] += 1
        at = self.clock.monotonic() + self.random.uniform(reason["min"], reason["max"]) / 1000
        heapq.heappush(self.on_the_way, (at, id(connection), connection))

    def spawn(self, coroutine):
        """Run it to its end: everybody answers at once."""
        LOOP.run_until_complete(coroutine)

    def counts(self):
        return {name: len(worker.hub.there) for name, worker in self.workers.items()}

    def run(self, seconds):
        for _ in range(int(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            now = self.clock.monotonic()
            while self.on_the_way and self.on_the_way[0][0] <= now:
                self.arrive(self.random.choice(list(self.workers)), heapq.heappop(self.on_the_way)[2])
            for worker in self.workers.values():
                worker.shedder.tick()

    def order(self, ratio, among=()):
        import msgspec

        body = msgspec.msgpack.encode(Order(ratio, list(among)))
        asked = [worker for name, worker in self.workers.items() if not among or name in among]
        return [read_load(each.cluster.answers[SHED]("outside", body)) for each in asked]


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("counts", "away", "beyond"),
    [
        ((157, 100, 43), 0, 57),
        ((110, 100, 90), 0, 0),
        ((111, 100, 89), 0, 11),
        ((100, 100, 100), 0, 0),
        ((100, 50, 50), 100, 0),  # those who are on their way count for the mean
        ((2, 1, 0), 0, 0),
        ((10, 0, 0), 0, 6),
        ((0, 0, 0), 0, 0),
        ((7,), 0, 0),
    ],
)
def test_who_is_above_the_ratio_closes_down_to_the_mean(counts, away, beyond):
    named = {f"w-{number}": count for number, count in enumerate(counts)}
    assert surplus("w-0", named, 1.1, away) == beyond
    assert surplus(f"w-{len(counts)}", named, 1.1, away) == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("counts", [(3000, 0, 0), (1570, 900, 530), (800, 800, 800, 0), (60, 20, 10)])
def test_it_ends_evenly_with_no_more_moves_than_chance_needs(counts, seed):
    world = World(counts, seed)
    world.run(1)
    world.order(1.1)
    world.run(60)
    assert not world.on_the_way
    assert balanced(world.counts(), 1.1), (world.counts(), seed)
    asked = [worker.shedder.asked for worker in world.workers.values()]
    assert sum(each["shed_order"] for each in asked) == sum(world.moves.values())
    assert not any(each["shed_join"] for each in asked)
    assert sum(world.counts().values()) == sum(counts)
    mean = sum(counts) / len(counts)
    needed = sum(max(0, count - mean) for count in counts)
    # The kernel deals them out blindly: only so many of those who move land where somebody is missing.
    hit = sum(count < mean for count in counts) / len(counts)
    assert sum(world.moves.values()) <= needed / hit * 1.5 + 60
    moved = sum(world.moves.values())
    world.run(60)
    assert sum(world.moves.values()) == moved  # it is over


def test_nobody_moves_where_all_is_even():
    world = World((105, 100, 95))
    world.run(1)
    assert world.order(1.1) == [(105, 0), (100, 0), (95, 0)]
    world.run(30)
    assert not world.moves


def test_closes_are_paced_and_the_window_is_as_wide_as_their_return():
    world = World((30_000, 0, 0))
    world.run(1)
    world.order(1.1)
    world.run(1.6)
    first = sum(world.moves.values())
    world.run(0.1)
    assert (
        0 < sum(world.moves.values()) - first <= 600
    )  # 2000/s each of three workers, for a tenth of a second


def test_after_others_have_come_it_begins_by_itself_once_and_only_where_it_is_set():
    world = World((900, 0, 0), ratio=1.1, delay_s=10)
    for worker in world.workers.values():
        worker.cluster.on_change(Change(2, ["w-1", "w-2"], [], [], []))
    world.run(9.5)
    assert not world.moves
    world.run(60)
    assert balanced(world.counts(), 1.1)
    asked = world.workers["w-0"].shedder.asked
    assert asked["shed_order"] == 0 < asked["shed_join"] <= sum(world.moves.values())
    world = World((900, 0, 0))
    for worker in world.workers.values():
        worker.cluster.on_change(Change(2, ["w-1"], [], [], []))
    world.run(60)
    assert not world.moves


def test_who_goes_down_takes_no_part():
    world = World((900, 0, 0))
    world.run(1)
    world.workers["w-0"].stopping = True
    world.order(1.1)
    world.run(30)
    assert not world.moves


@pytest.mark.parametrize("others", [0, 5000])
def test_those_that_are_named_are_even_among_themselves_and_others_are_left_alone(others):
    """The workers of one host have one port: what hosts have is a load balancer's."""
    world = World((900, 300, others))
    world.run(1)
    assert world.order(1.1, ["w-0", "w-1"]) == [(900, 0), (300, 0)]
    world.run(60)
    counts = world.counts()
    assert balanced({name: counts[name] for name in ("w-0", "w-1")}, 1.1)
    assert counts["w-2"] >= others
    assert sum(world.workers["w-2"].shedder.asked.values()) == 0
    world.order(1.1)  # from then on all of them count again
    world.run(60)
    assert balanced(world.counts(), 1.1)


def test_one_that_does_not_answer_is_left_out():
    """A worker of an older version: the others share out what they have between them."""
    world = World((900, 300, 5000))
    world.silent.add("w-2")
    for name in ("w-0", "w-1"):
        world.workers[name].shedder.begin(1.1)
    world.run(20)
    assert world.workers["w-0"].shedder.counts.keys() == {"w-0", "w-1"}
    counts = world.counts()
    assert balanced({name: counts[name] for name in ("w-0", "w-1")}, 1.1)
    assert counts["w-2"] >= 5000


@pytest.mark.parametrize("body", [b"", b"1", b"-1 0", b"1 2 3", b"1 1234567890", b"x y"])
def test_a_load_that_is_none_is_refused(body):
    with pytest.raises(BadMessage):
        read_load(body)


@pytest.mark.parametrize("body", [b"", b"\x91\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00", b"\x91\x0b"])
def test_an_order_that_is_none_is_refused(body):
    world = World((1,))
    with pytest.raises(BadMessage):
        world.workers["w-0"].cluster.answers[SHED]("w-9", body)


# ---------------------------------------------------------------- which


def test_the_longest_silent_go_first():
    there = [FakeConnection(silent_s=second) for second in range(100)]
    random.Random(1).shuffle(there)
    assert sorted(each.silent_s for each in choose(there, 10)) == list(range(90, 100))
    assert choose(there, 0) == []
    assert len(choose(there, 1000)) == 100


def test_of_one_user_and_one_room_no_more_than_its_part(make_session):
    """A hundred users with three connections each, in a large room or a small one; twenty are silent."""
    there = [
        FakeConnection(make_session(f"u{number // 3}", "large" if number % 10 else "small"), 1.0)
        for number in range(300)
    ]
    for each in there[:60]:
        each.silent_s = 100.0
    chosen = choose(there, 60)
    assert len(chosen) == len(set(chosen)) == 60
    rooms = Counter(room for each in chosen for room in each.state.rooms)
    assert rooms["small"] <= 6 + 1
    # The sixty silent ones are of twenty users: each gives one before any gives another.
    users = Counter(each.state.identity.user for each in chosen[:20])
    assert set(users.values()) == {1}


@pytest.fixture
def make_session():
    from realtime.core.auth import Identity
    from realtime.core.session import Session
    from realtime.ids import UserId

    class Wire:
        variant = 0

    def make(user, room):
        session = Session(Wire(), {})
        session.identity = Identity(UserId(user))
        session.rooms = {room}
        return session

    return make


# ---------------------------------------------------------------- what handshakes cost


class Watch:
    """Both clocks of `Returns`, set by hand."""

    def __init__(self):
        self.now = self.cpu = 0.0


def test_the_rate_follows_what_authentication_takes():
    watch = Watch()
    returns = Returns(lambda: watch.now, lambda: watch.cpu)
    assert returns.per_second == pytest.approx(8064, rel=0.01)  # a quarter of a worker's 32,000

    def slow(request):
        watch.now += 220e-6
        return request

    answer = returns.timed(slow)
    assert answer("request") == "request"
    assert returns.per_second == pytest.approx(0.25 / 251e-6)

    def stuck(request):
        watch.now += 10.0

    for _ in range(1000):
        returns.timed(stuck)(None)
    assert returns.per_second == 200  # not fewer, whatever it was


def test_a_crowd_says_what_a_handshake_costs_in_all():
    watch = Watch()
    returns = Returns(lambda: watch.now, lambda: watch.cpu)
    answer = returns.timed(lambda request: request)
    for _ in range(500):
        answer(None)
    watch.now, watch.cpu = 0.1, 0.09
    returns.tick()
    assert returns.cost_s == pytest.approx(0.09 / 500)
    for _ in range(500):
        answer(None)
    watch.now, watch.cpu = 0.2, 0.1  # hardly anything was done: it waited for something else
    returns.tick()
    assert returns.cost_s == pytest.approx(0.09 / 500)
    for _ in range(20):
        answer(None)
    watch.now, watch.cpu = 0.3, 0.2  # a few, and much else
    returns.tick()
    assert returns.cost_s == pytest.approx(0.09 / 500)


# ---------------------------------------------------------------- real workers


class Returning:
    """A client that comes back within the window that its close names, as the SDKs do."""

    def __init__(self, url, number):
        self.url = f"{url}/u{number}"
        self.codes = Counter()
        self.task = asyncio.create_task(self.run())

    async def run(self):
        window = 0.0, 0.0
        while True:
            due = asyncio.Event()  # the client's own timer: what its close has told it
            asyncio.get_running_loop().call_later(random.uniform(*window), due.set)
            await due.wait()
            try:
                async with connect(self.url) as ws:
                    await ws.wait_closed()
                code, reason = ws.close_code, ws.close_reason
            except (OSError, WebSocketException):  # it ended in the middle of a handshake
                code, reason = 1006, ""
            self.codes[code] += 1
            told = json.loads(reason) if reason else {}
            window = told.get("min", 100) / 1000, told.get("max", 200) / 1000


async def test_three_workers_after_a_rolling_restart_are_even_again(serve, redis_cluster):
    """Worker 1 has all; 2 and 3 come back from being killed. `realtime shed` deals them out: at most 1.1."""
    settings = deployment(redis_cluster.url)
    server = serve(
        workers=3, node="s", reconnect_min_ms=100, reconnect_max_ms=500, drain_timeout_s=5, **settings
    )
    await until_ready(server)
    clients = [Returning(server.ws_url, number) for number in range(180)]
    try:
        for number in (2, 3):  # killed: their clients go to who is left
            pid = worker_pids(server)[number]
            server_says = server.whole_log().count("was ended by SIGKILL")
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(server.wait_for_line, "was ended by SIGKILL", after=server_says)
        environ = {"REDIS_URL": redis_cluster.url, "REALTIME_REDIS_PREFIX": settings["redis_prefix"]}
        before = await until_there(environ, workers=3, connections=180)
        told = await shed(environ, "--ratio", "1.1", "--patience", "80")
        assert told[-1]["away"] == 0
        assert max(told[-1]["connections"].values()) <= 66  # of 60 each
        assert told[-1]["ratio"] <= 1.1
        codes = sum((client.codes for client in clients), Counter())
        assert set(codes) <= {4006, 1006}, codes
        if max(before.values()) > 66:
            assert codes[4006] > 0
    finally:
        for client in clients:
            client.task.cancel()
        await asyncio.gather(*(client.task for client in clients), return_exceptions=True)


async def until_there(environ, workers, connections):
    """Wait until so many workers have so many connections; return how many each has."""
    async with realtime.Publisher(environ["REDIS_URL"], prefix=environ["REALTIME_REDIS_PREFIX"]) as publisher:
        while True:
            with contextlib.suppress(Unavailable):  # of one that has just ended
                found = (await publisher.shed()).connections
                if len(found) == workers and sum(found.values()) == connections:
                    return found


async def shed(environ, *arguments):
    """Run `realtime shed`; return its lines."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "realtime", "shed", *arguments),
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, out.decode() + errors.decode()
    return [json.loads(line) for line in out.splitlines()]
