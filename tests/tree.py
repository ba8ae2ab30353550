"""The files of the project: what git tracks or would track, or, where there is no git, what was not built."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILT = ("build", "dist", "bench/bin", "bench/results")
BUILT_ANYWHERE = {"__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


def under_git() -> bool:
    """Whether git can tell us; an sdist, or a machine without git, has to do without."""
    return (ROOT / ".git").exists() and shutil.which("git") is not None


def files() -> list[Path]:
    """Every file of the project, links left out, sorted."""
    found = _tracked() if under_git() else [path for path in ROOT.rglob("*") if not _is_built(path)]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def _tracked() -> list[Path]:
    # The checkout may be another user's: CI runs as root on what somebody else has checked out.
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name]


def _is_built(path: Path) -> bool:
    inside = path.relative_to(ROOT)
    return any(inside.is_relative_to(place) for place in BUILT) or any(
        part in BUILT_ANYWHERE or part.startswith(".venv") or part.endswith((".egg-info", ".so"))
        for part in inside.parts
    )
