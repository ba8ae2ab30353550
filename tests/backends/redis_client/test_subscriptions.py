"""Subscriptions at nodes that move slots, refuse, freeze and break off."""

import asyncio

import pytest

from realtime.backends.redis_client.contract import SLOTS, slot_of
from tests.backends.redis_client.fake import FakeNode
from tests.backends.redis_client.listener import Listener

pytestmark = [pytest.mark.alone, pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")]

ROOM = b"rt:{default/chat:lobby}"
SLOT = slot_of(ROOM)


async def started(clients, fakes, nodes: int = 3, **options):
    cluster = await fakes(nodes)
    client = clients(cluster.url, **options)
    await client.start()
    return cluster, client


def other_than(cluster, node: FakeNode) -> FakeNode:
    return next(each for each in cluster.nodes if each is not node)


async def subscribed(client, channel: bytes = ROOM) -> Listener:
    listener = Listener()
    client.subscribe(channel, listener)
    await listener.until_said("up")
    return listener


async def say(client, text: bytes, channel: bytes = ROOM) -> None:
    await client.ask(slot_of(channel), "SPUBLISH", channel, text)


async def test_a_subscriber_gets_what_is_published_in_order(clients, fakes):
    _, client = await started(clients, fakes)
    listener = await subscribed(client)
    for number in range(3):
        await say(client, b"%d" % number)
    await listener.until_said("up", b"0", b"1", b"2")


async def test_nothing_is_called_after_unsubscribe_and_redis_hears_of_it(clients, fakes):
    cluster, client = await started(clients, fakes)
    node = cluster.owner[SLOT]
    listener = await subscribed(client)
    client.unsubscribe(ROOM)
    client.unsubscribe(ROOM)
    node.push(b"smessage", ROOM, b"$2\r\nno\r\n")
    await node.until(lambda: node.heard["SUNSUBSCRIBE"] == 1)
    await client.ask(SLOT, "PING")
    assert listener.said == ["up"]
    assert client.stats()["redis_subscriptions"] == client.stats()["redis_subscriptions_standing"] == 0


async def test_who_comes_back_in_the_same_turn_stands_once(clients, fakes):
    cluster, client = await started(clients, fakes)
    first = await subscribed(client)
    second, third = Listener(), Listener()
    client.unsubscribe(ROOM)
    client.subscribe(ROOM, second)
    client.unsubscribe(ROOM)
    client.subscribe(ROOM, third)
    await third.until_said("up")
    await say(client, b"x")
    await third.until_said("up", b"x")
    assert (first.said, second.said) == (["up"], [])
    assert cluster.owner[SLOT].heard["SUNSUBSCRIBE"] == 1


async def test_an_answer_to_an_earlier_subscription_is_not_taken_for_the_later_one(clients, fakes):
    cluster, client = await started(clients, fakes)
    node = cluster.owner[SLOT]
    first, second = Listener(), Listener()
    client.subscribe(ROOM, first)
    await node.until(lambda: node.heard["SSUBSCRIBE"] == 1)  # on its way, not confirmed
    client.unsubscribe(ROOM)
    client.subscribe(ROOM, second)
    await second.until_said("up")
    await say(client, b"x")
    await second.until_said("up", b"x")
    assert first.said in ([], ["up"])


async def test_a_slot_that_moves_takes_its_subscriptions_along(clients, fakes):
    cluster, client = await started(clients, fakes)
    old = cluster.owner[SLOT]
    new = other_than(cluster, old)
    listener = await subscribed(client)
    cluster.move([SLOT], new)
    old.end_subscriptions([SLOT])
    await listener.until_said("up", "down", "up")
    await say(client, b"x")
    await listener.until_said("up", "down", "up", b"x")
    assert new.heard["SSUBSCRIBE"] == 1


async def test_a_master_that_became_a_replica_and_says_nothing_is_left(clients, fakes):
    cluster, client = await started(clients, fakes)
    old = cluster.owner[SLOT]
    new = other_than(cluster, old)
    listener = await subscribed(client)
    cluster.move([slot for slot in range(SLOTS) if cluster.owner[slot] is old], new)
    await client.ask(SLOT, "GET", ROOM)  # MOVED: the slots are looked up
    await listener.until_said("up", "down", "up")
    await old.until(lambda: not any(connection.channels for connection in old.connections))


async def test_a_subscription_that_is_refused_is_tried_again(clients, fakes):
    cluster, client = await started(clients, fakes)
    cluster.owner[SLOT].refusals["SSUBSCRIBE"].extend([b"-CLUSTERDOWN not now\r\n", b"-LOADING not now\r\n"])
    listener = Listener()
    client.subscribe(ROOM, listener)
    await listener.until_said("up")
    assert cluster.owner[SLOT].heard["SSUBSCRIBE"] == 3


async def test_a_refusal_of_one_slot_is_not_taken_for_that_of_another(clients, fakes):
    cluster, client = await started(clients, fakes, 1)
    node = cluster.nodes[0]
    channels = [b"rt:{default/r%d}" % number for number in range(50)]
    node.refusals["SSUBSCRIBE"].extend([b"-TRYAGAIN not now\r\n"] * 10)
    listeners = [Listener() for _ in channels]
    for channel, listener in zip(channels, listeners, strict=True):
        client.subscribe(channel, listener)
    for listener in listeners:
        await listener.until_said("up")
    assert node.heard["SSUBSCRIBE"] == 60


async def test_a_connection_that_breaks_is_told_to_all_and_all_come_back(clients, fakes):
    cluster, client = await started(clients, fakes)
    channels = [b"rt:{default/r%d}" % number for number in range(300)]
    listeners = {channel: Listener() for channel in channels}
    for channel, listener in listeners.items():
        client.subscribe(channel, listener)
    for listener in listeners.values():
        await listener.until_said("up")
    node = cluster.owner[SLOT]
    here = [channel for channel in channels if cluster.owner[slot_of(channel)] is node]
    assert 0 < len(here) < len(channels)
    for connection in [each for each in node.connections if each.channels]:
        connection.break_off()
    for channel in here:
        await listeners[channel].until_said("up", "down", "up")
    assert all(listeners[channel].said == ["up"] for channel in channels if channel not in here)
    assert client.stats()["redis_subscriptions_standing"] == len(channels)


async def test_a_frozen_node_is_noticed_by_its_subscribers(clients, fakes):
    cluster, client = await started(clients, fakes, ping_interval_s=0.1)
    node = cluster.owner[SLOT]
    new = other_than(cluster, node)
    listener = await subscribed(client)
    node.frozen = True
    await listener.until_said("up", "down")
    cluster.move([slot for slot in range(SLOTS) if cluster.owner[slot] is node], new)
    await listener.until_said("up", "down", "up")
    await say(client, b"x")
    await listener.until_said("up", "down", "up", b"x")


async def test_who_subscribes_while_redis_is_away_stands_when_it_is_back(clients, fakes):
    cluster, client = await started(clients, fakes, 1)
    node, port = cluster.nodes[0], cluster.nodes[0].port
    await node.stop()
    listener = Listener()
    client.subscribe(ROOM, listener)
    for number in range(1000):  # who comes and goes meanwhile leaves nothing behind
        client.subscribe(b"rt:{default/r%d}" % number, listener)
        client.unsubscribe(b"rt:{default/r%d}" % number)
    await node.start(port)
    await listener.until_said("up")
    assert client.stats()["redis_subscriptions"] == 1


async def test_who_fails_on_a_message_keeps_neither_the_next_nor_others_from_theirs(clients, fakes, caplog):
    _, client = await started(clients, fakes, 1)

    class Failing(Listener):
        def on_message(self, payload: bytes) -> None:
            super().on_message(payload)
            raise ValueError("mine")

    failing = Failing()
    client.subscribe(ROOM, failing)
    await failing.until_said("up")
    other = await subscribed(client, b"rt:{default/other}")
    await say(client, b"1")
    await say(client, b"2")
    await say(client, b"3", b"rt:{default/other}")
    await other.until_said("up", b"3")
    assert failing.said == ["up", b"1", b"2"]
    assert "mine" in caplog.text


async def test_many_go_out_slot_by_slot_and_in_bounded_numbers(clients, fakes):
    cluster, client = await started(clients, fakes, 1, ping_interval_s=5.0)
    listener = Listener()
    count = 10_000
    for number in range(count):
        client.subscribe(b"rt:{default/r%d}:%d" % (number % 10, number), listener)
    await listener.until(lambda said: len(said) == count)
    assert cluster.nodes[0].heard["SSUBSCRIBE"] < count / 50
    for connection in [each for each in cluster.nodes[0].connections if each.channels]:
        connection.break_off()
    await listener.until(lambda said: len(said) == 3 * count)
    assert listener.said == ["up"] * count + ["down"] * count + ["up"] * count


async def test_two_subscriptions_of_one_channel_are_our_own_mistake(clients, fakes):
    _, client = await started(clients, fakes, 1)
    await subscribed(client)
    with pytest.raises(AssertionError, match="subscribed to already"):
        client.subscribe(ROOM, Listener())


async def test_nobody_is_called_after_close(clients, fakes):
    _, client = await started(clients, fakes)
    listener = await subscribed(client)
    await client.close()
    await asyncio.sleep(0)
    assert listener.said == ["up"]
