"""`python -m bench.tls`: what does a connection cost by TLS, beside one on the plain port of the same server?

Round trips of the protocol's ping, deliveries of a room, and handshakes, each by the server's own CPU time,
which is steady where rates by the clock depend on the client too; and the memory of idle connections. The
rounds of the two ports are interleaved. The certificate is ECDSA on P-256, TLS 1.3, without resumption.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import report
from bench.servers import GENERATOR_CORE, SERVER_CORE, free_port, pinned

PING = b'{"type":"ping","id":1}'
UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(frozen=True)
class Sizes:
    """How much of each is done in one round."""

    rounds: int = 5
    pings: int = 4000  # on each of 8 connections, 16 under way
    members: int = 200
    messages: int = 400  # 16 under way
    handshakes: int = 600
    idle: int = 500


SHORT = Sizes(rounds=1, pings=50, members=10, messages=20, handshakes=20, idle=20)


class Target:
    """One port of the server; `tls` are the client's terms, None on the plain one."""

    def __init__(self, name: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.name, self.port, self.tls = name, port, tls


class Wire:
    """One connection: frames out, and messages counted that come in."""

    def __init__(self, target: Target) -> None:
        self.socket = socket.create_connection(("127.0.0.1", target.port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls is not None:
            self.socket = target.tls.wrap_socket(self.socket, server_hostname="localhost")
        self.socket.sendall(UPGRADE.encode())
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._data += self.socket.recv(65536)
        self._data = self._data.partition(b"\r\n\r\n")[2]
        self.take(1, b'"connected"')

    def send(self, text: bytes, count: int = 1) -> None:
        """Send the same message `count` times in one write; it has less than 126 bytes."""
        self.socket.sendall((bytes([0x81, 0x80 | len(text)]) + bytes(4) + text) * count)

    def take(self, count: int, part: bytes) -> None:
        """Read until `count` messages with `part` in them have come."""
        while count:
            at, data = 0, self._data
            while count and len(data) - at >= 2:
                size, head = data[at + 1], 2
                if size == 126:
                    size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
                if len(data) - at < head + size or (head == 4 and len(data) - at < 4):
                    break
                count -= part in data[at + head : at + head + size]
                at += head + size
            self._data = data[at:]
            if count:
                got = self.socket.recv(262_144)
                if not got:
                    raise ConnectionError(f"{count} messages have not come")
                self._data += got

    def close(self) -> None:
        self.socket.close()


class Up:
    """A server on one core, with both ports."""

    def __init__(self, folder: Path) -> None:
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        make += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        subprocess.run([*make, "-out", certificate, "-keyout", key], check=True, capture_output=True)
        ports = free_port(), free_port()
        command = [sys.executable, "-m", "realtime", "serve", "--port", str(ports[0]), "--sqlite-path", ""]
        command += ["--tls-port", str(ports[1]), "--tls-certificate", str(certificate)]
        command += ["--tls-key", str(key), "--tls-handshakes-per-second", "0", "--log-level", "error"]
        command += ["--presence-grace-s", "0"]
        self.process = subprocess.Popen(pinned(SERVER_CORE, command), stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()  # it says where it listens
        terms = ssl.create_default_context(cafile=str(certificate))
        self.targets = Target("plain", ports[0], None), Target("tls", ports[1], terms)

    def cpu_s(self) -> float:
        """CPU time that its event loop's thread has used; there is no other."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def round_trips(up: Up, target: Target, sizes: Sizes) -> float:
    """Round trips a second of server CPU: 8 connections, 16 under way on each."""
    wires = [Wire(target) for _ in range(8)]
    began = up.cpu_s()
    for _ in range(max(1, sizes.pings // 16)):
        for wire in wires:
            wire.send(PING, 16)
        for wire in wires:
            wire.take(16, b'"pong"')
    used = up.cpu_s() - began
    for wire in wires:
        wire.close()
    return len(wires) * 16 * max(1, sizes.pings // 16) / used


def deliveries(up: Up, target: Target, sizes: Sizes) -> float:
    """Deliveries a second of server CPU: one room, 16 messages under way."""
    wires = [Wire(target) for _ in range(sizes.members)]
    room = f"events:{os.urandom(4).hex()}"
    for wire in wires:
        wire.send(f'{{"type":"join","id":1,"room":"{room}"}}'.encode())
        wire.take(1, b'"joined"')
    text = f'{{"type":"publish","room":"{room}","content":"{"x" * 40}"}}'.encode()
    batches = max(1, sizes.messages // 16)
    began = up.cpu_s()
    for _ in range(batches):
        wires[0].send(text, 16)
        for wire in wires:
            wire.take(16, b'"offset"')
    used = up.cpu_s() - began
    for wire in wires:
        wire.close()
    return len(wires) * 16 * batches / used


def handshakes(up: Up, target: Target, sizes: Sizes) -> float:
    """Handshakes a second of server CPU: from connect to the greeting, and the end."""
    began = up.cpu_s()
    for _ in range(sizes.handshakes):
        Wire(target).close()
    return sizes.handshakes / (up.cpu_s() - began)


def memory(up: Up, target: Target, sizes: Sizes) -> float:
    """Bytes of resident memory for each idle connection."""
    before = up.resident_bytes()
    wires = [Wire(target) for _ in range(sizes.idle)]
    used = (up.resident_bytes() - before) / sizes.idle
    for wire in wires:
        wire.close()
    return used


QUESTIONS: dict[str, Callable[[Up, Target, Sizes], float]] = {
    "round trips/CPU s": round_trips,
    "deliveries/CPU s": deliveries,
    "handshakes/CPU s": handshakes,
    "bytes a connection": memory,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.tls", description=__doc__)
    parser.add_argument("--short", action="store_true", help="sizes cut down: does it run?")
    sizes = SHORT if parser.parse_args(argv).short else Sizes()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {GENERATOR_CORE})
    print(report.headline("tls", (__doc__ or "").partition(": ")[2].partition("\n")[0], short=sizes is SHORT))
    with tempfile.TemporaryDirectory(prefix="realtime-tls-") as folder:
        kept = {}
        for question, ask in QUESTIONS.items():
            # Memory that was used once stays with the process: each round of it has a server of its own.
            found = _rounds(Path(folder), ask, sizes, fresh=ask is memory)
            kept[question] = found
            for name, values in found.items():
                print(report.row(question, name, report.scaled(statistics.median(values)), values))
            quotient = report.ratio(found["tls"], found["plain"])
            print(f"  {'':<22} tls / plain  {quotient[0]:.2f} ({quotient[1]:.2f} to {quotient[2]:.2f})")
    report.keep("tls", {"rounds": kept})
    return 0


def _rounds(
    folder: Path, ask: Callable[[Up, Target, Sizes], float], sizes: Sizes, *, fresh: bool
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"plain": [], "tls": []}
    up = Up(folder)
    try:
        for _ in range(sizes.rounds):
            for place in (0, 1):
                if fresh:
                    up.end()
                    up = Up(folder)
                target = up.targets[place]
                found[target.name].append(ask(up, target, sizes))
    finally:
        up.end()
    return found


if __name__ == "__main__":
    sys.exit(main())
