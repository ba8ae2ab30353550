"""The compiled hot path. Importing any part of it without a build says how to make one.

There is no slow path in plain Python to fall back on: a server that is silently fifty times slower is worse
than one that does not start. The plain-Python twins in tests/oracles are for tests alone.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def _uncompiled(directory: Path) -> list[str]:
    """Names of the modules that have a source or stub here but no build for this interpreter, sorted."""
    files = {path.name for path in directory.iterdir()}
    modules = sorted({name.rpartition(".")[0] for name in files if name.endswith((".pyx", ".pyi"))})
    return [name for name in modules if files.isdisjoint(name + suffix for suffix in EXTENSION_SUFFIXES)]


if _missing := _uncompiled(Path(__file__).parent):
    raise ImportError(
        f"realtime.native is not compiled for this Python (no {', '.join(_missing)}). Build it: `make build` "
        "in a checkout, else `pip install .`. It takes a C compiler and the headers of Python and zlib; "
        "on Debian: apt-get install gcc libc6-dev python3-dev zlib1g-dev"
    )
