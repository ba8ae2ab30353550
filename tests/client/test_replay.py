"""`realtime replay` on a real chat log: against the real server, and against servers that cheat."""

import asyncio
import re
from pathlib import Path

import pytest

from realtime.client import replay
from tests.client.fake_server import FakeServer, Message, Peer

SAMPLE = Path(__file__).parent.parent / "data" / "irc" / "ubuntu_irc_sample.tsv"


def figure(output: str, name: str) -> str:
    found = re.search(rf"│ {re.escape(name)} +│ +(.*?) │", output)
    assert found, output
    return found[1]


@pytest.mark.parametrize("pace", [["--rate", "0"], ["--rate", "20000"], ["--speedup", "100000"]])
def test_everybody_gets_everything_of_the_real_log(server, capsys, pace):
    code = replay.main([str(SAMPLE), "--url", server.ws_url, "--connections", "20", *pace])
    output = capsys.readouterr().out
    assert code == 0, output
    assert figure(output, "published") == "520"
    received, expected = figure(output, "deliveries").split(" of ")
    assert received == expected
    assert int(received.replace(",", "")) > 5 * 520 / 2
    zeros = ("missing", "out of order", "twice", "outside a stay", "not acked", "other faults")
    assert {figure(output, name) for name in zeros} == {"0"}


def test_tokens_are_signed_where_the_server_asks_for_them(serve, capsys, monkeypatch):
    secret = "0123456789abcdef0123456789abcdef"
    running = serve(jwt_secret=secret)
    play = [str(SAMPLE), "--url", running.ws_url, "--connections", "4", "--days", "1"]
    monkeypatch.setenv("REALTIME_JWT_SECRET", secret)
    assert replay.main(play) == 0
    monkeypatch.delenv("REALTIME_JWT_SECRET")
    assert replay.main(play) == 1
    assert "unauthorized" in capsys.readouterr().out


def swallow(server: "CheatingServer", peer: Peer, push: Message) -> list[Message]:
    return [] if server.is_victim(peer, push) else [push]


def double(server: "CheatingServer", peer: Peer, push: Message) -> list[Message]:
    return [push, push] if server.is_victim(peer, push) else [push]


def alter(server: "CheatingServer", peer: Peer, push: Message) -> list[Message]:
    return [push | {"content": {"text": "never said"}}] if server.is_victim(peer, push) else [push]


def swap(server: "CheatingServer", peer: Peer, push: Message) -> list[Message]:
    if server.is_victim(peer, push):
        server.held = push
        return []
    if peer.user != server.victim or server.held is None:
        return [push]
    held, server.held = server.held, None
    return [push, held]


class CheatingServer(FakeServer):
    """Does one wrong thing to one delivery, the 20th to the first connection of the first day."""

    def __init__(self, cheat: object) -> None:
        super().__init__()
        self.cheat = cheat
        self.victim = "irc-2004-12-25-001"
        self.held: Message | None = None

    def is_victim(self, peer: Peer, push: Message) -> bool:
        return peer.user == self.victim and push["offset"] == 20

    async def push_to(self, peer: Peer, push: Message) -> None:
        for message in self.cheat(self, peer, push):
            await peer.send(message)


@pytest.mark.parametrize(
    ("cheat", "found"),
    [(swallow, "missing"), (double, "twice"), (swap, "out of order"), (alter, "other faults")],
)
async def test_one_wrong_delivery_among_thousands_is_found(capsys, cheat, found):
    async with CheatingServer(cheat) as cheating:
        play = [str(SAMPLE), "--url", cheating.url, "--connections", "6", "--patience", "0.5"]
        code = await asyncio.to_thread(replay.main, play)
    output = capsys.readouterr().out
    assert code == 1
    assert figure(output, found) != "0"
    assert "FAILED" in output


async def test_a_connection_that_breaks_is_told_and_fails(capsys):
    async with FakeServer() as fake:

        def cut(peer: Peer, message: Message) -> bool:
            if len(fake.received) == 100:
                peer.cut()
            return False

        fake.faults.append(cut)
        play = [str(SAMPLE), "--url", fake.url, "--connections", "6", "--patience", "0.5"]
        code = await asyncio.to_thread(replay.main, play)
    assert code == 1
    assert re.search(r"irc-\S+: connection closed without a close frame", capsys.readouterr().out)


def test_nobody_there_is_one_line(capsys, tmp_path):
    assert replay.main([str(SAMPLE), "--url", "ws://127.0.0.1:9/ws", "--connections", "2"]) == 1
    assert "ws://127.0.0.1:9/ws" in capsys.readouterr().err


def test_a_file_that_is_none_is_one_line(capsys, tmp_path):
    assert replay.main([str(tmp_path / "none.tsv")]) == 2
    assert "No such file" in capsys.readouterr().err
