"""Compile the C programs of `bench/c` on demand, into `bench/bin`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

BENCH = Path(__file__).resolve().parent
BIN = BENCH / "bin"
FLAGS = ["-O3", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra"]


class BuildError(RuntimeError):
    """No C compiler, or the compiler refused."""


def program(name: str) -> Path:
    """Return the compiled `bench/c/{name}.c`, rebuilt when it or a header is newer.

    Raises:
        BuildError: see there.
    """
    return compiled(BENCH / "c" / f"{name}.c", BIN / name)


def compiled(source: Path, target: Path) -> Path:
    """Return `target`, compiled from `source` when that, or a header beside it, is newer.

    Raises:
        BuildError: see there.
    """
    newest = max(path.stat().st_mtime for path in [source, *source.parent.glob("*.h")])
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BuildError("no C compiler found: install gcc")
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, *FLAGS, "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")
    return target
