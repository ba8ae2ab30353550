"""A durable broker on a store in a test's hand, with what came of it in the order it came."""

import json

from realtime.backends.broker_durable import DurableBroker
from realtime.backends.broker_memory import MemoryBroker
from realtime.core.contracts import Page, Position, Recovery, Row, Terms
from realtime.core.kinds import RoomKind
from realtime.ids import RoomId, RoomName, TenantId
from tests.oracles.hub import FakeClock, FakeHub
from tests.oracles.store import FakeStore

CHAT = RoomKind(name="chat", durable=True)
LOBBY = RoomId(TenantId("default"), RoomName("chat:lobby"))
ALICE, BOB = b'"alice"', b'"bob"'


class Stage:
    """A broker on a store, one room with a subscriber, and a protocol of what happened in which order."""

    def __init__(self, store: FakeStore | None = None, **options) -> None:
        self.clock = FakeClock()
        self.store = store or FakeStore()
        self.happened: list[tuple[str, object]] = []
        self.broker = self.make_broker(**options)
        self.stream = self.open()

    def make_broker(self, **options) -> DurableBroker:
        durable = {name: options.pop(name) for name in ("answer_bytes",) if name in options}
        hub = FakeHub(self.clock)
        memory = MemoryBroker(self.clock, hub, **options)
        shared = {name: options[name] for name in ("recovery_window_s", "idle_rooms") if name in options}
        return DurableBroker(memory, self.store, self.clock, hub, **shared, **durable)

    def open(self, room: RoomId = LOBBY):
        return self.broker.open(room, CHAT, self._deliver)

    def _deliver(self, push: bytes, offset: int) -> None:
        assert json.loads(push)["offset"] == offset
        self.happened.append(("delivered", offset))

    @property
    def delivered(self) -> list[object]:
        return [what for kind, what in self.happened if kind == "delivered"]

    @property
    def answers(self) -> list[object]:
        return [what for kind, what in self.happened if kind == "answered"]

    def say(self, content: object = None, *, sender: bytes = ALICE, stream=None, **terms) -> None:
        """Publish; the receipt, or the error's name, is noted when it comes."""
        given = Terms(**terms) if terms else None
        text = json.dumps(content).encode()
        receipt = (stream or self.stream).publish("chat_message", sender, text, given)
        receipt.then(lambda outcome: self.happened.append(("answered", brief(outcome))))

    async def ready(self) -> "Stage":
        """Load the room."""
        await self.stream.recover(None)
        self.store.asked.clear()
        return self

    def crash(self) -> None:
        """Lose the process: what is queued, and what was in memory. What it still does, it does elsewhere."""
        disk, self.store.rows = self.store.rows, {}
        self.store = FakeStore()
        self.store.rows = disk
        self.broker = self.make_broker()
        self.stream = self.open()


def brief(outcome):
    if isinstance(outcome, Exception):
        return outcome.code
    offset, _, duplicate = outcome
    return (offset, "again") if duplicate else offset


def kept_before(stage: Stage, rows: int, size: int = 10, epoch: bytes = b"epoch1") -> None:
    """Let the store have rows of an earlier run."""
    for offset in range(1, rows + 1):
        push = json.dumps({"offset": offset, "pad": "x" * size}).encode()
        stage.store.write(Row(LOBBY, Position(offset, epoch), push, ALICE, None, 0))


def offsets(answer: Recovery | Page) -> list[int]:
    return [json.loads(push)["offset"] for push in answer.messages]


async def get(answer):
    return answer if isinstance(answer, tuple) else await answer
