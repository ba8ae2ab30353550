"""What the types make impossible, held by running mypy over lines that try it."""

import re
import subprocess
import sys
from pathlib import Path

from tests.tree import ROOT

PREFACE = """\
from realtime.core.contracts import Store
from realtime.ids import RoomId, RoomName, TenantId, parse_room, parse_tenant

name = parse_room("chat:lobby")
tenant = parse_tenant("acme")
"""
ATTEMPTS = (
    "RoomId(name)",
    'RoomId("acme", name)',
    'RoomId(tenant, "chat:lobby")',
    "RoomId(name, tenant)",
    "def f(store: Store) -> object: return store.read(name, 0, 1)",
    "def g(store: Store) -> object: return store.read((tenant, name), 0, 1)",
)
PROPER = "def h(store: Store) -> object: return store.read(RoomId(tenant, name), 0, 1)"


def test_a_room_without_its_tenant_is_no_room(tmp_path: Path):
    path = tmp_path / "tried.py"
    path.write_text(PREFACE + "\n".join([*ATTEMPTS, PROPER]) + "\n")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    first = PREFACE.count("\n") + 1
    refused = {int(line) - first for line in re.findall(r"tried\.py:(\d+): error", run.stdout)}
    assert refused == set(range(len(ATTEMPTS))), run.stdout + run.stderr
