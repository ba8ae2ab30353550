"""What a supervisor knows of its workers: their metrics as one, on an address of its own, and their load.

It asks them over their leashes, all at once and each for a bounded time: one that is dead or stands still is
told of as `realtime_worker_up 0`, and holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Final, cast

from realtime.edge import metrics
from realtime.edge.aggregate import ExpositionError, Family, Tally, merged, parse
from realtime.edge.http import HttpServer, Response, Routes
from realtime.edge.load import Load
from realtime.edge.metrics import Metric, Sample, gauge
from realtime.edge.pages import Report, system_routes
from realtime.edge.supervisor import Child
from realtime.native.handshake import Request

log: Final = logging.getLogger("realtime.edge")

PATH: Final = "/metrics"
ANSWER_TIMEOUT_S: Final = 2.0
FRESH_S: Final = 0.5  # what was told within so long is not asked for again: several may scrape
ANSWERS_MAX: Final = 64  # that are awaited, or sent to somebody who does not read
SEND_TIMEOUT_S: Final = 10.0


class Fleet:
    """The workers of a supervisor, `count` of them; `children` are those that run, by their numbers."""

    def __init__(
        self,
        count: int,
        children: Callable[[], Mapping[int, Child]],
        *,
        clock: Callable[[], float],
        more: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._children = children
        self._clock = clock
        self._more = more  # what the supervisor has to say of itself
        self._tallies = {number: Tally() for number in range(1, count + 1)}
        self._starts = dict.fromkeys(self._tallies, 0)
        self._pids: dict[int, int] = {}
        self._unheard: set[int] = set()  # numbers whose process has told nothing yet
        self._asking: asyncio.Task[None] | None = None
        self._asked_at: float | None = None

    async def look(self) -> None:
        """Ask all of them, unless that has just been done; whoever asks meanwhile waits for the same."""
        if self._asking is None:
            if self._asked_at is not None and self._clock() - self._asked_at < FRESH_S:
                return
            self._asking = asyncio.create_task(self._ask_all())
            self._asking.add_done_callback(self._asked)
        await asyncio.shield(self._asking)

    def exposition(self) -> bytes:
        """What was told last, as one text."""
        own = metrics.render([*self.own(), *self._more()])
        return own + "".join(f"{line}\n" for line in merged(self._tallies)).encode()

    @property
    def up(self) -> int:
        """How many answered when they were asked last."""
        return sum(tally.up for tally in self._tallies.values())

    @property
    def load(self) -> Load | None:
        """How busy those that answered are: the mean of each resource, and of how late the loops are.

        None where none answered.
        """
        told = [tally.families for tally in self._tallies.values() if tally.up]
        parts: dict[str, float] = {}
        lag_s, connections = 0.0, 0
        for families in told:
            family = families.get("realtime_resource_utilization_ratio")
            for (_, labels), ratio in family.samples.items() if family is not None else ():
                resource = dict(labels)["resource"]
                parts[resource] = parts.get(resource, 0.0) + ratio / len(told)
            lag_s += _only(families, "realtime_loop_lag_recent_seconds") / len(told)
            connections += int(_only(families, "realtime_connections"))
        return Load(parts, lag_s, connections) if told else None

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        self._asked_at = self._clock()

    async def _ask_all(self) -> None:
        children = self._children()
        await asyncio.gather(*(self._ask(number, children.get(number)) for number in self._tallies))

    async def _ask(self, number: int, child: Child | None) -> None:
        tally = self._tallies[number]
        if child is None:
            tally.up = False
            return
        if self._pids.get(number) != child.pid:
            self._pids[number] = child.pid
            self._starts[number] += number in self._unheard  # the one before, which never said a word
            self._unheard.add(number)
        try:
            heir = tally.take(child.pid, parse(await child.metrics(ANSWER_TIMEOUT_S)))
            # One that took over by a hand-over is no restart: an upgrade is nothing to warn of.
            self._starts[number] += number in self._unheard and not heir
            self._unheard.discard(number)
        except (OSError, ExpositionError) as error:
            if tally.up:
                log.warning("worker %d (pid %d) does not tell its metrics: %s", number, child.pid, error)
            tally.up = False

    def own(self) -> Iterator[Metric]:
        """What the supervisor itself knows of them."""
        help = "1 while a worker answers its supervisor, 0 while it is dead, starts or stands still."
        samples = [Sample(int(tally.up), {"worker": str(n)}) for n, tally in self._tallies.items()]
        yield Metric("realtime_worker_up", help, "gauge", samples)
        help = "Processes found in a worker's place after the first, unless by a hand-over."
        again = [Sample(max(0, count - 1), {"worker": str(n)}) for n, count in self._starts.items()]
        yield Metric("realtime_worker_restarts_total", help, "counter", again)
        yield gauge("realtime_supervised_workers", "Workers that there are to be.", len(self._tallies))


def _only(families: Mapping[str, Family], name: str) -> float:
    """The value of a gauge of one sample; 0 where it is not there."""
    family = families.get(name)
    return 0.0 if family is None else next(iter(family.samples.values()), 0.0)


class FleetServer:
    """Answers /metrics of a fleet, and /health and /ready of its supervisor, on a socket that it closes."""

    def __init__(self, fleet: Fleet, listening: socket.socket) -> None:
        self._fleet = fleet
        self._answers: set[_Answer] = set()
        routes = system_routes(
            health=lambda: Report(True, {}),
            ready=lambda: Report(fleet.up > 0, {"workers": fleet.up}),
            render_metrics=None,
        )
        self._http = HttpServer(Routes(routes), fallback=self._answer, fallback_under=(PATH,))
        self._http.listen(listening)

    def close(self) -> None:
        """Listen no more."""
        self._http.close()
        for answer in tuple(self._answers):
            answer.abort()

    def _answer(self) -> asyncio.Protocol:
        return _Answer(self._tell, self._answers)

    async def _tell(self) -> bytes:
        await self._fleet.look()
        return self._fleet.exposition()


class _Answer(asyncio.Protocol):
    """One request for /metrics: it is answered when the workers have told, and the connection closed."""

    def __init__(self, tell: Callable[[], Awaitable[bytes]], others: set[_Answer]) -> None:
        self._tell = tell
        self._others = others
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio.Transport's methods and are none.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._task is not None or self._transport is None:
            return  # what else it says is not heard: the connection ends with this answer
        request = Request.parse(data)
        assert request is not None, "the server has read a whole head"
        if request.path != PATH:
            self._send(Response(404, body=b"not found\n"), request.method)
            return
        if len(self._others) >= ANSWERS_MAX:
            self._send(Response(503, body=b"too many ask\n"), request.method)
            return
        if request.method not in ("GET", "HEAD"):
            self._send(Response(405, body=b"only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),)), "")
            return
        self._others.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run(request.method))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._others.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _run(self, method: str) -> None:
        try:
            told = await self._tell()
        except Exception:  # a mistake of ours: whoever asks is not to wait for ever over it
            log.exception("the metrics of the workers cannot be told")
            self._send(Response(500, body=b"see the log\n"), method)
        else:
            self._send(Response(200, metrics.CONTENT_TYPE, told), method)

    def _send(self, response: Response, method: str) -> None:
        if self._transport is None:
            return
        fields = (
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
            *response.headers,
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        status = HTTPStatus(response.status)
        self._transport.write(f"HTTP/1.1 {status} {status.phrase}\r\n{head}\r\n".encode())
        self._transport.write(b"" if method == "HEAD" else response.body)
        self._transport.close()
        self._timer = asyncio.get_running_loop().call_later(SEND_TIMEOUT_S, self.abort)
