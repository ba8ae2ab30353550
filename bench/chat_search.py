"""How long until the newest 20 of 1,000,000 messages that have a word are there, rare or common?

    python -m bench.chat_search [--short] [--rows N] [--questions N] [--only sqlite,postgres] [--irc FILE]
        [--oracle]

Messages of #ubuntu (see tests/data/irc; FILE has its form) in 42 rooms, drawn by a seed, inserted by SQL
through the same triggers as all messages. Time is a whole question over WebSocket, one at a time, on a server
that has just been started. `reader` may be in three quarters of the rooms, `guest` in one of 42. With
--oracle a member of private rooms asks too, one who may be nowhere, and one whom the policy denies one. A
filled database is kept in the temporary directory for the next run; PostgreSQL is a server of our own, with
the 128 MB of buffers that it comes with.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import asyncpg

from bench import report
from bench.raw import Client, LostError
from bench.servers import Server, Traffic, realtime_command, running
from realtime.features.chat.ids import RANDOM_BITS, text_of
from realtime.features.chat.search.forms import stemmable
from realtime.features.chat.search.language import STOP_WORDS, language_of
from realtime.features.chat.search.letters import fold, words_of

QUESTION = "how long until the newest 20 messages that have a word are there?"
SAMPLE = Path(__file__).parent.parent / "tests/data/irc/ubuntu_irc_sample.tsv"
MIGRATIONS = Path(__file__).parent.parent / "realtime/features/chat/migrations/sqlite"
ROOMS = 42
BEGAN_MS = 1_600_000_000_000
CLASSES = (
    *(
        "very common",
        "common",
        "medium",
        "rare",
        "phrase",
        "prefix",
        "two words",
        "from",
        "in room",
        "absent",
    ),
)
USERS = ("reader", "guest")
_COLUMNS = ("id", "room", '"offset"', "epoch", "sender", "text", "lang", "content")

Row = tuple[int, int, int, str, str, str, str, str]


def said(path: Path) -> list[tuple[str, str]]:
    """Return (sender, text) of all that was said."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [(nick, text) for _, _, kind, nick, text in lines if kind != "sys" and text.strip()]


