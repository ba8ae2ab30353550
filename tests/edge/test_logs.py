"""Logs: whom a line speaks of, how a flood is kept short and counted, and that no secret is written."""

import asyncio
import io
import json
import logging
import uuid

import pytest
from websockets.asyncio.client import connect

from realtime.edge.logs import (
    CHARS_MAX,
    JsonFormatter,
    LimitedHandler,
    Redactor,
    TextFormatter,
    secrets_of,
)
from realtime.settings import Settings
from tests.edge.peer import ask, get, receive
from tests.edge.workers import enter

SECRET = "do-not-tell-anybody"


class Desk:
    """A logger of its own over a handler whose clock stands still until it is told otherwise."""

    def __init__(self, per_second=1.0, burst=3, formatter=None):
        self.now = 100.0
        self.stream = io.StringIO()
        self.handler = LimitedHandler(self.stream, per_second, burst, lambda: self.now)
        self.handler.setFormatter(formatter or JsonFormatter())
        self.log = logging.Logger(f"realtime.test.{uuid.uuid4().hex}")
        self.log.addHandler(self.handler)

    def lines(self):
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def record_of(message, *arguments, error=None, **fields):
    trouble = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("realtime.x", logging.ERROR, "", 0, message, arguments, trouble)
    vars(record).update(fields)
    return record


def caught(text):
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


# ---------------------------------------------------------------- what a line is


def test_a_json_line_is_one_object_even_with_a_traceback():
    line = JsonFormatter("berlin-2").format(record_of("failed %s", "é", error=caught("two\nlines")))
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == ("error", "realtime.x", "failed é")
    assert fields["node"] == "berlin-2"
    assert "two\nlines" in fields["traceback"]


def test_a_line_says_whose_connection_and_room_it_is():
    record = record_of("failed", connection=7, room="chat:lobby\n[forged]", user=None)
    fields = json.loads(JsonFormatter().format(record))
    assert (fields["connection"], fields["room"]) == (7, "chat:lobby [forged]")
    assert "user" not in fields
    line = TextFormatter("a-1").format(record)
    assert line.endswith("ERROR a-1 realtime.x: failed [connection=7 room=chat:lobby [forged]]")


def test_a_line_has_an_end_and_keeps_the_end_of_its_traceback():
    line = JsonFormatter().format(record_of("x" * 1_000_000, error=caught("y" * 1_000_000 + "the end")))
    assert len(line) < 3 * CHARS_MAX
    assert json.loads(line)["traceback"].endswith("the end")
    assert "characters left out" in json.loads(line)["message"]


# ---------------------------------------------------------------- floods


def test_a_flood_is_cut_off_and_counted():
    desk = Desk()
    for number in range(1000):
        desk.log.error("broken %d", number)
    assert [line["message"] for line in desk.lines()] == ["broken 0", "broken 1", "broken 2"]
    assert desk.handler.counts.left_out["error"] == 997
    assert desk.handler.counts.written["error"] == 3
    desk.now += 1
    for number in range(1000, 1002):
        desk.log.error("broken %d", number)  # another place than above
    desk.now += 20
    desk.log.info("all is well")
    assert [line.get("dropped") for line in desk.lines()[3:]] == [None, None, None, 997]
    assert desk.lines()[-1]["message"] == "997 more lines like this were left out: broken %d"


def test_a_flood_that_goes_on_says_how_much_was_left_out_in_its_own_lines():
    desk = Desk()
    for _ in range(3):
        for _ in range(10):
            desk.log.error("broken")
        desk.now += 2
    assert [line.get("dropped", 0) for line in desk.lines()] == [0, 0, 0, 7, 0, 8, 0]
    desk.handler.close()
    assert desk.lines()[-1]["dropped"] == 8
    assert sum(line.get("dropped", 0) for line in desk.lines()) + 7 == 30


def test_one_place_does_not_silence_another():
    desk = Desk()
    for _ in range(10):
        desk.log.error("one")
    desk.log.error("two")
    assert desk.lines()[-1]["message"] == "two"


