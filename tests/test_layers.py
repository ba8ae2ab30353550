"""Imports go one way: `native < protocol < core < {features, backends} < edge < cli`.

`errors`, `ids`, `settings` and `loading` lie below all Python layers, `native` imports none of ours, and
the client is a library of its own that knows `errors` and `ids` alone. This reads sources and imports
nothing: every `import` counts wherever it stands, inside functions and under TYPE_CHECKING too, because a
name that a type needs couples two modules as much as a call does. A literal `import_module("realtime.…")`
counts as well. Cython is read line by line, with the same rules. Each rule is held against small bad
sources at the end of this file, so that it can be seen to fail.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BASE = frozenset(
    {
        "errors",
        "files",
        "ids",
        "units",
        "settings",
        "settings_chat",
        "settings_cluster",
        "settings_files",
        "settings_observing",
        "settings_security",
        "loading",
        "policy",
    }
)
RANK = {"native": 0, "protocol": 1, "core": 2, "features": 3, "backends": 3, "edge": 4, "cli": 5}
# A layer with a rule of its own: what of ours it may import.
ROOT_MAY_NAME = (
    "realtime.edge.asgi_hub",
    "realtime.edge.publisher",
    "realtime.protocol.priority",
)  # looked up when asked for
SEALING_CLIENT = "realtime.client.seal"  # seals for other clients, what no server can
CLIENT_MAY_IMPORT = ("realtime.client", "realtime.errors", "realtime.ids", "realtime.native.tally")

DRIVERS = {"redis", "hiredis", "asyncpg", "sqlite3", "jwt", "maxminddb", "cryptography", "boto3", "botocore"}
EVENT_LOOPS = {"uvloop"}
SOCKETS = {"socket", "socketserver", "ssl", "selectors", "select", "http", "urllib.request"}
SERVING = {
    *("start_server", "start_unix_server", "create_server", "create_unix_server", "connect_accepted_socket"),
    *(
        "add_reader",
        "add_writer",
        "sock_recv",
        "sock_recv_into",
        "sock_sendall",
        "sock_connect",
        "sock_accept",
    ),
}
DIALING = {"open_connection", "open_unix_connection", "create_connection", "create_unix_connection"}
NOW = "datetime.now"
# What of `websockets` opens no socket: parsers of handshake headers, pure functions.
PURE_WEBSOCKETS = ("websockets.headers", "websockets.exceptions", "websockets.typing")


@dataclass(frozen=True)
class Use:
    """Line `line` imports `name` (the last part may be an attribute), or names a method."""

    name: str
    line: int
    call: bool = False


# ---------------------------------------------------------------- what a source imports


def uses_of_python(source: str, module: str, *, package: bool) -> Iterator[Use]:
    """Every import in `source`, and every call of a method whose name the socket rules know."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (Use(alias.name, node.lineno) for alias in names)
            case ast.ImportFrom():
                base = absolute(node.module or "", node.level, module, package=package)
                yield from (Use(f"{base}.{alias.name}", node.lineno) for alias in node.names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Use(name, node.lineno)
            case ast.Attribute(value=ast.Name(id="datetime" | "date"), attr="now" | "utcnow" | "today"):
                yield Use(NOW, node.lineno, call=True)
            case ast.Attribute(attr=name) if name in SERVING | DIALING:
                yield Use(name, node.lineno, call=True)


_CYTHON_FROM = re.compile(r"\s*from\s+(\.*)([\w.]*)\s+c?import\s+(.*)")
_CYTHON_IMPORT = re.compile(r"\s*c?import\s+(\w[\w.]*(?:\s+as\s+\w+)?(?:\s*,[\w.\s]+)*)\s*(?:#.*)?$")


def uses_of_cython(source: str, module: str) -> Iterator[Use]:
    """Every import and cimport in `source`; names in brackets over several lines count by their module."""
    for number, line in enumerate(source.splitlines(), start=1):
        if found := _CYTHON_FROM.match(line):
            dots, base, names = found.groups()
            origin = absolute(base, len(dots), module, package=False)
            listed = [name.split()[0] for name in re.sub(r"[()]|#.*", "", names).split(",") if name.strip()]
            yield from (Use(f"{origin}.{name}", number) for name in listed or ["*"])
        elif found := _CYTHON_IMPORT.match(line):
            yield from (Use(name.split()[0], number) for name in found[1].split(","))


def absolute(name: str, level: int, module: str, *, package: bool) -> str:
    """`from ..x import y` in `module` names which module?"""
    if not level:
        return name
    parts = module.split(".")
    parts = parts[: len(parts) - level + package]
    return ".".join([*parts, name] if name else parts)


# ---------------------------------------------------------------- the rules


def under(name: str, *roots: str) -> bool:
    """Is `name` one of `roots` or something inside one?"""
    return any(name == root or name.startswith(root + ".") for root in roots)


def layer_of(module: str) -> str:
    """`core` of `realtime.core.room`; `base`, `root` and `cli` stand for several modules."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in ("__init__", "__version__"):
        return "root"
    if parts[1] in BASE:
        return "base"
    return "cli" if parts[1] == "__main__" or parts[1].split("_")[0] == "cli" else parts[1]


def verdict(module: str, use: Use) -> str | None:
    """The rule that `module` breaks by `use`, as a sentence; None when it breaks none."""
    if use.call:
        return call_verdict(layer_of(module), use.name)
    if under(use.name, "realtime"):
        return own_verdict(module, use.name)
    return foreign_verdict(module, use.name)


def own_verdict(module: str, name: str) -> str | None:
    layer, other = layer_of(module), layer_of(name)
    if layer == "client":
        allowed = other == "root" or under(name, *CLIENT_MAY_IMPORT)
        return None if allowed else "client knows errors and ids alone"
    if layer == "web":
        return None if other == "web" else "web holds static files only"
    if other in ("root", "base"):
        return "native imports nothing of the Python layers" if (layer, other) == ("native", "base") else None
    if layer == "root" and under(name, *ROOT_MAY_NAME):
        return None
    if layer in ("base", "root"):
        return f"{layer} lies below all layers and imports none"
    if layer not in RANK:
        return f"realtime/{layer} belongs to no layer: name its place in tests/test_layers.py"
    if other == "client":
        return None if layer == "cli" else "the server does not use its own client"
    if other == "web":
        return None if layer in ("edge", "cli") else "only edge serves the web files"
    if other not in RANK:
        return f"{name} belongs to no layer"
    if layer == other:
        return feature_verdict(module, name) if layer == "features" else None
    if RANK[layer] == RANK[other]:
        return f"{layer} and {other} do not know each other"
    return None if RANK[layer] > RANK[other] else f"{layer} lies below {other}"


def feature_verdict(module: str, name: str) -> str | None:
    """A feature imports no other feature; what stands in features/__init__.py is common to all."""
    ours, theirs = module.split(".")[2:3], name.split(".")[2:3]
    folder = (ROOT / "realtime" / "features" / theirs[0]).is_dir() if theirs else False
    return "a feature imports no other feature" if ours and folder and ours != theirs else None


def foreign_verdict(module: str, name: str) -> str | None:
    layer = layer_of(module)
    if under(name, *DRIVERS) and layer != "backends" and module != SEALING_CLIENT:
        return "drivers are imported in backends alone"
    if under(name, *EVENT_LOOPS) and layer not in ("edge", "cli", "client"):
        return "only edge and cli choose the event loop"
    if layer == "backends" and under(name, "ssl", "socket.SOL_SOCKET", "socket.SO_LINGER"):
        return None  # a backend may dial its server; a context or an option's name opens no socket
    if under(name, *SOCKETS) and layer not in ("edge", "client") and not under(name, "http.HTTPStatus"):
        return "only edge touches sockets"
    if under(name, "websockets") and layer != "client" and not under(name, *PURE_WEBSOCKETS):
        return "of websockets the server uses pure functions alone, such as websockets.headers"
    if layer == "protocol" and under(name, "asyncio", "time"):
        return "protocol knows no event loop and no clock"
    if layer == "core" and module != "realtime.core.clock" and under(name, "time"):
        return "core takes its time from a Clock"
    return None


def call_verdict(layer: str, name: str) -> str | None:
    if name == NOW and layer in ("protocol", "core"):
        return f"{layer} is told the time"
    if name in SERVING and layer != "edge":
        return "only edge touches sockets"
    if name in DIALING and layer not in ("edge", "client", "backends"):
        return "only edge touches sockets (a backend may dial its server)"
    return None


# ---------------------------------------------------------------- our sources


def sources() -> list[tuple[Path, str]]:
    """(file, module) of every source of the package. native/ is found under its real place."""
    python = [
        path for path in (ROOT / "realtime").rglob("*.py") if ROOT / "realtime/native" not in path.parents
    ]
    native = [path for path in (ROOT / "native").iterdir() if path.suffix in (".py", ".pyi", ".pyx", ".pxd")]
    return [(path, module_of(path)) for path in sorted(python) + sorted(native)]


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "native":
        parts.insert(0, "realtime")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def broken_rules(path: Path, module: str) -> list[str]:
    source = path.read_text(encoding="utf-8")
    if path.suffix in (".pyx", ".pxd"):
        uses = uses_of_cython(source, module)
    else:
        uses = uses_of_python(source, module, package=path.stem == "__init__")
    said = ((use, verdict(module, use)) for use in uses)
    return [f"{path.relative_to(ROOT)}:{use.line}: {use.name}: {rule}" for use, rule in said if rule]


def test_imports_go_one_way():
    found = [line for path, module in sources() for line in broken_rules(path, module)]
    assert not found, "\n".join(["layers are crossed:", *found])


def test_every_layer_of_the_design_is_read():
    layers = {layer_of(module) for _, module in sources()}
    assert layers >= {"base", "native", "protocol", "core", "features", "backends", "edge", "cli", "client"}
    assert {path.suffix for path, _ in sources()} >= {".py", ".pyx", ".pxd"}


# ---------------------------------------------------------------- the rules can fail


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("realtime.errors", "import realtime.core.room", "base lies below all layers"),
        ("realtime", "from realtime.edge import worker", "root lies below all layers"),
        ("realtime.settings", "from realtime import protocol", "base lies below all layers"),
        ("realtime.protocol.codecs", "from realtime.core.room import Room", "protocol lies below core"),
        ("realtime.protocol.codecs", "from ..core import room", "protocol lies below core"),
        ("realtime.protocol.codecs", "import asyncio", "no event loop and no clock"),
        ("realtime.core.hub", "def f():\n    from realtime.features import x", "core lies below features"),
        ("realtime.core.hub", "if TYPE_CHECKING:\n    import realtime.edge.worker", "core lies below edge"),
        ("realtime.core.hub", "import_module('realtime.backends.broker_memory')", "core lies below backends"),
        ("realtime.core.hub", "from time import monotonic", "takes its time from a Clock"),
        ("realtime.protocol.codecs", "when = datetime.now(UTC)", "protocol is told the time"),
        ("realtime.core.hub", "import uvloop", "choose the event loop"),
        ("realtime.features.events.handlers", "from realtime.backends import x", "do not know each other"),
        ("realtime.backends.broker_memory", "from realtime.features import x", "do not know each other"),
        ("realtime.features.chat.rules", "from realtime.features.events import FEATURE", "no other feature"),
        ("realtime.features.chat.rules", "from ..events import messages", "no other feature"),
        ("realtime.features.events.rules", "import sqlite3", "drivers are imported in backends alone"),
        ("realtime.client.room", "import cryptography", "drivers are imported in backends alone"),
        ("realtime.edge.worker", "from redis.asyncio import Redis", "drivers are imported in backends alone"),
        ("realtime.edge.worker", "import realtime.cli", "edge lies below cli"),
        ("realtime.edge.worker", "from realtime.client import connect", "does not use its own client"),
        ("realtime.edge.worker", "import websockets.asyncio.server", "pure functions alone"),
        ("realtime.core.room", "import socket", "only edge touches sockets"),
        ("realtime.core.room", "import ssl", "only edge touches sockets"),
        ("realtime.backends.redis_client.wire", "import socket", "only edge touches sockets"),
        ("realtime.backends.broker_redis", "loop.create_server(f)", "only edge touches sockets"),
        ("realtime.core.room", "await asyncio.open_connection('h', 1)", "only edge touches sockets"),
        ("realtime.cli", "loop.add_reader(0, f)", "only edge touches sockets"),
        ("realtime.client.connection", "from realtime.core import room", "errors and ids alone"),
        ("realtime.web", "import realtime.edge", "static files only"),
        ("realtime.plugins.x", "import realtime.core", "belongs to no layer"),
        ("realtime.native", "import realtime.errors", "nothing of the Python layers"),
    ],
)
def test_python_that_crosses_a_layer_is_found(module: str, source: str, rule: str):
    said = [verdict(module, use) for use in uses_of_python(source, module, package=False)]
    assert any(rule in sentence for sentence in said if sentence), said


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("from realtime.errors import BadMessage", 1),
        ("x = 1\nfrom realtime.core cimport room", 2),
        ("cimport realtime.protocol.codecs as codecs", 1),
        ("def f():\n    import realtime.settings", 2),
        ("from ..settings import Settings", 1),
        ("from realtime.core.room cimport (\n    Room,\n)", 1),
        ("import time, realtime.ids", 1),
    ],
)
def test_cython_that_crosses_a_layer_is_found(source: str, line: int):
    module = "realtime.native.hub"
    assert [use.line for use in uses_of_cython(source, module) if verdict(module, use)] == [line]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("realtime.core.hub", "from realtime.protocol import close\nimport realtime.native.envelope"),
        ("realtime.features.events.handlers", "from .messages import Publish\nimport realtime.core.hub"),
        ("realtime.features.events.handlers", "from realtime.features.events import rules"),
        ("realtime", "if TYPE_CHECKING:\n    from realtime.edge.asgi_hub import realtime_hub"),
        ("realtime.core.clock", "import time"),
        ("realtime.protocol.timestamps", "from datetime import UTC, datetime"),
        ("realtime.backends.auth.keys", "import jwt\nfrom realtime.errors import Unauthorized"),
        ("realtime.protocol.deflate", "from websockets.headers import parse_extension"),
        ("realtime.backends.redis_client.address", "import ssl"),
        ("realtime.backends.redis_client.wire", "from socket import SO_LINGER"),
        ("realtime.edge.worker", "import socket, uvloop\nfrom realtime.features import discover"),
        ("realtime.cli", "from realtime.client import connect\nfrom realtime import __version__"),
        ("realtime.client.connection", "import websockets, socket\nfrom realtime.errors import X"),
        ("realtime.edge.http", "from http import HTTPStatus\nimport realtime.web"),
        ("realtime.client.connection", "from .backoff import delays\nfrom realtime.ids import RoomName"),
    ],
)
def test_python_within_its_layer_passes(module: str, source: str):
    uses = list(uses_of_python(source, module, package=False))
    assert uses
    assert [verdict(module, use) for use in uses] == [None] * len(uses)


def test_cython_within_its_layer_passes():
    module = "realtime.native.hub"
    source = """
from libc.stdint cimport int64_t
from realtime.native.frames cimport FrameHead
from . cimport types
"""
    uses = list(uses_of_cython(source, module))
    assert [use.name for use in uses] == [
        "libc.stdint.int64_t",
        "realtime.native.frames.FrameHead",
        "realtime.native.types",
    ]
    assert [verdict(module, use) for use in uses] == [None, None, None]
