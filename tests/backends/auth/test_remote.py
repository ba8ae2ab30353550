"""Keys behind a URL, by a clock that stands still: when they are fetched, and what holds meanwhile."""

import asyncio

import pytest

from realtime.backends.auth.fetch import Document, FetchError, fetch
from realtime.backends.auth.keys import Key
from realtime.backends.auth.remote import RemoteKeys
from realtime.errors import Unauthorized, Unavailable
from realtime.policy import Issuer
from tests.tokens import ec_signer, jwks, key_server

ISSUER = Issuer(
    issuer="https://i.example",
    audience=("realtime",),
    algorithms=("ES256",),
    jwks_url="https://i.example/jwks",
    tenant="acme",
    jwks_refetch_s=30.0,
    jwks_stale_s=600.0,
)
ONE, TWO = ec_signer("1"), ec_signer("2")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)


class Afar:
    """What is at the URL, and how often it was asked for."""

    def __init__(self) -> None:
        self.answer: Document | Exception = Document(jwks(ONE), None)
        self.asked = 0
        self.clock = Clock()
        self.keys = RemoteKeys(ISSUER, self.clock, self.get)

    async def get(self, url: str) -> Document:
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def find(self, kid: str) -> Key:
        found = self.keys.find(kid, "ES256")
        return found if isinstance(found, Key) else await found

    async def settle(self) -> None:
        """Let what was begun in the background come to its end."""
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
def afar() -> Afar:
    return Afar()


async def test_the_first_question_fetches_and_the_next_ones_do_not(afar: Afar):
    first = await asyncio.gather(*(afar.find("1") for _ in range(50)))
    assert {key.id for key in first} == {"1"}
    assert isinstance(afar.keys.find("1", "ES256"), Key)  # at once
    assert afar.asked == 1


async def test_an_unknown_key_is_asked_for_once_in_a_while(afar: Afar):
    await afar.find("1")
    for n in range(100):
        with pytest.raises(Unauthorized):
            await afar.find(f"made-up-{n}")
    assert afar.asked == 1
    afar.clock.now += 30
    for n in range(100):
        with pytest.raises(Unauthorized):
            await afar.find(f"made-up-{n}")
    assert afar.asked == 2


async def test_a_new_key_is_found_by_the_token_that_names_it(afar: Afar):
    old = await afar.find("1")
    afar.answer = Document(jwks(ONE, TWO), None)
    afar.clock.now += 30
    assert (await afar.find("2")).id == "2"
    assert await afar.find("1") is old
    assert old.live


async def test_a_key_that_is_gone_verifies_no_more(afar: Afar):
    old = await afar.find("1")
    afar.answer = Document(jwks(TWO), None)
    afar.clock.now += 30
    await afar.find("2")
    assert not old.live
    with pytest.raises(Unauthorized):
        await afar.find("1")


@pytest.mark.parametrize(
    ("max_age_s", "kept_s"), [(None, 3600), (0.0, 60), (5.0, 60), (120.0, 120), (1e9, 86_400)]
)
async def test_keys_are_kept_as_long_as_their_server_says_within_bounds(
    afar: Afar, max_age_s: float | None, kept_s: float
):
    afar.answer = Document(jwks(ONE), max_age_s)
    await afar.find("1")
    afar.clock.now += kept_s - 1
    afar.keys.refresh()
    await afar.settle()
    assert afar.asked == 1
    afar.clock.now += 1
    assert isinstance(afar.keys.find("1", "ES256"), Key)  # nobody waits for the refresh
    await afar.settle()
    assert afar.asked == 2


async def test_what_is_known_holds_for_a_while_when_the_url_gives_no_answer(afar: Afar):
    await afar.find("1")
    afar.answer = FetchError("no answer")
    afar.clock.now += 3600 + 599
    assert isinstance(afar.keys.find("1", "ES256"), Key)
    await afar.settle()
    afar.clock.now += 2
    with pytest.raises(Unavailable) as caught:
        await afar.find("1")
    assert caught.value.retry_after_s
    assert afar.keys.failed_fetches >= 1


