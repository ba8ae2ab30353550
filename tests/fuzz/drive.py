"""Play stimuli to a server over loopback, several connections at a time, and judge every answer.

A batch is named by its seed: the same seed plays the same bytes in the same order of turns, though the
kernel and the server decide when they arrive.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.attacks.wire import ACCEPT, KEY, Bystander, Target, resident_mb
from tests.fuzz.judge import judge
from tests.fuzz.stimuli import MESSAGE_BYTES_MAX, Stimulus, make

CONNECTIONS_PER_BATCH = 12
BATCH_S = 60.0  # how long a batch may take until all of its connections have ended
GROWTH_MB = 64.0
SETTINGS = {
    "echo_path": "/echo",
    "compression": "true",
    "max_message_bytes": MESSAGE_BYTES_MAX,
    "close_timeout_s": 1,
}


@dataclass
class Playing:
    """A connection under way."""

    stimulus: Stimulus
    socket: socket.socket
    pieces: list[bytes]
    said: bytearray = field(default_factory=bytearray)
    ended: bool = False
    was_reset: bool = False
    finished_sending: bool = False


@dataclass
class Tally:
    """What a run has seen."""

    batches: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    resident_mb: float = 0.0

    def __str__(self) -> str:
        seen = ", ".join(f"{name} x{number}" for name, number in self.outcomes.most_common())
        total = sum(self.outcomes.values())
        return f"{total} connections in {self.batches} batches, {self.resident_mb:.0f} MB resident: {seen}"


def fuzz(target: Target, seed: int, seconds: float) -> Iterator[Tally]:
    """Play batches for `seconds`, yielding the tally after each; raise AssertionError at the first fault.

    Behind every batch another client has to be served, and the server's memory has to be within bounds.
    """
    tally = Tally()
    until = time.monotonic() + seconds
    with Bystander(target) as other:
        before_mb = resident_mb(target.pid)
        while time.monotonic() < until:
            batch_seed = f"{seed}:{tally.batches}"
            try:
                tally.outcomes += play(target, batch_seed)
                other.is_served()
                tally.resident_mb = resident_mb(target.pid)
                assert tally.resident_mb < before_mb + GROWTH_MB, f"{before_mb:.0f} MB before"
            except Exception as error:
                error.add_note(f"again: python -m tests.fuzz --batch {batch_seed}; so far {tally}")
                raise
            tally.batches += 1
            yield tally


def play(target: Target, batch_seed: str) -> Counter[str]:
    """Play one batch; return how its connections went."""
    rng = random.Random(batch_seed)
    batch = [_connect(target, make(rng)) for _ in range(rng.randrange(1, CONNECTIONS_PER_BATCH + 1))]
    deadline = time.monotonic() + BATCH_S
    try:
        while unfinished := [playing for playing in batch if not playing.ended]:
            assert time.monotonic() < deadline, f"{len(unfinished)} connections do not end"
            for playing in rng.sample(unfinished, rng.randrange(1, len(unfinished) + 1)):
                _send_piece(playing)
            _receive(unfinished)
    finally:
        for playing in batch:
            playing.socket.close()
    outcomes: Counter[str] = Counter()
    for playing in batch:
        try:
            outcomes[_judge(playing)] += 1
        except Exception as error:
            error.add_note(f"sent {playing.stimulus.pieces!r:.3000}\nheard {bytes(playing.said)!r:.3000}")
            raise
    return outcomes


def _judge(playing: Playing) -> str:
    key_is_whole = KEY.encode() in b"".join(playing.stimulus.pieces)
    token = ACCEPT.encode() if key_is_whole else None
    return judge(bytes(playing.said), playing.stimulus.kind, cut=playing.was_reset, token=token)


def _connect(target: Target, stimulus: Stimulus) -> Playing:
    connected = socket.create_connection((target.host, target.port), timeout=60)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setblocking(False)
    return Playing(stimulus, connected, list(stimulus.pieces))


def _send_piece(playing: Playing) -> None:
    if playing.finished_sending:
        return
    try:
        if playing.pieces:
            sent = playing.socket.send(playing.pieces[0])
            playing.pieces[0] = playing.pieces[0][sent:]
            if not playing.pieces[0]:
                playing.pieces.pop(0)
            return
        playing.finished_sending = True
        if playing.stimulus.resets:
            playing.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            playing.ended = playing.was_reset = True
            playing.socket.close()
        else:
            playing.socket.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        return
    except OSError:
        # The server has closed: what it said before can still be read.
        playing.finished_sending = True


def _receive(playing_all: list[Playing]) -> None:
    by_socket = {playing.socket: playing for playing in playing_all if not playing.ended}
    if not by_socket:
        return
    # With nothing left to send there is only the server to wait for.
    wait_s = 1.0 if all(playing.finished_sending for playing in by_socket.values()) else 0.0
    for readable in select.select(list(by_socket), [], [], wait_s)[0]:
        playing = by_socket[readable]
        with contextlib.suppress(BlockingIOError):
            try:
                data = readable.recv(1 << 18)
            except ConnectionResetError:
                # Bytes of ours that the server had not read when it closed: its last words may be lost.
                data, playing.was_reset = b"", True
            playing.said += data
            playing.ended = not data
