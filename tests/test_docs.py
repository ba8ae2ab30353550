"""The documentation says what the code does: generated pages are up to date, links lead somewhere."""

import importlib.util
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from realtime.core.limits import LIMITS
from realtime.edge.telemetry import CLUSTER_HELP, TLS_HELP, TRACING_HELP
from realtime.policy import load_policy
from realtime.settings import KNOBS
from tests.conftest import Server

ROOT = Path(__file__).parent.parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs = load(ROOT / "scripts" / "docs.py")
HAND_WRITTEN = [
    *("README.md", "docs/index.md", "docs/protocol.md", "docs/limits.md", "docs/asgi.md"),
    "docs/abuse.md",
    "docs/install.md",
    "docs/upgrade.md",
    "docs/operations.md",
    "docs/bench.md",
    "docs/doctor.md",
    "docs/tracing.md",
    "docs/encryption.md",
    "docs/failover.md",
    "docs/security.md",
    "docs/tls.md",
    "docs/control.md",
    "docs/api.md",
    "docs/dashboard.md",
    "docs/tenants.md",
    "docs/audit.md",
    "docs/tokens.md",
    "docs/network.md",
    "docs/architecture.md",
    "docs/access.md",
    "docs/end-to-end.md",
    "docs/monitoring.md",
    "docs/autoscaling.md",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*HAND_WRITTEN, *docs.PAGES]


@pytest.mark.parametrize("name", sorted(docs.PAGES))
def test_a_generated_page_says_what_the_code_says(name: str):
    written = (ROOT / name).read_text(encoding="utf-8")
    assert written == docs.PAGES[name](), f"{name} has drifted from the code: run `make docs`"


def test_no_page_stands_apart():
    """Every page is either checked against the code or known to be written by hand, and the index has it."""
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")}
    assert pages == set(PAGES) - {"README.md"}
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [
        page for page in pages - {"docs/index.md"} if f"({page.removeprefix('docs/')})" not in index
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str):
    text = without_code((ROOT / page).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{page} links to {target}"


@pytest.mark.parametrize("page", HAND_WRITTEN)
def test_variables_that_pages_name_exist(page: str):
    """A setting that was renamed must not live on in prose."""
    known = {knob.variable for knob in KNOBS.values()} | {"REALTIME_CONFIG", "REALTIME_BUILD_ONLY"}
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"\bREALTIME_[A-Z0-9_]*[A-Z0-9]\b", text)) - known == set()


def test_the_limits_page_has_every_limit_that_an_answer_can_name():
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    assert {limit for limit in LIMITS if f"`{limit}`" not in page} == set()


def test_make_verbs_that_pages_name_exist():
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        verb
        for page in HAND_WRITTEN
        for verb in re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"))
    }
    assert {"run", "test"} <= named <= verbs


# ---------------------------------------------------------------- examples, against a real server


def test_the_protocol_page_shows_what_the_server_says(serve: Callable[..., Server]):
    """Alice plays the page's lines marked →, in their order, and gets those marked ←."""
    server = serve()
    # Bob does not read all that he gets; with a bounded queue his client would not see the close for it.
    with connect(f"{server.ws_url}/bob", max_queue=None) as bob, connect(f"{server.ws_url}/alice") as alice:
        bob.send('{"type":"join","room":"chat:lobby","id":0}')
        for number in range(1, 45):
            text = {"text": f"number {number}"}
            bob.send(json.dumps({"type": "chat_message", "room": "chat:lobby", "content": text}))
        bob.send('{"type":"ping","id":"all there"}')
        receive_until(bob, lambda message: message.get("id") == "all there")
        epoch = ""
        for sent, line in examples(ROOT / "docs" / "protocol.md"):
            example = json.loads(line)
            if sent:
                since = (example.get("content") or {}).get("since")
                if since:
                    since["epoch"] = epoch
                alice.send(json.dumps(example))
                continue
            answer = receive_until(alice, lambda got, said=example: alike(got, said))
            assert without_chance(answer) == without_chance(example)
            epoch = answer["content"].get("epoch", epoch)


