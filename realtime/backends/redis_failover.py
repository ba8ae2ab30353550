"""A watcher of a Redis Cluster: it asks a replica to take over from a dead master, sooner than Redis would.

It never decides who is master. It sends one `CLUSTER FAILOVER FORCE`, and the masters vote as they do in any
failover: one vote a master and epoch, and a majority of them is needed (TAKEOVER, which asks nobody, is never
used). So two watchers, or a wrong one, cannot make two masters of one epoch; what a wrong one does is a
failover that was not needed. Before it asks, all of these have to hold:

1. The master gives this watcher no answer, on one connection after the other, `tries` times in a row: for
   `silence_s`, or at once where its host says that nobody listens.
2. The majority of all masters that serve slots, the dead one counted, say so themselves: their own link to
   it is broken, or a ping of theirs goes unanswered. None of them has heard from it since our first try.
3. A replica of it answers, and is not known to be failing.

A watcher that is cut off finds no majority, and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from realtime.backends.redis_client.address import Address, Endpoint
from realtime.backends.redis_client.contract import RedisError
from realtime.backends.redis_client.dial import Dialer, Refused, ask
from realtime.backends.redis_client.wire import Wire, pack
from realtime.core.contracts import Clock
from realtime.errors import StartupError

log: Final = logging.getLogger("realtime.redis")

NAME: Final = "realtime-failover"
TRIES: Final = 3
TOPOLOGY_S: Final = 1.0
# How long a replica that was asked to take over may need: a vote takes milliseconds, a lost packet a second.
ELECTION_S: Final = 2.0
AWAY: Final = (OSError, TimeoutError, RedisError, Refused)
# A pong that came so shortly after our first try may have been sent before it.
PONG_MARGIN_MS: Final = 20.0
# One that is on its way is no sign of death: a pong takes a millisecond.
OVERDUE_MS: Final = 100.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of CLUSTER NODES: a node as another one sees it. Times are by that one's clock, 0 for none."""

    id: str
    endpoint: Endpoint
    flags: frozenset[str]
    master: str
    ping_sent_ms: int
    pong_received_ms: int
    linked: bool
    slots: int

    @property
    def serves(self) -> bool:
        """Whether it is a master that has slots."""
        return "master" in self.flags and self.slots > 0


@dataclass(slots=True)
class Suspicion:
    """A master that gives no answer: since when, how often, and which masters have said so too."""

    since: float
    tries: int = 0
    witnesses: set[str] = field(default_factory=set)
    told: bool = False  # that others hear it


class Probe:
    """A connection to one node, dialed again when it is lost or silent. One question at a time."""

    def __init__(self, endpoint: Endpoint, dialer: Dialer) -> None:
        self.endpoint = endpoint
        self._dialer = dialer
        self._wire: Wire | None = None
        self._turn = asyncio.Lock()

    async def ask(self, *command: str, timeout_s: float) -> Any:
        """Return the reply. Whatever goes wrong, the next question gets a connection of its own.

        Raises:
            OSError, TimeoutError, RedisError, Refused: there is none.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s):
                    if self._wire is None or self._wire.transport is None:
                        self._wire, _ = await self._dialer.dial(self.endpoint, Wire)
                    return await ask(self._wire, pack(command))
            except RedisError:
                raise
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let the connection go. Idempotent."""
        if self._wire is not None:
            self._wire.abort("done with")
            self._wire = None


