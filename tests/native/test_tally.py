"""The books of a load: durations in buckets, and frames counted however they arrive."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.native import frames
from realtime.native.tally import Histogram, Peer, Tally, client_frame, now_ns

MARKER = b"%016x%08x"
SPANS = st.lists(st.integers(0, 10**13), min_size=1, max_size=200)


def server_frame(payload, opcode=1):
    head = bytes([0x80 | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65_536:
        return head + b"\x7e" + len(payload).to_bytes(2) + payload
    return head + b"\x7f" + len(payload).to_bytes(8) + payload


def push(offset, due=0, number=0, pad=0):
    marker = MARKER % (due, number)
    return server_frame(
        b'{"type":"publish","room":"events:x","from":"a","offset":%d,"epoch":"e","content":"~%b~%b"}'
        % (offset, marker, b"x" * pad)
    )


def ack(due=0, number=0):
    return server_frame(b'{"type":"ack","id":"^%b^","content":{"offset":1}}' % (MARKER % (due, number)))


def joined_peer():
    tally = Tally()
    peer = Peer(tally, b'{"id":"', b'","content":"', b'"}')
    peer.joined = True
    return peer, tally


# ---------------------------------------------------------------- durations


@given(SPANS)
def test_percentiles_are_those_of_a_sorted_list_within_a_bucket(spans):
    histogram = Histogram()
    for span in spans:
        histogram.record(span)
    ordered = sorted(spans)
    for percent in (0.1, 50, 90, 99, 99.9):
        exact = ordered[max(0, math.ceil(len(spans) * percent / 100) - 1)]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.016, abs=1)
    assert histogram.percentile(100) == histogram.max_ns == ordered[-1]
    assert histogram.count == len(spans)


@given(SPANS, SPANS)
def test_two_halves_put_together_are_the_whole(first, second):
    halves = [Histogram(), Histogram()]
    whole, merged = Histogram(), Histogram()
    for half, spans in zip(halves, (first, second), strict=True):
        for span in spans:
            half.record(span)
            whole.record(span)
        merged.merge(half.dump())
    assert merged.dump() == whole.dump()


@pytest.mark.parametrize("dump", [[], [1, 2], [1, -1, 5], [1, 58 * 128, 5]])
def test_what_is_no_dump_is_refused(dump):
    with pytest.raises(ValueError, match="histogram"):
        Histogram().merge(dump)


def test_nothing_has_no_percentile():
    assert Histogram().percentile(99) == 0


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("pad", [0, 300, 70_000])
def test_whatever_the_pieces_everything_is_counted_once(pad):
    wire = b"".join(push(offset, pad=pad) + ack() for offset in range(1, 4))
    for size in {1, 2, 7, 100, 1460, len(wire)} if pad < 1000 else {1460, 65_536}:
        peer, tally = joined_peer()
        for start in range(0, len(wire), size):
            assert peer.receive(wire[start : start + size]) is None
        assert (tally.delivered, tally.acked, tally.others) == (3, 3, 0)
        assert (tally.duplicated, tally.skipped) == (0, 0)
        assert tally.received_bytes == len(wire)


def test_what_comes_twice_or_not_at_all_is_counted():
    peer, tally = joined_peer()
    for offset in (5, 6, 9, 8, 10, 10):
        peer.receive(push(offset))
    assert (tally.skipped, tally.duplicated) == (2, 2)


def test_time_runs_from_when_a_message_was_due_and_only_within_the_span():
    peer, tally = joined_peer()
    begin = now_ns()
    tally.since, tally.until = begin - 2_000_000_000, begin
    for offset, due in enumerate((begin - 3_000_000_000, begin - 1_000_000_000, begin), start=1):
        peer.receive(push(offset, due))
        peer.receive(ack(due))
    assert tally.delivered == tally.acked == 3
    assert tally.delivered_in_time == tally.delivery.count == tally.ack.count == tally.lately.count == 1
    assert 1_000_000_000 <= tally.delivery.max_ns < 100_000_000_000


def test_errors_pings_and_closes_are_handed_on_and_presence_is_not():
    peer, tally = joined_peer()
    error = b'{"type":"error","content":{"code":429}}'
    wire = server_frame(b'{"type":"presence"}') + server_frame(error) + server_frame(b"p", 9)
    assert peer.receive(wire + server_frame(b"\x03\xe8", 8)) == [(1, error), (9, b"p"), (8, b"\x03\xe8")]
    assert tally.others == 1
    peer.joined = False
    assert peer.receive(push(1)) is not None  # nothing is counted before


def test_a_frame_that_nobody_would_send_is_refused():
    peer, _ = joined_peer()
    with pytest.raises(ValueError, match="a frame of"):
        peer.receive(b"\x81\x7f" + (1 << 40).to_bytes(8))


def test_a_publication_is_a_frame_that_a_server_reads():
    peer, _ = joined_peer()
    wire = peer.publication(0xABC) + peer.publication(0xDEF)
    texts = [each.payload for each in frames.Reader().receive(wire)]
    assert texts == [
        '{"id":"^0000000000000abc00000000^","content":"~0000000000000abc00000000~"}',
        '{"id":"^0000000000000def00000001^","content":"~0000000000000def00000001~"}',
    ]
    assert peer.sent == 2


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_client_frames_of_any_size_are_read(size):
    (found,) = frames.Reader(max_message_bytes=100_000).receive(client_frame(1, b"x" * size, 0x12345678))
    assert found.payload == "x" * size
