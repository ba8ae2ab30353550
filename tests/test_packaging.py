"""What is installed is whole, says what it needs, and says how to build it where it is not built.

That an sdist installs into an empty environment and runs there is shown by `make dist`, in a minute.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from setuptools.command.egg_info import FileList

from tests.tree import ROOT, files, under_git

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What an import is called where its distribution is called otherwise.
DISTRIBUTION = {
    "axe_playwright_python": "axe-playwright-python",
    "PIL": "pillow",
    "jwt": "pyjwt",
    "moto": "moto",
    "opentelemetry": "opentelemetry-sdk",
    "tusclient": "tuspy",
    "Cython": "cython",
    "pytest_asyncio": "pytest-asyncio",
    "xdist": "pytest-xdist",
}


def requirements(*extras: str) -> list[str]:
    optional = PROJECT["project"]["optional-dependencies"]
    return [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in optional[extra])]


def names(lines: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0].lower() for line in lines}


def imported(folder: str) -> set[str]:
    """Distributions that the sources below `folder` import, by name; ours and Python's own left out."""
    ours = {"realtime", "bench", "tests", *(path.stem for path in (ROOT / folder).rglob("*.py"))}
    ours |= {path.name for path in (ROOT / folder).rglob("*") if path.is_dir()}
    roots = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots.add((node.module or "").partition(".")[0])
    return {DISTRIBUTION.get(name, name).lower() for name in roots - ours - set(sys.stdlib_module_names)}


@pytest.mark.parametrize(
    "line", [*PROJECT["build-system"]["requires"], *requirements("api", "chat", "geo", "s3", "otel", "dev")]
)
def test_every_requirement_has_a_lower_bound(line: str):
    assert re.fullmatch(r"[\w.-]+(\[[\w,]+\])?>=\d[\w.]*(,<[\w.]+)?", line)


def test_what_the_package_imports_is_required():
    assert imported("realtime") - names(requirements("api", "chat", "geo", "s3", "otel")) == set()


def test_what_tests_and_scripts_import_is_in_the_dev_extra():
    wanted = imported("tests") | imported("scripts")
    assert wanted - names(requirements("api", "dev")) == set()


def manifest() -> set[str]:
    """The files that MANIFEST.in names, as setuptools reads it."""
    listed = FileList()
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            listed.process_template_line(line)
    return {os.path.normpath(name) for name in listed.files}


@pytest.mark.skipif(not under_git(), reason="an sdist has nothing to be held against")
def test_the_sdist_carries_what_the_repository_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    tracked = {str(path.relative_to(ROOT)) for path in files()}
    # setuptools adds these by itself; the dot files serve the repository alone.
    given = {"pyproject.toml", "setup.py", "MANIFEST.in"}
    expected = {name for name in tracked if not name.startswith(".")} - given
    assert expected - manifest() == set()
    assert not {name for name in manifest() if name.startswith("realtime/native/") or name.endswith(".so")}


@pytest.fixture
def uncompiled(tmp_path: Path) -> Path:
    """A copy of the package as a checkout has it before its first build."""
    built = shutil.ignore_patterns("*.so", "__pycache__", "native")
    shutil.copytree(ROOT / "realtime", tmp_path / "realtime", ignore=built)
    shutil.copytree(ROOT / "native", tmp_path / "realtime" / "native", ignore=built)
    return tmp_path


def python(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    return subprocess.run(
        # -P and PYTHONPATH: the copy is imported, not the package that is installed here.
        [sys.executable, "-P", *arguments],
        env=environ | {"PYTHONPATH": str(where)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "native").glob("*.pyi")))
def test_a_missing_build_says_how_to_build(uncompiled: Path, name: str):
    done = python(uncompiled, "-c", f"import realtime.native.{name}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "ImportError: realtime.native is not compiled for this Python"
    )
    assert "make build" in done.stderr
    assert "apt-get install gcc" in done.stderr


def test_a_build_that_lacks_one_module_says_which(uncompiled: Path):
    for path in (ROOT / "native").glob("*.so"):
        if not path.name.startswith("hub."):
            shutil.copy(path, uncompiled / "realtime" / "native")
    done = python(uncompiled, "-c", "import realtime.native.frames")
    assert done.returncode == 1
    assert "(no hub)" in done.stderr


def test_the_command_without_a_build_ends_in_one_line(uncompiled: Path):
    done = python(uncompiled, "-m", "realtime", "serve", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("realtime: realtime.native is not compiled for this Python")
    assert "Traceback" not in done.stderr


def test_client_and_settings_need_no_build(uncompiled: Path):
    done = python(uncompiled, "-c", "import realtime, realtime.client, realtime.settings, realtime.errors")
    assert done.returncode == 0, done.stderr


def test_every_native_module_is_typed():
    """Python sees a compiled module through its stub; one that is cimported alone has none."""
    seen = {
        found
        for path in [*(ROOT / "realtime").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
        for found in re.findall(r"realtime\.native(?:\.| import )(\w+)", path.read_text(encoding="utf-8"))
    }
    compiled = {path.stem for path in (ROOT / "native").glob("*.pyx")}
    assert seen & compiled <= {path.stem for path in (ROOT / "native").glob("*.pyi")}


@pytest.fixture
def bootstrap(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run scripts/bootstrap as a user who is not root and may install nothing, whoever runs the tests."""
    for name, script in {"id": "echo 1000", "apt-get": "echo called >&2; exit 1", "sudo": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def run(purpose: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / "bootstrap", purpose],
            env=os.environ
            | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VENV": str(tmp_path / "venv")}
            | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_who_is_not_root_gets_the_one_line_to_run(bootstrap: Callable[..., subprocess.CompletedProcess[str]]):
    done = bootstrap("run", CC="no-such-compiler", PYTHON=sys.executable)
    assert done.returncode == 1
    assert "bootstrap: this machine lacks: gcc libc6-dev zlib1g-dev. Run this line" in done.stderr
    line = (
        "sudo apt-get update && sudo apt-get install --yes --no-install-recommends gcc libc6-dev zlib1g-dev"
    )
    assert f"    {line}" in done.stderr.splitlines()
    assert "called" not in done.stderr


def test_a_python_that_will_not_do_is_named(bootstrap: Callable[..., subprocess.CompletedProcess[str]]):
    done = bootstrap("run", PYTHON="no-such-python")
    assert done.returncode == 1
    assert done.stderr == "bootstrap: PYTHON=no-such-python does not run, or is older than 3.11\n"
