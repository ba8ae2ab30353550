"""Bytes to replies, however they are cut. What is recorded here is what Redis 7.0.15 said."""

import asyncio
import random
import socket
from collections.abc import Iterable, Iterator

import pytest

from realtime.backends.redis_client.address import Endpoint
from realtime.backends.redis_client.contract import RedisError
from realtime.backends.redis_client.subscriptions import (
    Request,
    Subscription,
    Subscriptions,
    SubscriptionWire,
)
from realtime.backends.redis_client.wire import FEED_BYTES, Call, Wire
from tests.backends.redis_client.listener import Listener

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")

REPLIES = (
    b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n",
    b"+OK\r\n",
    b"_\r\n",
    b"$13\r\nline\r\nbreak\r\n\r\n",
    b":-42\r\n",
    b"-MOVED 3999 127.0.0.1:6381\r\n",
    b",1.5\r\n",
    b"#f\r\n",
    b"*2\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:7000\r\n-ERR nested\r\n",
    b"~1\r\n$1\r\na\r\n",
    b"*0\r\n",
    b"$0\r\n\r\n",
)
PUSHED = b">2\r\n$10\r\ninvalidate\r\n_\r\n"
SAID = [
    {b"server": b"redis", b"proto": 3},
    b"OK",
    None,
    b"line\r\nbreak\r\n",
    -42,
    ("MOVED", "3999 127.0.0.1:6381"),
    1.5,
    False,
    [[0, 16383, [b"127.0.0.1", 7000]], ("ERR", "nested")],
    [b"a"],
    [],
    b"",
]
SEED = random.randrange(2**32)


class FakeTransport(asyncio.Transport):
    """Takes what is written, and remembers that it was aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def plain(reply: object) -> object:
    if isinstance(reply, RedisError):
        return reply.code, reply.message
    return [plain(each) for each in reply] if isinstance(reply, list) else reply


def cuts(stream: bytes) -> Iterator[Iterable[bytes]]:
    """The stream whole, byte by byte, and cut at random places."""
    yield [stream]
    yield [stream[i : i + 1] for i in range(len(stream))]
    print("seed", SEED)
    dice = random.Random(SEED)
    for _ in range(50):
        places = sorted(dice.sample(range(1, len(stream)), dice.randrange(1, 12)))
        yield [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def connected(wire: Wire) -> FakeTransport:
    transport = FakeTransport()
    wire.connection_made(transport)
    return transport


def test_replies_come_to_who_asked_in_order_however_they_are_cut():
    stream = PUSHED.join(REPLIES) * 3
    for pieces in cuts(stream):
        wire, said = Wire(), []
        connected(wire)
        for _ in range(3 * len(REPLIES)):
            wire.send(Call(0, b"x", said.append, 0.0))
        for piece in pieces:
            wire.data_received(piece)
        assert [plain(each) for each in said] == SAID * 3
        assert wire.sent_bytes == 0


def test_a_stream_larger_than_what_is_read_at_once_comes_whole():
    texts = [b"%d" % i * 1000 for i in range(40)]
    stream = b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts)
    assert len(stream) > 2 * FEED_BYTES
    wire, said = Wire(), []
    connected(wire)
    for _ in texts:
        wire.send(Call(0, b"x", said.append, 0.0))
    wire.data_received(stream)
    assert said == texts


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400\r\n", "protocol of Redis"),
        (b"+OK\r\n+OK\r\n", "nobody waits"),
        (b"$x\r\n", "protocol"),
    ],
)
def test_what_cannot_be_understood_ends_the_connection(said: bytes, why: str):
    wire = Wire()
    transport = connected(wire)
    wire.send(Call(0, b"x", None, 0.0))
    wire.data_received(said)
    assert transport.aborted
    assert why in wire.why


@pytest.mark.parametrize("reset", [True, False])
async def test_what_is_not_there_when_a_silent_node_is_given_up_never_gets_there(reset: bool):
    """The node reads nothing, so that most of it is still in our kernel. Without a reset that would go on."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        wire = Wire()
        lost = loop.create_future()
        wire.on_lost = lost.set_result
        await loop.create_connection(lambda: wire, *listening.getsockname())
        node, _ = await asyncio.to_thread(listening.accept)
        wire.write(b"x" * (1 << 20))
        wire.abort("silent", reset=reset)
        assert await lost == "silent"

        def read() -> str:
            try:
                while node.recv(65536):
                    pass
            except ConnectionResetError:
                return "reset"
            return "all that was in the kernel"

        with node:
            node.settimeout(60)
            assert await asyncio.to_thread(read) == ("reset" if reset else "all that was in the kernel")


def test_who_fails_on_a_reply_does_not_keep_the_next_from_theirs(caplog: pytest.LogCaptureFixture):
    wire, said = Wire(), []
    connected(wire)
    wire.send(Call(0, b"x", lambda reply: 1 / 0, 0.0))
    wire.send(Call(0, b"x", said.append, 0.0))
    wire.data_received(b"+A\r\n+B\r\n")
    assert said == [b"B"]
    assert "division" in caplog.text


class FakeLink:
    """As much of a link as a wire needs that is handed its bytes."""

    node = Endpoint("fake", 1)
    up = True

    def __init__(self, wire_for: Subscriptions) -> None:
        self.unanswered = 0
        self.parked = ()
        self.wire = SubscriptionWire(self, wire_for)  # type: ignore[arg-type]


SUBSCRIBED = b">3\r\n$10\r\nssubscribe\r\n$1\r\n%s\r\n:1\r\n"
MESSAGE = b">3\r\n$8\r\nsmessage\r\n$1\r\n%s\r\n$2\r\n%s\r\n"
TOKEN = b"$1\r\n1\r\n"
ENDED = b">3\r\n$12\r\nsunsubscribe\r\n$1\r\n%s\r\n:0\r\n"


async def test_messages_come_from_when_it_stands_until_it_ends_however_they_are_cut():
    stream = b"".join(
        [
            *(MESSAGE % (b"a", b"no"), SUBSCRIBED % b"a", MESSAGE % (b"a", b"a1"), MESSAGE % (b"b", b"no")),
            *(SUBSCRIBED % b"b", TOKEN, MESSAGE % (b"b", b"b1"), b"+PONG\r\n", MESSAGE % (b"c", b"no")),
            *(MESSAGE % (b"a", b"a2"), ENDED % b"a", MESSAGE % (b"a", b"no"), MESSAGE % (b"b", b"b2")),
        ]
    )
    for pieces in cuts(stream):
        subscriptions = Subscriptions(lambda slot: None, lambda link, error: None, lambda: None)
        link = FakeLink(subscriptions)
        connected(link.wire)
        request = Request(link, b"1")  # type: ignore[arg-type]
        listeners = {name: Listener() for name in (b"a", b"b")}
        for name, listener in listeners.items():
            subscription = subscriptions.by_channel[name] = Subscription(name, 1, listener)
            subscription.place = request
            request.subscriptions.append(subscription)
        link.wire.sent.append(request)
        link.wire.sent.append(Call(-1, b"PING", None, 0.0))
        for piece in pieces:
            link.wire.data_received(piece)
        assert listeners[b"a"].said == ["up", b"a1", b"a2", "down"]
        assert listeners[b"b"].said == ["up", b"b1", b"b2"]
        assert subscriptions.standing == 1
