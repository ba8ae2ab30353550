"""The JavaScript client and the ends of tokens: a page of a real server, in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tokens import claims, secret_signer

SECRET = "0123456789abcdef0123456789abcdef"
SIGNER = secret_signer(SECRET)
EXACT = {"jwt_secret": SECRET, "jwt_leeway_s": 0, "reconnect_min_ms": 0, "reconnect_max_ms": 50}

HEAD = """
  const { connect } = await import("/realtime.js");
  const url = location.origin.replace("http", "ws") + "/ws";
  const until = (condition) => new Promise((resolve) => {
    const look = () => condition() ? resolve() : setTimeout(look, 5);
    look();
  });
  let asked = 0;
  const bring = (...how) => async () => { asked += 1; return window.makeToken(...how); };
"""


@pytest.fixture
def run(serve: Callable, open_page: Any) -> Callable:
    """Run JavaScript on a page of a server with these settings."""

    async def go(body: str, **settings: object) -> Any:
        running = serve(**EXACT, **settings)
        page = await open_page()

        def make(ttl_s: float, room: str | None = None) -> str:
            return SIGNER.token(claims("al", ttl_s, room=room))

        await page.expose_function("makeToken", make)
        await page.goto(f"{running.url}/")
        return await page.evaluate(f"async () => {{ {HEAD} {body} }}")

    return go


async def test_a_token_is_renewed_before_it_ends(run: Callable):
    result = await run(
        """const client = connect(url, { token: bring(4) });
           const warnings = [];
           client.on("tokenExpiring", ({ expires_in_s }) => warnings.push(expires_in_s));
           const room = await client.join("chat:lobby");
           await until(() => asked > 2);
           const { offset } = await room.publish("chat_message", { text: "still here" });
           const { reconnects } = client;
           client.close();
           return { offset, reconnects, warned: warnings.length >= 2 };""",
        token_warning_s=2,
    )
    assert result == {"offset": 1, "reconnects": 0, "warned": True}


async def test_a_client_that_was_not_warned_comes_back_with_a_fresh_token(run: Callable):
    result = await run(
        """const client = connect(url, { token: bring(2) });
           const room = await client.join("chat:lobby");
           await until(() => client.reconnects >= 1 && room.joined);
           const { offset } = await room.publish("chat_message", { text: "back" });
           client.close();
           return offset;""",
        token_warning_s=0,
    )
    assert result == 1


async def test_a_token_that_is_what_it_is_ends_the_client(run: Callable):
    result = await run(
        """const client = connect(url, { token: await window.makeToken(2) });
           await client.ready;
           await until(() => client.state === "closed");
           return client.closeReason.closeCode;""",
        token_warning_s=0,
    )
    assert result == 4003


async def test_a_private_room_is_joined_again_when_its_token_has_ended(run: Callable, tmp_path: Path):
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rooms]]\nrooms = ["chat:secret-*"]\nprivate = true\n')
    result = await run(
        """const client = connect(url, { token: await window.makeToken(600) });
           const refused = await client.join("chat:secret-1").then(() => "in", ({ code }) => code);
           const room = await client.join("chat:secret-1", { token: bring(2, "chat:secret-1") });
           await until(() => asked > 2 && room.joined);
           const { offset } = await room.publish("chat_message", { text: "still a member" });
           const token = await window.makeToken(2, "chat:secret-2");
           const once = await client.join("chat:secret-2", { token });
           const end = await new Promise((resolve) => { once.on("closed", resolve); });
           const state = client.state;
           client.close();
           return { refused, offset, end: end.message, state };""",
        policy_path=str(policy),
    )
    assert result == {
        "refused": "forbidden",
        "offset": 1,
        "end": "let out of chat:secret-2: room_token_expired",
        "state": "online",
    }
