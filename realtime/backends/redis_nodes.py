"""Redis servers of one's own, for development and tests: one alone, or a cluster of masters and replicas.

They listen on loopback, keep nothing on the disk but what a cluster's node has to remember, live in a folder
of their own, and end with the process that started them, whatever ends it. What administers them is
redis-py, and it waits by asking: nothing here belongs into an event loop. `redis-server` (or `valkey-server`)
7.0 or later has to be on the PATH.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from realtime.backends.redis_client.contract import SLOTS
from realtime.errors import StartupError

NODE_TIMEOUT_MS: Final = 1000
START_TIMEOUT_S: Final = 30.0
ANSWER_TIMEOUT_S: Final = 5.0
ASK_INTERVAL_S: Final = 0.02
HOST: Final = "127.0.0.1"
# Below the range that the kernel deals out to connections. Another number is tried where one is taken.
PORTS: Final = range(20_000, 32_000)
ATTEMPTS: Final = 20
FAILOVERS: Final = 5
_RANDOM: Final = random.SystemRandom()  # a test that seeds the common one is not to notice us
OPTIONS: Final = (
    *("--cluster-config-file", "nodes.conf", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
    # A shard that is down must not stop the others, and a replica behind may still take over.
    *("--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"),
    *("--cluster-allow-replica-migration", "no", "--repl-ping-replica-period", "1"),
)
# A child gets SIGKILL when the thread that started it ends, so that thread has to last as long as we do.
_SPAWNER: Final = ThreadPoolExecutor(1, "redis-nodes")
_PR_SET_PDEATHSIG: Final = 1
_START: Final = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(int(sys.argv[1]), 9); "
    "signal.pthread_sigmask(signal.SIG_SETMASK, ()); "
    "os.getppid() == int(sys.argv[2]) and os.execvp(sys.argv[3], sys.argv[3:])"
)


class Home(NamedTuple):
    """Where a node lives: the address that everybody knows it by, and what its command begins with there."""

    address: str = HOST
    launcher: Sequence[str] = ()


class RedisNode:
    """One `redis-server`. `start` may be called again after `stop` and `kill`, and takes the same port.

    Raises:
        StartupError: from `start`: there is no redis-server, or it did not start; the message has its log.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        cluster_options: Sequence[str] = (),
        home: Home = Home(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self.directory = directory
        self.home = home
        self._free_choice = not port
        self._cluster_options = cluster_options
        self._frozen = False
        self._process: subprocess.Popen[bytes] | None = None
        self._use(port or _RANDOM.choice(PORTS))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            self._spawn()
            try:
                wait_for(self._answers, f"redis-server on port {self.port} does not answer", self._why)
            except StartupError as error:
                if "in use" not in error.message or not self._free_choice:
                    raise
                self._use(_RANDOM.choice(PORTS))
            else:
                self._free_choice = False  # others know it by its port now
                return
        raise StartupError(f"none of {ATTEMPTS} ports from {PORTS[0]} to {PORTS[-1]} is free")

    @property
    def log(self) -> Path:
        """Its log file."""
        return self.directory / "redis.log"

    @property
    def url(self) -> str:
        """What REDIS_URL is for it alone."""
        return f"redis://{self.home.address}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there and not frozen."""
        return self._alive and not self._frozen

    def ask(self, *command: str | bytes | int) -> Any:
        """Return the reply; redis-py's errors pass."""
        return self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End it in an orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a power cut does: SIGKILL, frozen or not."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it do nothing, with all its connections open: SIGSTOP."""
        self._frozen = True
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    @property
    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _use(self, port: int) -> None:
        self.port = port
        self.bus_port = _RANDOM.choice(PORTS) if self._free_choice else port + 10_000
        # Asked once: whoever waits asks again.
        once = Retry(NoBackoff(), 0)
        self.redis = redis.Redis(
            host=self.home.address, port=port, socket_timeout=ANSWER_TIMEOUT_S, retry=once
        )

    def _spawn(self) -> None:
        self.log.unlink(missing_ok=True)
        command = [
            *(*self.home.launcher, _program(), "--port", str(self.port), "--dir", str(self.directory)),
            *("--bind", self.home.address, "--protected-mode", "no"),
            *("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"),
            *("--logfile", str(self.log)),
        ]
        if self._cluster_options:
            command += [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                str(self.bus_port),
                *self._cluster_options,
            ]
        start = [sys.executable, "-S", "-c", _START, str(_PR_SET_PDEATHSIG), str(os.getpid()), *command]
        spawned = _SPAWNER.submit(subprocess.Popen[bytes], start, stdin=subprocess.DEVNULL)
        self._process = spawned.result()

    def _end(self, how: signal.Signals) -> None:
        self.redis.close()
        self._frozen = False
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)  # a frozen one takes no SIGTERM
        self._process.wait()

    def _answers(self) -> bool:
        if not self._alive:
            raise StartupError(f"redis-server on port {self.port} ended at its start: {self._why()}")
        try:
            return bool(self.redis.ping()) and self.ask("INFO", "server")["process_id"] == self.pid
        except redis.RedisError:
            return False

    def _why(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(lines[-3:]) or "it says nothing"


class RedisCluster:
    """Masters and their replicas on loopback, in `directory` or a temporary one.

    Ports are free ones, or from `port_base` on; nodes are dealt out to `homes` in turn. Shards are numbered:
    node i and node i + masters begin as the master and a replica of the same slots.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        *,
        port_base: int = 0,
        directory: Path | None = None,
        homes: Sequence[Home] = (Home(),),
    ) -> None:
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="realtime-redis-"))
        self._masters = masters
        count = masters * (1 + replicas)
        ports = [port_base + i if port_base else 0 for i in range(count)]
        self.nodes = [
            RedisNode(self.directory / str(i), port, OPTIONS, homes[i % len(homes)])
            for i, port in enumerate(ports)
        ]

    def start(self) -> None:
        """Start every node and join them, and wait until each says that the cluster is there.

        Raises:
            StartupError: there is no redis-server, a port is taken, or the nodes do not find one another.
        """
        try:
            for node in self.nodes:
                node.start()
            self._join()
        except BaseException:
            self.remove()
            raise

    @property
    def url(self) -> str:
        """What REDIS_URL is for it: every node is a seed."""
        return "redis://" + ",".join(f"{node.home.address}:{node.port}" for node in self.nodes)

    def masters(self) -> list[RedisNode]:
        """Those that are masters now, as they say themselves; who is down or frozen is none."""
        return [node for node in self.nodes if _role(node) == "master"]

    def master_of(self, slot: int) -> RedisNode:
        """Return who serves `slot`, as most of the nodes that answer say."""
        said = [port for node in self.nodes if (port := _master_port(node, slot))]
        if not said:
            raise StartupError(f"no node answers who serves slot {slot}")
        return self._at(max(set(said), key=said.count))

    def replicas_of(self, master: RedisNode) -> list[RedisNode]:
        """Return its replicas that are connected to it."""
        ports = _replica_ports(master)
        return [node for node in self.nodes if node.port in ports]

    def failover(self, slot: int) -> RedisNode:
        """Let a replica take over from the master of `slot`, nothing lost; return the new master."""
        master = self.master_of(slot)
        replica = self.replicas_of(master)[0]
        for _ in range(FAILOVERS):  # Redis gives one up after 5 s where the two do not come together
            replica.ask("CLUSTER", "FAILOVER")
            with suppress(StartupError):
                wait_for(lambda: _role(replica) == "master", "", timeout_s=6)
                break
        else:
            raise StartupError(f"port {replica.port} does not take over")
        self.wait_until_ok()
        return replica

    def migrate_slot(self, slot: int, to: RedisNode) -> None:
        """Move `slot` with its keys to the master `to`, as resharding does while clients go on."""
        here = self.master_of(slot)
        if here is to:
            return
        ids = {node: _id(node) for node in (here, to)}
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[here])
        here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
        while keys := here.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            here.ask("MIGRATE", to.home.address, to.port, "", 0, 5000, "KEYS", *keys)
        to.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to])
        here.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to])
        wait_for(lambda: self._agree(slot, to), f"the nodes do not agree who serves slot {slot}")

    @contextmanager
    def frozen(self, *nodes: RedisNode) -> Iterator[None]:
        """Freeze `nodes` while the block runs: to the others they are cut off, and wake without knowing."""
        stopped = []
        try:
            for node in nodes:
                node.freeze()
                stopped.append(node)
            yield
        finally:
            for node in stopped:
                node.thaw()

    def wait_until_ok(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every running node says that all slots are served, and all agree by which of them."""
        wait_for(self._ok, "the cluster does not come up", timeout_s=timeout_s)

    def remove(self) -> None:
        """End every node; a temporary directory goes with them."""
        for node in self.nodes:
            node.kill()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _ok(self) -> bool:
        running = [node for node in self.nodes if node.running]
        views = {_slots(node) for node in running}
        masters = {node.port for node in running if _role(node) == "master"}
        return len(views) == 1 and {port for *_, port in views.pop()} <= masters and all(map(_whole, running))

    def _agree(self, slot: int, owner: RedisNode) -> bool:
        """Do all say that `owner` serves the slot? Masters that say otherwise are told again.

        A master that takes over a slot gives itself a new epoch without asking. Two that do so at once may
        take the same, and then each takes the other for the owner, for good.
        """
        if _role(owner) != "master":
            return True  # a failover came in between: it is the cluster's to settle
        masters = [node for node in self.nodes if _role(node) == "master"]
        wrong = [node for node in masters if _master_port(node, slot) != owner.port]
        for node in wrong:
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", _id(owner))
        return not wrong

    def _at(self, port: int) -> RedisNode:
        return next(node for node in self.nodes if node.port == port)

    def _join(self) -> None:
        count = self._masters
        bounds = [SLOTS * i // count for i in range(count + 1)]
        for i, node in enumerate(self.nodes):
            if i < count:
                node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
                node.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            for other in self.nodes[:i]:
                node.ask("CLUSTER", "MEET", other.home.address, other.port, other.bus_port)
        everybody = len(self.nodes)
        wait_for(
            lambda: all(_known(node) == everybody for node in self.nodes), "the nodes do not find each other"
        )
        for i, node in enumerate(self.nodes[count:]):
            node.ask("CLUSTER", "REPLICATE", _id(self.nodes[i % count]))
        expected = everybody // count - 1
        wait_for(
            lambda: all(len(self.replicas_of(node)) == expected for node in self.nodes[:count]),
            "the replicas do not find their masters",
        )
        self.wait_until_ok()


def wait_for(
    condition: Callable[[], bool],
    otherwise: str,
    why: Callable[[], str] = str,
    *,
    timeout_s: float = START_TIMEOUT_S,
) -> None:
    """Ask until `condition` holds.

    Raises:
        StartupError: it did not in `timeout_s`; the message is `otherwise`, and what `why` says then.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            reason = why()
            raise StartupError(f"{otherwise} within {timeout_s:g} s{f': {reason}' if reason else ''}")
        time.sleep(ASK_INTERVAL_S)


def _program() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise StartupError("redis-server is not installed: apt-get install redis-server")
    return found


def _role(node: RedisNode) -> str:
    """Return master, slave, or nothing where it does not answer."""
    try:
        return str(node.ask("INFO", "replication")["role"]) if node.running else ""
    except redis.RedisError:
        return ""


def _replica_ports(master: RedisNode) -> Collection[int]:
    said = master.ask("INFO", "replication")
    replicas = [value for name, value in said.items() if name.startswith("slave") and name[5:].isdigit()]
    return {each["port"] for each in replicas if each["state"] == "online"}


def _id(node: RedisNode) -> bytes:
    return bytes(node.ask("CLUSTER", "MYID"))


def _info(node: RedisNode) -> dict[bytes, bytes]:
    lines = node.ask("CLUSTER", "INFO").split(b"\r\n")
    return dict(line.split(b":", 1) for line in lines if line)


def _known(node: RedisNode) -> int:
    """Return how many nodes it has shaken hands with, itself included."""
    lines = node.ask("CLUSTER", "NODES").splitlines()
    return sum(b"handshake" not in line and b"disconnected" not in line for line in lines)


def _whole(node: RedisNode) -> bool:
    """Does it say that the cluster is there, with every slot served?"""
    try:
        info = _info(node)
    except redis.RedisError:
        return False
    return info[b"cluster_state"] == b"ok" and int(info[b"cluster_slots_ok"]) == SLOTS


def _slots(node: RedisNode) -> Collection[tuple[int, int, int]]:
    """Return (first slot, last slot, port of the master) as the node sees them."""
    try:
        shards = node.ask("CLUSTER", "SLOTS")
    except redis.RedisError:
        return frozenset()
    return frozenset((first, last, master[1]) for first, last, master, *_ in shards)


def _master_port(node: RedisNode, slot: int) -> int:
    """Return the port of the master of `slot` as `node` sees it; 0 where it does not answer or know."""
    shards = _slots(node) if node.running else ()
    return next((port for first, last, port in shards if first <= slot <= last), 0)
