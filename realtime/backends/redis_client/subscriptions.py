"""Sharded subscriptions: which there are, and that each stands at the master of its slot.

They go out by slot, in chunks, with a bounded number unanswered at each node: 100,000 come back after a
failure without holding up the event loop, or Redis, and what was never subscribed before goes first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any, Final, TypeAlias

from hiredis import PushNotification

from realtime.backends.redis_client.address import Endpoint
from realtime.backends.redis_client.contract import RedisError, Subscriber
from realtime.backends.redis_client.link import Link, Terms
from realtime.backends.redis_client.wire import NOTHING, Wire, pack

log: Final = logging.getLogger("realtime.redis")

CHANNELS_PER_COMMAND: Final = 256
CHANNELS_PER_TURN: Final = 512  # of the event loop; about 1 ms
FALLEN_PER_TURN: Final = 2048
UNANSWERED_MAX: Final = 2048
PAUSE_TICKS_MAX: Final = 8  # calls of `retry`


class Subscription:
    """A channel and its subscriber. `place` says where it stands, is asked for, or waits."""

    __slots__ = ("channel", "place", "slot", "subscriber")

    def __init__(self, channel: bytes, slot: int, subscriber: Subscriber) -> None:
        self.channel = channel
        self.slot = slot
        self.subscriber = subscriber
        self.place: SubscriptionWire | Request | Queue | None = None


ByChannel: TypeAlias = dict[bytes, Subscription]


class Queue:
    """Subscriptions that wait, by slot: the slots in the order in which they came."""

    __slots__ = ("_by_slot",)

    def __init__(self) -> None:
        self._by_slot: OrderedDict[int, ByChannel] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_slot)

    def add(self, subscription: Subscription) -> None:
        subscription.place = self
        self._by_slot.setdefault(subscription.slot, {})[subscription.channel] = subscription

    def discard(self, subscription: Subscription) -> None:
        group = self._by_slot[subscription.slot]
        del group[subscription.channel]
        if not group:
            del self._by_slot[subscription.slot]
        subscription.place = None

    def take(self, limit: int) -> tuple[int, list[Subscription]]:
        """Return the first slot and what waits for it, at most `limit`, and have that no longer."""
        slot, group = self._by_slot.popitem(last=False)
        taken = list(islice(group.values(), limit))
        if len(taken) < len(group):
            for subscription in taken:
                del group[subscription.channel]
            self._by_slot[slot] = group
        return slot, taken

    def move(self, other: Queue, limit: int) -> None:
        """Give the first, at most `limit`, to `other`."""
        while limit > 0 and self._by_slot:
            _, taken = self.take(limit)
            limit -= len(taken)
            for subscription in taken:
                other.add(subscription)


class Request:
    """Commands that were written together, and the token that Redis says after the last of its answers.

    A success is a push for each channel and a failure an answer to the whole command, so what has no push by
    the time of the token has failed.
    """

    __slots__ = ("link", "subscriptions", "token")

    def __init__(self, link: SubscriptionLink, token: bytes) -> None:
        self.link = link
        self.token = token
        self.subscriptions: list[Subscription] = []


class SubscriptionWire(Wire):
    """A connection that messages are pushed on. Its `sent` are Calls and Requests."""

    def __init__(self, link: SubscriptionLink, events: Subscriptions) -> None:
        super().__init__()
        self.link = link
        self._events = events
        self._by_channel = events.by_channel
        self.messages = 0

    def dispatch(self) -> None:
        gets, by_channel = self.reader.gets, self._by_channel
        while (reply := gets()) is not NOTHING:
            if type(reply) is PushNotification and len(reply) == 3:
                kind, channel, payload = reply
                if kind != b"smessage":
                    self._changed(kind, channel)
                    continue
                self.messages += 1
                subscription = by_channel.get(channel)
                if subscription is not None and subscription.place is self:
                    try:
                        subscription.subscriber.on_message(payload)
                    except Exception:
                        log.exception("%r failed on a message", subscription.subscriber)
            elif type(reply) is not PushNotification:
                self._replied(reply)

    def _changed(self, kind: bytes, channel: bytes) -> None:
        subscription = self._by_channel.get(channel)
        if subscription is None:
            return
        if kind == b"ssubscribe":
            # It answers the oldest request; a subscription that was ended and begun anew is in a later one.
            if self.sent and subscription.place is self.sent[0]:
                subscription.place = self
                self._events.stands(subscription)
        elif kind == b"sunsubscribe" and subscription.place is self:
            # The slot has moved; or it answers ours, where the slots had changed and that is not told yet.
            self._events.fell(subscription)

    def _replied(self, reply: Any) -> None:
        head = self.sent[0] if self.sent else None
        if head is None:
            self.abort("an answer that nobody waits for")
        elif not isinstance(head, Request):
            self.sent.popleft()
            self.sent_bytes -= len(head.data)
            head.finish(reply)
        elif isinstance(reply, RedisError):
            self._events.refused(self.link, reply)
        elif reply == head.token:
            self.sent.popleft()
            self._events.answered(head)
        else:
            self.abort("another answer than the one that is due")


class SubscriptionLink(Link[SubscriptionWire]):
    """The subscriptions at one master."""

    def __init__(
        self, node: Endpoint, terms: Terms, on_change: Callable[[], None], events: Subscriptions
    ) -> None:
        self.parked = Queue()  # until it is up, or until answers have come
        self.leaving: dict[int, list[bytes]] = {}
        self.unanswered = 0  # channels
        self._tokens = 0
        self._events = events
        super().__init__(node, terms, on_change)

    def request(self, groups: Iterable[list[Subscription]]) -> None:
        """Write what ends, then what begins; each group is of one slot."""
        wire = self.wire
        assert wire is not None
        self._tokens += 1
        request = Request(self, b"%d" % self._tokens)
        parts: list[bytes] = []
        for channels in self.leaving.values():
            parts.extend(_commands("SUNSUBSCRIBE", channels))
        self.leaving.clear()
        for subscriptions in groups:
            parts.extend(_commands("SSUBSCRIBE", [each.channel for each in subscriptions]))
            request.subscriptions.extend(subscriptions)
        for subscription in request.subscriptions:
            subscription.place = request
        parts.append(pack(("PING", request.token)))
        self.unanswered += len(request.subscriptions)
        wire.sent.append(request)
        wire.write(b"".join(parts))

    def _opened(self, wire: SubscriptionWire) -> None:
        self._events.ready(self)

    def _make(self) -> SubscriptionWire:
        return SubscriptionWire(self, self._events)

    def _lost(self, wire: SubscriptionWire) -> None:
        self._terms.counts.messages += wire.messages
        self.unanswered = 0
        self.leaving.clear()
        self._events.lost(wire)


class Subscriptions:
    """All subscriptions of a client.

    `link_of` says where those of a slot belong, None while that is not known; `on_refused` is told why one
    could not be had, and `on_fallen` that Redis has ended some.
    """

    def __init__(
        self,
        link_of: Callable[[int], SubscriptionLink | None],
        on_refused: Callable[[SubscriptionLink, RedisError], None],
        on_fallen: Callable[[], None],
    ) -> None:
        self.by_channel: ByChannel = {}
        self.standing = 0
        self.refused = on_refused
        self._link_of = link_of
        self._on_fallen = on_fallen
        self._fresh = Queue()
        self._again = Queue()
        self._homeless = Queue()
        self._refused = Queue()  # until the next `retry`
        self._fallen: deque[tuple[Subscription, SubscriptionWire]] = (
            deque()
        )  # their subscribers do not know yet
        self._leaving: dict[SubscriptionLink, None] = {}
        self._pumping = False
        self._closed = False
        self._ticks = 0
        self._pause_ticks = 1
        self._loop = asyncio.get_running_loop()

    def subscribe(self, channel: bytes, slot: int, subscriber: Subscriber) -> None:
        """Have `subscriber` get what is published to the channel; it must not be subscribed to yet."""
        assert channel not in self.by_channel, f"{channel!r} is subscribed to already"
        subscription = self.by_channel[channel] = Subscription(channel, slot, subscriber)
        self._fresh.add(subscription)
        self._soon()

    def unsubscribe(self, channel: bytes) -> None:
        """End it; nothing where there is none."""
        subscription = self.by_channel.pop(channel, None)
        if subscription is None:
            return
        place, subscription.place = subscription.place, None
        if isinstance(place, Queue):
            place.discard(subscription)
        elif isinstance(place, SubscriptionWire):
            self.standing -= 1
            self._leave(place.link, subscription)
        elif place is not None:
            self._leave(place.link, subscription)

    def review(self, links: Collection[SubscriptionLink]) -> None:
        """Look again where everything belongs: the slots have changed. `links` are all that there are."""
        for queue in (self._homeless, self._refused, *(link.parked for link in links)):
            queue.move(self._again, len(self.by_channel))
        home: dict[int, SubscriptionLink | None] = {}
        for subscription in self.by_channel.values():
            place = subscription.place
            if isinstance(place, SubscriptionWire):
                slot = subscription.slot
                if slot not in home:
                    home[slot] = self._link_of(slot)
                if home[slot] is not None and home[slot] is not place.link:
                    self._leave(place.link, subscription)
                    self._fallen.append((subscription, place))
        self._soon()

    def retry(self, links: Iterable[SubscriptionLink]) -> None:
        """Try again what was refused, more seldom if it is again. Nothing stays with a link that takes it."""
        if self._refused:
            self._ticks += 1
            if self._ticks >= self._pause_ticks:
                self._ticks = 0
                self._pause_ticks = min(PAUSE_TICKS_MAX, 2 * self._pause_ticks)
                self._refused.move(self._again, len(self.by_channel))
                self._soon()
        else:
            self._pause_ticks = 1
        for link in links:
            if link.up and not link.unanswered:
                self.ready(link)

    def ready(self, link: SubscriptionLink) -> None:
        """`link` takes more than before."""
        if link.parked:
            link.parked.move(self._again, CHANNELS_PER_TURN)
            self._soon()

    def close(self) -> None:
        """Call nobody any more."""
        self._closed = True
        self.by_channel.clear()
        self._fallen.clear()

    # ---------------------------------------------------------------- what connections tell

    def stands(self, subscription: Subscription) -> None:
        """Redis has confirmed it."""
        self.standing += 1
        _call(subscription.subscriber.on_subscribed)

    def fell(self, subscription: Subscription) -> None:
        """It does not stand any more, by Redis' own word."""
        self._fall(subscription)
        self._on_fallen()

    def answered(self, request: Request) -> None:
        """All answers to `request` have come."""
        request.link.unanswered -= len(request.subscriptions)
        for subscription in request.subscriptions:
            if subscription.place is request:
                self._refused.add(subscription)
        self.ready(request.link)

    def lost(self, wire: SubscriptionWire) -> None:
        """A connection is gone, and all that stood on it."""
        for entry in wire.sent:
            if isinstance(entry, Request):
                for subscription in entry.subscriptions:
                    if subscription.place is entry:
                        self._again.add(subscription)
        self._fallen.extend((each, wire) for each in self.by_channel.values() if each.place is wire)
        self._soon()

    # ---------------------------------------------------------------- turn by turn

    def _soon(self) -> None:
        if not self._pumping and not self._closed:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Do one turn's worth. First everybody hears what fell: then it comes back slot by slot."""
        self._pumping = False
        for _ in range(min(len(self._fallen), FALLEN_PER_TURN)):
            subscription, wire = self._fallen.popleft()
            if subscription.place is wire:
                self._fall(subscription)
        if self._fallen:
            self._soon()
            return
        groups: dict[SubscriptionLink, list[list[Subscription]]] = {
            link: [] for link in self._leaving if link.up
        }
        self._leaving.clear()
        left = CHANNELS_PER_TURN
        for queue in (self._fresh, self._again):
            while queue and left > 0:
                slot, taken = queue.take(left)
                left -= len(taken)
                self._place(self._link_of(slot), taken, groups)
        for link, wanted in groups.items():
            link.request(wanted)
        if self._fresh or self._again:
            self._soon()

    def _place(
        self,
        link: SubscriptionLink | None,
        taken: list[Subscription],
        groups: dict[SubscriptionLink, list[list[Subscription]]],
    ) -> None:
        if link is not None and link.up and link.unanswered < UNANSWERED_MAX:
            groups.setdefault(link, []).append(taken)
            return
        queue = self._homeless if link is None else link.parked
        for subscription in taken:
            queue.add(subscription)

    def _fall(self, subscription: Subscription) -> None:
        self.standing -= 1
        self._again.add(subscription)
        self._soon()
        _call(subscription.subscriber.on_unsubscribed)

    def _leave(self, link: SubscriptionLink, subscription: Subscription) -> None:
        if link.up:
            link.leaving.setdefault(subscription.slot, []).append(subscription.channel)
            self._leaving[link] = None
            self._soon()


def _commands(verb: str, channels: list[bytes]) -> Iterable[bytes]:
    """One command may only have channels of one slot, and not so many that it holds others up."""
    for first in range(0, len(channels), CHANNELS_PER_COMMAND):
        yield pack((verb, *channels[first : first + CHANNELS_PER_COMMAND]))


def _call(what: Callable[[], object]) -> None:
    """Call what is not ours; what it raises is logged, and does not end the connection."""
    try:
        what()
    except Exception:
        log.exception("%r failed", what)
