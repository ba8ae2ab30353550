"""Put several servers under the same load in interleaved rounds, and print what one buys against another."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from bench import report
from bench.generator import Load, Result, WrongResultError, measure
from bench.servers import SERVERS, Server, ServerUnavailableError, Traffic, running

Figure = Callable[[Result], float]


@dataclass(frozen=True)
class Options:
    """How long and how often to measure. `short` asserts the counts and judges no time."""

    rounds: int = 4
    seconds: float = 3.0
    short: bool = False
    independent: bool = False
    only: tuple[str, ...] = ()

    def sized(self, load: Load) -> Load:
        """Return `load` with this run's length; a short run also keeps it small."""
        if not self.short:
            return replace(load, seconds=self.seconds)
        small = min(load.connections, 40)
        return replace(
            load,
            connections=small,
            rooms=min(load.rooms, 4),
            publishers=min(load.publishers, 4),
            stopped=min(load.stopped, 10),
            seconds=0.2,
            warmup_s=0.1,
        )

    def chosen(self, names: Iterable[str]) -> list[Server]:
        """Return the servers of these names that `only` lets through."""
        return [SERVERS[name] for name in names if not self.only or name in self.only]


@dataclass(frozen=True)
class Goal:
    """`server` shall reach `at_least` times what `against` does (`at_most`: a latency), where one is set."""

    server: str
    against: str
    at_least: float = 0.0
    at_most: float = 0.0

    def verdict(self, reached: float) -> str:
        """Return what was wanted and whether it was reached; nothing where no bound is set."""
        if not (self.at_least or self.at_most):
            return ""
        ok = reached <= self.at_most if self.at_most else reached >= self.at_least
        bound = f"<= {self.at_most:g}" if self.at_most else f">= {self.at_least:g}"
        return f", wanted {bound}: {'yes' if ok else 'NO'}"


@dataclass(frozen=True)
class Cell:
    """One load put to several servers, by the traffic that `traffic` picks of each."""

    label: str
    load: Load
    servers: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    floor: float = 0.0  # what realtime shall reach, whatever the others do
    traffic: Callable[[Server], Traffic] = field(default=lambda server: server.room)


Results = dict[str, dict[str, list[Result]]]  # by cell, by server: one entry a round


class Failures:
    """What went wrong during a run, said at once and counted for the exit code."""

    def __init__(self) -> None:
        self.unavailable: set[str] = set()
        self.wrong = 0

    def missing(self, server: str, error: Exception) -> None:
        self.unavailable.add(server)
        print(f"  {server} LEFT OUT: {error}", file=sys.stderr, flush=True)

    def wrong_result(self, label: str, server: str, error: Exception) -> None:
        self.wrong += 1
        print(f"  {label} {server}: WRONG RESULT: {error}", file=sys.stderr, flush=True)

    @property
    def exit_code(self) -> int:
        """1 when a count did not come out or one of our own servers could not run."""
        return int(bool(self.wrong or self.unavailable & {"baseline", "hub", "realtime"}))


def interleave(cells: Iterable[Cell], options: Options, failures: Failures) -> Results:
    """Measure every cell on every server, `rounds` times, a fresh server each time.

    The order turns from round to round, so that none always runs on a machine warmed by the same other.
    """
    results: Results = {}
    for number in range(options.rounds):
        for cell in cells:
            servers = options.chosen(cell.servers)
            turn = number % max(1, len(servers))
            for server in servers[turn:] + servers[:turn]:
                if server.name in failures.unavailable:
                    continue
                progress(f"round {number + 1}/{options.rounds}  {cell.label}  {server.name}")
                try:
                    with running(server) as up:
                        load = options.sized(cell.load)
                        result = measure(up, cell.traffic(server), load, independent=options.independent)
                except ServerUnavailableError as error:
                    failures.missing(server.name, error)
                except WrongResultError as error:
                    failures.wrong_result(cell.label, server.name, error)
                else:
                    results.setdefault(cell.label, {}).setdefault(server.name, []).append(result)
    progress("")
    return results


def progress(text: str) -> None:
    """Show where the run stands, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def print_cells(
    cells: Iterable[Cell],
    results: Results,
    options: Options,
    *,
    figure: Figure = lambda result: result.per_cpu_s,
    unit: str = "per server CPU s",
) -> None:
    """Print one line a cell and server, with the goals it has there."""
    for cell in cells:
        by_server = results.get(cell.label, {})
        for server in options.chosen(cell.servers):
            runs = by_server.get(server.name)
            if not runs:
                continue
            values = [figure(run) for run in runs]
            said = _figures(runs, values, unit)
            if cell.floor and server.name == "realtime" and not options.short:
                reached = "yes" if statistics.median(values) >= cell.floor else "NO"
                said += f", wanted {report.scaled(cell.floor)}: {reached}"
            for goal in cell.goals:
                if goal.server == server.name and by_server.get(goal.against):
                    said += "  " + _against(goal, values, by_server[goal.against], figure, options)
            print(report.row(cell.label, server.name, said, values))
    sys.stdout.flush()


def _figures(runs: list[Result], values: list[float], unit: str) -> str:
    said = f"{report.scaled(statistics.median(values)):>6} {unit}"
    if any(run.p99_ms for run in runs):  # there were messages, not only connections
        late = statistics.median(run.p99_ms for run in runs)
        said += f"  p99 {late:.2f} ms  lost {sum(run.lost for run in runs)}"
    if statistics.median(run.generator_cpu_share for run in runs) > 0.95:
        said += "  (the generator is at its limit)"
    return said


def _against(goal: Goal, values: list[float], other: list[Result], figure: Figure, options: Options) -> str:
    rounds = min(len(values), len(other))
    middle, least, greatest = report.ratio(values[:rounds], [figure(run) for run in other][:rounds])
    said = f"x{middle:.2f} of {goal.against} ({least:.2f} to {greatest:.2f})"
    return said if options.short else said + goal.verdict(middle)


def finish(question: str, results: Mapping[str, object], failures: Failures, options: Options) -> int:
    """Keep the raw figures of a real run; return the exit code."""
    if not options.short:
        print(f"  kept in {report.keep(question, {'options': options, 'results': results})}")
    return failures.exit_code
