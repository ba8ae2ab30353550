"""Recovery of the JavaScript client: pages, epochs and passive rooms, against the fake server."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.browser.js import fake, once, page, run
from tests.client.fake_server import FakeServer, Message, Peer

__all__ = ["fake", "page", "run"]  # fixtures

RESTARTED = {"from": None, "to": None, "reason": "epoch_changed"}
WHOLE_AGAIN = """
  const resumed = () => until(() => seen.some((item) => "recovered" in Object(item)));
"""


def resumed(missed: int, *, recovered: bool = True) -> dict[str, Any]:
    return {"recovered": recovered, "missed": missed}


@pytest.fixture
def commands(fake: FakeServer) -> dict[str, Callable[..., Awaitable[Any]]]:
    """What the page may ask of the server under test."""

    async def publish(*contents: Any) -> None:
        for content in contents:
            await fake.publish("chat:x", "bo", "chat_message", content)

    async def away(*contents: Any) -> None:
        await fake.stop()
        await publish(*contents)
        await fake.start()

    async def away_in_a_new_epoch(*contents: Any) -> None:
        await fake.stop()
        fake.lose_history()
        await publish(*contents)
        await fake.start()

    async def away_and_cut_back(kept: int) -> None:
        await fake.stop()
        del fake.rooms["chat:x"].messages[kept:]
        await fake.start()

    async def unread() -> None:
        await fake.tell_unread("chat:x")

    async def lacks(*keys: str) -> None:
        fake.joined_lacks = set(keys)

    async def passive() -> None:
        await fake.until(lambda: bool(fake.peers and fake.peers[0].passive))

    async def send(*messages: Message) -> None:
        await fake.peers[0].send(*messages)

    async def asked(type_: str) -> int:
        return sum(one["type"] == type_ for one in fake.received)

    return {
        "publish": publish,
        "away": away,
        "away in a new epoch": away_in_a_new_epoch,
        "away and cut back": away_and_cut_back,
        "unread": unread,
        "lacks": lacks,
        "passive": passive,
        "send": send,
        "asked": asked,
    }


async def test_more_than_one_answer_holds_is_paged_before_what_comes_live(run, fake, commands):
    fake.answer_messages = 7
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await server("publish", 1, 2);
        await until(() => seen.length === 2);
        await server("away", ...[...Array(98).keys()].map((n) => n + 3));
        await until(() => room.joined && client.reconnects);
        await server("publish", 101, 102);
        await resumed();
        await until(() => seen.includes(102));
        return seen.filter((item) => typeof item === "number");""",
        server=commands,
    )
    assert result == list(range(1, 103))


async def test_a_recovery_larger_than_the_queue_loses_nothing_to_an_iteration_that_reads_on(
    run, fake, commands
):
    result = await run(
        """const room = await client.join("chat:x");
        const items = [];
        const reading = (async () => {
          for await (const item of room) {
            items.push(item.content);
            if (items.length === 300) break;
            await new Promise((resolve) => { setTimeout(resolve); });  // as slow as a reader with work to do
          }
        })();
        await server("away", ...[...Array(300).keys()]);
        await reading;
        return items;""",
        server=commands,
        queueLimit=20,
    )
    assert result == list(range(300))


