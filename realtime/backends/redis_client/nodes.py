"""The nodes that a client has to do with, and which of them is the master of which slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from realtime.backends.redis_client.address import Endpoint
from realtime.backends.redis_client.contract import SLOTS
from realtime.backends.redis_client.link import CommandLink, Link
from realtime.backends.redis_client.slots import Range
from realtime.backends.redis_client.subscriptions import SubscriptionLink


class Node:
    """A node's two links; that for subscriptions is made when there is one."""

    __slots__ = ("commands", "idle_since", "subscriptions")

    def __init__(self, commands: CommandLink) -> None:
        self.commands = commands
        self.subscriptions: SubscriptionLink | None = None
        self.idle_since: float | None = None  # it is nobody's master and nothing is under way

    def close_subscriptions(self) -> None:
        """End the link for subscriptions."""
        link, self.subscriptions = self.subscriptions, None
        if link is not None:
            link.close()

    def close(self) -> None:
        """End both links."""
        self.close_subscriptions()
        self.commands.close()


class Nodes:
    """Nodes by endpoint, and masters by slot."""

    def __init__(
        self,
        make_commands: Callable[[Endpoint], CommandLink],
        make_subscriptions: Callable[[Endpoint], SubscriptionLink],
    ) -> None:
        self.by_endpoint: dict[Endpoint, Node] = {}
        self.masters: dict[Endpoint, Node] = {}
        self.by_slot: list[CommandLink | None] = [None] * SLOTS
        self.covered = False  # every slot has a master
        self._touched = False  # by redirects
        self._make_commands = make_commands
        self._make_subscriptions = make_subscriptions

    @property
    def links(self) -> Collection[Link[Any]]:
        """All that there are."""
        return [*(node.commands for node in self.by_endpoint.values()), *self.subscription_links]

    @property
    def subscription_links(self) -> Collection[SubscriptionLink]:
        """Those that were made."""
        links = (node.subscriptions for node in self.by_endpoint.values())
        return [link for link in links if link is not None]

    def at(self, endpoint: Endpoint) -> Node:
        """Return the node at `endpoint`; its link is dialed where it is new."""
        node = self.by_endpoint.get(endpoint)
        if node is None:
            node = self.by_endpoint[endpoint] = Node(self._make_commands(endpoint))
        node.idle_since = None
        return node

    def subscriptions_of(self, slot: int) -> SubscriptionLink | None:
        """Return the link for subscriptions to the slot's master; None while that is not known."""
        commands = self.by_slot[slot]
        if commands is None:
            return None
        node = self.by_endpoint[commands.node]
        if node.subscriptions is None:
            node.subscriptions = self._make_subscriptions(commands.node)
        return node.subscriptions

    def move(self, slot: int, endpoint: Endpoint) -> None:
        """Have one slot at `endpoint`."""
        node = self.masters[endpoint] = self.at(endpoint)
        self.by_slot[slot] = node.commands
        self._touched = True

    def adopt(self, ranges: Collection[Range]) -> bool:
        """Have the slots as a node says that they are; return whether that differs from the last time."""
        by_slot: list[CommandLink | None] = [None] * SLOTS
        masters: dict[Endpoint, Node] = {}
        for first, last, endpoint in ranges:
            node = masters[endpoint] = self.at(endpoint)
            by_slot[first : last + 1] = [node.commands] * (last - first + 1)
        self.covered = None not in by_slot
        self.masters = masters
        if by_slot == self.by_slot and not self._touched:
            return False
        self._touched = False
        self.by_slot[:] = by_slot
        for endpoint, node in self.by_endpoint.items():
            if endpoint not in masters:
                node.close_subscriptions()
        return True

    def retire(self, now: float, after_s: float) -> None:
        """Close what is nobody's master and has had nothing to do for `after_s`."""
        for endpoint, node in list(self.by_endpoint.items()):
            if endpoint in self.masters or node.commands.busy:
                node.idle_since = None
            elif node.idle_since is None:
                node.idle_since = now
            elif now - node.idle_since >= after_s:
                del self.by_endpoint[endpoint]
                node.close()

    async def close(self) -> None:
        """Close all."""
        links = self.links
        for node in self.by_endpoint.values():
            node.close()
        await asyncio.gather(*(link.closed() for link in links))
