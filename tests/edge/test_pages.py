"""The pages: files from memory with their validators, probes, and the demo page within its policy."""

import html.parser
import json
from pathlib import Path

import pytest

from realtime.edge import metrics
from realtime.edge.http import Handler, Response, Routes
from realtime.edge.pages import Report, elsewhere_routes, file_routes, system_routes, web_routes
from realtime.native.handshake import Request


def ask(routes: dict[str, Handler], path: str, *lines: str) -> Response:
    head = "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *lines, "\r\n"])
    request = Request.parse(head.encode())
    assert request is not None
    handler = Routes(routes).find(request.path)
    return handler(request) if handler else Response(404)


@pytest.mark.parametrize("path", ["/dashboard", "/docs"])
def test_who_looks_for_a_page_of_another_process_is_told_which(path: str) -> None:
    answer = ask({**elsewhere_routes(), **web_routes()}, path)
    assert answer.status == 404
    assert b"`realtime api`" in answer.body


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_bytes(b"<p>page")
    (tmp_path / "app.js").write_bytes(b"let a")
    (tmp_path / "secret.py").write_bytes(b"key = 1")
    (tmp_path / "noextension").write_bytes(b"x")
    (tmp_path / "js").write_bytes(b"x")
    (tmp_path / "sub.js").mkdir()
    (tmp_path / "sub.js" / "inner.js").write_bytes(b"x")
    return tmp_path


def test_files_are_served_by_name_and_the_index_at_the_root(folder: Path) -> None:
    routes = file_routes(folder)
    assert set(routes) == {"/", "/app.js"}
    assert ask(routes, "/").body == b"<p>page"
    script = ask(routes, "/app.js")
    assert (script.status, script.content_type, script.body) == (
        200,
        "text/javascript; charset=utf-8",
        b"let a",
    )


@pytest.mark.parametrize(
    "path", ["/secret.py", "/../secret.py", "/sub.js", "/sub.js/inner.js", "//etc/passwd", "/%2e%2e/app.js"]
)
def test_no_path_leads_out_of_the_table(folder: Path, path: str) -> None:
    assert ask(file_routes(folder), path).status == 404


def test_the_table_is_made_once(folder: Path) -> None:
    routes = file_routes(folder)
    (folder / "app.js").unlink()
    assert ask(routes, "/app.js").body == b"let a"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("{tag}", 304),
        ("W/{tag}", 304),
        ('"other" ,\t{tag}', 304),
        ("*", 304),
        ('"other"', 200),
        ("{tag}x", 200),
        ("", 200),
        ('*, "other"', 200),
    ],
)
def test_a_file_is_sent_again_only_when_it_changed(folder: Path, condition: str, status: int) -> None:
    routes = file_routes(folder)
    first = ask(routes, "/app.js")
    tag = dict(first.headers)["ETag"]
    again = ask(routes, "/app.js", "If-None-Match: " + condition.format(tag=tag))
    assert (again.status, again.body) == (status, b"" if status == 304 else b"let a")
    assert again.headers == first.headers
    assert dict(first.headers)["Cache-Control"] == "no-cache"


def test_another_content_has_another_tag(folder: Path) -> None:
    before = dict(ask(file_routes(folder), "/app.js").headers)["ETag"]
    (folder / "app.js").write_bytes(b"let b")
    assert dict(ask(file_routes(folder), "/app.js").headers)["ETag"] != before


def test_probes_answer_by_their_status() -> None:
    reports = {"/health": Report(True, {"uptime_s": 3}), "/ready": Report(False, {"redis": "connecting"})}
    routes = system_routes(
        health=lambda: reports["/health"], ready=lambda: reports["/ready"], render_metrics=lambda: b"a 1\n"
    )
    health, ready, shown = (ask(routes, path) for path in ("/health", "/ready", "/metrics"))
    assert (health.status, json.loads(health.body)) == (200, {"ok": True, "uptime_s": 3})
    assert (ready.status, json.loads(ready.body)) == (503, {"ok": False, "redis": "connecting"})
    assert (shown.status, shown.content_type, shown.body) == (200, metrics.CONTENT_TYPE, b"a 1\n")
    for answer in (health, ready, shown):
        assert dict(answer.headers)["Cache-Control"] == "no-store"


class Policy(html.parser.HTMLParser):
    """Collects what `default-src 'none'` with `'self'` for scripts and styles would not let run."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.broken += [f"{tag} {name}" for name in names if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and not names.get("src")):
            self.broken.append(f"inline {tag}")
        links = [names.get("src"), names.get("href") if tag == "link" else None]
        self.links += [link for link in links if link]


def test_the_demo_page_keeps_to_the_policy_and_finds_its_files() -> None:
    routes = web_routes()
    policy = Policy()
    policy.feed(ask(routes, "/").body.decode())
    assert policy.broken == []
    assert policy.links
    for link in policy.links:
        assert ask(routes, "/" + link.removeprefix("/")).status == 200, link
