"""The classifier that a policy names is asked, signed, bounded and given a rest."""

import asyncio
import hashlib
import hmac
import json

import pytest

from realtime.backends.http_post import post
from realtime.errors import SettingsError, Unavailable
from realtime.features.chat.order.classifier import FAILURES_MAX, OPEN_S, Classifier
from realtime.ids import RoomId, RoomName, TenantId, UserId
from realtime.policy.chat import Classifier as Named
from tests.features.chat.ordered import POLICY, put, send, until
from tests.oracles.hub import FakeClock

SECRET = "a secret of the classifier's"
ROOM = RoomId(TenantId("acme"), RoomName("chat:lobby"))


@pytest.fixture
def clock():
    return FakeClock()


class Judge:
    """A service over HTTP that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer = b'{"verdict":"pass"}'
        self.status = b"200 OK"
        self.asked: list[tuple[dict[str, str], bytes]] = []
        self.silent = False

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/judge"
        return self

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(fields["content-length"]))
        self.asked.append((fields, body))
        if not self.silent:
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (self.status, len(self.answer)))
            writer.write(self.answer)
        else:
            await reader.read()  # until whoever asked gives up
        writer.close()


@pytest.fixture
async def judge():
    judge = await Judge().start()
    yield judge
    await judge.close()


def asking(judge, clock, monkeypatch, **given) -> Classifier:
    monkeypatch.setenv("CLASSIFIER_SECRET", SECRET)
    return Classifier(Named(url=judge.url, secret_env="CLASSIFIER_SECRET", **given), post, clock)


async def ask(classifier: Classifier, text: str = "hello"):
    return await classifier.ask(ROOM, UserId("alice"), text, "1" * 19)


async def test_what_it_is_asked_is_signed_and_says_who_and_where(judge, clock, monkeypatch):
    classifier = asking(judge, clock, monkeypatch, timeout_s=5)
    judge.answer = b'{"verdict":"flag","reason":"rude"}'
    answer = await ask(classifier)
    assert (answer.verdict, answer.reason) == ("flag", "rude")
    ((fields, body),) = judge.asked
    told = {"tenant": "acme", "room": "chat:lobby", "user": "alice", "text": "hello", "id": "1" * 19}
    assert json.loads(body) == told
    at, signature = (each.split("=")[1] for each in fields["x-realtime-signature"].split(","))
    assert signature == hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"verdict":"maybe"}', b'{"verdict":"flag","reason":7}'])
async def test_an_answer_that_is_none_is_a_failure(judge, clock, monkeypatch, answer):
    classifier = asking(judge, clock, monkeypatch, timeout_s=5)
    judge.answer = answer
    with pytest.raises(Unavailable):
        await ask(classifier)
    assert classifier.failed == 1


async def test_after_failures_in_a_row_nobody_is_asked_for_a_while_and_then_one(judge, clock, monkeypatch):
    classifier = asking(judge, clock, monkeypatch, timeout_s=5)
    judge.status = b"500 Oh"
    for _ in range(FAILURES_MAX + 3):
        with pytest.raises(Unavailable):
            await ask(classifier)
    assert len(judge.asked) == FAILURES_MAX
    clock.advance(OPEN_S + 1)
    judge.status = b"200 OK"
    assert (await ask(classifier)).verdict == "pass"
    assert (await ask(classifier)).verdict == "pass"


async def test_who_is_slow_is_not_waited_for_and_at_most_so_many_are_asked_at_once(judge, clock, monkeypatch):
    classifier = asking(judge, clock, monkeypatch, timeout_s=0.2, concurrency=2)
    judge.silent = True
    answers = await asyncio.gather(*(ask(classifier) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert classifier.asked == 2


def test_a_secret_that_is_none_is_refused(clock, monkeypatch):
    monkeypatch.setenv("SHORT", "short")
    with pytest.raises(SettingsError, match="SHORT"):
        Classifier(Named(url="https://x/", secret_env="SHORT"), post, clock)


@pytest.mark.parametrize("order_store", ["sqlite"], indirect=True)
async def test_a_server_asks_it_before_or_after_and_may_refuse(place, judge, monkeypatch):
    monkeypatch.setenv("CLASSIFIER_SECRET", SECRET)
    named = f'[chat.classifier]\nurl = "{judge.url}"\nsecret_env = "CLASSIFIER_SECRET"\ntimeout_s = 5\n'
    place.policy.write_text(POLICY + named)
    place.start()
    alice, mod = await place.member("alice"), await place.member("mona", "mod")
    judge.answer = b'{"verdict":"refuse","reason":"rude"}'
    said = await send(alice, "you!")
    assert "id" in said, "asked after: it is sent"
    await until(mod, "chat_message")
    while not (found := (await put(mod, "chat_reports"))["reports"]):
        pass
    assert [(each["kind"], each["reason"], each["message"]["id"]) for each in found] == [
        ("classifier", "rude", said["id"])
    ]
    await place.reload(POLICY + named + 'when = "before"\n')
    refused = await send(alice, "you there!")
    assert (refused["name"], "rude" in refused["message"]) == ("forbidden", True)
    judge.status = b"500 Oh"
    assert "id" in await send(alice, "nobody looks at this"), "it fails open"
    await place.reload(POLICY + named + 'when = "before"\non_failure = "closed"\n')
    assert (await send(alice, "nor at this"))["name"] == "unavailable"
