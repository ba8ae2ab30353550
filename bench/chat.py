"""How long from sending a chat message to its durable ack, and to the other member's screen?

    python -m bench.chat [--short] [--messages N] [--rate R] [--rounds N] [--only cluster] [--ways bare,page]

Embedded is one worker that keeps its rooms in SQLite; cluster is two workers, three Redis masters with a
replica each, and PostgreSQL with fsync on, sender and member each on a worker of its own. `bare` is two plain
sockets. `page` is two pages in Chromium, in renderer processes of their own: a message is submitted in one,
the other has it when its MutationObserver sees the new line. Messages go at a steady rate after a warm-up,
and time runs from when each was due. Every message has to be acked, and to be there once, in order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import report
from bench.cluster_scene import Worker, fail, redis_nodes, workers
from bench.generator import WrongResultError
from bench.raw import Client, LostError
from bench.run import bounded
from bench.servers import ServerUnavailableError
from bench.store import postgres_url
from realtime.errors import StartupError

QUESTION = "how long from a chat message to its durable ack, and to the other member's screen?"
SCENES = ("embedded", "cluster")
WAYS = ("bare", "page")
WARM_UP = 50
WORDS = "a message of the length that people write, give or take a few words "
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The same page for both: what is said in the room is a line of a list, as in any chat.
PAGE = """async ([user, room]) => {
  const { connect } = await import("/realtime.js");
  document.body.innerHTML = "<ol></ol><form><input></form>";
  const [list, form, input] = ["ol", "form", "input"].map((name) => document.querySelector(name));
  const now = () => performance.timeOrigin + performance.now();
  const seen = [], due = [], acked = [];
  new MutationObserver((changes) => {
    const at = now();
    for (const { addedNodes } of changes) {
      for (const { dataset } of addedNodes) seen.push([Number(dataset.n), at]);
    }
  }).observe(list, { childList: true });
  const client = connect(`ws://${location.host}/ws`, { user });
  const joined = await client.join(room);
  joined.on("message", ({ type, content }) => {
    if (type !== "chat_message") return;
    const line = document.createElement("li");
    line.textContent = content.text;
    line.dataset.n = content.text.split(" ", 1)[0];
    list.append(line);
  });
  const waiting = [];
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const number = due.length - 1, text = input.value;
    waiting.push(joined.publish("chat_message", { text }).then(() => { acked[number] = now(); }));
    input.value = "";
  });
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const say = async (count, rate, words) => {
    const began = now() + 1000 / rate;
    for (let number = 0; number < count; number++) {
      const at = began + number * 1000 / rate;
      while (now() < at) await pause(Math.max(0, at - now()));
      due.push(at);
      input.value = `${number} ${words}`;
      form.requestSubmit();
    }
    await Promise.all(waiting);
    return { due, acked };
  };
  const until = async (count) => {
    for (const end = now() + 20000; seen.length < count && now() < end;) await pause(20);
    return seen;
  };
  window.bench = { say, until };
}"""


@dataclass(frozen=True)
class Run:
    """One run: ms from when a message was due to its ack, and until the other member had it."""

    scene: str
    way: str
    acked_ms: list[float]
    there_ms: list[float]


def checked(scene: str, way: str, due: list[float], acked: list[float], seen: list[tuple[int, float]]) -> Run:
    """Return a run without its warm-up; times are in ms.

    Raises:
        WrongResultError: a message is missing, was there twice, or out of order, or has no ack.
    """
    if [number for number, _ in seen] != list(range(len(due))):
        raise WrongResultError(
            f"{scene}, {way}: {len(due)} messages were sent, and {len(seen)} came, or not so"
        )
    if len(acked) != len(due):
        raise WrongResultError(f"{scene}, {way}: {len(due)} messages were sent, and {len(acked)} acked")
    told = [at - began for began, at in zip(due, acked, strict=True)]
    there = [at - began for began, (_, at) in zip(due, seen, strict=True)]
    return Run(scene, way, told[WARM_UP:], there[WARM_UP:])


def bare(scene: str, ports: tuple[int, int], messages: int, rate: float) -> Run:
    """Two plain sockets: one thread sends, one reads its acks, one reads what the other member gets."""
    room, count = f"chat:{uuid.uuid4()}", messages + WARM_UP
    due: list[float] = []
    acked: list[float] = []
    seen: list[tuple[int, float]] = []
    with Client(ports[0], "alice") as alice, Client(ports[1], "bob") as bob:
        for member in (alice, bob):
            member.ask({"type": "join", "id": 0, "room": room})

        def read_acks() -> None:
            while len(acked) < count:
                said = alice.read()
                if said["type"] == "error":
                    raise LostError(f"refused: {said['content']}")
                if said["type"] == "ack":
                    acked.append(time.perf_counter() * 1e3)

        def read_pushes() -> None:
            while len(seen) < count:
                said = bob.read()
                if said["type"] == "chat_message":
                    seen.append((int(said["content"]["text"].split(" ", 1)[0]), time.perf_counter() * 1e3))

        def send() -> None:
            began = time.perf_counter() + 1 / rate
            for number in range(count):
                at = began + number / rate
                time.sleep(max(0.0, at - time.perf_counter()))
                due.append(at * 1e3)
                content = {"text": f"{number} {WORDS}"}
                alice.send({"type": "chat_message", "id": number + 1, "room": room, "content": content})

        _together(read_acks, read_pushes, send)
    return checked(scene, "bare", due, acked, seen)


def in_pages(scene: str, ports: tuple[int, int], messages: int, rate: float) -> Run:
    """Two pages, each in a context of its own: one submits, the other watches its list."""
    from playwright.sync_api import sync_playwright

    room, count = f"chat:{uuid.uuid4()}", messages + WARM_UP
    # Chromium's sandbox does not work as root; containers are root.
    flags = ["--disable-gpu", "--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        pages = []
        for user, port in zip(("alice", "bob"), ports, strict=True):
            page = browser.new_context(bypass_csp=True).new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.evaluate(PAGE, [user, room])
            pages.append(page)
        sender, member = pages
        said = sender.evaluate("([...given]) => bench.say(...given)", [count, rate, WORDS])
        seen = member.evaluate("(count) => bench.until(count)", count)
        browser.close()
    return checked(scene, "page", said["due"], said["acked"], [(number, at) for number, at in seen])


def chromium() -> str:
    """Return the system's browser. Raises ServerUnavailableError: there is none."""
    for name in CHROMIUM:
        if found := shutil.which(name):
            return found
    raise ServerUnavailableError("no Chromium: apt-get install chromium, or --ways bare")


