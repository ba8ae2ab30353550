"""What does one JSON publish cost in Python and Cython, from its frame to the push and the ack? And a join?

The connection and the log do nothing, so no socket and no kernel is in the figure. Prints the median and the
spread of several runs, per message, and what a session that has joined a room costs in Python's memory.

    python bench/core_publish.py [--messages N] [--runs N] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import platform
import pstats
import statistics
import time
import tracemalloc
from collections.abc import Callable

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.clock import SystemClock
from realtime.core.core import Core
from realtime.core.limits import Limits
from realtime.features import discover
from realtime.ids import UserId

PADDING = "x" * 64
PUBLISH = (
    b'{"type":"chat_message","id":%d,"room":"chat:lobby","content":{"text":"'
    + PADDING.encode()
    + b'"},"timestamp":"2025-07-15T10:30:00Z"}'
)


class Sink:
    """A connection and a log that take everything and do nothing."""

    __slots__ = ("binary", "id", "open", "state", "variant")

    def __init__(self, number: int) -> None:
        self.id = number
        self.variant = 0
        self.binary = False
        self.open = True

    append = belong = join = leave = staticmethod({}.get)  # a C function of one argument: 20 ns
    send = staticmethod({}.get)

    def close(self, code: int, reason: bytes = b"") -> None:
        raise AssertionError(f"closed with {code}: {reason!r}")


class Hub:
    """Makes sinks. Its time stands still, as it does within a batch."""

    timestamp = b"2025-07-15T10:30:00.123Z"

    def room(self, variant: int = 0, **policy: object) -> Sink:
        return Sink(0)

    def count_of(self, user_key: int) -> int:
        return 0


def make_core() -> Core:
    """A core with the real features and broker, and a limit that is checked and never met."""
    clock, hub = SystemClock(), Hub()
    limits = Limits(messages_per_second=1e8, messages_burst=1e8, connections_per_user=2)
    return Core(
        Catalog(discover()),
        MemoryBroker(clock, hub),
        hub,
        clock,
        greet=lambda number, identity: b"",
        spawn=lambda coroutine: None,
        limits=limits,
    )


def publish_ns(core: Core, messages: int, per_frame: int) -> float:
    """Nanoseconds per message, `per_frame` of them in a frame."""
    identity = Identity(user=UserId("alice"))
    core.admit(identity)
    session = core.connect(Sink(1), identity)
    core.receive(session, b'{"type":"join","id":1,"room":"chat:lobby"}')
    frames = [
        b"\n".join(PUBLISH % (frame + line) for line in range(per_frame))
        for frame in range(1_000_000, 1_000_000 + messages, per_frame)
    ]
    receive = core.receive
    gc.collect()
    gc.disable()
    began = time.process_time_ns()
    for frame in frames:
        receive(session, frame)
    taken = time.process_time_ns() - began
    gc.enable()
    assert session.tenant.rooms["chat:lobby"].sequence.offset >= messages
    core.disconnect(session)
    return taken / messages


def join_ns(core: Core, sessions: int) -> float:
    """Nanoseconds per member for one room to fill, each with a `joined` that lists the first ones."""
    joining = []
    for number in range(sessions):
        identity = Identity(user=UserId(f"user-{number}"))
        core.admit(identity)
        joining.append(core.connect(Sink(number), identity))
    frame = b'{"type":"join","id":1,"room":"chat:crowd"}'
    began = time.process_time_ns()
    for session in joining:
        core.receive(session, frame)
    taken = time.process_time_ns() - began
    assert len(joining[0].live["chat:crowd"].roster) == sessions
    for session in joining:
        core.disconnect(session)
    return taken / sessions


def session_bytes(core: Core, sessions: int) -> float:
    """Bytes of Python memory per session: identity, session and its place in one room, not the connection."""
    sinks = [Sink(number) for number in range(sessions)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    held = []
    for number, sink in enumerate(sinks):
        identity = Identity(user=UserId(f"user-{number}"), expires_at=2e9)
        core.admit(identity)
        session = core.connect(sink, identity)
        core.receive(session, b'{"type":"join","id":1,"room":"chat:crowd"}')
        held.append(session)
    core.tick()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    taken = after - before - held.__sizeof__()
    for session in held:
        core.disconnect(session)
    return taken / sessions


def report(name: str, measure: Callable[[], float], runs: int) -> None:
    found = sorted(measure() for _ in range(runs))
    middle = statistics.median(found)
    spread = (found[-1] - found[0]) / middle * 100
    print(f"{name:<44} {middle:7.0f} ns   ({runs} runs, best {found[0]:.0f}, spread {spread:.0f} %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options = parser.parse_args()
    if options.profile:
        with cProfile.Profile() as profile:
            publish_ns(make_core(), options.messages, 1)
        pstats.Stats(profile).sort_stats("tottime").print_stats(15)
        return
    print(f"Python {platform.python_version()}, {platform.machine()}, kernel {platform.release()}")
    for per_frame in (1, 16):
        name = f"publish, push and ack, {per_frame} to a frame"
        report(name, lambda n=per_frame: publish_ns(make_core(), options.messages, n), options.runs)
    for members in (100, options.sessions):
        name = f"join, a room of {members} filling"
        report(name, lambda n=members: join_ns(make_core(), n), options.runs)
    print(f"{'session, joined to one room':<44} {session_bytes(make_core(), options.sessions):7.0f} bytes")


if __name__ == "__main__":
    main()
