"""A subscriber that remembers what it was told, and can be waited for."""

import asyncio
from collections.abc import Callable

WAIT_S = 20.0


class Listener:
    """`said` is what it was told, in order: "up", "down", and payloads."""

    def __init__(self) -> None:
        self.said: list[str | bytes] = []
        self._news = asyncio.Event()

    def on_message(self, payload: bytes) -> None:
        self._add(payload)

    def on_subscribed(self) -> None:
        self._add("up")

    def on_unsubscribed(self) -> None:
        self._add("down")

    async def until(self, condition: Callable[[list[str | bytes]], bool]) -> None:
        """Wait until `condition` holds of what was said."""
        async with asyncio.timeout(WAIT_S):
            while not condition(self.said):
                self._news.clear()
                await self._news.wait()

    async def until_said(self, *what: str | bytes) -> None:
        """Wait until exactly this was said in all."""
        await self.until(lambda said: said == list(what))

    def _add(self, what: str | bytes) -> None:
        self.said.append(what)
        self._news.set()