@contextlib.contextmanager
def scene_of(name: str) -> Iterator[tuple[int, int]]:
    """Yield the ports of the sender's and of the other member's worker."""
    with contextlib.ExitStack() as stack:
        up: list[Worker]
        if name == "embedded":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="realtime-bench-"))
            path = str(Path(folder) / "chat.sqlite")
            up = stack.enter_context(workers("", 1, sqlite_path=path))
        else:
            nodes = stack.enter_context(redis_nodes(3, 3))
            stack.enter_context(_environ("POSTGRES_URL", stack.enter_context(postgres_url())))
            up = stack.enter_context(workers(nodes.url, 2))
        yield up[0].port, up[-1].port


def line(runs: Sequence[Run], what: str, of: Callable[[Run], list[float]]) -> str:
    """One line of the report, from the rounds of one cell."""
    p50s = [statistics.median(of(run)) for run in runs]
    p99s = [sorted(of(run))[int(len(of(run)) * 0.99)] for run in runs]
    text = (
        f"{what:<24} p50 {statistics.median(p50s):6.2f} ms   p99 {statistics.median(p99s):6.2f} ms   "
        f"max {max(max(of(run)) for run in runs):6.1f} ms"
    )
    return report.row(runs[0].scene, runs[0].way, text, p50s)


@contextlib.contextmanager
def _environ(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _together(*jobs: Callable[[], None]) -> None:
    """Run each in a thread of its own; the first error of any is raised when all have ended."""
    errors: list[Exception] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[job], daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0, or 1 where a count did not come out, 2 where it cannot run."""
    parsed = _parser().parse_args(argv)
    messages, rounds = (100, 1) if parsed.short else (parsed.messages, parsed.rounds)
    how: dict[str, Callable[..., Run]] = {"bare": bare, "page": in_pages}
    runs: dict[str, list[Run]] = {}
    print(report.headline("chat", QUESTION, short=parsed.short), flush=True)
    print(f"  {messages} messages a round at {parsed.rate:g}/s, after {WARM_UP} of warm-up")
    for scene in parsed.only:
        try:
            with scene_of(scene) as ports:
                for _ in range(rounds):
                    for way in parsed.ways:
                        run = how[way](scene, ports, messages, parsed.rate)
                        runs.setdefault(f"{scene} {way}", []).append(run)
        except (ServerUnavailableError, StartupError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        except (WrongResultError, LostError) as error:
            return fail(error)
        for name in [name for name in runs if name.startswith(scene)]:
            screen = "on the other's screen" if name.endswith("page") else "at the other member"
            print(line(runs[name], "durable ack", lambda run: run.acked_ms))
            print(line(runs[name], screen, lambda run: run.there_ms), flush=True)
    if not parsed.short:
        print(f"  kept in {report.keep('chat', json.loads(json.dumps(runs, default=vars)))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
        def read(text: str) -> list[str]:
            names = text.split(",")
            if unknown := set(names) - set(known):
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
            return names

        return read

    parser = argparse.ArgumentParser(prog="python -m bench.chat", description=QUESTION)
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--messages", type=bounded(int, 10, 100_000), default=1000, help="a round (1000)")
    parser.add_argument("--rate", type=bounded(float, 1, 1000), default=50.0, help="messages a second (50)")
    parser.add_argument("--rounds", type=bounded(int, 1, 50), default=3, help="interleaved rounds (3)")
    parser.add_argument(
        "--only", type=some_of(SCENES), default=list(SCENES), metavar="A,B", help=f"of {', '.join(SCENES)}"
    )
    parser.add_argument(
        "--ways", type=some_of(WAYS), default=list(WAYS), metavar="A,B", help=f"of {', '.join(WAYS)}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
