"""How many messages a second does an import bring in, acked and kept, while search indexes them?

    python -m bench.chat_import [--short] [--rounds N] [--only sqlite,postgres] [--irc FILE]

The IRC log (FILE has the form of tests/data/irc) by `chat_import` over one WebSocket: a room a day, 100
messages a command, with their senders and times, WINDOW commands under way. Time runs from the first command
to the last ack. Then the server is killed with SIGKILL; the store has to have every message, and its search
index too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from bench import report
from bench.raw import Client
from bench.servers import Server, Traffic, realtime_command, running

QUESTION = "how many messages a second does an import bring in?"
SAMPLE = Path(__file__).parent.parent / "tests/data/irc/ubuntu_irc_sample.tsv"
BATCH = 100
WINDOW = 16
POLICY = '[[access.rules]]\nactions = ["chat_import"]\nrooms = ["chat:*"]\n'
COUNTS = (
    "SELECT count(*) FROM chat_messages",
    "SELECT count(*) FROM publications",
)


def commands(path: Path) -> list[dict[str, Any]]:
    """Return the commands, day by day: all rows of the log, what the channel itself says included."""
    days: dict[str, list[dict[str, str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        day, minute, _, nick, text = line.split("\t")
        if text.strip():
            told = {"from": nick.strip() or "channel", "at": f"{day}T{minute}:00Z", "text": text}
            days.setdefault(day, []).append(told)
    return [
        {"type": "chat_import", "room": f"chat:irc-{day}", "content": {"messages": told[at : at + BATCH]}}
        for day, told in days.items()
        for at in range(0, len(told), BATCH)
    ]


def bring_in(port: int, asked: Sequence[dict[str, Any]]) -> tuple[int, float]:
    """Send all commands, some at a time; return how many messages were acked, in how many seconds."""
    with Client(port, "importer") as client:
        for room in dict.fromkeys(command["room"] for command in asked):
            client.ask({"type": "join", "id": room, "room": room})
        begun = time.perf_counter()
        under_way, acked = 0, 0
        for number, command in enumerate(asked):
            client.send(command | {"id": number})
            under_way += 1
            while under_way >= WINDOW:
                acked += _acked(client)
                under_way -= 1
        for _ in range(under_way):
            acked += _acked(client)
        return acked, time.perf_counter() - begun


def _acked(client: Client) -> int:
    """Read up to the next answer; return how many messages it acks."""
    while True:
        told = client.read()
        if "id" in told:
            assert told["type"] == "ack", told
            return len(told["content"]["ids"])


@contextlib.contextmanager
def places(names: Sequence[str]) -> Iterator[Any]:
    """Give a function that makes a server on a fresh store, and says where that is."""
    from tests.postgres import PostgresServer

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="realtime-bench-")))
        cluster = None
        if "postgres" in names:
            cluster = PostgresServer().start()
            stack.callback(cluster.remove)
        policy_path = folder / "policy.toml"
        policy_path.write_text(POLICY, encoding="utf-8")

        def place(name: str, number: int) -> tuple[Server, str]:
            settings = {"policy_path": str(policy_path)}
            environ = {}
            if name == "postgres":
                assert cluster is not None
                where = asyncio.run(cluster.new_database())
                environ = {"POSTGRES_URL": where}
            else:
                where = str(folder / f"{number}.sqlite")
                settings["sqlite_path"] = where

            def command(port: int) -> list[str]:
                return realtime_command(port, **settings)

            return Server(name, "realtime serve", command, Traffic("/ws"), environ=environ), where

        yield place


def count(name: str, where: str) -> list[int]:
    """Return how many messages, publications and rows of the index there are."""
    if name == "sqlite":
        db = sqlite3.connect(where)
        found = "SELECT count(*) FROM chat_found WHERE chat_found MATCH 'about : r *'"
        counts = [db.execute(sql).fetchone()[0] for sql in (*COUNTS, found)]
        db.close()
        return counts

    async def ask() -> list[int]:
        db = await asyncpg.connect(where, server_settings={"search_path": "realtime"})
        found = "SELECT count(*) FROM chat_messages WHERE terms @@ '''#r'':*'::tsquery"
        try:
            return [await db.fetchval(sql) for sql in (*COUNTS, found)]
        finally:
            await db.close()

    return asyncio.run(ask())


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="sqlite,postgres")
    parser.add_argument("--irc", type=Path, default=SAMPLE)
    given = parser.parse_args()
    names = given.only.split(",")
    asked = commands(given.irc)[: 5 if given.short else None]
    sent = sum(len(command["content"]["messages"]) for command in asked)
    print(report.headline("chat_import", QUESTION, short=given.short))
    print(f"  {sent:,} messages, {BATCH} a command, {WINDOW} commands under way")
    with places(names) as place:
        for name in names:
            rates = []
            for number in range(1 if given.short else given.rounds):
                server, where = place(name, number)
                with running(server) as up:
                    acked, took = bring_in(up.port, asked)
                    up.process.send_signal(signal.SIGKILL)
                    up.process.wait()
                had = count(name, where)
                if acked != sent or had != [sent] * 3:
                    print(f"  {name}: {sent} sent, {acked} acked, {had} messages, publications, found")
                    return 1
                rates.append(sent / took)
                print(f"  {name:9} {rates[-1]:8.0f} messages/s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
