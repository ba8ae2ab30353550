"""Worker to worker: requests, answers, errors that come as what they were, and what never comes."""

import asyncio

import pytest
import pytest_asyncio

from realtime.backends.cluster import inbox
from realtime.backends.cluster.parcels import decode_error, decode_parcel, encode_error
from realtime.backends.redis_client.contract import slot_of
from realtime.core.cluster import BODY_BYTES_MAX, NotServed, WorkerId
from realtime.errors import (
    BrokerUnavailable,
    Conflict,
    Internal,
    NotJoined,
    RateLimited,
    RealtimeError,
    TooLarge,
    Unavailable,
)
from tests.backends.cluster.ring_members import company, until

pytestmark = pytest.mark.alone


@pytest_asyncio.fixture
async def pair(redis_cluster):
    """Two workers that know each other, on a cluster: their inboxes lie on different nodes."""
    async with company(redis_cluster.url) as join:
        members = [(await join(name, timeout_s=20)).start() for name in ("a", "b")]
        await until(lambda: all(len(member.ring.workers) == 2 for member in members))
        yield members


async def test_an_answer_comes_now_or_later_and_knows_who_asks(pair):
    one, two = pair

    async def later(worker, body):
        await asyncio.sleep(0)
        return body + worker.encode()

    two.ring.answer("now", lambda worker, body: body * 2)
    two.ring.answer("later", later)
    two.ring.answer("nothing", lambda worker, body: None)
    there = two.ring.worker
    assert await one.ring.ask(there, "now", b"x") == b"xx"
    assert await one.ring.ask(there, "later", b"by ") == b"by " + one.ring.worker.encode()
    assert await one.ring.ask(there, "nothing", b"") == b""
    bodies = [b"%d" % n for n in range(500)]
    assert await asyncio.gather(*(one.ring.ask(there, "now", each) for each in bodies)) == [
        each * 2 for each in bodies
    ]
    largest = bytes(BODY_BYTES_MAX // 2)
    assert len(await one.ring.ask(there, "now", largest)) == BODY_BYTES_MAX
    assert one.ring.stats()["inbox_asked"] == two.ring.stats()["inbox_answering"] == 0


@pytest.mark.parametrize("waits", [False, True])
async def test_an_error_comes_as_what_it_was(pair, waits):
    one, two = pair
    errors = [
        Conflict("the room is at offset 3, not 2"),
        NotServed(),
        BrokerUnavailable("away", retry_after_s=1.5),
        RateLimited("slow down", retry_after_s=0.25, limit="messages_per_second", allowed=7.0),
        KeyError("a bug"),
    ]

    def fail(worker, body):
        raise errors[int(body)]

    async def fail_later(worker, body):
        fail(worker, body)

    two.ring.answer("fail", fail_later if waits else fail)
    for n, error in enumerate(errors):
        with pytest.raises(RealtimeError) as caught:
            await one.ring.ask(two.ring.worker, "fail", b"%d" % n)
        came = caught.value
        if isinstance(error, KeyError):
            assert type(came) is Internal
            continue
        assert type(came) is type(error)
        assert (came.message, came.retry_after_s, came.limit, came.allowed) == (
            (error.message, error.retry_after_s, error.limit, error.allowed)
        )


async def test_who_is_not_there_is_known_at_once_and_nothing_was_done(pair):
    one, two = pair
    with pytest.raises(NotServed, match="is not there"):
        await one.ring.ask(WorkerId("nobody-000000000000"), "now", b"")
    with pytest.raises(NotServed, match="does not know 'unheard'"):
        await one.ring.ask(two.ring.worker, "unheard", b"")


async def test_whoever_waits_for_a_worker_that_goes_is_told_so(pair):
    one, two = pair
    two.ring.answer("never", lambda worker, body: asyncio.get_running_loop().create_future())
    asked = asyncio.ensure_future(one.ring.ask(two.ring.worker, "never", b""))
    await until(lambda: two.ring.stats()["inbox_answering"] == 1)
    await two.ring.leave()
    with pytest.raises(Unavailable, match="it has gone"):
        await asked


async def test_whoever_gets_no_answer_in_time_is_told_so_and_a_late_one_is_dropped(redis_node):
    async with company(redis_node.url) as join:
        one, two = [(await join(name, timeout_s=0.2)).start() for name in ("a", "b")]
        answers = []
        await until(lambda: len(one.ring.workers) == 2)

        async def slow(worker, body):
            answers.append(asyncio.get_running_loop().create_future())
            return await answers[-1]

        two.ring.answer("slow", slow)
        with pytest.raises(Unavailable, match="no answer in time") as caught:
            await one.ring.ask(two.ring.worker, "slow", b"")
        assert caught.value.retry_after_s
        answers[0].set_result(b"late")
        two.ring.answer("echo", lambda worker, body: body)
        assert await one.ring.ask(two.ring.worker, "echo", b"x") == b"x"
        assert one.ring.stats()["inbox_timeouts_total"] == 1


async def test_what_is_told_reaches_one_or_all_and_oneself_even_without_redis(pair):
    one, two = pair
    heard = []
    for member in pair:
        member.ring.answer("note", lambda worker, body, here=member: heard.append((here, worker, body)))
    one.ring.tell("note", b"all")
    assert heard == [(one, one.ring.worker, b"all")]
    await until(lambda: len(heard) == 2)
    one.ring.tell("note", b"two", two.ring.worker)
    one.ring.tell("note", b"one", one.ring.worker)
    await until(lambda: len(heard) == 4)
    one.line.cut = True
    one.ring.tell("note", b"alone")
    two.ring.tell("note", b"end")
    await until(lambda: (two, two.ring.worker, b"end") in heard)
    assert sorted((body, here.ring.worker[0]) for here, _, body in heard) == [
        *((b"all", "a"), (b"all", "b"), (b"alone", "a"), (b"end", "b"), (b"one", "a"), (b"two", "b"))
    ]


async def test_nobody_says_more_than_is_allowed(pair):
    one, two = pair
    too_much = bytes(BODY_BYTES_MAX + 1)
    two.ring.answer("much", lambda worker, body: too_much)
    for worker in (one.ring.worker, two.ring.worker):
        with pytest.raises(TooLarge):
            await one.ring.ask(worker, "note", too_much)
    with pytest.raises(TooLarge):
        one.ring.tell("note", too_much)
    with pytest.raises(TooLarge):
        await one.ring.ask(two.ring.worker, "much", b"")


async def test_requests_under_way_are_bounded_on_both_sides(pair, monkeypatch):
    one, two = pair
    waits = []
    two.ring.answer("wait", lambda worker, body: waits.append(asyncio.Event()) or kept(waits[-1]))
    monkeypatch.setattr(inbox, "ANSWERING_MAX", 2)
    asked = [asyncio.ensure_future(one.ring.ask(two.ring.worker, "wait", b"")) for _ in range(3)]
    with pytest.raises(Unavailable, match="too much to answer"):
        await asked[2]
    monkeypatch.setattr(inbox, "ASKED_MAX", 2)
    with pytest.raises(Unavailable, match="too many requests wait"):
        await one.ring.ask(two.ring.worker, "wait", b"")
    for event in waits:
        event.set()
    assert await asyncio.gather(*asked[:2]) == [b"kept", b"kept"]


async def kept(event):
    await event.wait()
    return b"kept"


async def test_what_is_no_parcel_harms_nobody(pair, caplog):
    one, two = pair
    channel = f"{one.ring._prefix}:{{inbox/{two.ring.worker}}}".encode()
    for payload in (b"", b"\xc1", b"\x95\x01", b"x" * 1000):
        await one.line.ask(slot_of(channel), "SPUBLISH", channel, payload)
    two.ring.answer("echo", lambda worker, body: body)
    assert await one.ring.ask(two.ring.worker, "echo", b"x") == b"x"
    assert caplog.text.count("are no parcel") == 4
    assert decode_parcel(b"\x94\x01\xa0\x01\xa0") is None


def test_an_error_that_is_not_known_here_keeps_its_code():
    class Invented(Conflict):
        """Of a later version."""

    body = encode_error(Invented("news"))
    Invented.__name__ = "Renamed"  # as if this side did not have it
    assert isinstance(decode_error(body), Conflict)
    assert type(decode_error(body.replace(b"conflict", b"confused"))) is Internal
    assert type(decode_error(b"\xc1")) is Internal
    assert type(decode_error(encode_error(NotJoined()))) is NotJoined
