"""Commands to nodes that move slots, refuse, freeze and break off."""

import asyncio

import pytest

from realtime.backends.redis_client.contract import SLOTS, RedisError, slot_of
from realtime.errors import StartupError, Unavailable
from tests.backends.redis_client.fake import FakeNode
from tests.backends.redis_client.listener import Listener

pytestmark = [pytest.mark.alone, pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")]

KEY = "rt:{default/chat:lobby}:m"
SLOT = slot_of(KEY.encode())


def owner_and_other(cluster) -> tuple[FakeNode, FakeNode]:
    owner = cluster.owner[SLOT]
    return owner, next(node for node in cluster.nodes if node is not owner)


async def started(clients, fakes, nodes: int = 3, **options):
    cluster = await fakes(nodes)
    client = clients(cluster.url, **options)
    await client.start()
    return cluster, client


async def test_a_command_goes_to_the_master_of_its_slot(clients, fakes):
    cluster, client = await started(clients, fakes)
    for node in cluster.nodes:
        node.strings[KEY.encode()] = b"%d" % node.port
    assert await client.ask(SLOT, "GET", KEY) == b"%d" % cluster.owner[SLOT].port
    assert client.ok
    assert client.stats()["redis_redirects_total"] == 0


async def test_what_is_sent_in_one_turn_is_answered_in_order_and_never_from_within(clients, fakes):
    _, client = await started(clients, fakes)
    said = []
    for _ in range(500):
        client.send(SLOT, "INCR", KEY, then=said.append)
    assert said == []
    assert await client.ask(SLOT, "GET", KEY) == b"500"
    assert said == list(range(1, 501))


async def test_one_node_without_cluster_mode_has_all_slots(clients, fakes):
    cluster = await fakes(1, enabled=False)
    client = clients(cluster.url + "/3")
    await client.start()
    assert [await client.ask(slot, "SET", "k", slot) for slot in (0, SLOTS - 1)] == [b"OK", b"OK"]
    assert cluster.nodes[0].heard["SELECT"] == 1
    assert client.ok


async def test_of_nodes_without_cluster_mode_the_master_is_used_and_looked_for_again(clients, fakes):
    cluster = await fakes(2, enabled=False)
    first, second = cluster.nodes
    first.role = "replica"
    client = clients(cluster.url)
    await client.start()
    assert await client.ask(SLOT, "SET", KEY, "1") == b"OK"
    assert KEY.encode() in second.strings
    first.role, second.role = "master", "replica"
    second.refusals["SET"].extend([b"-READONLY You can't write against a read only replica.\r\n"] * 100)
    assert await client.ask(SLOT, "SET", KEY, "2") == b"OK"
    assert first.strings == {KEY.encode(): b"2"}


async def test_a_refusal_is_an_error_with_its_code(clients, fakes):
    cluster, client = await started(clients, fakes)
    cluster.owner[SLOT].refusals["GET"].append(b"-WRONGTYPE Operation against a key\r\n")
    with pytest.raises(RedisError) as caught:
        await client.ask(SLOT, "GET", KEY)
    assert (caught.value.code, caught.value.message) == ("WRONGTYPE", "Operation against a key")
    assert await client.ask(SLOT, "GET", KEY) is None


async def test_moved_is_followed_and_remembered(clients, fakes):
    cluster, client = await started(clients, fakes)
    _, other = owner_and_other(cluster)
    cluster.move([SLOT], other)
    assert await client.ask(SLOT, "SET", KEY, "1") == b"OK"
    assert await client.ask(SLOT, "SET", KEY, "2") == b"OK"
    assert other.strings == {KEY.encode(): b"2"}
    assert client.stats()["redis_redirects_total"] == 1


async def test_after_one_moved_the_other_slots_are_looked_up(clients, fakes):
    cluster, client = await started(clients, fakes, timeout_s=0.4)
    owner, other = owner_and_other(cluster)
    cluster.move([slot for slot in range(SLOTS) if cluster.owner[slot] is owner], other)
    looks = other.heard["CLUSTER"]
    await client.ask(SLOT, "GET", KEY)
    await other.until(lambda: other.heard["CLUSTER"] > looks)
    await owner.until(lambda: not owner.connections)  # nobody's master any more: let go


async def test_moved_to_a_node_that_nobody_has_heard_of_is_followed(clients, fakes):
    cluster, client = await started(clients, fakes)
    new = await FakeNode(cluster).start()
    cluster.nodes.append(new)
    cluster.move([SLOT], new)
    assert await client.ask(SLOT, "SET", KEY, "1") == b"OK"
    assert new.strings


async def test_ask_is_followed_once_with_asking_and_not_remembered(clients, fakes):
    cluster, client = await started(clients, fakes)
    owner, other = owner_and_other(cluster)
    cluster.importing[SLOT] = other
    assert await client.ask(SLOT, "SET", KEY, "1") == b"OK"
    assert other.strings == {KEY.encode(): b"1"}
    assert other.heard["ASKING"] == 1
    cluster.importing.clear()
    assert await client.ask(SLOT, "GET", KEY) is None
    assert owner.heard["SET"] == 1


@pytest.mark.parametrize("code", ["TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "BUSY"])
async def test_what_may_be_done_later_is_tried_again(clients, fakes, code: str):
    cluster, client = await started(clients, fakes)
    owner = cluster.owner[SLOT]
    owner.refusals["INCR"].extend([b"-%s not now\r\n" % code.encode()] * 3)
    assert await client.ask(SLOT, "INCR", KEY) == 1
    assert owner.heard["INCR"] == 4
    assert client.stats()["redis_retries_total"] == 3


async def test_what_cannot_be_done_within_the_timeout_is_unavailable(clients, fakes):
    cluster, client = await started(clients, fakes, timeout_s=0.3)
    cluster.move([SLOT], None)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable) as caught:
        await client.ask(SLOT, "GET", KEY)
    assert caught.value.retry_after_s == 1
    assert 0.25 < asyncio.get_running_loop().time() - began < 1.0
    assert not client.ok


async def test_two_nodes_that_each_send_us_to_the_other_do_not_have_us_run(clients, fakes):
    cluster, client = await started(clients, fakes, timeout_s=0.4)
    owner, other = owner_and_other(cluster)
    for node, to in ((owner, other), (other, owner)):
        node.refusals["GET"].extend([b"-MOVED %d 127.0.0.1:%d\r\n" % (SLOT, to.port)] * 10_000)
    with pytest.raises(Unavailable):
        await client.ask(SLOT, "GET", KEY)
    assert owner.heard["GET"] + other.heard["GET"] < 30


async def test_a_redirect_that_cannot_be_read_is_the_answer(clients, fakes):
    cluster, client = await started(clients, fakes)
    cluster.owner[SLOT].refusals["GET"].append(b"-MOVED somewhere else\r\n")
    with pytest.raises(RedisError, match="MOVED"):
        await client.ask(SLOT, "GET", KEY)


async def test_a_missing_function_is_loaded_once_for_all_who_miss_it(clients, fakes):
    cluster, client = await started(clients, fakes, on_missing_function=lambda: b"rt1_x rt1_y")
    asks = [client.ask(SLOT, "FCALL", "rt1_x", 1, KEY) for _ in range(50)]
    assert await asyncio.gather(*asks) == [b"called rt1_x"] * 50
    assert cluster.owner[SLOT].heard["FUNCTION"] == 1
    assert sum(node.heard["FUNCTION"] for node in cluster.nodes) == 1


async def test_a_function_that_is_missing_from_what_was_loaded_is_an_error(clients, fakes):
    cluster, client = await started(clients, fakes, on_missing_function=lambda: b"rt1_y")
    with pytest.raises(RedisError, match="Function not found"):
        await client.ask(SLOT, "FCALL", "rt1_x", 1, KEY)
    assert cluster.owner[SLOT].heard["FUNCTION"] == 1


async def test_functions_that_cannot_be_loaded_are_an_error_that_says_why(clients, fakes):
    cluster, client = await started(clients, fakes, on_missing_function=lambda: b"rt1_x")
    cluster.owner[SLOT].refusals["FUNCTION"].append(b"-ERR Error compiling function\r\n")
    with pytest.raises(RedisError, match="compiling"):
        await client.ask(SLOT, "FCALL", "rt1_x", 1, KEY)
    assert await client.ask(SLOT, "FCALL", "rt1_x", 1, KEY) == b"called rt1_x"


async def test_functions_are_loaded_later_where_the_node_is_not_ready(clients, fakes):
    cluster, client = await started(clients, fakes, on_missing_function=lambda: b"rt1_x")
    cluster.owner[SLOT].refusals["FUNCTION"].append(b"-READONLY a replica\r\n")
    assert await client.ask(SLOT, "FCALL", "rt1_x", 1, KEY) == b"called rt1_x"


async def test_all_masters_are_asked(clients, fakes):
    cluster, client = await started(clients, fakes)
    cluster.nodes[2].refusals["PING"].append(b"-LOADING not now\r\n")
    assert await client.ask_all("PING") == [b"PONG"] * 3
    cluster.nodes[1].refusals["PING"].append(b"-NOPERM not you\r\n")
    with pytest.raises(RedisError, match="NOPERM"):
        await client.ask_all("PING")


async def test_what_was_written_to_a_connection_that_breaks_is_not_done_again(clients, fakes):
    cluster, client = await started(clients, fakes)
    owner = cluster.owner[SLOT]
    owner.strings[KEY.encode()] = b"x" * 100
    owner.half = True
    with pytest.raises(Unavailable):
        await client.ask(SLOT, "GET", KEY)
    owner.half = False
    assert await client.ask(SLOT, "GET", KEY) == b"x" * 100  # waited for the next connection
    assert owner.heard["GET"] == 2


async def test_what_was_not_written_goes_to_the_new_master(clients, fakes):
    cluster, client = await started(clients, fakes)
    owner, other = owner_and_other(cluster)
    await owner.stop()
    # Known here only once the loss was seen: from then on commands wait.
    asked = asyncio.create_task(client.ask(SLOT, "SET", KEY, "1"))
    await other.until(lambda: other.heard["CLUSTER"] > 1)
    cluster.move([slot for slot in range(SLOTS) if cluster.owner[slot] is owner], other)
    assert await asked == b"OK"
    assert other.strings == {KEY.encode(): b"1"}
    assert owner.heard["SET"] == 0


async def test_a_node_that_is_away_for_long_is_unavailable_at_once(clients, fakes):
    cluster, client = await started(clients, fakes, 1, timeout_s=0.2)
    port = cluster.nodes[0].port
    await cluster.nodes[0].stop()
    with pytest.raises(Unavailable):
        await client.ask(SLOT, "GET", KEY)
    assert not client.ok
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(100):
        with pytest.raises(Unavailable):
            await client.ask(SLOT, "GET", KEY)
    assert loop.time() - began < 5.0  # of the 20 that they would take if each were waited for
    assert client.stats()["redis_queued_bytes"] == 0
    await cluster.nodes[0].start(port)
    await cluster.nodes[0].until(lambda: cluster.nodes[0].heard["HELLO"] > 1)
    async with asyncio.timeout(60):
        while True:
            try:
                assert await client.ask(SLOT, "GET", KEY) is None
                break
            except Unavailable:
                await asyncio.sleep(0)
    assert client.ok


async def test_a_frozen_node_is_given_up_after_two_intervals(clients, fakes):
    cluster, client = await started(clients, fakes, ping_interval_s=0.1)
    owner = cluster.owner[SLOT]
    owner.frozen = True
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Unavailable, match="broke"):
        await client.ask(SLOT, "GET", KEY)
    assert 0.1 < loop.time() - began < 1.0
    owner.frozen = False
    assert await client.ask(SLOT, "GET", KEY) is None


async def test_an_answer_that_does_not_come_is_unavailable_and_does_not_shift_the_others(clients, fakes):
    cluster, client = await started(clients, fakes, timeout_s=0.2, ping_interval_s=5.0)
    owner = cluster.owner[SLOT]
    owner.strings[KEY.encode()] = b"7"
    owner.withheld = []
    with pytest.raises(Unavailable):
        await client.ask(SLOT, "GET", KEY)
    asked = asyncio.create_task(client.ask(SLOT, "INCR", KEY))
    await owner.until(lambda: owner.heard["INCR"] == 1)
    owner.release()
    assert await asked == 8


async def test_what_waits_is_bounded_in_bytes(clients, fakes):
    cluster, client = await started(clients, fakes, 1, queue_bytes=100_000)
    cluster.nodes[0].frozen = True
    said = []
    for _ in range(1000):
        client.send(SLOT, "SET", KEY, b"x" * 1000, then=said.append)
    assert client.stats()["redis_queued_bytes"] <= 100_000
    await asyncio.sleep(0)
    assert 890 < len(said) < 910
    assert {str(each) for each in said} == {"too much waits for Redis; try again"}


async def test_a_callback_that_sends_again_is_answered_too(clients, fakes):
    _, client = await started(clients, fakes)
    done = asyncio.Event()
    said = []

    def again(reply: object) -> None:
        said.append(reply)
        if len(said) < 10:
            client.send(SLOT, "INCR", KEY, then=again)
        else:
            done.set()

    client.send(SLOT, "INCR", KEY, then=again)
    await asyncio.wait_for(done.wait(), 60)
    assert said == list(range(1, 11))


async def test_who_waits_when_the_client_closes_hears_of_it(clients, fakes):
    cluster, client = await started(clients, fakes)
    cluster.owner[SLOT].frozen = True
    said = []
    client.send(SLOT, "GET", KEY, then=said.append)
    await cluster.owner[SLOT].until(lambda: cluster.owner[SLOT].heard["GET"] == 1)
    await client.close()
    assert [type(each) for each in said] == [Unavailable]
    client.send(SLOT, "GET", KEY, then=said.append)
    await asyncio.sleep(0)
    assert [type(each) for each in said] == [Unavailable, Unavailable]


async def test_a_cancelled_ask_disturbs_nobody(clients, fakes):
    _, client = await started(clients, fakes)
    asked = asyncio.create_task(client.ask(SLOT, "INCR", KEY))
    await asyncio.sleep(0)
    asked.cancel()
    assert await client.ask(SLOT, "INCR", KEY) == 2


# ---------------------------------------------------------------- the start


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", "WRONGPASS"),
        (b"-NOAUTH HELLO must be called with the client already authenticated\r\n", "NOAUTH"),
        (b"-ERR unknown command `HELLO`\r\n", "unknown command"),
        (b"+OK\r\n", "HELLO 3 was answered with b'OK'"),
        (b"HTTP/1.1 400 Bad Request\r\n", "not the protocol"),
    ],
)
async def test_a_node_that_will_not_have_us_fails_the_start_with_its_reason(clients, fakes, refusal, why):
    cluster = await fakes(1)
    cluster.nodes[0].refusals["HELLO"].extend([refusal] * 100)
    client = clients(cluster.url.replace("://", "://me:secret@"), timeout_s=0.5)
    with pytest.raises(StartupError) as caught:
        await client.start()
    assert why in caught.value.message
    assert "secret" not in caught.value.message