class FailoverWatch:
    """Watches the cluster of `address`: `look` again and again, every `interval_s`.

    `forced` counts what it has asked for, and `state` says in a line how things are.
    """

    def __init__(self, address: Address, clock: Clock, *, interval_s: float, silence_s: float) -> None:
        self._clock = clock
        self._seeds = address.seeds
        self._interval_s = interval_s
        self._try_s = silence_s / TRIES
        self._silence_s = silence_s
        self._dialer = Dialer(address, NAME, self._try_s)
        self._probes: dict[Endpoint, Probe] = {}
        self._nodes: dict[str, Seen] = {}
        self._read_at = -TOPOLOGY_S
        self._suspicions: dict[str, Suspicion] = {}
        self._asked_at: dict[str, float] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self.looks = 0
        self.forced = 0

    @property
    def state(self) -> str:
        """One line: how many masters there are, and which of them gives no answer."""
        silent = [str(self._nodes[id].endpoint) for id in self._suspicions if id in self._nodes]
        said = f"{len(self._masters())} masters, {self.forced} failovers asked for"
        return f"{said}; no answer from {', '.join(silent)}" if silent else said

    async def run(self) -> None:
        """Look, until cancelled."""
        try:
            while True:
                began = self._clock.monotonic()
                await self.look()
                await asyncio.sleep(max(0.0, began + self._interval_s - self._clock.monotonic()))
        finally:
            self.close()

    async def look(self) -> None:
        """Ask every master whether it lives, and act on those that do not answer.

        A silent one holds up nobody: it is asked beside, and again when that has come to an end.
        """
        if self._clock.monotonic() - self._read_at >= TOPOLOGY_S or not self._nodes:
            await self._read_topology()
        for node in self._masters():
            if node.id not in self._checks:
                task = self._checks[node.id] = asyncio.create_task(self._check(node))
                task.add_done_callback(partial(self._checked, node))
        self.looks += 1

    def _checked(self, node: Seen, task: asyncio.Task[None]) -> None:
        del self._checks[node.id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the master at %s could not be judged", node.endpoint, exc_info=error)

    def close(self) -> None:
        """Let all connections go."""
        for task in self._checks.values():
            task.cancel()
        for probe in self._probes.values():
            probe.close()

    # -- what the cluster looks like -------------------------------------------------------------------

    async def _read_topology(self) -> None:
        """Take the nodes from whoever answers first; keep what was known where nobody does."""
        endpoints = list(dict.fromkeys([*(node.endpoint for node in self._nodes.values()), *self._seeds]))
        silent = {self._nodes[id].endpoint for id in self._suspicions if id in self._nodes}
        for endpoint in sorted(endpoints, key=lambda each: each in silent):
            try:
                said = await self._probe(endpoint).ask("CLUSTER", "NODES", timeout_s=self._try_s)
            except Refused as error:
                raise StartupError(f"Redis at {endpoint}: {error}") from error
            except RedisError as error:
                raise StartupError(f"Redis at {endpoint} is no cluster to watch: {error}") from error
            except AWAY:
                continue
            self._nodes = {node.id: node for node in read_nodes(said, endpoint.host)}
            self._read_at = self._clock.monotonic()
            self._suspicions = {id: each for id, each in self._suspicions.items() if self._is_master(id)}
            return
        log.warning("no node of the cluster answers")
        self._read_at = self._clock.monotonic()

    def _masters(self) -> list[Seen]:
        return [node for node in self._nodes.values() if node.serves]

    def _is_master(self, id: str) -> bool:
        return id in self._nodes and self._nodes[id].serves

    def _probe(self, endpoint: Endpoint) -> Probe:
        return self._probes.setdefault(endpoint, Probe(endpoint, self._dialer))

    # -- one master ------------------------------------------------------------------------------------

    async def _check(self, node: Seen) -> None:
        """Ask it for life; where there is none, find out what the others know, and act."""
        began = self._clock.monotonic()
        refused = False
        try:
            await self._probe(node.endpoint).ask("PING", timeout_s=self._try_s)
        except RedisError:
            pass  # LOADING, NOAUTH: it lives
        except AWAY as error:
            refused = isinstance(error, ConnectionRefusedError | ConnectionResetError)
        else:
            self._clear(node)
            return
        suspicion = self._suspicions.setdefault(node.id, Suspicion(began))
        suspicion.tries += 1
        if not await self._hear_witnesses(node, suspicion) or suspicion.tries < TRIES:
            return
        if not refused and self._clock.monotonic() - suspicion.since < self._silence_s * 0.95:
            return
        if len(suspicion.witnesses) >= len(self._masters()) // 2 + 1:
            await self._force(node, suspicion)

    def _clear(self, node: Seen) -> None:
        if self._suspicions.pop(node.id, None) is not None:
            log.info("the master at %s answers again", node.endpoint)

    async def _hear_witnesses(self, dead: Seen, suspicion: Suspicion) -> bool:
        """Ask the other masters what they have of it; False where one has heard it since our first try."""
        others = [node for node in self._masters() if node.id != dead.id]
        said = await asyncio.gather(*(self._testimony(node, dead, suspicion.since) for node in others))
        for node, word in zip(others, said, strict=True):
            if word is True:
                suspicion.witnesses.add(node.id)
        if False not in said:
            return True
        hears = others[said.index(False)]
        if not suspicion.told:
            log.warning(
                "the master at %s does not answer us, but %s hears it: nothing is done",
                dead.endpoint,
                hears.endpoint,
            )
        # It was alive just now and may die yet: from here on anew.
        self._suspicions[dead.id] = Suspicion(self._clock.monotonic(), told=True)
        return False

    async def _testimony(self, witness: Seen, dead: Seen, since: float) -> bool | None:
        """Whether `witness` gets no answer from `dead` (True), has had one since (False), or cannot say."""
        probe = self._probe(witness.endpoint)
        try:
            seconds, micros = await probe.ask("TIME", timeout_s=self._try_s)
            its_now_ms = int(seconds) * 1000 + int(micros) / 1000
            said = await probe.ask("CLUSTER", "NODES", timeout_s=self._try_s)
        except AWAY:
            return None
        since_ms = its_now_ms - (self._clock.monotonic() - since) * 1000
        found = next((node for node in read_nodes(said, witness.endpoint.host) if node.id == dead.id), None)
        return None if found is None else judge(found, since_ms, its_now_ms)

    # -- the act ---------------------------------------------------------------------------------------

    async def _force(self, dead: Seen, suspicion: Suspicion) -> None:
        now = self._clock.monotonic()
        if now - self._asked_at.get(dead.id, -ELECTION_S) < ELECTION_S:
            return  # it is being voted on
        replica = await self._best_replica(dead)
        if replica is None:
            log.error("the master at %s is dead, and no replica of it answers", dead.endpoint)
            return
        self._asked_at[dead.id] = now
        log.warning(
            "the master at %s is dead (%d tries in %.0f ms, %d of %d masters agree): %s is to take over",
            *(dead.endpoint, suspicion.tries, (now - suspicion.since) * 1000),
            *(len(suspicion.witnesses), len(self._masters()), replica.endpoint),
        )
        probe = self._probe(replica.endpoint)
        try:
            await probe.ask("CLUSTER", "FAILOVER", "FORCE", timeout_s=self._try_s)
            self.forced += 1
            await self._elected(probe)
        except AWAY as error:
            log.error("%s does not take over: %s", replica.endpoint, error or "no answer")
            return
        log.warning("%s is the master now, after %.0f ms", replica.endpoint, self._ms_since(suspicion.since))
        self._suspicions.pop(dead.id, None)
        self._read_at = -TOPOLOGY_S  # all is different now

    async def _best_replica(self, dead: Seen) -> Seen | None:
        """Return the replica that has most of what the master had."""
        replicas = [
            node
            for node in self._nodes.values()
            if node.master == dead.id and not node.flags & {"fail", "fail?", "handshake", "noaddr"}
        ]
        offsets = await asyncio.gather(*(self._offset(node) for node in replicas))
        ranked = [
            (offset, node.id, node) for offset, node in zip(offsets, replicas, strict=True) if offset >= 0
        ]
        return max(ranked)[2] if ranked else None

    async def _offset(self, replica: Seen) -> int:
        """Return up to where it has its master's stream; -1 where it does not say."""
        try:
            said = await self._probe(replica.endpoint).ask("INFO", "replication", timeout_s=self._try_s)
        except AWAY:
            return -1
        lines = dict(line.split(b":", 1) for line in said.split(b"\r\n") if b":" in line)
        return int(lines.get(b"slave_repl_offset", b"-1")) if lines.get(b"role") == b"slave" else -1

    async def _elected(self, probe: Probe) -> None:
        """Return once it is a master. TimeoutError: it was not elected."""
        async with asyncio.timeout(ELECTION_S):
            while (await probe.ask("ROLE", timeout_s=self._try_s))[0] != b"master":  # noqa: ASYNC110
                await asyncio.sleep(self._interval_s / 5)  # Redis tells nobody: it has to be asked

    def _ms_since(self, since: float) -> float:
        return (self._clock.monotonic() - since) * 1000


def judge(seen: Seen, since_ms: float, now_ms: float) -> bool | None:
    """What a node's view of another says: it is gone (True), it was heard since (False), or nothing yet.

    Both times are by the clock of the node whose view it is.
    """
    if seen.pong_received_ms > since_ms + PONG_MARGIN_MS:
        return False
    overdue = seen.ping_sent_ms and now_ms - seen.ping_sent_ms >= OVERDUE_MS
    return True if overdue or not seen.linked or seen.flags & {"fail", "fail?"} else None


def read_nodes(said: bytes, asked: str) -> Iterable[Seen]:
    """Read the answer to CLUSTER NODES of the node at host `asked`; a line that is none is left out."""
    for line in said.decode("ascii", "replace").splitlines():
        fields = line.split(" ")
        if len(fields) < 8 or ":" not in fields[1]:
            continue
        host, _, port = fields[1].partition("@")[0].rpartition(":")
        if not port.isdigit():
            continue
        yield Seen(
            id=fields[0],
            endpoint=Endpoint(host.strip("[]") or asked, int(port)),
            flags=frozenset(fields[2].split(",")),
            master="" if fields[3] == "-" else fields[3],
            ping_sent_ms=int(fields[4]),
            pong_received_ms=int(fields[5]),
            linked=fields[7] == "connected",
            slots=sum(not each.startswith("[") for each in fields[8:]),
        )
