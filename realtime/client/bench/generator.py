"""One process of a load: its part of the connections, sending on schedule and keeping the books.

Messages are due at fixed times, whatever the server does: one that goes out late, or waits for its turn in a
busy loop, counts from when it was due. Told what to do by lines of JSON on stdin, it answers on stdout.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from heapq import heapify, heapreplace
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from realtime.client.bench.calibrate import Ends
from realtime.client.bench.link import Link, request
from realtime.client.bench.plan import (
    MARKERS_BYTES,
    TICK_S,
    Calibrated,
    Connected,
    Done,
    Go,
    Plan,
    Progress,
    Said,
    Start,
    Stop,
    Told,
)
from realtime.native.tally import Histogram, Peer, Tally, now_ns

SECOND_NS: Final = 1_000_000_000
TICK_NS: Final = int(TICK_S * SECOND_NS)
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
DIALS_AT_ONCE: Final = 256


class Generator:
    """The connections whose number, modulo the number of processes, is this process'."""

    def __init__(self, start: Start, say: Callable[[Said], None]) -> None:
        self._plan = plan = start.plan
        self._process = start.process
        self._tokens = start.tokens
        self._say = say
        self._numbers = range(start.process, plan.connections, plan.processes)
        self._tally = Tally()
        self._links: list[Link] = []
        self._failures: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()
        self._connect, self._join = Histogram(), Histogram()
        self._late, self._late_lately = Histogram(), Histogram()
        self._lag, self._lag_lately = Histogram(), Histogram()
        self._sent = self._sent_in_time = self._unsent = 0
        self._sent_by_room: Counter[str] = Counter()
        self._settled = asyncio.Event()
        self._due: list[tuple[int, int, Link]] = []
        self._until_ns = 0
        self._going = False

    # -- connecting -----------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open all connections at the plan's pace, and say how it went."""
        plan, began = self._plan, now_ns()
        gate = asyncio.Semaphore(DIALS_AT_ONCE)
        step_ns = int(SECOND_NS * plan.processes / plan.arrivals_per_second)
        dials = []
        for index, number in enumerate(self._numbers):
            await _sleep_until(began + index * step_ns)
            await gate.acquire()
            dials.append(asyncio.create_task(self._dial(number, gate)))
        if dials:
            await asyncio.wait(dials)
        try:
            async with asyncio.timeout(plan.patience_s):
                while len(self._links) + self._failures.total() < len(self._numbers):
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            silent = len(self._numbers) - len(self._links) - self._failures.total()
            self._failures[f"not in its room within {plan.patience_s:g} s"] += silent
        self._say(
            Connected(
                len(self._links),
                dict(self._failures),
                (now_ns() - began) / SECOND_NS,
                self._connect.dump(),
                self._join.dump(),
                dict(Counter(link.room for link in self._links)),
            )
        )

    async def _dial(self, number: int, gate: asyncio.Semaphore) -> None:
        plan, peer = self._plan, self._peer(number)
        parts = urlsplit(plan.url)
        secure = parts.scheme == "wss"
        try:
            async with asyncio.timeout(plan.patience_s):
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: Link(number, plan.room(number), peer, self._joined, self._lost, self._erred),
                    parts.hostname or "",
                    parts.port or (443 if secure else 80),
                    ssl=_trust(plan) if secure else None,
                )
        except TimeoutError:
            self._fail("no answer to connect")
        except (OSError, ssl.SSLError) as error:
            self._fail(f"cannot connect: {error.strerror or type(error).__name__}")
        else:
            token = self._tokens[number % len(self._tokens)] if self._tokens else ""
            path = parts.path or "/"
            if not token and not parts.query and path.count("/") == 1:
                path = f"{path}/{plan.user(number)}"  # open mode: each connection is a user of its own
            link.ask(
                request(
                    parts.netloc.rpartition("@")[2], path + (f"?{parts.query}" * bool(parts.query)), token
                )
            )
        finally:
            gate.release()

    def _peer(self, number: int) -> Peer:
        plan = self._plan
        head = f'{{"type":{json.dumps(plan.type)},"room":{json.dumps(plan.room(number))},"id":"'.encode()
        pad = "x" * max(0, plan.payload_bytes - MARKERS_BYTES)
        return Peer(self._tally, head, b'","content":"', f'{pad}"}}'.encode())

    def _joined(self, link: Link) -> None:
        self._connect.record(link.upgraded_ns - link.began_ns)
        self._join.record(link.joined_ns - link.upgraded_ns)
        self._links.append(link)
        self._settled.set()

    def _lost(self, link: Link, reason: str) -> None:
        if link.closing:
            return
        if link.peer.joined:
            self._closed[reason] += 1
        else:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        self._failures[reason] += 1
        self._settled.set()

    def _erred(self, name: str) -> None:
        self._errors[name] += 1

    # -- by itself ------------------------------------------------------------------------------------------

    async def calibrate(self) -> Calibrated:
        """Find out what this process can do without any server; it is of no further use then."""
        try:
            ends = await Ends.open(self._plan, self._peer, self._tally)
        except OSError as error:
            return Calibrated(0.0, 0.0, f"no connections to itself: {error.strerror}")
        try:
            message_bytes = len(self._peer(0).publication(now_ns()))
            send_us = await ends.sending(self._rehearsal(ends.links), message_bytes)
            return Calibrated(round(send_us, 3), round(await ends.reading(), 3))
        finally:
            ends.close()

    def _rehearsal(self, links: list[Link]) -> Callable[[], None]:
        """Return what sends one message on each link, as a run does: by a schedule, here of 1 µs."""
        self._plan = msgspec.structs.replace(self._plan, publishers=len(links), rate=len(links) * 1e6)
        self._due = [(0, link.number, link) for link in links]
        self._until_ns = self._tally.until
        turns = count(0, 1000)
        return lambda: self._send_due(next(turns))

    # -- sending --------------------------------------------------------------------------------------------

    async def run(self, begin_ns: int) -> None:
        """Send on schedule from `begin_ns` on, until the plan's time is over; say each second how it goes."""
        plan = self._plan
        self._tally.since = begin_ns + int(plan.warmup_s * SECOND_NS)
        self._until_ns = self._tally.until = self._tally.since + int(plan.duration_s * SECOND_NS)
        self._going = True
        if plan.rate > 0:
            for link in self._links:
                if link.number < plan.publishers:
                    self._due.append((begin_ns + int(link.number * SECOND_NS / plan.rate), link.number, link))
            heapify(self._due)
        telling = asyncio.create_task(self._tell(begin_ns))
        while now_ns() < self._until_ns:
            self._send_due(now_ns())
            slept = now_ns()
            await asyncio.sleep(TICK_S)
            lag = max(0, now_ns() - slept - TICK_NS)
            self._lag.record(lag)
            self._lag_lately.record(lag)
        self._send_due(self._until_ns)
        self._going = False
        await telling

    def _send_due(self, now: int) -> None:
        """Send what is due, counting from when it was: the scheduled time, however late this is."""
        due, until = self._due, min(now, self._until_ns - 1)
        step_ns = int(self._plan.publishers * SECOND_NS / self._plan.rate) if self._plan.rate > 0 else 0
        while due and due[0][0] <= until:
            at, number, link = due[0]
            heapreplace(due, (at + step_ns, number, link))
            if not link.publish(at):
                self._unsent += 1
                continue
            late = now_ns() - at
            self._late.record(late)
            self._late_lately.record(late)
            self._sent += 1
            self._sent_in_time += at >= self._tally.since
            self._sent_by_room[link.room] += 1

    async def _tell(self, begin_ns: int) -> None:
        """Say each second what the last one was like, until this is over, and on while the rest arrives."""
        cpu, second = _cpu_s(), 0
        while self._going:
            second += 1
            await _sleep_until(begin_ns + second * SECOND_NS)
            now_cpu = _cpu_s()
            self._say(self._progress(second, now_cpu - cpu))
            cpu = now_cpu

    def _progress(self, second: float, cpu_share: float) -> Progress:
        tally = self._tally
        told = Progress(
            self._process,
            second,
            len(self._links) - self._closed.total(),
            self._sent,
            tally.delivered,
            tally.acked,
            self._errors.total(),
            tally.lately.dump(),
            self._late_lately.dump(),
            self._lag_lately.dump(),
            cpu_share,
        )
        for each in (tally.lately, self._late_lately, self._lag_lately):
            each.clear()
        return told

    async def arrive(self, stopped: asyncio.Event) -> None:
        """Go on receiving, and say how much has come, until told that it is enough."""
        while not stopped.is_set():
            self._say(self._progress(-1, 0.0))
            waiting = asyncio.create_task(stopped.wait())
            await asyncio.wait([waiting], timeout=0.1)
            waiting.cancel()

    def end(self, cpu_share: float, waited_share: float) -> None:
        """Close all connections and say what the books have."""
        tally = self._tally
        for link in self._links:
            link.close()
        self._say(
            Done(
                sent=self._sent,
                sent_in_time=self._sent_in_time,
                sent_by_room=dict(self._sent_by_room),
                unsent=self._unsent,
                delivered=tally.delivered,
                delivered_in_time=tally.delivered_in_time,
                acked=tally.acked,
                duplicated=tally.duplicated,
                skipped=tally.skipped,
                others=tally.others,
                received_bytes=tally.received_bytes,
                closed=dict(self._closed),
                errors=dict(self._errors),
                delivery=tally.delivery.dump(),
                ack=tally.ack.dump(),
                late=self._late.dump(),
                lag=self._lag.dump(),
                cpu_share=cpu_share,
                waited_share=waited_share,
            )
        )


