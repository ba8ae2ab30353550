"""Does it take longer to be told that a room is not one's own where it exists in another tenant?

    python -m tests.isolation.timing [--samples 20000]

Asked in this process, without sockets: closer than any client can come. Requests about names that exist in
the other tenant and about names that exist nowhere take turns at random, and are compared by rank: the chance
that one of the first took longer than one of the second is one half where nothing can be told.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from realtime.core.limits import Limits
from tests.core.world import Member, World

ROOMS = 200
CHANCE_MAX = 0.06  # away from one half; of equal ones 20,000 samples come within 0.01


class Outcome(NamedTuple):
    """The chance that "exists elsewhere" takes longer than "exists nowhere", and both medians."""

    chance: float
    elsewhere_ns: float
    nowhere_ns: float


def world() -> tuple[World, Member]:
    """A tenant with rooms, members, histories and keys, and somebody of another tenant."""
    made = World(limits=Limits(errors_burst=1e9, connections_per_user=10_000, rooms_per_connection=10_000))
    rich = [made.member(f"user{n}", tenant="acme") for n in range(3)]
    for number in range(ROOMS):
        for member in rich:
            member.join(f"chat:there{number}")
        rich[0].publish(f"chat:there{number}", "secret", key="once")
        rich[0].read()
    return made, made.member("user0", tenant="globex")


def ask(member: Member, type: str, content: str = "{}", **fields: str) -> Callable[[str], None]:
    """Return what sends one message about a room, by its name."""
    more = "".join(f',"{name}":"{value}"' for name, value in fields.items())
    text = f'{{"type":"{type}","id":1,"room":"%s","content":{content}{more}}}'

    def send(room: str) -> None:
        member.send_bytes((text % room).encode())

    return send


def questions(member: Member) -> dict[str, Callable[[str], None]]:
    """What one may ask about a room that one is not in."""
    join, leave = ask(member, "join"), ask(member, "leave")

    def come_and_go(room: str) -> None:
        join(room)
        leave(room)

    return {
        "join and leave": come_and_go,
        "publish": ask(member, "chat_message", '"x"', key="once"),
        "history": ask(member, "history"),
        "presence": ask(member, "presence"),
        "passive": ask(member, "passive"),
        "leave": leave,
    }


def measure(question: Callable[[str], None], member: Member, samples: int, rng: random.Random) -> Outcome:
    """Ask so often about either, in random order."""
    times: dict[bool, list[int]] = {True: [], False: []}
    gc.disable()
    try:
        for _ in range(samples):
            elsewhere = rng.random() < 0.5
            room = f"chat:{'there' if elsewhere else 'nowhr'}{rng.randrange(ROOMS)}"
            began = time.perf_counter_ns()
            question(room)
            times[elsewhere].append(time.perf_counter_ns() - began)
            member.connection.sent.clear()
    finally:
        gc.enable()
    return Outcome(
        chance(times[True], times[False]), *(statistics.median(times[each]) for each in (True, False))
    )


def chance(ones: list[int], others: list[int]) -> float:
    """The chance that one of `ones` is above one of `others`, ties counted half (Mann and Whitney's U)."""
    ranks: dict[int, float] = {}
    every = sorted([*ones, *others])
    at = 0
    while at < len(every):
        end = at
        while end < len(every) and every[end] == every[at]:
            end += 1
        ranks[every[at]] = (at + end + 1) / 2
        at = end
    u = sum(ranks[each] for each in ones) - len(ones) * (len(ones) + 1) / 2
    return u / (len(ones) * len(others))


def main() -> int:
    """Print a line a question; 1 where anything can be told."""
    parser = argparse.ArgumentParser(description="what does a refusal's time tell of another tenant?")
    parser.add_argument("--samples", type=int, default=20_000)
    samples = parser.parse_args().samples
    _, member = world()
    rng, told = random.Random(1), 0
    for name, question in questions(member).items():
        found = measure(question, member, samples, rng)
        told |= abs(found.chance - 0.5) > CHANCE_MAX
        print(
            f"{name:<16} elsewhere {found.elsewhere_ns / 1e3:7.2f} us   "
            f"nowhere {found.nowhere_ns / 1e3:7.2f} us   chance {found.chance:.3f}"
        )
    return int(told)


if __name__ == "__main__":
    sys.exit(main())
