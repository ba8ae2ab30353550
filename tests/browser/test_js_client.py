"""The JavaScript client, in a browser, against a server that fails on command."""

import asyncio
from typing import Any

import pytest

from tests.browser.js import CONNECT, fake, once, page, run
from tests.client.fake_server import Message, Peer

__all__ = ["fake", "page", "run"]  # fixtures


async def test_publishing_resolves_to_the_place_and_the_message_comes_back(run):
    result = await run(
        """const room = await client.join("chat:x");
           follow(room);
           const { offset, duplicate } = await room.publish("chat_message", "hi");
           await until(() => seen.length);
           return { offset, duplicate, seen, members: room.members, user: client.user };"""
    )
    assert result == {"offset": 1, "duplicate": False, "seen": ["hi"], "members": ["al"], "user": "al"}


async def test_a_connection_cut_before_the_ack_doubles_nothing(run, fake):
    def keep_and_cut(peer: Peer, message: Message) -> None:
        room = fake.rooms["chat:x"]
        push = {"type": "chat_message", "room": "chat:x", "from": "al", "offset": 1, "epoch": room.epoch}
        room.messages.append(push | {"content": message["content"]})
        room.keys[message["key"]] = 1
        peer.cut()

    fake.faults.append(once(keep_and_cut, type_="chat_message"))
    result = await run(
        """const room = await client.join("chat:x");
           follow(room);
           const { offset, duplicate } = await room.publish("chat_message", "hi");
           return { offset, duplicate, seen, reconnects: client.reconnects };"""
    )
    recovered = {"recovered": True, "missed": 1}
    assert result == {"offset": 1, "duplicate": True, "seen": ["hi", recovered], "reconnects": 1}
    assert len(fake.rooms["chat:x"].messages) == 1


async def test_what_waits_is_sent_in_its_old_order(run, fake):
    fake.faults.append(once(lambda peer, message: peer.cut(), type_="chat_message"))
    await run(
        """const room = await client.join("chat:x");
           await Promise.all([...Array(20).keys()].map((n) => room.publish("chat_message", n + 1)));"""
    )
    assert [one["content"] for one in fake.rooms["chat:x"].messages] == list(range(1, 21))


async def test_a_push_that_comes_twice_is_seen_once_and_a_jump_is_a_gap(run, fake):
    async def answer(peer: Peer) -> None:
        place = {"type": "chat_message", "room": "chat:x", "epoch": fake.epoch}
        pushes = [place | {"offset": offset, "content": offset} for offset in (1, 1, 2, 1, 5)]
        gap = {"from": 6, "to": 9, "reason": "slow"}
        await peer.send(*pushes, {"type": "gap", "room": "chat:x", "content": gap})

    async def later(peer: Peer, message: Message) -> None:
        await answer(peer)

    tasks: list[Any] = []

    fake.faults.append(
        once(lambda peer, message: tasks.append(asyncio.ensure_future(later(peer, message))), type_="go")
    )
    result = await run(
        """const room = await client.join("chat:x");
           follow(room);
           room.signal("go", {});
           await until(() => seen.length >= 5);
           return seen;"""
    )
    assert result == [
        1,
        2,
        {"from": 3, "to": 4, "reason": "lost"},
        5,
        {"from": 6, "to": 9, "reason": "slow"},
    ]


async def test_what_comes_before_anybody_listens_is_not_lost(run, fake):
    await run('await client.join("chat:x"); await client.close();')
    for number in range(3):
        await fake.publish("chat:x", "bo", "chat_message", number)
    result = await run(
        """const room = await client.join("chat:x");
           await Promise.all([1, 2, 3].map((n) => room.publish("chat_message", n)));
           follow(room);  // all three are here already
           await until(() => seen.length === 3);
           return seen;"""
    )
    assert result == [1, 2, 3]


async def test_a_server_that_lost_its_history_says_so_and_the_room_goes_on(run, fake):
    def lose(peer: Peer, message: Message) -> None:
        fake.lose_history()
        peer.cut()

    fake.faults.append(once(lose, type_="lose"))
    result = await run(
        """const room = await client.join("chat:x");
           follow(room);
           await room.publish("chat_message", "before");
           room.signal("lose", {});
           await until(() => client.reconnects === 1);
           await room.publish("chat_message", "after");
           await until(() => seen.includes("after"));
           return seen;"""
    )
    gap = {"from": None, "to": None, "reason": "epoch_changed"}
    assert result == ["before", gap, {"recovered": False, "missed": 0}, "after"]


async def test_a_slow_iteration_gets_a_gap_and_then_the_newest(run):
    result = await run(
        """const room = await client.join("chat:x");
           for (let n = 1; n <= 30; n++) await room.publish("chat_message", n);
           const items = [];
           for await (const item of room) {
             items.push(item.type === "gap" ? item.content : item.content);
             if (items.length === 5) break;
           }
           return items;""",
        queueLimit=5,
    )
    assert result == [{"from": 1, "to": 26, "reason": "slow_reader"}, 27, 28, 29, 30]


@pytest.mark.parametrize(
    ("code", "state"), [(1012, "online"), (4001, "online"), (4500, "closed"), (1009, "closed")]
)
async def test_the_class_of_the_close_code_decides(run, fake, code, state):
    def close(peer: Peer, message: Message) -> None:

        closing.append(asyncio.ensure_future(peer.socket.close(code, '{"r":"so be it"}')))

    closing: list[Any] = []
    fake.faults.append(once(close, type_="end"))
    result = await run(
        """const room = await client.join("chat:x");
           const waiting = failure(room.publish("end", {}));
           await until(() => client.reconnects || client.state === "closed");
           const { state, closeReason } = client;
           client.close();
           return { state, reason: closeReason?.message ?? null, code: closeReason?.closeCode ?? null };"""
    )
    final = state == "closed"
    assert result == {
        "state": state,
        "reason": "so be it" if final else None,
        "code": code if final else None,
    }


