"""What failed, in a few lines at the end of a run: each test with where, and how its error begins.

The tracebacks stand above, but of a long log often just the end is kept. A run of several parts prints what
failed in all of them at its very end: with TESTS_FAILED_FILE it is added to the file of that name, too.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE_VARIABLE = "TESTS_FAILED_FILE"
LINES, CHARS = 4, 200  # of an error


def told(report: Any) -> Iterator[str]:
    """The lines that say how a test went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    where, text = (
        ("", str(report.longrepr)) if crash is None else (f"{crash.path}:{crash.lineno}: ", crash.message)
    )
    when = "" if report.when in ("call", None) else f" ({report.when})"
    yield f"{report.nodeid}{when}"
    said = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(said[:LINES]):
        yield f"    {'' if number else where.removeprefix(f'{Path.cwd()}/')}{line}"[:CHARS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it all again."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # whoever started us says it
    stats = terminalreporter.stats
    lines = [line for report in [*stats.get("failed", ()), *stats.get("error", ())] for line in told(report)]
    if not lines:
        return
    terminalreporter.section("what failed")
    for line in lines:
        terminalreporter.write_line(line)
    if file := os.environ.get(FILE_VARIABLE):
        with Path(file).open("a") as failures:
            failures.write("".join(f"{line}\n" for line in lines))
