"""The Redis client: commands to the master of their slot, subscriptions that are kept up, no task for either.

A command that was refused because its slot is elsewhere, or because nobody has it just now, is tried again
until `timeout_s` is over. One that was written to a connection that broke is not: nobody knows whether it
was done.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from realtime.backends.redis_client.address import Endpoint, parse_url
from realtime.backends.redis_client.contract import Argument, RedisError, Reply, Subscriber, Then, slot_of
from realtime.backends.redis_client.dial import Dialer
from realtime.backends.redis_client.functions import FunctionLoader
from realtime.backends.redis_client.link import CommandLink, Terms, away, settled, settler
from realtime.backends.redis_client.lookout import Lookout
from realtime.backends.redis_client.nodes import Nodes
from realtime.backends.redis_client.retries import Retries
from realtime.backends.redis_client.slots import Range, read_redirect
from realtime.backends.redis_client.subscriptions import SubscriptionLink, Subscriptions
from realtime.backends.redis_client.wire import Call, pack
from realtime.core.clock import SystemClock
from realtime.core.contracts import Clock
from realtime.errors import StartupError
from realtime.native.histogram import Histogram

log: Final = logging.getLogger("realtime.redis")

# Not done, and may be later: the node is not ready, or not the master of what it takes itself to be.
LATER: Final = frozenset({"TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "BUSY"})
REDIRECTS_AT_ONCE: Final = 3
EXCUSES_MAX: Final = 8  # late ticks one after another, before silence counts nevertheless
CLUSTER_DOWN_S: Final = 1.0  # after its last word of that, the cluster is taken for whole again


class RedisClient:
    """A client of the Redis Cluster, or the one Redis, at `url`. Made within a running event loop."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "realtime",
        timeout_s: float = 2.0,
        ping_interval_s: float = 0.5,
        queue_bytes: int = 16 * 1024 * 1024,
        clock: Clock | None = None,
        on_missing_function: Callable[[], bytes] | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        address = parse_url(url)
        self._seeds = address.seeds
        self._timeout_s = timeout_s
        self._terms = Terms(
            dialer=Dialer(address, name, timeout_s),
            clock=clock or SystemClock(),
            random=uniform,
            timeout_s=timeout_s,
            ping_interval_s=ping_interval_s,
            queue_bytes=queue_bytes,
        )
        self._monotonic = self._terms.clock.monotonic
        self._tick_s = min(0.1, ping_interval_s / 4, timeout_s / 8)
        self._nodes = Nodes(self._commands_to, self._subscriptions_at)
        self._by_slot = self._nodes.by_slot
        self._lookout = Lookout(
            self._nodes, address.seeds, uniform, is_well=lambda: self.ok, on_slots=self._adopt
        )
        self._retries = Retries(self._terms, self._dispatch)
        self._functions = FunctionLoader(on_missing_function, self._dispatch, self._retries.add)
        self._subscriptions = Subscriptions(
            self._nodes.subscriptions_of, self._subscription_refused, self._lookout.soon
        )
        self._news = asyncio.Event()  # a link has changed, or the slots are known
        self._uncovered_since = self._monotonic()
        self._cluster_down_until = 0.0
        self._redirects = self._slot_changes = 0
        self._refusal = ""
        self._ticked_at = self._monotonic()
        self._excuses = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def start(self, *, patient: bool = False) -> None:
        """Connect and learn who has which slots. A `patient` start may end before that, where nobody answers:
        `ok` says when Redis is there.

        Raises:
            StartupError: no seed answered within `timeout_s`, or they will not have us; it is closed then.
        """
        self._ticked_at = self._monotonic()
        self._arm()
        links = [self._nodes.at(seed).commands for seed in self._seeds]
        self._lookout.start()
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self._nodes.masters and not all(link.refused for link in links):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            log.debug("no Redis within %s s", self._timeout_s)
        if not self._nodes.masters and not (patient and not any(link.refused for link in links)):
            reasons = [f"{link.node}: {link.trouble or self._lookout.trouble}" for link in links]
            await self.close()
            raise StartupError(f"Redis cannot be used: {'; '.join(reasons)}")

    async def close(self) -> None:
        """End all connections. What waits for an answer gets Unavailable; subscribers are called no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._lookout.close()
        self._subscriptions.close()
        await self._nodes.close()
        self._retries.close()

    @property
    def ok(self) -> bool:
        """Whether every slot has a master that answers."""
        if not self._nodes.covered or self._closed or self._monotonic() < self._cluster_down_until:
            return False
        return all(node.commands.up for node in self._nodes.masters.values())

    def send(self, slot: int, *command: Argument, then: Then | None = None) -> None:
        """Queue a command for the master of `slot`; see the contract."""
        call = Call(slot, pack(command), then, self._monotonic() + self._timeout_s)
        link = self._by_slot[slot]
        if link is None:
            self._dispatch(call)
        else:
            link.take(call)

    async def ask(self, slot: int, *command: Argument) -> Reply:
        """Return the reply of the master of `slot`. Raises RedisError and Unavailable; see the contract."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.send(slot, *command, then=settler(answer))
        reply: Reply = await settled(answer)
        return reply

    async def ask_all(self, *command: Argument) -> list[Reply]:
        """Return the replies of all masters. Raises RedisError and Unavailable once all have answered."""
        deadline = self._monotonic() + self._timeout_s
        data = pack(command)
        answers = []
        for node in self._nodes.masters.values():
            answers.append(self._loop.create_future())
            node.commands.take(Call(-1, data, settler(answers[-1]), deadline, node.commands))
        if not answers:
            raise away()
        await asyncio.wait(answers)
        return [await settled(answer) for answer in answers]

    def subscribe(self, channel: bytes, subscriber: Subscriber) -> None:
        """Subscribe to a sharded channel, once each; kept up until `unsubscribe`."""
        self._subscriptions.subscribe(channel, slot_of(channel), subscriber)

    def unsubscribe(self, channel: bytes) -> None:
        """End it; nothing is called any more. Nothing happens where there is none."""
        self._subscriptions.unsubscribe(channel)

    def stats(self) -> Mapping[str, int]:
        """Gauges and counters for /metrics, by name."""
        links = [node.commands for node in self._nodes.by_endpoint.values()]
        wires = [link.wire for link in links if link.wire is not None]
        listening = [link.wire for link in self._nodes.subscription_links if link.wire is not None]
        counts = self._terms.counts
        return {
            "redis_masters": len(self._nodes.masters),
            "redis_connections": len(wires) + len(listening),
            "redis_queued_bytes": self._retries.queued_bytes + sum(link.queued_bytes for link in links),
            "redis_retrying": len(self._retries),
            "redis_subscriptions": len(self._subscriptions.by_channel),
            "redis_subscriptions_standing": self._subscriptions.standing,
            "redis_replies_total": counts.replies + sum(wire.replies for wire in wires),
            "redis_messages_total": counts.messages + sum(wire.messages for wire in listening),
            "redis_connects_total": counts.connects,
            "redis_redirects_total": self._redirects,
            "redis_retries_total": self._retries.total,
            "redis_slot_changes_total": self._slot_changes,
            "redis_function_loads_total": self._functions.loads,
        }

    def timings(self) -> Mapping[str, Histogram]:
        """Histograms for /metrics, by name."""
        return {"redis_command": self._terms.counts.took}

    # ---------------------------------------------------------------- where commands go

    def _dispatch(self, call: Call) -> None:
        """Give a command to the link that it belongs to by now."""
        call.asking = False
        link = call.home or self._by_slot[call.slot]
        if link is not None:
            link.take(call)
        elif self._closed or self._monotonic() - self._uncovered_since >= self._timeout_s:
            self._loop.call_soon(call.finish, away())
        else:
            self._retries.add(call)

    def _refused(self, link: CommandLink, call: Call, error: RedisError) -> None:
        code = error.code
        if call.final:
            call.finish(error)
        elif code in ("MOVED", "ASK") and call.home is None:
            self._redirect(link, call, error)
        elif code in LATER:
            self._doubt(code)
            self._retries.add(call)
        elif error.message.startswith("Function not found") and self._functions.load(link, call):
            log.info("redis %s: loading our functions", link.node)
        else:
            call.finish(error)

    def _redirect(self, link: CommandLink, call: Call, error: RedisError) -> None:
        try:
            slot, endpoint = read_redirect(error.message, link.node.host)
        except ValueError:
            call.finish(error)
            return
        self._redirects += 1
        if error.code == "MOVED":
            self._moved(slot, endpoint)
            call.slot = slot
        # Two nodes that each take the other for the owner would have us go round at full speed.
        if call.tries >= REDIRECTS_AT_ONCE:
            self._retries.add(call)
            return
        call.tries += 1
        if error.code == "MOVED":
            self._dispatch(call)
        else:
            call.asking = True
            self._nodes.at(endpoint).commands.take(call)

    def _moved(self, slot: int, endpoint: Endpoint) -> None:
        self._nodes.move(slot, endpoint)
        self._lookout.soon(endpoint)

    def _doubt(self, code: str) -> None:
        if code == "CLUSTERDOWN":
            self._cluster_down_until = self._monotonic() + CLUSTER_DOWN_S
        if code != "TRYAGAIN":
            self._lookout.soon()

    def _subscription_refused(self, link: SubscriptionLink, error: RedisError) -> None:
        if error.code == "MOVED":
            try:
                self._moved(*read_redirect(error.message, link.node.host))
                return
            except ValueError:
                log.warning("redis %s: %s", link.node, error)
        elif error.code not in LATER and str(error) != self._refusal:
            self._refusal = str(error)  # it is tried again and again: said once
            log.warning("redis %s: SSUBSCRIBE: %s", link.node, error)
        self._doubt(error.code)

    # ---------------------------------------------------------------- the nodes

    def _commands_to(self, endpoint: Endpoint) -> CommandLink:
        return CommandLink(endpoint, self._terms, self._changed, self._refused)

    def _subscriptions_at(self, endpoint: Endpoint) -> SubscriptionLink:
        return SubscriptionLink(endpoint, self._terms, self._changed, self._subscriptions)

    def _changed(self) -> None:
        """A link stands, was lost, or could not be had."""
        self._news.set()
        if not self.ok:
            self._lookout.soon()

    def _adopt(self, ranges: list[Range]) -> None:
        """Have the slots as `ranges`, and send on what waits for a master that is none, or for any."""
        was_covered = self._nodes.covered
        listening = self._nodes.subscription_links
        changed = self._nodes.adopt(ranges)
        if was_covered and not self._nodes.covered:
            self._uncovered_since = self._monotonic()
        self._news.set()
        if not changed:
            return
        self._slot_changes += 1
        for endpoint, node in list(self._nodes.by_endpoint.items()):
            if not node.commands.up or endpoint not in self._nodes.masters:
                for call in node.commands.give_back():
                    self._dispatch(call)
        self._retries.hurry()
        self._subscriptions.review(listening)

    # ---------------------------------------------------------------- time

    def _arm(self) -> None:
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        now = self._monotonic()
        late_s = now - self._ticked_at - self._tick_s
        self._ticked_at = now
        self._arm()
        # This process stood still. What came meanwhile is not read yet, and what was to go is not written:
        # the time does not count, unless it goes on like that.
        if late_s > self._tick_s and self._excuses < EXCUSES_MAX:
            self._excuses += 1
            for link in self._nodes.links:
                link.excuse(late_s)
        else:
            self._excuses = 0
            self._judge(now)

    def _judge(self, now: float) -> None:
        """Give up who is silent and what has waited for too long."""
        for link in self._nodes.links:
            link.check(now)
        for node in list(self._nodes.by_endpoint.values()):
            node.commands.expire(now)
        self._nodes.retire(now, self._timeout_s)
        self._subscriptions.retry(self._nodes.subscription_links)
