"""envelope: what does one message cost between the hub and core, in and out?

Scans a `publish` of 200 bytes and encodes what answers it; each result is checked before it is timed.
Prints the median over interleaved rounds less the empty loop's own cost, and the spread of the faster half.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from os import cpu_count

import msgspec

from realtime.native.envelope import encode_ack, encode_push, json_string, scan, scan_msgpack
from realtime.protocol.codecs import to_msgpack

ROUNDS = 15
CALLS = 100_000
TEXT = "The quick brown fox jumps over the lazy dog and then sits down to think about what it has just done"
MESSAGE = {
    "type": "chat_message",
    "id": 27,
    "room": "chat:lobby",
    "content": {"text": TEXT, "mentions": [7, 12]},
}
STAMP = b"2025-07-15T10:30:00.123Z"


def cases() -> dict[str, tuple[Callable[..., object], tuple[object, ...]]]:
    """The calls to time, by what they are; fails where one gives a wrong result."""
    frame = json.dumps(MESSAGE, separators=(",", ":")).encode()
    packed = msgspec.msgpack.encode(MESSAGE)
    content = json.dumps(MESSAGE["content"], separators=(",", ":")).encode()
    push = ("chat_message", b'"chat:lobby"', b'"alice"', 45, b"k3f9", content, STAMP)
    ack = (b"27", b'"chat:lobby"', 45, b"k3f9")
    (envelope,) = scan(frame, 100)
    assert [envelope] == scan_msgpack(packed, 100)
    assert envelope.content == content
    assert json.loads(encode_push(*push))["content"] == MESSAGE["content"]
    assert json.loads(encode_ack(*ack))["id"] == MESSAGE["id"]
    assert msgspec.msgpack.decode(to_msgpack(frame)) == MESSAGE
    return {
        f"scan, publish of {len(frame)} bytes": (scan, (frame, 100)),
        f"scan_msgpack, the same in {len(packed)} bytes": (scan_msgpack, (packed, 100)),
        "encode_push": (encode_push, push),
        "encode_ack": (encode_ack, ack),
        "json_string of a user": (json_string, ("alice",)),
        "to_msgpack of the publish": (to_msgpack, (frame,)),
        "for comparison: json.loads": (json.loads, (frame,)),
        "for comparison: msgspec.json.decode": (msgspec.json.decode, (frame,)),
    }


def loop_ns(call: Callable[..., object], arguments: tuple[object, ...]) -> float:
    """Nanoseconds of CPU of one call, the loop's own included: what else runs does not count."""
    began = time.process_time_ns()
    for _ in range(CALLS):
        call(*arguments)
    return (time.process_time_ns() - began) / CALLS


def main() -> None:
    named = cases()
    times: dict[str, list[float]] = {name: [] for name in named}
    empty = []
    for _ in range(ROUNDS):
        empty.append(empty_loop_ns())
        for name, (call, arguments) in named.items():
            times[name].append(loop_ns(call, arguments))
    base = statistics.median(empty)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    machine = f"{cpu_count()} cores, Python {platform.python_version()}, kernel {platform.release()}"
    print(f"envelope: what does one message cost?   commit {commit.stdout.strip() or 'none'}, {machine}")
    for name, taken in times.items():
        best = sorted(taken)[: ROUNDS // 2 + 1]
        median = statistics.median(taken)
        spread = (best[-1] - best[0]) / best[0] * 100
        print(f"  {name:<40} {median - base:7.0f} ns   ({ROUNDS} runs, spread {spread:.0f} %)")


def empty_loop_ns() -> float:
    began = time.process_time_ns()
    for _ in range(CALLS):
        pass
    return (time.process_time_ns() - began) / CALLS


if __name__ == "__main__":
    sys.exit(main())