def rows(said: Sequence[tuple[str, str]], count: int) -> Iterator[Row]:
    """Give rows of chat_messages, oldest first."""
    rng = random.Random(1)
    langs = [language_of(text) or "en" for _, text in said]
    for number in range(count):
        chosen = rng.randrange(len(said))
        sender, text = said[chosen]
        id = (BEGAN_MS + number * 977) << RANDOM_BITS | rng.randrange(1 << 20)
        content = f'{{"id":"{text_of(id)}","text":"…"}}'
        yield (id, 1 + number % ROOMS, number // ROOMS + 1, "e", sender, text, langs[chosen], content)


def words_said(said: Sequence[tuple[str, str]]) -> set[str]:
    """Return what the server lists of the same."""
    return {word for _, text in said for word in stemmable(text)}


def questions(said: Sequence[tuple[str, str]], count: int) -> dict[str, list[str]]:
    """Return the queries of each class, by a seed."""
    rng = random.Random(2)
    texts = [words_of(fold(text)) for _, text in said]
    had = Counter(word for words in texts for word in set(words) if word.isalpha() and len(word) > 1)
    share = {word: times / len(said) for word, times in had.items()}

    def between(low: float, high: float) -> list[str]:
        words = sorted(word for word, part in share.items() if low <= part < high)
        return [rng.choice(words) for _ in range(count)]

    pairs = [words[:2] for words in rng.choices(texts, k=count * 4) if len(words) > 1]
    names = [rng.choice(said)[0] for _ in range(count)]
    medium = between(0.0001, 0.005)
    return {
        "very common": between(0.05, 1),
        "common": between(0.005, 0.05),
        "medium": medium,
        "rare": between(0, 0.0001),
        "phrase": ['"' + " ".join(pair) + '"' for pair in pairs[:count]],
        "prefix": [word[: max(3, len(word) - 2)] + "*" for word in medium],
        "two words": [f"{a} {b}" for a, b in zip(between(0.01, 1), medium, strict=True)],
        "from": [f'from:"{name}" {word}' for name, word in zip(names, between(0.01, 1), strict=True)],
        "in room": [f"in:day-{rng.randrange(ROOMS // 4, ROOMS)} {word}" for word in medium],
        "absent": [f"xq{word}" for word in medium],
    }


SETUP = (
    *(f"INSERT INTO rooms (tenant, name) VALUES ('default', 'chat:day-{n}')" for n in range(ROOMS)),
    "INSERT INTO chat_rooms (room, visibility, title, created_ms) "
    f"SELECT id, CASE WHEN id <= {ROOMS // 4} THEN 'private' ELSE 'public' END, name, 1 FROM rooms",
    "INSERT INTO chat_members (room, user_id, role, banned_until_ms) "
    f"SELECT id, 'guest', 0, 9000000000000 FROM rooms WHERE id < {ROOMS}",
    "INSERT INTO chat_members (room, user_id, role) SELECT id, 'member', 2 FROM rooms WHERE id IN (1, 6)",
    "INSERT INTO chat_members (room, user_id, role, banned_until_ms) "
    "SELECT id, 'nobody', 0, 9000000000000 FROM rooms",
)
POLICY = """
[[access.rules]]
effect = "deny"
actions = ["history"]
rooms = ["chat:day-{user}"]
"""


def fill_sqlite(path: Path, all_rows: Iterator[Row], listed: Collection[str]) -> float:
    """Fill a file that a server has made; return how long it took, in seconds."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = off")
    begun = time.perf_counter()
    db.execute("BEGIN")
    for statement in SETUP:
        db.execute(statement)
    places = ", ".join("?" * len(_COLUMNS))
    db.executemany(f"INSERT INTO chat_messages ({', '.join(_COLUMNS)}) VALUES ({places})", all_rows)
    # As the server lists them.
    db.executemany("INSERT INTO chat_words (word) VALUES (?)", [(word,) for word in listed])
    db.execute("DELETE FROM chat_unlisted")
    db.execute("COMMIT")
    db.close()
    return time.perf_counter() - begun


async def fill_postgres(url: str, all_rows: Iterator[Row], listed: Collection[str]) -> float:
    """The same for a database."""
    db = await asyncpg.connect(url, server_settings={"search_path": "realtime", "synchronous_commit": "off"})
    begun = time.perf_counter()
    for statement in SETUP:
        await db.execute(statement)
    names = [name.strip('"') for name in _COLUMNS]
    await db.copy_records_to_table("chat_messages", records=all_rows, columns=names, timeout=3600)
    await db.executemany("INSERT INTO chat_words (word) VALUES ($1)", [(word,) for word in listed])
    await db.execute("TRUNCATE chat_unlisted")
    await db.execute("VACUUM ANALYZE", timeout=3600)
    await db.close()
    return time.perf_counter() - begun


def measure(port: int, asked: dict[str, list[str]], rows_there: int) -> None:
    """Ask everything, and print a line for each class and user."""
    for user in USERS:
        with Client(port, user) as client:
            for name in CLASSES:
                times, found, short = [], 0, 0
                slowest = ""
                for number, query in enumerate(asked[name]):
                    content = {"query": query, "limit": 20, "lang": "en"}
                    if user == "guest" and name == "in room":
                        content["query"] = f"in:day-{ROOMS - 1} {query.split()[1]}"
                    begun = time.perf_counter()
                    answer = client.ask({"type": "chat_search", "id": f"{name}{number}", "content": content})
                    times.append((time.perf_counter() - begun) * 1e3)
                    slowest = content["query"] if times[-1] == max(times) else slowest
                    found += len(answer["hits"])
                    short += answer["more"] and len(answer["hits"]) < 20
                times.sort()
                p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
                print(
                    f"    {user:7} {name:12} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  max {times[-1]:7.2f} ms  "
                    f"{found / len(times):5.1f} hits a page, {short} pages cut short; "
                    f"slowest {slowest}",
                    flush=True,
                )


def readable_by() -> dict[str, set[str]]:
    """Return, by user, the rooms that they may read: `SETUP` and `POLICY` say so."""
    public = {f"chat:day-{n}" for n in range(ROOMS // 4, ROOMS)}
    return {
        "reader": public,
        "member": public | {"chat:day-0", "chat:day-5"},
        "guest": {f"chat:day-{ROOMS - 1}"},
        "20": public - {"chat:day-20"},
        "nobody": set(),
    }


def compare(port: int, texts: Sequence[tuple[str, str]], count: int, asked: int) -> None:
    """Have several users ask questions by chance, and hold the newest 20 that each finds against a look at
    all messages.
    """
    from tests.features.chat.search_questions import a_question
    from tests.oracles.chat_search import Message, find

    messages = [
        Message(id, f"chat:day-{room - 1}", sender, text, lang)
        for id, room, _, _, sender, text, lang, _ in rows(texts, count)
    ]
    users, rng, wrong = sorted({each.sender for each in messages}), random.Random(3), 0
    made = []  # before there is a connection: it takes minutes, and one that says nothing is closed
    every = {f"chat:day-{n}" for n in range(ROOMS)}
    readable = readable_by()
    for _ in range(asked):
        # One look at all that there is serves all of them: what one may read is taken from it.
        content, question, lang = a_question(rng, messages, users, sorted(every))
        found = find(messages, question, lang, every, STOP_WORDS)
        made.append((content, question.rooms, found))
    room_of = {each.id: each.room for each in messages}
    for user, rooms in readable.items():
        some = refused = 0
        with Client(port, user) as client:
            for number, (content, named, found) in enumerate(made):
                expected = [id for id in found if room_of[id] in rooms][:20]
                hits = newest(client, f"{user}{number}", content)
                if not rooms.issuperset(named):
                    refused += hits is None
                    wrong += hits is not None
                elif hits != expected:
                    wrong += 1
                    print(f"    differs for {user}: {content} {hits} is not {expected}")
                some += bool(expected)
        print(f"    {user:7} {asked} questions of {count:,} messages, {some} with hits, {refused} refused")
    print(f"    {wrong} differ from the oracle", flush=True)


def newest(client: Client, name: str, content: dict[str, object]) -> list[int] | None:
    """Return the newest 20 that are found, over as many pages as that takes; None: refused."""
    hits: list[int] = []
    more, position = True, ""
    while more and len(hits) < 20:
        page = content | {"limit": 20, "position": position}
        try:
            told = client.ask({"type": "chat_search", "id": f"{name} {position}", "content": page})
        except LostError as error:
            if "'forbidden'" in str(error):
                return None
            raise
        hits += [int(hit["message"]["id"]) for hit in told["hits"]]
        more, position = told["more"], told.get("position", "")
    return hits[:20]


@contextlib.contextmanager
def sqlite_server(all_rows: Sequence[tuple[str, str]], count: int, **settings: str) -> Iterator[Server]:
    """A server on a filled file, which is kept for the next run."""
    made = hashlib.sha256(b"".join(each.read_bytes() for each in sorted(MIGRATIONS.iterdir()))).hexdigest()[
        :8
    ]
    kept = Path(tempfile.gettempdir()) / f"realtime-bench-search-{count}-{len(all_rows)}-{made}.sqlite"
    with tempfile.TemporaryDirectory(prefix="realtime-bench-") as folder:
        path = Path(folder) / "rooms.sqlite"

        def command(port: int) -> list[str]:
            return realtime_command(port, sqlite_path=str(path), **settings)

        server = Server("sqlite", "realtime serve", command, Traffic("/ws"))
        if kept.exists():
            shutil.copy(kept, path)
        else:
            with running(server):
                pass
            took = fill_sqlite(path, rows(all_rows, count), words_said(all_rows))
            print(f"  sqlite: filled in {took:.0f} s, {took / count * 1e6:.0f} us a message")
            shutil.copy(path, kept)
        yield server


@contextlib.contextmanager
def postgres_server(all_rows: Sequence[tuple[str, str]], count: int, **settings: str) -> Iterator[Server]:
    """A server on a filled database."""
    from tests.postgres import PostgresServer

    cluster = PostgresServer(shared_buffers="128MB").start()  # as PostgreSQL comes
    try:
        url = asyncio.run(cluster.new_database())

        def command(port: int) -> list[str]:
            return realtime_command(port, **settings)

        server = Server("postgres", "realtime serve", command, Traffic("/ws"), environ={"POSTGRES_URL": url})
        with running(server):
            pass
        took = asyncio.run(fill_postgres(url, rows(all_rows, count), words_said(all_rows)))
        print(f"  postgres: filled in {took:.0f} s, {took / count * 1e6:.0f} us a message")
        yield server
    finally:
        cluster.remove()


def main() -> int:
    """Run the benchmark."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--only", default="sqlite,postgres")
    parser.add_argument("--irc", type=Path, default=SAMPLE)
    parser.add_argument("--oracle", action="store_true", help="compare what is found; measure nothing")
    given = parser.parse_args()
    if given.oracle:
        given.rows = len(said(given.irc))
    count, asked = (20_000, 20) if given.short else (given.rows, given.questions)
    texts = said(given.irc)
    print(report.headline("chat_search", QUESTION, short=given.short))
    print(f"  {count:,} messages of {len(texts):,} texts, {asked} questions a class, limit 20")
    made = questions(texts, asked)
    with tempfile.NamedTemporaryFile("w", prefix="realtime-bench-", suffix=".toml") as policy:
        policy.write(POLICY if given.oracle else "")
        policy.flush()
        for backend in given.only.split(","):
            opened = sqlite_server if backend == "sqlite" else postgres_server
            with opened(texts, count, policy_path=policy.name) as server:
                print(f"  {backend}")
                with running(server) as up:
                    if given.oracle:
                        compare(up.port, texts, count, asked)
                    else:
                        measure(up.port, made, count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