def test_without_a_rate_all_is_written():
    desk = Desk(per_second=0)
    for _ in range(100):
        desk.log.error("broken")
    assert len(desk.lines()) == desk.handler.counts.written["error"] == 100


def test_lines_are_counted_by_level_and_by_what_became_of_them(monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    desk = Desk()
    for level in (5, logging.DEBUG, logging.INFO, 25, logging.WARNING, logging.CRITICAL, 99):
        desk.log.log(level, "said")
    for _ in range(7):
        desk.log.warning("again and again")
    desk.stream.close()  # as a disk that is full
    desk.log.error("nobody takes it")
    counts = desk.handler.counts
    assert counts.written == {"debug": 2, "info": 2, "warning": 4, "error": 0, "critical": 2}
    assert counts.left_out == {"debug": 0, "info": 0, "warning": 4, "error": 0, "critical": 0}
    assert counts.failed == {"debug": 0, "info": 0, "warning": 0, "error": 1, "critical": 0}


async def test_a_server_whose_handlers_fail_a_thousand_times_writes_a_few_lines(serve):
    server = serve(
        "tests.failing", log_format="json", log_lines_burst=5, log_lines_per_second=0.001, errors_burst=2000
    )
    server.may_log_tracebacks = True
    async with connect(f"{server.ws_url}/alice") as alice:
        await receive(alice)
        await enter(alice, "chat:lobby")
        for number in range(1000):
            answer = await ask(alice, type="fail", id=number, room="chat:lobby")
            assert answer["content"]["code"] == 500
        told = (await asyncio.to_thread(get, f"{server.url}/metrics"))[2].decode()
        assert 'realtime_log_lines_dropped_total{level="error",reason="rate"} 995' in told
        assert 'realtime_log_lines_dropped_total{level="error",reason="write"} 0' in told
        assert 'realtime_log_lines_total{level="error"} 5' in told
    server.stop()
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    failed = [line for line in lines if line["message"] == "handler of 'fail' failed"]
    assert len(failed) == 5
    assert all(line["room"] == "chat:lobby" and isinstance(line["connection"], int) for line in failed)
    assert len({line["connection"] for line in failed}) == 1
    owed = [line for line in lines if "more lines like this" in line["message"]]
    assert [line["dropped"] for line in owed] == [995]


# ---------------------------------------------------------------- secrets


@pytest.mark.parametrize("formatter", [JsonFormatter, TextFormatter])
@pytest.mark.parametrize(
    ("settings", "secret"),
    [
        ({"jwt_secret": SECRET}, SECRET),
        ({"jwt_previous_secrets": ("something-else", SECRET)}, SECRET),
        ({"redis_url": f"redis://us:{SECRET}@host:1/0"}, SECRET),
        ({"postgres_url": "postgresql://us:do%2Dnot%2Dtell@host/x"}, "do-not-tell"),
        ({"postgres_url": f"postgresql://host/x?password={SECRET}"}, SECRET),
    ],
)
def test_a_secret_of_the_settings_is_never_written(formatter, settings, secret):
    redact = Redactor(secrets_of(Settings(**settings)))
    record = record_of(f"said {secret}", error=caught(f"and {secret}"), room=f"r:{secret}")
    line = formatter("", redact).format(record)
    assert secret not in line
    assert "said ***" in line
    assert "and ***" in line


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl is bad", "token *** is bad"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("cannot reach redis://user:password@host:1", "cannot reach redis://***@host:1"),
        ("redis://host:1 and a@b", "redis://host:1 and a@b"),
        ("the beyond", "the beyond"),
    ],
)
def test_what_looks_like_a_secret_is_not_written(said, written):
    assert Redactor()(said) == written


def test_a_url_that_is_secret_for_its_password_is_still_named():
    redact = Redactor(secrets_of(Settings(redis_url="redis://:a-password@host:1")))
    assert redact("host:1 is away") == "host:1 is away"
