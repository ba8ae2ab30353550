"""Chromium without a window, for what only a browser can show.

It is the system's own (Debian: chromium). Every page is watched: an error on its console, an exception, or
a breach of the Content-Security-Policy fails its test, but for what the test says it expects.
"""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
# What a browser says by itself about a connection that is refused while a server restarts.
REFUSED = re.compile(r"WebSocket connection to .* failed|ERR_CONNECTION_REFUSED")

PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One browser for all these tests, so one event loop, too."""
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def chromium_path() -> str:
    for name in CHROMIUM_NAMES:
        if path := shutil.which(name):
            return path
    pytest.fail("these tests need a Chromium: apt-get install chromium", pytrace=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    # Chromium's sandbox does not work as root; containers of CI are root.
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium_path(), args=flags)
        yield running
        await running.close()


class Watched:
    """Opens pages, each in a context of its own, and collects what they complain about."""

    def __init__(self, browser: Browser) -> None:
        self.complaints: list[str] = []
        self.expected = REFUSED
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    async def __call__(self, *, width: int = 1280, height: int = 800, **options: Any) -> Page:
        context = await self._browser.new_context(viewport={"width": width, "height": height}, **options)
        self._contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        page.on("console", lambda said: said.type in ("error", "warning") and self._complain(said.text))
        page.on("pageerror", lambda error: self._complain(str(error)))
        return page

    async def finish(self) -> None:
        for context in self._contexts:
            await context.close()
        unexpected = [text for text in self.complaints if not self.expected.search(text)]
        assert not unexpected, "\n".join(["the browser complains:", *unexpected])

    def _complain(self, text: str) -> None:
        self.complaints.append(text)


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser) -> AsyncIterator[Watched]:
    """Open a page: `await open_page(width=360)`."""
    watched = Watched(browser)
    yield watched
    await watched.finish()


Enter = Callable[..., Awaitable[Page]]


@pytest.fixture
def enter(open_page: Watched) -> Enter:
    """Open the demo page of a server, and go into a room by its form."""

    async def go(url: str, name: str, room: str = "lobby", **options: Any) -> Page:
        page = await open_page(**options)
        await page.goto(f"{url}/")
        await page.get_by_label("Your name").fill(name)
        await page.get_by_label("Room").fill(room)
        await page.get_by_role("button", name="Enter").click()
        await expect(page.locator("#status")).to_have_attribute("data-state", "online")
        await expect(page.locator("#members li")).not_to_have_count(0)
        return page

    return go


async def say(page: Page, text: str) -> None:
    """Write a message and send it with Enter."""
    box = page.get_by_label("Message", exact=True)
    await box.fill(text)
    await box.press("Enter")


async def restart(server: Any, *, kill: bool = False) -> None:
    """Restart a server beside the event loop that the browser lives on."""
    if kill:
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    else:
        await asyncio.to_thread(server.restart)