async def test_failures_are_not_followed_by_a_flood(afar: Afar):
    afar.answer = FetchError("no answer")
    for _ in range(100):
        with pytest.raises(Unavailable):
            await afar.find("1")
    assert afar.asked == 1
    for _ in range(60):  # a minute of questions, one a second: waits that double
        afar.clock.now += 1
        with pytest.raises(Unavailable):
            await afar.find("1")
    assert 4 <= afar.asked <= 8


async def test_who_hangs_up_does_not_end_the_fetch_for_others(afar: Afar):
    impatient, patient = asyncio.create_task(afar.find("1")), asyncio.create_task(afar.find("1"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).id == "1"


async def test_after_the_end_nothing_is_fetched_and_no_key_lives(afar: Afar):
    key = await afar.find("1")
    afar.keys.close()
    assert not key.live
    afar.clock.now += 1e6
    afar.keys.refresh()
    await afar.settle()
    assert afar.asked == 1


# ---------------------------------------------------------------- over a real socket


async def test_a_document_is_fetched_with_its_length_or_in_chunks():
    with key_server() as server:
        plain = server.serve("/plain?x=1", b"{}", Cache_Control="public, max-age=300")
        chunked = server.serve(
            "/chunked",
            b'3\r\n{"a\r\n4;x=y\r\n":1}\r\n0\r\n\r\n',
            Content_Length="",
            Transfer_Encoding="chunked",
        )
        to_the_end = server.serve("/end", b"[1]", Content_Length="")
        assert await fetch(plain) == (b"{}", 300.0)
        assert await fetch(chunked) == (b'{"a":1}', None)
        assert await fetch(to_the_end) == (b"[1]", None)


@pytest.mark.parametrize(
    ("body", "status", "headers", "reason"),
    [
        (b"", 301, {"Location": "/other"}, "status 301"),
        (b"", 401, {}, "status 401"),
        (b"{}", 200, {"Content_Encoding": "gzip"}, "compressed"),
        (b"{}", 200, {"Content_Length": "9999999999999"}, "over"),
        (b"{}", 200, {"Content_Length": "-1"}, "over"),
        (b"x" * 600_000, 200, {"Content_Length": ""}, "over"),
        (b"z\r\n", 200, {"Content_Length": "", "Transfer_Encoding": "chunked"}, "chunks"),
        (b"ffffff\r\n", 200, {"Content_Length": "", "Transfer_Encoding": "chunked"}, "chunks"),
        (b"3\r\nabcX", 200, {"Content_Length": "", "Transfer_Encoding": "chunked"}, "bytes"),
        (b"{}", 200, {"Content_Length": "2", "Transfer_Encoding": "chunked"}, "length"),
        (b"{}", 200, {"X": "y" * 20_000}, "limit"),
    ],
)
async def test_an_answer_that_will_not_do_is_an_error_that_says_why(body, status, headers, reason):
    with key_server() as server:
        url = server.serve("/keys", body, status, **headers)
        with pytest.raises(FetchError, match=reason):
            await fetch(url)
        assert server.asked == ["/keys"]


async def test_a_server_that_says_nothing_is_given_up():
    with key_server() as server:
        url = server.serve("/keys", b"{}")
        server.held.clear()
        with pytest.raises(FetchError, match=r"no answer in 0\.2 s"):
            await fetch(url, timeout_s=0.2)
        server.held.set()


async def test_nobody_there_is_an_error():
    with pytest.raises(FetchError):
        await fetch("http://127.0.0.1:1/keys")


async def test_https_is_not_spoken_with_whoever_has_no_certificate():
    with key_server() as server, pytest.raises(FetchError):
        await fetch(server.url.replace("http:", "https:") + "/keys")