async def test_a_page_that_begins_too_late_is_a_gap_of_exactly_what_is_missing(run, fake, commands):
    await fake.publish("chat:x", "bo", "chat_message", "first")
    fake.rooms["chat:x"].forgotten = 4
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await server("away", 2, 3, 4, 5, 6);
        await resumed();
        return { seen, position: room.position };""",
        server=commands,
    )
    gap = {"from": 2, "to": 4, "reason": "unrecoverable"}
    assert result["seen"] == [gap, 5, 6, resumed(2, recovered=False)]
    assert result["position"] == {"offset": 6, "epoch": fake.epoch}


async def test_a_connection_that_breaks_in_the_middle_goes_on_from_there(run, fake, commands):
    fake.answer_messages = 5

    def cut(peer: Peer, message: Message) -> bool:
        if message["type"] == "history" and sum(one["type"] == "history" for one in fake.received) == 3:
            peer.cut()
            return True
        return False

    fake.faults.append(cut)
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await server("away", ...[...Array(50).keys()]);
        await resumed();
        return { seen, reconnects: client.reconnects };""",
        server=commands,
    )
    assert result == {"seen": [*range(50), resumed(40)], "reconnects": 2}
    joins = [one["content"] for one in fake.received if one["type"] == "join"]
    assert [join["since"]["offset"] for join in joins[1:]] == [0, 10]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forbidden", [{"from": 1, "to": 10, "reason": "unrecoverable"}, resumed(0, recovered=False)]),
        ("unavailable", [*range(10), resumed(10)]),
    ],
)
async def test_a_history_that_is_refused_is_a_gap_and_one_that_is_busy_is_asked_again(
    run, fake, commands, name, expected
):
    fake.answer_messages = 5
    refusals: list[Any] = []

    def refuse(peer: Peer, message: Message) -> None:
        detail = {"temporary": True, "retry_after": 0.01} if name == "unavailable" else {"temporary": False}
        refusals.append(asyncio.ensure_future(fake.send_error(peer, message, name, **detail)))

    fake.faults.append(once(refuse, type_="history"))
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await server("away", ...[...Array(10).keys()]);
        await resumed();
        return seen;""",
        server=commands,
    )
    assert result == expected


async def test_what_was_said_in_the_new_epoch_before_we_were_back_is_fetched(run, fake, commands):
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await room.publish("chat_message", "before");
        await server("away in a new epoch", "one", "two");
        await resumed();
        return seen;""",
        server=commands,
    )
    assert result == ["before", RESTARTED, "one", "two", resumed(2, recovered=False)]


@pytest.mark.parametrize("lacking", [["epoch"], ["offset"], ["epoch", "offset"]])
@pytest.mark.parametrize("answer_messages", [2, 1000])
async def test_an_answer_without_a_whole_place_recovers_by_the_messages_own(
    run, fake, commands, lacking, answer_messages
):
    fake.answer_messages = answer_messages
    fake.joined_lacks = set(lacking)
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        const nowhere = room.position;
        await server("publish", 1);
        await until(() => seen.length === 1);
        const learned = room.position;
        await server("away", 2, 3, 4, 5);
        await resumed();
        return { nowhere, learned, seen };""",
        server=commands,
    )
    assert result["nowhere"] is None
    assert result["learned"] == {"offset": 1, "epoch": fake.epoch}
    assert result["seen"] == [1, 2, 3, 4, 5, resumed(4)]


async def test_half_a_place_on_a_push_is_none_and_moves_nothing(run, fake, commands):
    result = await run(
        """const room = await client.join("chat:x");
        follow(room);
        const events = [];
        room.on("event", ({ content }) => events.push(content));
        const push = { type: "chat_typing", room: "chat:x" };
        await server("send", { ...push, epoch: "e", content: "a" }, { ...push, offset: 7, content: "b" });
        await server("publish", 1);
        await until(() => seen.length === 1);
        return { seen, events, position: room.position };""",
        server=commands,
    )
    assert result == {"seen": [1], "events": ["a", "b"], "position": {"offset": 1, "epoch": fake.epoch}}


async def test_a_room_at_offset_0_recovers_what_came_first(run, fake, commands):
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await server("away", "first");
        await resumed();
        return seen;""",
        server=commands,
    )
    assert result == ["first", resumed(1)]
    joins = [one for one in fake.received if one["type"] == "join"]
    assert joins[-1]["content"] == {"since": {"offset": 0, "epoch": fake.epoch}}


