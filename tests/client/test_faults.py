"""The client against a server that fails on command: what a user sees of broken connections."""

import asyncio
import json
from http import HTTPStatus
from typing import Any

import pytest
from websockets.datastructures import Headers

from realtime.client import (
    AckTimeout,
    Closed,
    Disconnected,
    Gap,
    MembersChanged,
    Message,
    Options,
    Position,
    Resumed,
    State,
    connect,
)
from realtime.client.connection import Target, open_socket
from realtime.errors import Forbidden, RateLimited, TooLarge
from tests.client.conftest import FakeClock
from tests.client.fake_server import FakeServer, Peer


def once(action: Any, *, type_: str) -> Any:
    """A fault for the first message of that type: `action(peer, message)`, and nothing else happens."""
    spent: list[bool] = []

    def fault(peer: Peer, message: dict[str, Any]) -> bool:
        if spent or message["type"] != type_:
            return False
        spent.append(True)
        action(peer, message)
        return True

    return fault


async def test_a_connection_cut_before_the_message_arrives_costs_nothing(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        fake.faults.append(once(lambda peer, message: peer.cut(), type_="chat_message"))
        assert (await room.publish("chat_message", {"n": 1})).offset == 1
        assert client.reconnects == 1
    assert [one["content"] for one in fake.rooms["chat:x"].messages] == [{"n": 1}]


async def test_a_connection_cut_before_the_ack_doubles_nothing(fake, at_once):
    def keep_and_cut(peer: Peer, message: dict[str, Any]) -> None:
        room = fake.rooms["chat:x"]
        push = {"type": "chat_message", "room": "chat:x", "from": "al", "offset": 1, "epoch": room.epoch}
        room.messages.append(push | {"content": message["content"]})
        room.keys[message["key"]] = 1
        peer.cut()

    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        fake.faults.append(once(keep_and_cut, type_="chat_message"))
        position = await room.publish("chat_message", {"n": 1})
        assert position == Position(1, fake.epoch, duplicate=True)
    assert len(fake.rooms["chat:x"].messages) == 1
    keys = [one["key"] for one in fake.received if one["type"] == "chat_message"]
    assert len(keys) == 2
    assert keys[0] == keys[1]


async def test_what_waits_is_sent_in_its_old_order(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        fake.faults.append(once(lambda peer, message: peer.cut(), type_="chat_message"))
        await asyncio.gather(*(room.publish("chat_message", {"n": number}) for number in range(20)))
    assert [one["content"]["n"] for one in fake.rooms["chat:x"].messages] == list(range(20))


async def test_messages_of_the_absence_come_in_order_and_once(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await fake.publish("chat:x", "bo", "chat_message", 1)
        await fake.stop()
        for number in (2, 3):
            await fake.publish("chat:x", "bo", "chat_message", number)
        await fake.start()
        await fake.until(lambda: len(fake.peers) == 1 and "chat:x" in fake.peers[0].rooms)
        await fake.publish("chat:x", "bo", "chat_message", 4)
        seen = []
        async for event in room.events():
            seen.append(event)
            if isinstance(event, Message) and event.content == 4:
                break
    assert [event.content for event in seen if isinstance(event, Message)] == [1, 2, 3, 4]
    assert [event for event in seen if isinstance(event, Gap | Resumed)] == [Resumed(recovered=True)]


async def test_a_push_that_comes_twice_is_seen_once(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        push = await fake.publish("chat:x", "bo", "chat_message", 1)
        await fake.peers[0].send(push, push)
        await fake.publish("chat:x", "bo", "chat_message", 2)
        messages = aiter(room)
        assert [(await anext(messages)).content for _ in range(2)] == [1, 2]


async def test_a_push_in_the_same_frame_as_the_answer_to_the_join_is_not_lost(fake, at_once):
    def answer_and_push(peer: Peer, message: dict[str, Any]) -> None:
        place = {"room": "chat:x", "epoch": fake.epoch}
        content = {"members": ["al"], "offset": 0, "epoch": fake.epoch, "recovered": False, "messages": []}
        answer = {"type": "joined", "id": message["id"], "room": "chat:x", "content": content}
        push = {"type": "chat_message", "from": "bo", "offset": 1, "content": "early"} | place
        sending.append(asyncio.ensure_future(peer.send(answer, push)))

    sending: list[asyncio.Future[None]] = []
    fake.faults.append(once(answer_and_push, type_="join"))
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        assert (await anext(aiter(room))).content == "early"


async def test_a_server_that_lost_its_history_says_so_and_the_room_goes_on(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await room.publish("chat_message", "before")
        await fake.stop()
        fake.lose_history()
        await fake.start()
        await room.publish("chat_message", "after")
        events = aiter(room.events())
        seen = [await anext(events) for _ in range(5)]
        assert [event.content for event in seen if isinstance(event, Message)] == ["before", "after"]
        assert [event for event in seen if not isinstance(event, Message)] == [
            MembersChanged(("al",), ()),
            Gap(None, None, "epoch_changed"),
            Resumed(recovered=False),
        ]


async def test_a_history_that_no_longer_reaches_back_is_a_gap(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await fake.stop()
        for number in range(5):
            await fake.publish("chat:x", "bo", "chat_message", number)
        fake.rooms["chat:x"].forgotten = 3
        await fake.start()
        messages = aiter(room)
        assert await anext(messages) == Gap(1, 3, "unrecoverable")
        assert [(await anext(messages)).content for _ in range(2)] == [3, 4]


async def test_a_slow_reader_gets_a_gap_and_then_the_newest(fake):
    async with connect(fake.url, user="al", options=Options(inbox_limit=10)) as client:
        room = await client.join("chat:x")
        for number in range(50):
            await room.publish("chat_message", number)
        first, *rest = [await anext(messages) for messages in [aiter(room)] for _ in range(5)]
        assert isinstance(first, Gap)
        assert (first.first, first.reason) == (1, "slow_reader")
        assert rest[0].offset == first.last + 1


@pytest.mark.parametrize("code", [1001, 1012, 1013, 4000, 4001, 4003, 4006])
async def test_a_passing_close_code_brings_the_client_back(fake, at_once, code):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await fake.close_all(code)
        await room.publish("chat_message", 1)
        assert client.reconnects == 1


@pytest.mark.parametrize("code", [1002, 1009, 4500, 4503, 4504, 4508])
async def test_a_final_close_code_ends_everything_with_one_error(fake, at_once, code):
    states = []
    async with connect(fake.url, user="al", options=at_once, on_state=states.append) as client:
        room = await client.join("chat:x")
        fake.faults.append(lambda peer, message: message["type"] == "chat_message")
        publishing = asyncio.ensure_future(room.publish("chat_message", 1))
        await fake.until(lambda: fake.received[-1]["type"] == "chat_message")
        await fake.close_all(code, '{"r":"no more"}')
        with pytest.raises(Closed, match="no more") as caught:
            await publishing
        assert caught.value.received_code == code
        with pytest.raises(Closed):
            await anext(aiter(room))
        for refused in (client.join("chat:y"), room.publish("chat_message", 2), client.ping()):
            with pytest.raises(Closed):
                await refused
    assert states == [State.ONLINE, State.CLOSED]
    assert fake.connects == 1


async def test_the_close_reasons_window_decides_when_to_come_back(fake, clock):
    options = Options(clock=clock, uniform=lambda: 0.5)
    async with connect(fake.url, user="al", options=options) as client:
        await fake.close_all(1012, json.dumps({"r": "drain", "min": 2000, "max": 8000}))
        await clock.until_asleep(lambda sleeps: 5.0 in sleeps)
        assert client.state is State.WAITING
        clock.advance(5.0)
        await fake.until(lambda: fake.connects == 2)


async def test_attempts_back_off_while_nobody_answers(clock):
    attempts: list[Target] = []

    async def nobody(target: Target) -> Any:
        attempts.append(target)
        if len(attempts) > 1:
            clock.advance(100.0)
        raise Disconnected("nobody there")

    options = Options(clock=clock, uniform=lambda: 1.0, connector=nobody, open_timeout_s=None)
    client = connect("ws://nowhere.invalid/ws", options=options)
    entering = asyncio.ensure_future(client.__aenter__())
    for count, delay_s in enumerate([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0], start=1):
        await clock.until_asleep(lambda sleeps, count=count: len(sleeps) == count)
        assert clock.sleeps[-1] == delay_s
        clock.advance(delay_s)
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal_that_will_not_change_is_final(fake, status):
    fake.refuse = (HTTPStatus(status), Headers())
    with pytest.raises(Closed, match=f"HTTP {status}: refused") as caught:
        async with connect(fake.url, user="al"):
            pytest.fail("connected")
    assert caught.value.status == status
    assert len(fake.tokens) == 1


async def test_a_full_server_is_asked_again_when_it_says(fake, clock):
    fake.refuse = (HTTPStatus.SERVICE_UNAVAILABLE, Headers({"Retry-After": "7"}))
    client = connect(fake.url, user="al", options=Options(clock=clock, uniform=lambda: 0.0))
    entering = asyncio.ensure_future(client.__aenter__())
    await clock.until_asleep(lambda sleeps: sleeps == [7.0])
    fake.refuse = None
    clock.advance(7.0)
    assert await entering is client
    await client.close()


async def test_no_connection_in_time_is_an_error_and_leaves_nothing_behind():
    async def never(target: Target) -> Any:
        await asyncio.get_running_loop().create_future()

    before = asyncio.all_tasks()
    with pytest.raises(Disconnected, match=r"no connection in 0\.01 s"):
        async with connect("ws://nowhere.invalid/ws", options=Options(connector=never, open_timeout_s=0.01)):
            pytest.fail("connected")
    assert asyncio.all_tasks() == before


async def test_a_token_is_asked_for_anew_at_every_attempt(fake, at_once):
    tokens = iter(["first", "second"])

    async def token() -> str:
        return next(tokens)

    async with connect(fake.url, token=token, options=at_once) as client:
        room = await client.join("chat:x")
        await fake.close_all(4003)
        await room.publish("chat_message", 1)
    assert fake.tokens == ["Bearer first", "Bearer second"]


async def test_no_answer_in_time_is_an_ack_timeout(fake, clock):
    async with connect(fake.url, user="al", options=Options(clock=clock, ack_timeout_s=3.0)) as client:
        room = await client.join("chat:x")
        fake.faults.append(lambda peer, message: message["type"] == "chat_message")
        publishing = asyncio.ensure_future(room.publish("chat_message", 1, key="mine"))
        await fake.until(lambda: fake.received[-1]["type"] == "chat_message")
        clock.advance(2.9)
        assert not publishing.done()
        clock.advance(0.2)
        with pytest.raises(AckTimeout, match="chat_message chat:x: no answer in 3 s"):
            await publishing
        fake.faults.clear()
        assert (await room.publish("chat_message", 1, key="mine")).offset == 1


async def test_time_without_a_connection_does_not_count_as_waiting_for_the_ack(fake, clock):
    async with connect(fake.url, user="al", options=Options(clock=clock, uniform=lambda: 1.0)) as client:
        room = await client.join("chat:x")
        for peer in fake.peers:
            peer.cut()
        await clock.until_asleep(lambda sleeps: 0.5 in sleeps)
        publishing = asyncio.ensure_future(room.publish("chat_message", 1))
        clock.advance(3600.0)
        assert (await publishing).offset == 1


async def test_a_request_that_cannot_be_repeated_fails_with_the_connection(fake, clock):
    async with connect(fake.url, user="al", options=Options(clock=clock)) as client:
        room = await client.join("chat:x")
        fake.faults.append(once(lambda peer, message: peer.cut(), type_="history"))
        with pytest.raises(Disconnected):
            await room.history()
        assert client.state is not State.ONLINE
        with pytest.raises(Disconnected):
            await client.ping()


async def test_a_silent_server_is_left_for_another_attempt(fake, clock):
    options = Options(clock=clock, uniform=lambda: 0.0, ping_interval_s=15.0, pong_timeout_s=10.0)
    async with connect(fake.url, user="al", options=options) as client:
        await clock.until_asleep(lambda sleeps: 15.0 in sleeps)  # the first ping was answered
        fake.faults.append(lambda peer, message: message["type"] == "ping")
        clock.advance(15.0)
        await fake.until(lambda: [one["type"] for one in fake.received].count("ping") == 2)
        assert client.state is State.ONLINE
        clock.advance(10.0)
        await clock.until_asleep(lambda sleeps: 0.0 in sleeps)
        fake.faults.clear()
        clock.advance(0.0)
        await fake.until(lambda: fake.connects == 2)


async def test_any_traffic_proves_that_the_server_lives(fake, clock):
    async with connect(fake.url, user="al", options=Options(clock=clock, ping_interval_s=15.0)) as client:
        room = await client.join("chat:x")
        await clock.until_asleep(lambda sleeps: 15.0 in sleeps)
        fake.faults.append(lambda peer, message: message["type"] == "ping")
        clock.advance(15.0)
        await fake.until(lambda: [one["type"] for one in fake.received].count("ping") == 2)
        await room.publish("chat_message", 1)
        clock.advance(10.0)
        assert client.state is State.ONLINE
        assert (await room.publish("chat_message", 2)).offset == 2


async def test_a_greeting_that_does_not_come_ends_the_attempt(clock):
    class Mute:
        def __init__(self) -> None:
            self.closed = asyncio.Event()

        async def send(self, message: object) -> None:
            raise AssertionError("nothing to say before the greeting")

        async def recv(self) -> str:
            return await asyncio.get_running_loop().create_future()

        async def close(self, code: int = 1000, reason: str = "") -> None:
            self.closed.set()

    sockets: list[Mute] = []

    async def mute(target: Target) -> Mute:
        sockets.append(Mute())
        opened.set()
        return sockets[-1]

    opened = asyncio.Event()
    options = Options(clock=clock, connector=mute, handshake_timeout_s=5.0, open_timeout_s=None)
    client = connect("ws://mute.invalid/ws", options=options)
    entering = asyncio.ensure_future(client.__aenter__())
    await opened.wait()
    await asyncio.sleep(0)
    clock.advance(5.0)
    await sockets[0].closed.wait()
    assert client.state is State.WAITING
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)


@pytest.mark.parametrize("frame", ["{", '"text"', "\x00", '{"type":"connected","content":3}'])
async def test_a_server_that_talks_nonsense_is_left_for_good(fake, at_once, frame):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await fake.peers[0].socket.send(frame)
        with pytest.raises(Closed, match="cannot read"):
            await anext(aiter(room))


async def test_a_refused_join_raises_the_servers_error(fake, at_once):
    def refuse(peer: Peer, message: dict[str, Any]) -> None:
        sending.append(asyncio.ensure_future(fake.send_error(peer, message, "forbidden", temporary=False)))

    sending: list[asyncio.Future[None]] = []
    fake.faults.append(once(refuse, type_="join"))
    async with connect(fake.url, user="al", options=at_once) as client:
        with pytest.raises(Forbidden, match="no: forbidden"):
            await client.join("chat:x")
        assert (await client.join("chat:x")).joined


async def test_a_room_that_is_refused_after_a_reconnect_ends_with_the_error(fake, at_once):
    def refuse(peer: Peer, message: dict[str, Any]) -> None:
        sending.append(asyncio.ensure_future(fake.send_error(peer, message, "forbidden", temporary=False)))

    sending: list[asyncio.Future[None]] = []
    async with connect(fake.url, user="al", options=at_once) as client:
        lost, kept = await client.join("chat:lost"), await client.join("chat:kept")
        fake.faults.append(
            lambda peer, message: (
                message["type"] == "join" and message["room"] == "chat:lost" and refuse(peer, message) is None
            )
        )
        fake.peers[0].cut()
        with pytest.raises(Forbidden):
            await anext(aiter(lost))
        assert (await kept.publish("chat_message", 1)).offset == 1


async def test_a_join_that_may_work_later_is_tried_again_when_the_server_says(fake, clock):
    def busy(peer: Peer, message: dict[str, Any]) -> None:
        answer = fake.send_error(peer, message, "rate_limited", temporary=True, retry_after=4)
        sending.append(asyncio.ensure_future(answer))

    sending: list[asyncio.Future[None]] = []
    fake.faults.append(once(busy, type_="join"))
    async with connect(fake.url, user="al", options=Options(clock=clock)) as client:
        joining = asyncio.ensure_future(client.join("chat:x"))
        await clock.until_asleep(lambda sleeps: 4.0 in sleeps)
        clock.advance(4.0)
        assert (await joining).joined


async def test_a_refused_publish_raises_the_servers_error_with_its_delay(fake, at_once):
    def busy(peer: Peer, message: dict[str, Any]) -> None:
        answer = fake.send_error(peer, message, "rate_limited", temporary=True, retry_after=2)
        sending.append(asyncio.ensure_future(answer))

    sending: list[asyncio.Future[None]] = []
    fake.faults.append(once(busy, type_="chat_message"))
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        with pytest.raises(RateLimited) as caught:
            await room.publish("chat_message", 1)
        assert caught.value.retryable
        assert caught.value.retry_after_s == 2


async def test_only_so_many_publishes_are_under_way_at_once(fake, at_once):
    options = Options(uniform=at_once.uniform, pending_limit=5)
    async with connect(fake.url, user="al", options=options) as client:
        room = await client.join("chat:x")
        held: list[dict[str, Any]] = []

        def hold(peer: Peer, message: dict[str, Any]) -> bool:
            if message["type"] == "chat_message":
                held.append(message)
            return message["type"] == "chat_message"

        fake.faults.append(hold)
        publishing = [asyncio.ensure_future(room.publish("chat_message", number)) for number in range(1, 9)]
        await fake.until(lambda: len(held) == 5)
        await client.ping()  # nothing else is on its way before it
        assert len(held) == 5
        fake.faults.clear()
        fake.peers[0].cut()
        await asyncio.gather(*publishing)
    assert [one["content"] for one in fake.rooms["chat:x"].messages] == list(range(1, 9))


async def test_what_cannot_be_sent_fails_at_once_and_harms_nothing(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        with pytest.raises(TooLarge, match="more than the 65536"):
            await room.publish("chat_message", "x" * 70_000)
        with pytest.raises(TypeError):
            await room.publish("chat_message", object())
        fake.peers[0].cut()
        assert (await room.publish("chat_message", "fits")).offset == 1
        assert client.reconnects == 1


async def test_a_callback_that_fails_costs_no_connection(fake, at_once, caplog):
    def fail(state: State) -> None:
        raise ValueError("a mistake of the user's")

    async with connect(fake.url, user="al", options=at_once, on_state=fail) as client:
        assert (await (await client.join("chat:x")).publish("chat_message", 1)).offset == 1
    assert "a mistake of the user's" in caplog.text


async def test_a_cancelled_publish_is_not_sent_again(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        fake.faults.append(lambda peer, message: message["type"] == "chat_message")
        publishing = asyncio.ensure_future(room.publish("chat_message", "never"))
        await fake.until(lambda: fake.received[-1]["type"] == "chat_message")
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        fake.faults.clear()
        fake.peers[0].cut()
        await room.publish("chat_message", "after")
    assert [one["content"] for one in fake.rooms["chat:x"].messages] == ["after"]


async def test_closing_ends_iterations_quietly_and_leaves_no_task(fake, at_once):
    before = asyncio.all_tasks()
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        reader = asyncio.ensure_future(_collect(room))
        await room.publish("chat_message", 1)
    assert [message.content for message in await reader] == [1]
    assert client.state is State.CLOSED
    await fake.until(lambda: not fake.peers)
    assert {task for task in asyncio.all_tasks() if "realtime" in repr(task.get_coro())} <= before


async def test_leaving_a_room_ends_its_iteration_and_it_is_not_joined_again(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        left, kept = await client.join("chat:left"), await client.join("chat:kept")
        await left.leave()
        assert [message async for message in left] == []
        with pytest.raises(Closed):
            await left.publish("chat_message", 1)
        fake.peers[0].cut()
        await kept.publish("chat_message", 1)
        assert fake.peers[0].rooms == {"chat:kept"}


async def test_who_comes_and_goes_is_told(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as al:
        room = await al.join("chat:x")
        async with connect(fake.url, user="bo", options=at_once) as bo:
            await bo.join("chat:x")
            events = aiter(room.events())
            first = [await anext(events) for _ in range(2)]
        assert first == [MembersChanged(("al",), ()), MembersChanged(("bo",), ())]
        assert await anext(events) == MembersChanged((), ("bo",))


async def test_a_push_of_no_room_comes_to_the_clients_own_iteration(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        await fake.peers[0].send({"type": "notification", "content": {"title": "hello"}})
        assert (await anext(aiter(client))).content == {"title": "hello"}


async def test_the_clock_difference_is_measured_by_half_the_round_trip(fake):
    clock = FakeClock()

    async def delayed(peer: Peer, message: dict[str, Any]) -> None:
        clock.now += 2.0  # two seconds there and back, the server's time taken in the middle
        content = {"server_time": "2023-11-14T23:00:00Z"}
        await peer.send({"type": "pong", "id": message["id"], "content": content})

    sending: list[asyncio.Future[None]] = []
    fake.faults.append(
        lambda peer, message: (
            message["type"] == "ping"
            and bool(sending.append(asyncio.ensure_future(delayed(peer, message))) or True)
        )
    )
    async with connect(fake.url, user="al", options=Options(clock=clock)) as client:
        await clock.until_asleep(lambda sleeps: 15.0 in sleeps)
        sent = clock.time()
        measured = await client.ping()
    assert measured.round_trip_s == pytest.approx(2.0)
    assert measured.clock_offset_s == pytest.approx(1_700_002_800.0 - (sent + 1.0))


async def test_the_default_connector_names_what_it_could_not_reach():
    async with FakeServer() as gone:
        url = gone.url
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1"):
        await open_socket(Target(url, None, "realtime.v1.json", 5.0, 1 << 20))


async def _collect(room: Any) -> list[Any]:
    return [message async for message in room]
