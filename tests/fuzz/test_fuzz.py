"""Random trouble for some seconds: answered as documented, alive, memory bounded. `make fuzz` goes on."""

import os
import random

import pytest

from tests.conftest import Server
from tests.fuzz import drive, judge

SECONDS = 10.0


def test_whatever_it_is_sent_the_server_answers_as_documented():
    seed = int(os.environ.get("FUZZ_SEED", random.randrange(1 << 32)))
    print(f"FUZZ_SEED={seed}")
    server = Server(dict(drive.SETTINGS))
    try:
        *_, tally = drive.fuzz(server, seed, SECONDS)
        print(tally)
        assert server.process.poll() is None
    finally:
        server.finish()
    # A fuzzer that never gets past the handshake, or never fails one, finds nothing.
    assert {"http 400", "close 1002", "close 1007", "open"} <= set(tally.outcomes)


UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
    b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 400 Bad Request\r\nX: a\nY: b\r\nContent-Length: 0\r\n\r\n",
        b"hello",
        UPGRADED.replace(b"s3pP", b"AAAA"),
        UPGRADED + b"\x81\x85\0\0\0\0hello",
        UPGRADED + b"\x81\x7e\x00\x05hello",
        UPGRADED + b"\xc1\x02{}",
        UPGRADED + b"\x83\x00",
        UPGRADED + b"\x81\x05hel",
        UPGRADED + b"\x80\x00",
        UPGRADED + b"\x82\x02{}",
        UPGRADED + b"\x81\x02{}",
        UPGRADED + b"\x88\x02\x03\xf3",
        UPGRADED + b"\x88\x02\x03\xe8\x81\x00",
        UPGRADED + b"\x09\x00",
        UPGRADED + b'\x81\x2c{"type":"error","content":{"name":"internal"}}'[:46],
    ],
)
def test_the_judge_finds_what_is_not_documented(said: bytes):
    with pytest.raises((judge.UndocumentedError, ValueError)):
        judge.judge(said, "json", cut=False)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (b"", "silence"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nab", "http 400"),
        (UPGRADED, "open"),
        (UPGRADED + b'\x81\x0f{"type":"pong"}', "open"),
        (UPGRADED + b"\x88\x02\x03\xea", "close 1002"),
        (UPGRADED + b"\x88\x00", "close 1005"),
    ],
)
def test_the_judge_passes_what_is(said: bytes, outcome: str):
    assert judge.judge(said, "json", cut=False) == outcome
