"""What a benchmark prints and keeps: the machine, medians with their spread, and JSON for later."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.build import BENCH

RESULTS = BENCH / "results"
ROOT = BENCH.parent


def machine() -> dict[str, str]:
    """Return what a figure depends on: commit, cores, processor, kernel, python."""
    return {
        "commit": _commit(),
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _commit() -> str:
    if shutil.which("git") is None:
        return "none"

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD") or "none"
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def headline(question: str, words: str, *, short: bool = False) -> str:
    """Return the head of a report: the question and the machine it was asked on."""
    m = machine()
    where = f"commit {m['commit']}, {m['cores']} cores, kernel {m['kernel']}, python {m['python']}"
    note = "\n  SHORT run, sizes cut down: only the counts mean anything" if short else ""
    return f"{question}: {words}\n  {where}, {m['processor']}{note}"


def spread_percent(values: Sequence[float]) -> float:
    """Return (greatest - least) / median, in percent: what a difference has to exceed to mean anything."""
    middle = statistics.median(values)
    return 100.0 * (max(values) - min(values)) / middle if middle else 0.0


def ratio(values: Sequence[float], against: Sequence[float]) -> tuple[float, float, float]:
    """Return median, least and greatest of the quotients round by round, which interleaving makes fair."""
    quotients = [a / b for a, b in zip(values, against, strict=True) if b]
    return (statistics.median(quotients), min(quotients), max(quotients)) if quotients else (0.0, 0.0, 0.0)


def scaled(value: float) -> str:
    """Return `value` with three digits and a thousand's letter: 4.41M, 226k, 812."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}" if value / size < 100 else f"{value / size:.0f}{letter}"
    return f"{value:.3g}"


def row(label: str, server: str, text: str, values: Sequence[float]) -> str:
    """Return one line: what, who, the figures, and how far the rounds lay apart."""
    rounds = f"{len(values)} round{'s' if len(values) > 1 else ''}"
    runs = f"({rounds}, spread {abs(spread_percent(values)):.0f} %)"
    return f"  {label:<22} {server:<22} {text:<76} {runs}"


def keep(question: str, data: Mapping[str, Any]) -> Path:
    """Write the raw results with the machine to bench/results; return the file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}-{question}.json"
    body = {"question": question, "machine": machine(), **data}
    path.write_text(json.dumps(body, indent=1, default=_plain) + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
