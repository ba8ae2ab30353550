"""Epochs that rooms open: those asked for while a statement runs go with the next one.

A Redis master that dies takes thousands of rooms into new epochs at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from realtime.backends import postgres_rows
from realtime.backends.postgres_rows import Claim, Wish

WISHES_MAX: Final = 500  # in one statement

Ask = Callable[..., Awaitable[Any]]
"""Takes a question and its arguments, and asks it over a connection. Raises Unavailable."""


class Claims:
    """Opens epochs in groups."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._waiting: list[tuple[Wish, asyncio.Future[Claim]]] = []
        self._running: asyncio.Task[None] | None = None

    async def claim(self, wish: Wish) -> Claim:
        """Open one epoch. Raises Unavailable."""
        opened: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, opened))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await opened

    async def _run(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:WISHES_MAX], self._waiting[WISHES_MAX:]
                await self._open(group)
        finally:
            self._running = None

    async def _open(self, group: list[tuple[Wish, asyncio.Future[Claim]]]) -> None:
        try:
            claims = await self._ask(postgres_rows.claim, [wish for wish, _ in group])
        except Exception as error:  # whatever it is: somebody waits for each of them
            for _, opened in group:
                if not opened.done():
                    opened.set_exception(error)
            return
        for (_, opened), claim in zip(group, claims, strict=True):
            if not opened.done():  # whoever asked may have been cancelled
                opened.set_result(claim)