def alike(got: dict[str, Any], said: dict[str, Any]) -> bool:
    return got["type"] == said["type"] and got.get("id") == said.get("id")


def receive_until(connection: ClientConnection, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    while not wanted(message := json.loads(connection.recv(timeout=60))):
        assert message["type"] != "error", message
    return message


def examples(page: Path) -> Iterator[tuple[bool, str]]:
    """(is sent by the client, JSON) of every line marked with an arrow; one may take several lines."""
    for block in re.findall(
        r"^```json\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        for arrow, line in re.findall(r"^([→←]) (.*?)(?=^[→←]|\Z)", block, re.MULTILINE | re.DOTALL):
            yield arrow == "→", line


def without_chance(message: Any) -> Any:
    """The same without the values that differ from server to server and from time to time."""
    if isinstance(message, list):
        return [without_chance(item) for item in message]
    if not isinstance(message, dict):
        return message
    by_chance = {"epoch", "timestamp", "server_time", "connection_id", "node"}
    return {key: "…" if key in by_chance else without_chance(value) for key, value in message.items()}


def test_the_python_example_of_the_readme_works(server: Server):
    example = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
    assert "ws://127.0.0.1:8000/ws" in example
    code = example.replace("ws://127.0.0.1:8000/ws", server.ws_url)
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "alice {'text': 'hello'}\n"
    finally:
        process.kill()
        process.communicate()


def test_the_asgi_example_is_the_application_that_is_tested():
    page = (ROOT / "docs" / "asgi.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    tested = (ROOT / "tests" / "edge" / "fastapi_app.py").read_text(encoding="utf-8")
    assert tested.endswith(f"\n\n{example}")


def test_the_browser_example_of_the_readme_gets_what_the_readme_shows(serve: Callable[..., Server]):
    server = serve()
    example = re.search(r"^```js\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
    path = re.search(r"ws://127\.0\.0\.1:8000(/ws/\w+)", example)[1]
    shown = re.search(r"^```json\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1].splitlines()
    with connect(f"ws{server.url.removeprefix('http')}{path}") as bob:
        assert json.loads(bob.recv(timeout=60))["type"] == "connected"
        for message in re.findall(r"socket\.send\('(.*)'\)", example):
            bob.send(message)
        answers = [bob.recv(timeout=60) for _ in shown]
    for answer, line in zip(answers, shown, strict=True):
        # What the README leaves out stands as … there.
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        assert re.fullmatch(pattern, str(answer)), f"{answer} is not {line}"


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics"])
def test_every_page_that_the_readme_names_answers(server: Server, path: str):
    with urllib.request.urlopen(server.url + path, timeout=60) as answer:
        assert answer.status == 200


def test_the_metrics_page_has_what_a_server_says(serve: Callable[..., Server], tmp_path: Path):
    quotas = {"storage_bytes_per_tenant": 1_000_000, "tenant_metrics": "acme"}
    paths = {"sqlite_path": str(tmp_path / "rooms.sqlite"), "audit_path": str(tmp_path / "audit.sqlite")}
    server = serve(**paths, **quotas, jwt_secret="s" * 32)
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        said = set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), re.MULTILINE))
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    geo = ("geo_ok", "geo_failures_total")
    elsewhere = {
        "store_reconnects_total",
        "store_refused_rows_total",
        *geo,
        *CLUSTER_HELP,
        *TLS_HELP,
        *TRACING_HELP,
    }
    elsewhere |= {"worker_up", "worker_restarts_total", "supervised_workers", "redis_command_seconds"}
    said |= {f"realtime_{name}" for name in elsewhere}
    assert said == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


def test_the_architecture_page_has_a_place_for_every_native_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.stem for pattern in ("*.pyx", "*.pxd") for path in (ROOT / "native").glob(pattern)}
    assert {name for name in modules if f"`{name}`" not in page} == set()


def without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)


def anchors(markdown: str) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", without_code(markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_policy_of_the_readme_will_do(tmp_path: Path):
    path = tmp_path / "policy.toml"
    path.write_text(re.search(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1])
    policy = load_policy(path)
    assert policy.rooms[0].encrypted
    assert policy.access.default == "deny"
