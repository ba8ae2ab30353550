"""The Python client and the ends of tokens, against a real `realtime serve`."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from realtime.client import Closed, Options, State, connect
from realtime.errors import Forbidden
from tests.tokens import claims, secret_signer

SECRET = "0123456789abcdef0123456789abcdef"
SIGNER = secret_signer(SECRET)
AT_ONCE = Options(uniform=lambda: 0.0)
EXACT = {"jwt_secret": SECRET, "jwt_leeway_s": 0, "reconnect_min_ms": 0, "reconnect_max_ms": 50}
PATIENCE_S = 60.0


class Tokens:
    """Brings tokens that hold for so long, and counts them."""

    def __init__(self, ttl_s: float, **more: object) -> None:
        self.ttl_s = ttl_s
        self.more = more
        self.given: list[str] = []
        self.asked = asyncio.Event()

    async def __call__(self) -> str:
        self.given.append(SIGNER.token(claims("al", self.ttl_s, **self.more)))
        if len(self.given) > 2:
            self.asked.set()
        return self.given[-1]


@pytest.fixture
def private(tmp_path: Path) -> str:
    path = tmp_path / "policy.toml"
    path.write_text('[[rooms]]\nrooms = ["chat:secret-*"]\nprivate = true\n')
    return str(path)


async def test_a_client_with_somebody_to_ask_renews_its_token_before_it_ends(serve: Callable):
    running = serve(**EXACT, token_warning_s=2)
    tokens = Tokens(4)
    states: list[State] = []
    async with connect(running.ws_url, token=tokens, on_state=states.append) as client:
        room = await client.join("chat:lobby")
        async with asyncio.timeout(PATIENCE_S):
            await tokens.asked.wait()
        await room.publish("chat_message", {"text": "still here"})
        assert client.reconnects == 0
    assert states == [State.ONLINE, State.CLOSED] or states == [State.CONNECTING, State.ONLINE, State.CLOSED]


async def test_a_client_that_was_not_warned_comes_back_with_a_fresh_token(serve: Callable):
    running = serve(**EXACT, token_warning_s=0)
    tokens = Tokens(2)
    async with connect(running.ws_url, token=tokens, options=AT_ONCE) as client:
        room = await client.join("chat:lobby")
        async with asyncio.timeout(PATIENCE_S):
            await tokens.asked.wait()
        await room.publish("chat_message", {"text": "still here"})
        assert client.reconnects >= 1


async def test_a_client_whose_token_is_what_it_is_ends_with_it(serve: Callable):
    running = serve(**EXACT, token_warning_s=1)
    token = SIGNER.token(claims("al", 2))
    async with connect(running.ws_url, token=token, options=AT_ONCE) as client:
        async with asyncio.timeout(PATIENCE_S):
            pushes = aiter(client)
            assert (await anext(pushes)).type == "token_expiring"
            with pytest.raises(Closed) as ended:
                await anext(pushes)
        assert ended.value.status == 401


async def test_somebody_who_fails_to_bring_a_token_costs_no_connection_before_its_end(
    serve: Callable, caplog: pytest.LogCaptureFixture
):
    running = serve(**EXACT, token_warning_s=1)
    failed = asyncio.Event()
    calls: list[int] = []

    async def token() -> str:
        calls.append(1)
        if len(calls) == 2:
            failed.set()
            raise OSError("the issuer is away")
        return SIGNER.token(claims("al", 2))

    with caplog.at_level(logging.ERROR, "realtime.client"):
        async with connect(running.ws_url, token=token, options=AT_ONCE) as client:
            room = await client.join("chat:lobby")
            async with asyncio.timeout(PATIENCE_S):
                await failed.wait()
                await room.publish("chat_message", {"text": "after 4003"})
    assert "no newer token" in caplog.text


async def test_a_private_room_is_joined_with_a_room_token_and_again_when_it_has_ended(
    serve: Callable, private: str
):
    running = serve(**EXACT, policy_path=private)
    tokens = Tokens(2, room="chat:secret-1")
    async with connect(running.ws_url, token=SIGNER.token(claims("al", 600))) as client:
        with pytest.raises(Forbidden, match="room token"):
            await client.join("chat:secret-1")
        room = await client.join("chat:secret-1", token=tokens)
        async with asyncio.timeout(PATIENCE_S):
            await tokens.asked.wait()
        place = await room.publish("chat_message", {"text": "still a member"})
        assert place is not None
        assert client.reconnects == 0
        async for message in room:
            assert message.content == {"text": "still a member"}
            break


async def test_with_one_room_token_the_room_ends_when_it_does(serve: Callable, private: str):
    running = serve(**EXACT, policy_path=private)
    async with connect(running.ws_url, token=SIGNER.token(claims("al", 600))) as client:
        token = SIGNER.token(claims("al", 2, room="chat:secret-1"))
        room = await client.join("chat:secret-1", token=token)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Forbidden, match="room_token_expired"):
                await anext(aiter(room))
        assert not room.joined
        await client.ping()
