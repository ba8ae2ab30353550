"""What does a message from Redis cost to receive, in our client and in redis-py?

    python -m bench.redis_receive [--short] [--seconds S] [--rounds N]

One Redis of our own, one channel, messages of 300 bytes, published by a process of its own: in bursts, as
when the receiver is behind, and ten every millisecond. Every message is counted and its order checked. The
figure is the receiver's own CPU time a message, its event loop's included (uvloop for both). redis-py is
redis.asyncio with the hiredis parser, by `listen()`: sharded as ours is, and plain.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis
import redis.asyncio
import uvloop

from bench import report
from bench.run import bounded
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_nodes import RedisNode

QUESTION = "what does a message from Redis cost to receive?"
PAYLOAD_BYTES = 300
BURST = 1000
PACED = 10  # every millisecond
CHANNEL = "rt:{default/chat:lobby}"
TIMEOUT_S = 60.0
GOAL = 5.0
RECEIVERS = ("realtime", "redis-py, sharded", "redis-py, plain")
# Published by Redis itself, so that the publisher's own speed is in no figure.
SCRIPT = """
local text = string.rep('x', tonumber(ARGV[2]) - 12)
local first = tonumber(ARGV[3])
for i = first, first + tonumber(ARGV[1]) - 1 do
  redis.call(ARGV[4], KEYS[1], string.format('%012d', i) .. text)
end
"""


@dataclass
class Count:
    """Takes payloads, numbered from 0, until there are `expected`."""

    expected: int
    received: int = 0
    disordered: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    standing: asyncio.Event = field(default_factory=asyncio.Event)

    def on_message(self, payload: bytes) -> None:
        if int(payload[:12]) != self.received:
            self.disordered += 1
        self.received += 1
        if self.received == self.expected:
            self.done.set()

    def on_subscribed(self) -> None:
        self.standing.set()

    def on_unsubscribed(self) -> None:
        self.disordered += 1


@dataclass(frozen=True)
class Run:
    """One receiver's figure: microseconds of CPU a message."""

    load: str
    receiver: str
    us: float
    messages: int


async def receive_ours(url: str, publish: Sequence[str], count: Count) -> float:
    client = RedisClient(url)
    await client.start()
    client.subscribe(CHANNEL.encode(), count)
    await count.standing.wait()
    cpu = await timed(publish, count)
    await client.close()
    return cpu


async def receive_theirs(url: str, publish: Sequence[str], count: Count, *, sharded: bool) -> float:
    client = redis.asyncio.Redis.from_url(url, protocol=3)
    pubsub = client.pubsub()
    await (pubsub.ssubscribe if sharded else pubsub.subscribe)(CHANNEL)

    async def listen() -> None:
        async for message in pubsub.listen():
            if message["type"] in ("smessage", "message"):
                count.on_message(message["data"])
            else:
                count.on_subscribed()

    listening = asyncio.create_task(listen())
    await count.standing.wait()
    cpu = await timed(publish, count)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await pubsub.aclose()
    await client.aclose()
    return cpu


async def timed(publish: Sequence[str], count: Count) -> float:
    """Let the messages be published; return the CPU seconds from then until all have come.

    Raises TimeoutError: some did not.
    """
    began = time.process_time()
    publisher = await asyncio.create_subprocess_exec(*publish)
    started = time.process_time() - began  # starting the publisher is no receiving
    try:
        await asyncio.wait_for(count.done.wait(), TIMEOUT_S)
        return time.process_time() - began - started
    finally:
        await publisher.wait()


def publish(port: int, count: int, command: str, *, paced: bool) -> None:
    """Be the publisher."""
    client = redis.Redis(port=port)
    each = PACED if paced else BURST
    began = time.monotonic()
    for number in range(0, count, each):
        client.eval(SCRIPT, 1, CHANNEL, each, PAYLOAD_BYTES, number, command)
        due = began + (number + each) / PACED / 1000
        if paced and (left := due - time.monotonic()) > 0:
            time.sleep(left)


def measure(node: RedisNode, load: str, receiver: str, messages: int) -> Run:
    """Return one run. Raises RuntimeError: a message was lost, or came out of order."""
    command = "publish" if receiver == "redis-py, plain" else "spublish"
    how = [sys.executable, "-m", "bench.redis_receive", "--publish"]
    how += [str(node.port), str(messages), command, load]

    async def run() -> tuple[float, Count]:
        count = Count(messages)
        if receiver == "realtime":
            return await receive_ours(node.url, how, count), count
        return await receive_theirs(node.url, how, count, sharded=command == "spublish"), count

    cpu, count = uvloop.run(run())
    if count.disordered:
        raise RuntimeError(f"{receiver}: {count.disordered} of {messages} messages were not in order")
    return Run(load, receiver, cpu / messages * 1e6, messages)


def table(runs: Sequence[Run], load: str) -> bool:
    """Print what one load cost each; return whether ours is as much cheaper as it should be."""
    by = {each: [run.us for run in runs if (run.load, run.receiver) == (load, each)] for each in RECEIVERS}
    good = True
    for receiver, values in by.items():
        text = f"{statistics.median(values):7.2f} us CPU a message"
        if receiver != "realtime":
            middle, least, most = report.ratio(values, by["realtime"])
            text += f"   x{middle:.1f} of ours ({least:.1f} to {most:.1f}; wanted {GOAL:g})"
            good = good and middle >= GOAL
        print(report.row(load, receiver, text, values))
    return good


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.redis_receive", description=QUESTION)
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--rounds", type=bounded(int, 1, 50), default=3, help="interleaved rounds (3)")
    parser.add_argument("--seconds", type=bounded(float, 0.2, 60), default=1.0, help="of the paced load (1)")
    parser.add_argument("--publish", nargs=4, help=argparse.SUPPRESS)
    parsed = parser.parse_args(argv)
    if parsed.publish:
        port, count, command, load = parsed.publish
        publish(int(port), int(count), command, paced=load == "10 a millisecond")
        return 0
    seconds, rounds = (0.2, 1) if parsed.short else (parsed.seconds, parsed.rounds)
    paced = int(seconds * 1000) * PACED
    print(report.headline("redis_receive", QUESTION, short=parsed.short), flush=True)
    runs = []
    loads = {"bursts": paced * 4, "10 a millisecond": paced}
    with tempfile.TemporaryDirectory(prefix="realtime-bench-") as folder:
        node = RedisNode(Path(folder))
        try:
            node.start()
            node.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")
            for _ in range(rounds):
                runs += [
                    measure(node, load, each, count) for load, count in loads.items() for each in RECEIVERS
                ]
        except (RuntimeError, TimeoutError) as error:
            print(f"  {error or 'messages were lost'}", file=sys.stderr)
            return 1
        finally:
            node.kill()
    good = [table(runs, load) for load in loads]
    print(f"  kept in {report.keep('redis_receive', {'runs': runs})}")
    return 0 if parsed.short or all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
