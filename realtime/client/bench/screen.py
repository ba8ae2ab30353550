"""A run while it goes on: a table that is drawn anew on a terminal, a line a second elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from realtime.client.bench.plan import Calibrated, Plan, Progress
from realtime.client.bench.result import BUSY_SHARE, Latency, Result, Second, alone, timeline

ROWS: Final = 12
WIDTH: Final = 11  # of a column
COLUMNS: Final = (
    "second",
    "connected",
    "sent/s",
    "delivered/s",
    "p50 ms",
    "p99 ms",
    "max ms",
    "late p99",
    "errors",
)


class Screen:
    """Hears of progress, and shows each second that all processes have told of."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._told: list[Progress] = []
        self._rows: list[Second] = []
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self._console.print(f"connecting {self._plan.connections} to {self._plan.url}", soft_wrap=True)
        return self

    def __exit__(self, *failure: object) -> None:
        if self._live is not None:
            self._live.stop()

    def heed(self, progress: Progress) -> None:
        """Take what a process says of one second."""
        if progress.second < 0:
            return
        self._told.append(progress)
        of_it = [each for each in self._told if each.second == progress.second]
        if len(of_it) < self._plan.processes:
            return
        self._rows = timeline(self._told)
        if self._live is not None:
            self._live.update(self._table())
        else:
            if len(self._rows) == 1:
                self._console.print("  ".join(name.rjust(WIDTH) for name in COLUMNS), soft_wrap=True)
            self._console.print(
                "  ".join(cell.rjust(WIDTH) for cell in _cells(self._rows[-1])), soft_wrap=True
            )

    def calibrated(self, told: Sequence[Calibrated]) -> None:
        """Say what the generator can do by itself, before it does anything else."""
        line = calibration(self._plan, told)
        if line:
            self._console.print(line, soft_wrap=True)

    def _table(self) -> Table:
        plan = self._plan
        title = f"{plan.url}: {plan.connections} connections, {plan.rooms} rooms, {plan.rate:g} messages/s"
        table = Table(title=title, title_justify="left")
        for name in COLUMNS:
            table.add_column(name, justify="right")
        for row in self._rows[-ROWS:]:
            table.add_row(*_cells(row))
        return table


def calibration(plan: Plan, told: Sequence[Calibrated]) -> str:
    """Return in a line what the generator can do by itself; empty where nobody asked."""
    failed = {each.failed for each in told if each.failed}
    if not plan.calibrate:
        return ""
    if failed:
        return f"the generator could not be calibrated: {', '.join(sorted(failed))}"
    most = alone(plan, told)
    if not most:
        return "the generator could not be calibrated: others have all the time of its cores"
    said = f"the generator alone can make {most:,.0f} messages/s of this load"
    if plan.rate > most * BUSY_SHARE:
        return f"{said}, and {plan.rate:,.0f} are asked for: IT WILL BE THE LIMIT (--processes, or machines)"
    return f"{said}; {plan.rate:,.0f} are asked for"


def _cells(row: Second) -> list[str]:
    return [
        str(row.second),
        str(row.connected),
        str(row.sent),
        str(row.delivered),
        f"{row.p50:.2f}",
        f"{row.p99:.2f}",
        f"{row.max:.2f}",
        f"{row.late_p99:.2f}",
        str(row.errors),
    ]


def summary(result: Result) -> list[str]:
    """What is printed at the end, a line each."""
    lines = [
        f"{result.connections} connections in {result.connect_s:g} s: handshake {_words(result.connect)}",
        f"sent {result.sent} ({result.sent_per_s:g}/s), acked {result.acked}: {_words(result.ack)}",
        f"delivered {result.delivered} of {result.expected} ({result.delivered_per_s:g}/s): "
        f"{_words(result.delivery)}",
        f"lost {result.lost}, twice {result.duplicated}, gaps {result.gaps}, unsent {result.unsent}",
    ]
    if result.server is not None:
        server = result.server
        lines.append(
            f"server: {server.cpu_share:.0%} of a core, {server.cpu_us_per_delivery:g} us a delivery, "
            f"{server.cpu_us_per_connect:g} us to let one in, {server.cpu_us_per_connection_s:g} us a "
            f"connection and second, {server.memory_per_connection_bytes:g} bytes a connection"
        )
    for what, counts in (
        ("not connected", result.connect_failures),
        ("closed", result.closed),
        ("errors", result.errors),
    ):
        lines += [f"{what}: {count} x {why}" for why, count in counts.items()]
    lines += [f"LIMITED BY THE GENERATOR: {why}" for why in result.generator.limits]
    return [*lines, result.generator.verdict]


def _words(latency: Latency) -> str:
    if not latency.count:
        return "none"
    return f"p50 {latency.p50:.2f}  p99 {latency.p99:.2f}  p99.9 {latency.p999:.2f}  max {latency.max:.2f} ms"
