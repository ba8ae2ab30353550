"""What the tests of the JavaScript client stand on: a page that runs their code against the fake server."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.client.fake_server import FakeServer, Message, Peer

# Jitter at its lowest: reconnects at once, as the fake names no window.
CONNECT = """
  const { connect, RealtimeError, backoffMs, mayReconnect, readCloseReason } = await import("/realtime.js");
  const seen = [];
  const follow = (room) => {
    room.on("message", ({ content }) => seen.push(content));
    room.on("gap", (gap) => seen.push(gap));
    room.on("resumed", (how) => seen.push(how));
    room.on("unread", ({ count }) => seen.push(`${count} unread`));
  };
  const until = (condition) => new Promise((resolve) => {
    const look = () => condition() ? resolve() : setTimeout(look, 1);
    look();
  });
  const failure = (promise) => promise.then(() => "no failure", (error) => error.code);
  // document.hidden is the browser's to say; a test says it instead.
  const show = (visible) => {
    Object.defineProperty(document, "hidden", { value: !visible, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  };
"""

Run = Callable[..., Awaitable[Any]]


@pytest_asyncio.fixture(loop_scope="session")
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def page(server: Any, open_page: Any) -> Page:
    # The page comes from the real server, whose policy would not let it talk to another one.
    page = await open_page(bypass_csp=True)
    await page.goto(f"{server.url}/")
    return page


@pytest.fixture
def run(page: Page, fake: FakeServer) -> Run:
    """Run JavaScript with a client of the fake server as `client`; `options` are the client's.

    `await server(name, ...values)` in it is one of `commands`, run here.
    """
    commands: dict[str, Callable[..., Awaitable[Any]]] = {}

    async def call(name: str, values: list[Any]) -> Any:
        return await commands[name](*values)

    exposed: list[bool] = []

    async def go(
        body: str, *, server: dict[str, Callable[..., Awaitable[Any]]] | None = None, **options: Any
    ):
        if not exposed:
            await page.expose_function("askServer", lambda name, values: call(name, json.loads(values)))
            exposed.append(True)
        commands.update(server or {})
        return await page.evaluate(
            f"""async ([url, options]) => {{
              {CONNECT}
              const server = (name, ...values) => window.askServer(name, JSON.stringify(values));
              const client = connect(url, {{ user: "al", random: () => 0, ...options }});
              try {{ {body} }} finally {{ client.close(); }}
            }}""",
            [fake.url, options],
        )

    return go


def once(action: Callable[[Peer, Message], object], *, type_: str) -> Callable[[Peer, Message], bool]:
    """A fault for the first message of that type: `action`, and nothing else happens."""
    spent: list[bool] = []

    def fault(peer: Peer, message: Message) -> bool:
        if spent or message["type"] != type_:
            return False
        spent.append(True)
        action(peer, message)
        return True

    return fault