async def _sleep_until(at_ns: int) -> None:
    left = at_ns - now_ns()
    await asyncio.sleep(max(0.0, left / SECOND_NS))


def _cpu_s() -> float:
    return time.process_time()


def _waited_s() -> float:
    """How long this thread could have run, and others had the cores; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _trust(plan: Plan) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=plan.ca_file or None)
    if plan.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    out = sys.stdout.buffer

    def say(what: Said) -> None:
        out.write(msgspec.json.encode(what) + b"\n")
        out.flush()

    async def told() -> Told:
        line = await reader.readline()
        if not line:
            raise EOFError  # whoever started us is gone
        heard: Told = msgspec.json.decode(line, type=Told)
        return heard

    start = await told()
    assert isinstance(start, Start)
    if start.plan.calibrate:
        say(await Generator(start, say).calibrate())
    else:
        say(Calibrated(0.0, 0.0, "not asked for"))
    generator = Generator(start, say)
    await generator.connect()
    go = await told()
    if isinstance(go, Go):
        began, cpu, waited = time.monotonic(), _cpu_s(), _waited_s()
        await generator.run(go.at_ns)
        span_s = time.monotonic() - began
        shares = (_cpu_s() - cpu) / span_s, (_waited_s() - waited) / span_s
        stopped = asyncio.Event()
        hearing = asyncio.create_task(told())
        hearing.add_done_callback(lambda _: stopped.set())
        await generator.arrive(stopped)
        assert isinstance(await hearing, Stop)
        generator.end(*shares)


def main() -> int:
    """Serve whoever started this process; 1 where it went away."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        uvloop.run(_main())
    except EOFError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