@pytest.mark.parametrize("frame", ["{", "null", '{"type":"connected"}'])
async def test_a_server_that_talks_nonsense_is_left_for_good(run, fake, frame):
    sending: list[Any] = []
    fake.faults.append(
        once(lambda peer, message: sending.append(asyncio.ensure_future(peer.socket.send(frame))), type_="go")
    )
    result = await run(
        """const room = await client.join("chat:x");
           room.signal("go", {});
           await until(() => client.state === "closed");
           return client.closeReason.closeCode;"""
    )
    assert result == 1007


async def test_a_dead_server_is_found_by_a_ping_and_left(run, fake):
    fake.faults.append(lambda peer, message: fake.connects == 1 and message["type"] == "ping")
    result = await run(
        """await client.ready;
           await until(() => client.reconnects === 1);
           return client.state;""",
        pingIntervalMs=100,
        pongTimeoutMs=50,
    )
    assert result == "online"


async def test_no_answer_in_time_is_an_error_worth_a_retry(run, fake):
    fake.faults.append(lambda peer, message: message["type"] == "chat_message")
    result = await run(
        """const room = await client.join("chat:x");
           const keep = ({ code, temporary }) => ({ code, temporary });
           return await room.publish("chat_message", 1).catch(keep);""",
        ackTimeoutMs=50,
    )
    assert result == {"code": "ack_timeout", "temporary": True}


async def test_more_than_the_limit_may_not_wait(run, fake):
    fake.faults.append(lambda peer, message: message["type"] == "chat_message")
    result = await run(
        """const room = await client.join("chat:x");
           const codes = [1, 2, 3].map((n) => failure(room.publish("chat_message", n)));
           const third = await codes[2];
           client.close();
           return [third, ...await Promise.all(codes)];""",
        pendingLimit=2,
    )
    assert result == ["pending_limit", "closed", "closed", "pending_limit"]


async def test_a_message_over_the_servers_limit_is_not_sent(run, fake):
    result = await run(
        """const room = await client.join("chat:x");
           return await failure(room.publish("chat_message", "é".repeat(40_000)));"""
    )
    assert result == "too_large"
    assert not [one for one in fake.received if one["type"] == "chat_message"]


async def test_a_refused_join_rejects_with_the_servers_name_for_it(run, fake):
    def refuse(peer: Peer, message: Message) -> None:

        sending.append(asyncio.ensure_future(fake.send_error(peer, message, "forbidden", temporary=False)))

    sending: list[Any] = []
    fake.faults.append(once(refuse, type_="join"))
    assert await run('return await failure(client.join("chat:x"));') == "forbidden"


async def test_history_presence_and_ping_are_answered(run, fake):
    for number in range(5):
        await fake.publish("chat:x", "bo", "chat_message", number)
    result = await run(
        """const room = await client.join("chat:x");
           const { messages, more } = await room.history({ before: 5, limit: 2 });
           const { rttMs, clockOffsetMs } = await client.ping();
           return { offsets: messages.map(({ offset }) => offset), more, members: await room.presence(),
                    near: rttMs > 0 && Math.abs(clockOffsetMs) < 10_000 };"""
    )
    assert result == {"offsets": [3, 4], "more": True, "members": ["al"], "near": True}


async def test_leaving_ends_the_iteration(run, fake):
    result = await run(
        """const room = await client.join("chat:x");
           await room.publish("chat_message", 1);
           const items = [];
           const reading = (async () => { for await (const item of room) items.push(item.content); })();
           await until(() => items.length);
           await room.leave();
           await reading;
           return items;"""
    )
    assert result == [1]


async def test_the_token_goes_as_a_subprotocol(run, fake):
    tokens: list[str] = []
    fake.faults.append(
        lambda peer, message: tokens.append(peer.socket.request.headers["Sec-WebSocket-Protocol"])
    )
    await run('await client.join("chat:x");', token="t.o.ken")
    assert tokens[0] == "realtime.v1.json, bearer.t.o.ken"


async def test_delays_are_full_jitter_in_a_doubling_window(page):
    result = await page.evaluate(
        f"""async () => {{
          {CONNECT}
          const delays = (window, share) =>
            [0, 1, 2, 9].map((n) => backoffMs(n, window, 30_000, () => share));
          return {{
            top: delays({{ min: 0, max: 500 }}, 1), low: delays({{ min: 500, max: 15_000 }}, 0),
            wide: delays({{ min: 0, max: 60_000 }}, 1),
            reasons: ['{{"r":"drain","min":500,"max":15000}}', "bye", "", "3", '{{"min":5,"max":1}}']
              .map(readCloseReason),
          }};
        }}"""
    )
    assert result["top"] == [500, 1000, 2000, 30_000]
    assert result["low"] == [500] * 4
    assert result["wide"] == [60_000] * 4
    assert result["reasons"] == [
        {"text": "drain", "window": {"min": 500, "max": 15000}},
        {"text": "bye", "window": None},
        {"text": "", "window": None},
        {"text": "3", "window": None},
        {"text": '{"min":5,"max":1}', "window": None},
    ]