async def test_an_offset_beyond_the_end_is_a_restart_and_not_silence(run, fake, commands):
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await server("publish", 1, 2, 3);
        await until(() => seen.length === 3);
        await server("away and cut back", 1);
        await resumed();
        await server("publish", "new 2");
        await until(() => seen.includes("new 2"));
        return { seen, position: room.position };""",
        server=commands,
    )
    assert result["seen"] == [1, 2, 3, RESTARTED, resumed(0, recovered=False), "new 2"]
    assert result["position"] == {"offset": 2, "epoch": fake.epoch}


async def test_a_push_in_the_same_frame_as_the_answer_to_the_join_is_in_order(run, fake):
    def answer_and_push(peer: Peer, message: Message) -> None:
        place = {"room": "chat:x", "epoch": fake.epoch}
        content = {"members": ["al"], "offset": 0, "epoch": fake.epoch, "recovered": False, "messages": []}
        answer = {"type": "joined", "id": message["id"], "room": "chat:x", "content": content}
        push = {"type": "chat_message", "from": "bo", "offset": 1, "content": "early"} | place
        sending.append(asyncio.ensure_future(peer.send(answer, push)))

    sending: list[Any] = []
    fake.faults.append(once(answer_and_push, type_="join"))
    result = await run(
        """const room = await client.join("chat:x");
        follow(room);
        await until(() => seen.length);
        return seen;"""
    )
    assert result == ["early"]


async def test_a_key_that_is_repeated_over_a_reconnect_gets_the_first_place(run, fake, commands):
    result = await run(
        """const room = await client.join("chat:x");
        const first = await room.publish("chat_message", 1, { key: "mine" });
        await server("away");
        return [first, await room.publish("chat_message", 1, { key: "mine" })];""",
        server=commands,
    )
    place = {"offset": 1, "epoch": fake.epoch}
    assert result == [place | {"duplicate": False}, place | {"duplicate": True}]


async def test_what_has_no_place_is_published_without_one(run, fake):
    acks: list[Any] = []

    def keep_nothing(peer: Peer, message: Message) -> None:
        answer = {"type": "ack", "id": message["id"], "room": message["room"], "content": {}}
        acks.append(asyncio.ensure_future(peer.send(answer)))

    fake.faults.append(once(keep_nothing, type_="chat_typing"))
    assert await run('return await (await client.join("chat:x")).publish("chat_typing", {});') is None


# -- passive rooms ------------------------------------------------------------------------------------------


async def test_a_passive_room_tells_counts_and_comes_back_to_what_it_missed(run, fake, commands):
    fake.answer_messages = 2
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await room.passive();
        await server("publish", 1, 2, 3);
        await server("unread");
        await until(() => room.unread === 3);
        await room.active();
        await resumed();
        await server("publish", 4);
        await until(() => seen.includes(4));
        return seen;""",
        server=commands,
    )
    assert result == ["3 unread", "0 unread", 1, 2, 3, resumed(3), 4]


async def test_a_passive_room_that_reconnects_brings_what_was_missed_and_is_passive_again(
    run, fake, commands
):
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        await room.passive();
        await server("publish", "while passive");
        await server("away", "while away");
        await resumed();
        await server("passive");
        await server("publish", "later");
        await server("unread");
        await until(() => room.unread === 1);
        return seen;""",
        server=commands,
    )
    assert result == ["while passive", "while away", resumed(2), "1 unread"]


async def test_a_passive_that_is_refused_leaves_the_room_active(run, fake, commands):
    refusals: list[Any] = []

    def refuse(peer: Peer, message: Message) -> None:
        answer = fake.send_error(peer, message, "unavailable", temporary=True)
        refusals.append(asyncio.ensure_future(answer))

    fake.faults.append(once(refuse, type_="passive"))
    result = await run(
        """const room = await client.join("chat:x");
        follow(room);
        const code = await failure(room.passive());
        await server("publish", 1);
        await until(() => seen.includes(1));
        return { code, isPassive: room.isPassive };""",
        server=commands,
    )
    assert result == {"code": "unavailable", "isPassive": False}


async def test_rooms_are_passive_while_the_page_is_hidden_where_that_is_asked_for(run, fake, commands):
    result = await run(
        WHOLE_AGAIN
        + """const room = await client.join("chat:x");
        follow(room);
        show(false);
        await server("passive");
        const second = await client.join("chat:y");  // joined in a hidden page: passive from the start
        await until(() => second.isPassive);
        await server("publish", 1, 2);
        await server("unread");
        await until(() => room.unread === 2);
        show(true);
        await resumed();
        await server("publish", 3);
        await until(() => seen.includes(3));
        return { seen, passive: [room.isPassive, second.isPassive] };""",
        server=commands,
        passiveWhenHidden=True,
    )
    assert result == {"seen": ["2 unread", "0 unread", 1, 2, resumed(2), 3], "passive": [False, False]}


async def test_a_hidden_page_changes_nothing_where_it_is_not_asked_for(run, fake, commands):
    result = await run(
        """const room = await client.join("chat:x");
        follow(room);
        show(false);
        await server("publish", 1);
        await until(() => seen.includes(1));
        show(true);
        await client.ping();
        return await server("asked", "passive");""",
        server=commands,
    )
    assert result == 0
