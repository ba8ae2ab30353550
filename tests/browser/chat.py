"""What the tests of the chat in a browser stand on: a server that keeps things, people on its page, and code
that runs with the SDK's `Chat`.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, expect

from tests.conftest import Server

QUICK = {"reconnect_min_ms": 0, "reconnect_max_ms": 200}

# Chats of several people in one page; each is closed at the end.
SETUP = """
  const { connect } = await import("/realtime.js");
  const { Chat, Outbox } = await import("/chat.js");
  const chats = [];
  const come = async (user, options = {}, network = {}) => {
    const client = connect(url, { user, random: () => 0, ...network });
    const chat = new Chat(client, options);
    chats.push(chat);
    await client.ready;
    await chat.refresh();
    return chat;
  };
  const until = (condition) => new Promise((resolve) => {
    const look = () => condition() ? resolve() : setTimeout(look, 1);
    look();
  });
  const texts = (room) => room.window.list.map(({ text }) => text);
  const failure = (promise) => promise.then(() => "no failure", (error) => error.code);
"""

RunChat = Callable[..., Awaitable[Any]]


@pytest.fixture
def keeping(serve: Callable[..., Server], tmp_path: Path) -> Server:
    """A server with a store and with files."""
    return serve(sqlite_path=tmp_path / "chat.db", chat_files_path=tmp_path / "files", **QUICK)


@pytest_asyncio.fixture(loop_scope="session")
async def run_chat(keeping: Server, open_page: Any) -> RunChat:
    """Run JavaScript with `come(user)`, which brings that user's Chat; `values` are its arguments."""
    page = await open_page()
    await page.goto(f"{keeping.url}/")

    async def go(body: str, *values: Any) -> Any:
        return await page.evaluate(
            f"""async ([url, values]) => {{
              {SETUP}
              try {{ {body} }} finally {{ for (const chat of chats) chat.client.close(); }}
            }}""",
            [keeping.ws_url, list(values)],
        )

    return go


# --- on the page ------------------------------------------------------------------------------------------


def bubbles(page: Page) -> Locator:
    return page.locator("#log .bubble")


def message(page: Page, text: str) -> Locator:
    return page.locator("#log .message", has=page.locator(".bubble", has_text=text))


def text_box(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


async def create_room(page: Page, title: str, *members: str, private: bool = True) -> None:
    """Create a room by the dialog, and be in it."""
    await page.get_by_role("button", name="New conversation").click()
    await page.get_by_role("menuitem", name="Create a room").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Title").fill(title)
    await dialog.get_by_label("Who may come in").select_option("private" if private else "public")
    await dialog.get_by_label("Members").fill(", ".join(members))
    await dialog.get_by_role("button", name="Create").click()
    await expect(page.locator("#room-name")).to_have_text(title)


async def go_to(page: Page, title: str) -> None:
    """Choose a room in the list."""
    await page.locator("#nav-lists button", has_text=title).click()
    await expect(page.locator("#room-name")).to_have_text(title)


async def open_menu(page: Page, text: str) -> None:
    """Open the menu of a message."""
    await message(page, text).locator(".bubble").click(button="right")
    await expect(page.get_by_role("menu", name="Message actions")).to_be_visible()


async def choose(page: Page, text: str, action: str) -> None:
    """Do something with a message by its menu."""
    await open_menu(page, text)
    await page.get_by_role("menuitem", name=action, exact=True).click()
