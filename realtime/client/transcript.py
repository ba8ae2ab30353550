"""A recorded chat as a plan: which connection joins, says and leaves what, in the log's own order.

The file is TSV with a header line: day, hh:mm, kind (msg, act, sys), nick, text; the kind `sys` holds joins,
parts, changes of nick, and other lines of the server's. Knows nothing of connections or time.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from realtime.errors import RealtimeError

HEADER = ("day", "hhmm", "kind", "nick", "text")

_JOIN = re.compile(r"(\S+)(?: +\[.*?\])? +has joined #", re.IGNORECASE)
_PART = re.compile(r"(\S+)(?: +\[.*?\])? +has (?:left|quit)\b")
_RENAME = re.compile(r"(\S+) is now known as (\S+)")


class BadTranscript(RealtimeError):  # noqa: N818 - named like its siblings in realtime.errors
    """The file is no transcript; the message says where and why."""

    code = "bad_transcript"
    number = 400
    retryable = False


class Line(NamedTuple):
    """One line: `minute` since midnight; `entering` and `leaving` are the nicks that come and go with it."""

    minute: int
    kind: str
    nick: str
    text: str
    entering: str | None = None
    leaving: str | None = None


class Action(Enum):
    """What a connection does."""

    JOIN = "join"
    SAY = "say"
    LEAVE = "leave"


class Step(NamedTuple):
    """One action of connection `connection` (0 to the day's number of connections - 1)."""

    action: Action
    connection: int
    line: Line | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """One day's room, as a plan. `steps` in the order of the log; each line is said exactly once."""

    date: str
    connections: int
    steps: list[Step]

    def deliveries(self) -> int:
        """How many there must be: each line once to everybody in the room, its sender included."""
        present: set[int] = set()
        total = 0
        for action, connection, _ in self.steps:
            if action is Action.JOIN:
                present.add(connection)
            elif action is Action.LEAVE:
                present.discard(connection)
            else:
                total += len(present)
        return total


def read(path: Path) -> dict[str, list[Line]]:
    """Return the lines of each day, in the file's order.

    Raises:
        BadTranscript: no such file, not UTF-8, or a row that is no row; with the line's number.
    """
    days: dict[str, list[Line]] = {}
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, row in enumerate(file, start=1):
                cells = tuple(row.rstrip("\r\n").split("\t"))
                if number == 1 and cells == HEADER:
                    continue
                if len(cells) != len(HEADER):
                    raise BadTranscript(f"{path}:{number}: {len(cells)} columns, not {len(HEADER)}")
                days.setdefault(cells[0], []).append(_line(path, number, cells))
    except OSError as error:
        raise BadTranscript(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadTranscript(f"{path}: not UTF-8 ({error.reason})") from error
    if not days:
        raise BadTranscript(f"{path}: no rows")
    return days


def _line(path: Path, number: int, cells: tuple[str, ...]) -> Line:
    _, clock, kind, nick, text = cells
    time = re.fullmatch(r"(\d\d):?(\d\d)", clock)
    if time is None:
        raise BadTranscript(f"{path}:{number}: time {clock!r} is not hh:mm")
    minute = int(time[1]) * 60 + int(time[2])
    if kind in ("msg", "act"):
        return Line(minute, kind, nick, text)
    if kind != "sys":
        raise BadTranscript(f"{path}:{number}: kind {kind!r} is not msg, act or sys")
    if match := _JOIN.match(text):
        return Line(minute, kind, match[1], text, entering=match[1])
    if match := _PART.match(text):
        return Line(minute, kind, match[1], text, leaving=match[1])
    if match := _RENAME.match(text):
        return Line(minute, kind, match[1], text, entering=match[2], leaving=match[1])
    return Line(minute, kind, text.partition(" ")[0] or "server", text)


def plan(days: dict[str, list[Line]], connections: int) -> list[Day]:
    """Spread `connections` over the days (at least two each) and return each day's plan.

    One nick a connection would make most of them idle, and all nicks on one would never join or leave. So
    those who talk through the day share connections by a hash of the nick, and one connection of each day
    is for visitors: a chain of nicks that came and left one after the other, each with a join and a leave.
    """
    each, more = divmod(connections, len(days))
    counts = [max(2, each + (index < more)) for index in range(len(days))]
    return [_plan_day(date, days[date], count) for date, count in zip(sorted(days), counts, strict=True)]


def _plan_day(date: str, lines: list[Line], count: int) -> Day:
    visitors = _chain(_visits(lines))
    places = _Places(count, visitors)
    # Whoever speaks before any sign of a join was there when the log began.
    start = dict.fromkeys(nick for nick in _there_at_start(lines) if nick not in visitors)
    steps = [step for nick in start for step in places.enter(nick)]
    for line in lines:
        steps += places.say(line)
    return Day(date, count, steps)


@dataclass(slots=True)
class _Places:
    """Which nicks each connection speaks for at the moment."""

    count: int
    visitors: frozenset[str]
    present: dict[int, set[str]] = field(default_factory=dict)

    def connection(self, nick: str) -> int:
        if nick in self.visitors:
            return 0
        # crc32, not hash(): the same plan in every run and process.
        return 1 + zlib.crc32(nick.encode()) % (self.count - 1)

    def enter(self, nick: str) -> Iterator[Step]:
        connection = self.connection(nick)
        nicks = self.present.setdefault(connection, set())
        if not nicks:
            yield Step(Action.JOIN, connection)
        nicks.add(nick)

    def leave(self, nick: str) -> Iterator[Step]:
        connection = self.connection(nick)
        nicks = self.present.setdefault(connection, set())
        nicks.discard(nick)
        if not nicks:
            yield Step(Action.LEAVE, connection)

    def say(self, line: Line) -> Iterator[Step]:
        yield from self.enter(line.entering if line.entering and not line.leaving else line.nick)
        yield Step(Action.SAY, self.connection(_speaker(line)), line)
        if line.leaving:
            yield from self.leave(line.leaving)
            if line.entering:
                yield from self.enter(line.entering)


def _speaker(line: Line) -> str:
    return line.entering if line.entering and not line.leaving else line.nick


def _there_at_start(lines: Iterable[Line]) -> Iterator[str]:
    seen: set[str] = set()
    for line in lines:
        first = _speaker(line)
        if first not in seen and line.entering != first:
            yield first
        seen.update(nick for nick in (first, line.entering, line.nick) if nick)


def _visits(lines: Iterable[Line]) -> dict[str, tuple[int, int]]:
    """From first to last line of every nick that came by a join and went by a part, and has one visit."""
    entered: dict[str, int] = {}
    visits: dict[str, tuple[int, int]] = {}
    strange: set[str] = set()
    for index, line in enumerate(lines):
        nick = _speaker(line)
        renamed = {line.entering, line.leaving} - {None} if line.entering and line.leaving else set()
        strange.update(str(one) for one in renamed)
        if line.entering == nick:
            if nick in entered:
                strange.add(nick)
            entered[nick] = index
        elif nick not in entered or nick in visits:
            strange.add(nick)
        elif line.leaving == nick:
            visits[nick] = (entered[nick], index)
    return {nick: span for nick, span in visits.items() if nick not in strange}


def _chain(visits: dict[str, tuple[int, int]]) -> frozenset[str]:
    """The largest set of visits of which no two overlap: always the one that ends first."""
    chosen: list[str] = []
    free_from = -1
    for nick, (start, end) in sorted(visits.items(), key=lambda item: item[1][1]):
        if start > free_from:
            chosen.append(nick)
            free_from = end
    return frozenset(chosen)