async def test_a_redis_that_is_too_old_fails_the_start(clients, fakes):
    cluster = await fakes(1)
    cluster.nodes[0].version = "6.2.14"
    with pytest.raises(StartupError, match=r"Redis 7\.0 or later, or Valkey, is needed; this is 6\.2\.14"):
        await clients(cluster.url).start()


async def test_a_cluster_has_no_other_database(clients, fakes):
    cluster = await fakes(1)
    with pytest.raises(StartupError, match="only database 0"):
        await clients(cluster.url + "/1").start()


async def test_no_redis_at_all_fails_the_start_within_the_timeout(clients, fakes):
    cluster = await fakes(1)
    await cluster.nodes[0].stop()
    with pytest.raises(StartupError, match="refused"):
        await clients(cluster.url, timeout_s=0.2).start()


async def test_one_seed_that_answers_is_enough(clients, fakes):
    cluster = await fakes(3)
    gone = cluster.nodes[0]
    cluster.move([slot for slot in range(SLOTS) if cluster.owner[slot] is gone], cluster.nodes[1])
    await gone.stop()
    client = clients(cluster.url)
    await client.start()
    assert await client.ask(0, "SET", "k", "v") == b"OK"


async def test_a_patient_start_ends_without_redis_and_finds_it_later(clients, fakes):
    cluster = await fakes(1)
    node, port = cluster.nodes[0], cluster.nodes[0].port
    await node.stop()
    client = clients(cluster.url, timeout_s=0.2)
    await client.start(patient=True)
    assert not client.ok
    listener = Listener()
    client.subscribe(KEY.encode(), listener)
    with pytest.raises(Unavailable):
        await client.ask(SLOT, "GET", KEY)
    await node.start(port)
    await listener.until_said("up")
    assert await client.ask(SLOT, "GET", KEY) is None
    assert client.ok


async def test_a_patient_start_does_not_wait_for_who_will_not_have_us(clients, fakes):
    cluster = await fakes(1)
    cluster.nodes[0].refusals["HELLO"].extend([b"-WRONGPASS no\r\n"] * 100)
    with pytest.raises(StartupError, match="WRONGPASS"):
        await clients(cluster.url).start(patient=True)
