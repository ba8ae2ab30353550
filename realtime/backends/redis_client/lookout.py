"""Keeping up with which node has which slots: asked at times, and soon where there is reason to doubt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Final

from realtime.backends.redis_client.address import Endpoint
from realtime.backends.redis_client.contract import SLOTS, RedisError
from realtime.backends.redis_client.link import CommandLink
from realtime.backends.redis_client.nodes import Node, Nodes
from realtime.backends.redis_client.slots import Range, read_slots, slots_in
from realtime.errors import Unavailable

log: Final = logging.getLogger("realtime.redis")

EVERY_S: Final = 5.0
AGAIN_S: Final = 0.2  # while something is wrong
APART_S: Final = 0.05


class Lookout:
    """Asks the masters that are known, and where none answers the seeds, and gives the nodes what they say.

    A master that woke from a long sleep takes itself for one still; it is no longer among those known by
    then, so it is not asked.
    """

    def __init__(
        self,
        nodes: Nodes,
        seeds: Collection[Endpoint],
        uniform: Callable[[], float],
        is_well: Callable[[], bool],
        on_slots: Callable[[list[Range]], None],
    ) -> None:
        self.trouble = "no answer"  # why the slots could not be had
        self._nodes = nodes
        self._seeds = seeds
        self._uniform = uniform
        self._is_well = is_well
        self._on_slots = on_slots
        self._hint: Endpoint | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def soon(self, hint: Endpoint | None = None) -> None:
        """Look before long; `hint` should know the slots best."""
        self._hint = hint or self._hint
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            try:
                await self._look()
            except Exception:
                log.exception("the slots of Redis could not be looked at")
            await asyncio.sleep(APART_S * (0.5 + self._uniform()))
            pause_s = EVERY_S if self._is_well() else AGAIN_S
            try:
                async with asyncio.timeout(pause_s * (0.5 + self._uniform())):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        """Take the first answer that has all slots, or else the one that has most."""
        best: list[Range] = []
        hint, self._hint = self._hint, None
        for node in self._candidates(hint):
            ranges = await self._ask(node.commands)
            if slots_in(ranges) == SLOTS:
                return self._on_slots(ranges)
            best = max(best, ranges, key=slots_in)
        if best:
            return self._on_slots(best)
        for seed in self._seeds:
            self._nodes.at(seed)
        return None

    def _candidates(self, hint: Endpoint | None) -> Iterator[Node]:
        """Nodes to ask, in the order of trust."""
        known = self._nodes
        order = sorted(known.masters, key=lambda endpoint: self._uniform())
        order.sort(key=lambda endpoint: (endpoint != hint, known.masters[endpoint].commands.doubtful))
        order += [endpoint for endpoint in known.by_endpoint if endpoint not in known.masters]
        for endpoint in order:
            node = known.by_endpoint.get(endpoint)
            if node is not None and node.commands.up:
                yield node

    async def _ask(self, link: CommandLink) -> list[Range]:
        try:
            if link.hello is not None and not link.hello.cluster:
                said = await link.ask("HELLO")
                if not isinstance(said, dict) or said.get(b"role") != b"master":
                    self.trouble = f"{link.node} is a replica"
                    return []
                return [Range(0, SLOTS - 1, link.node)]
            return read_slots(await link.ask("CLUSTER", "SLOTS"), link.node.host)
        except (RedisError, ValueError, Unavailable) as error:
            self.trouble = f"{link.node}: {error}"
            return []
