"""What durable rooms need of the order in Redis: epochs that the store has a word in, entries to read."""

import pytest

from realtime.backends.cluster.names import RoomNames, epoch_number
from realtime.backends.cluster.ordering import Entry, Need, Opening, Ordered
from realtime.core.contracts import Position, Terms
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.errors import Conflict, Unavailable
from tests.backends.cluster.stage import ALICE, LOBBY, until

DURABLE = RoomKind(name="chat", durable=True)


class Books:
    """A store as far as it opens epochs."""

    def __init__(self) -> None:
        self.asked: list[Need] = []
        self.offset = 41
        self.epoch = 0
        self.away = False

    async def __call__(self, need: Need) -> Opening:
        self.asked.append(need)
        if self.away:
            raise Unavailable("the store is away", retry_after_s=3.0)
        return Opening(max(self.offset, need.offset), max(self.epoch, need.epoch))


@pytest.fixture
def books() -> Books:
    return Books()


async def order(stream, content: bytes, terms: Terms | None = None):
    placed: Pending = Pending()
    stream.order("chat_message", ALICE, content, terms, placed.settle)
    return await placed


async def test_an_epoch_begins_above_what_the_store_has(workers, books):
    worker = await workers.start(opening=books)
    member = await worker.joined(kind=DURABLE)
    assert (await member.recover()).offset == 41
    assert (await member.publish("one"))[0] == 42
    (need,) = books.asked
    assert (need.room, need.offset) == (LOBBY, 0)
    assert need.epoch > 1_600_000_000_000_000
    assert len(need.nonce) == 32


async def test_an_epoch_has_at_least_the_number_that_the_store_says(workers, books):
    books.epoch = 8_000_000_000_000_000
    worker = await workers.start(opening=books)
    member = await worker.joined(kind=DURABLE)
    assert epoch_number((await member.recover()).epoch) == 8_000_000_000_000_000


async def test_a_publication_to_a_room_that_nobody_is_in_opens_it_too(workers, books):
    worker = await workers.start(opening=books)
    assert (await worker.publish("one", kind=DURABLE))[0] == 42
    assert (await worker.publish("two", kind=DURABLE))[0] == 43
    assert len(books.asked) == 1


async def test_two_workers_that_open_a_room_at_once_have_one_epoch(workers, books):
    pair = [await workers.start(opening=books), await workers.start(opening=books)]
    members = [worker.member(kind=DURABLE) for worker in pair]
    recoveries = [member.stream.recover(None) for member in members]
    epochs = {(await recovery).epoch for recovery in recoveries}
    assert len(epochs) == 1
    receipts = [await member.publish("x") for member in members]
    assert [(offset, epoch) for offset, epoch, _ in receipts] == [(42, *epochs), (43, *epochs)]


async def test_while_the_store_is_away_no_epoch_is_opened(workers, books):
    books.away = True
    worker = await workers.start(opening=books)
    with pytest.raises(Unavailable) as refused:
        await worker.joined(kind=DURABLE)
    assert refused.value.retry_after_s == 3.0
    with pytest.raises(Unavailable):
        await worker.publish("one", kind=DURABLE)
    books.away = False
    assert (await worker.publish("one", kind=DURABLE))[0] == 42


async def test_another_mastership_asks_the_store_again(workers_of_one, own_redis_node, books):
    worker = await workers_of_one.start(opening=books)
    member = await worker.joined(kind=DURABLE)
    _, epoch, _ = await member.publish("one")
    names = RoomNames(workers_of_one.prefix, LOBBY)
    packed = await worker.broker.ask(names.slot, b"HGET", names.meta, b"r")
    other = packed[:48] + packed[48:80][::-1] + packed[80:]
    await worker.broker.ask(names.slot, b"HSET", names.meta, b"r", other)
    books.offset = 50  # rows whose order Redis has lost
    offset, new, _ = await member.publish("two")
    assert offset == 51
    assert epoch_number(new) > epoch_number(epoch)
    assert books.asked[1].offset == 42
    assert books.asked[1].epoch > epoch_number(epoch)
    await until(lambda: member.got == [42, (None, None, "epoch_changed"), 51])


async def test_an_order_tells_the_push_and_a_repeat_the_first_place(workers, books):
    worker = await workers.start(opening=books)
    member = await worker.joined(kind=DURABLE)
    first = await order(member.stream, b'"one"', Terms(key="k"))
    assert first == Ordered(Position(42, first.position.epoch), member.pushes[0], False)
    again = await order(member.stream, b'"one"', Terms(key="k"))
    assert again == Ordered(first.position, b"", True)
    refused: Pending = Pending()
    member.stream.order("chat_message", ALICE, b"1", Terms(expect=7), refused.settle)
    with pytest.raises(Conflict):
        await refused


async def test_an_order_that_is_refused_at_once_says_so(workers, books):
    worker = await workers.start(opening=books, waiting_messages=0)
    told = []
    worker.broker.order(LOBBY, DURABLE, "chat_message", ALICE, b"1", None, told.append)
    assert isinstance(told[0], Unavailable)


async def test_entries_are_all_that_a_row_needs_in_order_over_epochs(workers, books):
    worker = await workers.start(opening=books)
    member = await worker.joined(kind=DURABLE)
    _, epoch, _ = await member.publish("one", key="ключ")
    for receipt in [member.later(number) for number in range(100)]:
        await receipt
    names = RoomNames(workers.prefix, LOBBY)
    packed = await worker.broker.ask(names.slot, b"HGET", names.meta, b"r")
    other = packed[:48] + packed[48:80][::-1] + packed[80:]
    await worker.broker.ask(names.slot, b"HSET", names.meta, b"r", other)
    await member.publish("new epoch")
    await until(lambda: member.texts[-1:] == ["new epoch"])
    entries = await worker.broker.reader(LOBBY, DURABLE).entries(Position(41, epoch), 1000)
    assert [entry.push for entry in entries] == member.pushes
    assert entries[0] == Entry(Position(42, epoch), member.pushes[0], ALICE, "ключ", 1752575400123)
    assert entries[-1].position.epoch != epoch
    assert [entry.position.offset for entry in entries] == member.offsets
    some = await worker.broker.reader(LOBBY, DURABLE).entries(Position(50, epoch), 7)
    assert [entry.position.offset for entry in some] == list(range(51, 58))
