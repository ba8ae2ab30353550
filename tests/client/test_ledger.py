"""The books of a replay find what they are there to find."""

import json

import pytest

from realtime.client.ledger import Arrival, Placed, RoomBooks, Stay


def push(offset: int, content: object = "x", epoch: str = "e") -> tuple[bytes, Arrival]:
    raw = json.dumps(content).encode()
    return b"push %d %s" % (offset, raw), Arrival("chat_message", None, offset, epoch, raw)


@pytest.fixture
def books() -> RoomBooks:
    return RoomBooks("chat:x")


@pytest.mark.parametrize(
    ("offsets", "missing", "out_of_order", "twice"),
    [
        ([5, 6, 7], 0, 0, 0),
        ([5, 7], 1, 0, 0),
        ([6, 7], 1, 0, 0),
        ([5, 6], 1, 0, 0),
        ([], 3, 0, 0),
        ([5, 7, 6], 0, 1, 0),
        ([5, 5, 6, 7], 0, 0, 1),
        ([5, 6, 7, 6], 0, 0, 1),
        ([5, 6, 7, 4], 0, 0, 1),
    ],
)
def test_a_stay_counts_what_is_wrong_with_it(offsets, missing, out_of_order, twice):
    stay = Stay(4)
    stay.floor = 7
    for offset in offsets:
        stay.receive(offset)
    assert (stay.missing(), stay.out_of_order, stay.twice) == (missing, out_of_order, twice)


def test_who_leaves_must_have_what_was_acked_by_then(books):
    stay = books.join(Placed(0, "e"))
    books.acked(0, b"1", Placed(1, "e"))
    books.leaving(stay)
    books.left(stay)
    books.acked(0, b"2", Placed(2, "e"))
    books.close()
    assert stay.missing() == 1


def test_who_stays_must_have_everything(books):
    stay = books.join(Placed(0, "e"))
    for offset in (1, 2):
        books.acked(0, b"1", Placed(offset, "e"))
    assert books.waiting() == 2
    books.close()
    assert stay.missing() == 2


@pytest.mark.parametrize(
    ("sent", "received", "fault"),
    [
        (b'{"text":"a"}', {"text": "a"}, None),
        (b'{"text": "\\u0061"}', {"text": "a"}, None),
        (b'{"text":"b"}', {"text": "a"}, "received is not what was sent"),
    ],
)
def test_what_arrives_is_compared_with_what_was_sent(books, sent, received, fault):
    books.first_seen(*push(1, received))
    books.acked(0, sent, Placed(1, "e"))
    books.close()
    assert list(books.faults) == ([fault] if fault else [])


def test_what_nobody_received_is_found(books):
    books.acked(0, b"1", Placed(1, "e"))
    books.close()
    assert list(books.faults) == ["acked but received by nobody"]


def test_members_that_got_different_bytes_are_found(books):
    books.first_seen(*push(1, "a"))
    books.first_seen(*push(1, "b"))
    assert list(books.faults) == ["members got different bytes"]


def test_a_senders_own_order_is_checked(books):
    books.acked(0, b"1", Placed(2, "e"))
    books.acked(1, b"1", Placed(1, "e"))
    assert not books.faults
    books.acked(1, b"1", Placed(3, "e"))
    books.acked(0, b"1", Placed(1, "e"))
    assert set(books.faults) == {"a sender's messages out of order", "two messages with one offset"}


def test_an_epoch_that_changes_is_a_fault(books):
    books.join(Placed(0, "e"))
    books.first_seen(*push(1, epoch="f"))
    assert list(books.faults) == ["epoch changed"]


def test_a_push_is_known_by_its_bytes(books):
    payload, arrival = push(1)
    assert books.first_seen(payload, arrival) == 1
    assert books.known[payload] == 1
