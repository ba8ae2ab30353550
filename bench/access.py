"""access: how many checks of the rules does one core make in a second?

Users of random roles ask of random rooms, among rules of a seed. The answers are first held against a plain
walk over all rules. *known* rooms have been asked of before (20,000 are remembered), *new* ones have not.
Prints the median over interleaved rounds and their spread; `--least N` fails below N checks/s of known rooms.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count

from bench.report import headline
from realtime.core.access import Rules
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.features import discover
from realtime.ids import TenantId, UserId
from realtime.policy.access import Access, Rule
from tests.oracles import access as oracle

ROUNDS = 9
CHECKS = 50_000
TEAMS = 500
CATALOG = Catalog(discover())
CHAT = CATALOG.kinds["chat"]


def policy(chance: random.Random, rules: int) -> Access:
    """A third denies, in rooms by their beginning, their whole name, their end, and users' own."""
    rooms = (
        lambda: f"chat:team{chance.randrange(TEAMS)}-*",
        lambda: f"chat:room{chance.randrange(TEAMS)}",
        lambda: f"chat:*-{chance.randrange(20)}",
        lambda: "session:{user}:*",
    )
    actions = ("join", "publish", "publish:chat_*", "history", "signal")
    return Access(
        default="deny",
        rules=tuple(
            Rule(
                effect=chance.choice(("allow", "allow", "deny")),
                roles=(f"role{chance.randrange(200)}",),
                actions=(chance.choice(actions),),
                rooms=(chance.choice(rooms)(),),
            )
            for _ in range(rules)
        ),
    )


class Case:
    """One policy, and who asks it of what."""

    def __init__(self, rules: int, roles: int) -> None:
        chance = random.Random(7)
        self.policy = policy(chance, rules)
        self.rules = Rules(self.policy, CATALOG)
        names = [f"role{number}" for number in range(200)]
        self.users = [
            Identity(UserId(f"u{number}"), TenantId("acme"), frozenset(chance.sample(names, roles)))
            for number in range(200)
        ]
        rooms = [f"chat:team{chance.randrange(TEAMS)}-{chance.randrange(10)}" for _ in range(2000)]
        self.asked = [(chance.choice(self.users), chance.choice(rooms)) for _ in range(CHECKS)]
        own = [f"session:u{chance.randrange(200)}:x" for _ in range(500)]
        self.own = [(chance.choice(self.users), chance.choice(own)) for _ in range(CHECKS)]
        self.strange = count()

    def agree(self) -> None:
        """Fail unless the answers are those of a walk over all rules."""
        for user, room in [*self.asked[:100], *self.own[:100]]:
            expected = oracle.allows(self.policy, user, "join", room)
            assert self.rules.allows(user, "join", room) == expected, (user, room)

    def known(self) -> None:
        """What a join asks: all rights at once."""
        rights = self.rules.rights
        for user, room in self.asked:
            rights(user, CHAT, room)

    def known_action(self) -> None:
        allows = self.rules.allows
        for user, room in self.asked:
            allows(user, "publish:chat_message", room)

    def own_rooms(self) -> None:
        allows = self.rules.allows
        for user, room in self.own:
            allows(user, "join", room)

    def new(self) -> None:
        rights = self.rules.rights
        for (user, _), number in zip(self.asked, self.strange, strict=False):
            rights(user, CHAT, f"chat:team{number % TEAMS}-new{number}")


def rate(run: Callable[[], None]) -> float:
    """Checks in a second of CPU."""
    began = time.process_time()
    run()
    return CHECKS / (time.process_time() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--least", type=float, default=0.0, metavar="N", help="checks/s of known rooms")
    least = parser.parse_args().least
    print(headline("access", "how many checks of the rules in a second of one core?"))
    slowest = float("inf")
    for rules, roles in ((20, 2), (1000, 2), (1000, 20)):
        case = Case(rules, roles)
        case.agree()
        ways = {
            "all rights in a known room": case.known,
            "one action in a known room": case.known_action,
            "one action in {user}'s own rooms": case.own_rooms,
            "all rights in a new room": case.new,
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, run in ways.items():
                rates[name].append(rate(run))
        for name, found in rates.items():
            median = statistics.median(found)
            spread = (max(found) - min(found)) / median * 100
            print(
                f"  {rules:5} rules, {roles:2} roles a user: {name:33} {median:12,.0f} checks/s"
                f"   ({ROUNDS} rounds, spread {spread:.0f} %)"
            )
            if "known" in name:
                slowest = min(slowest, median)
    if slowest < least:
        print(f"access: {slowest:,.0f} checks/s are below {least:,.0f}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
