"""The native sequence against its twin, and where it owns memory."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.native.sequence import Budget, Sequence
from tests.oracles import sequence as oracle

STAMP = b"2025-07-15T10:30:00.123Z"
BOTH = pytest.mark.parametrize("make", [Sequence, oracle.Sequence], ids=["compiled", "oracle"])


def publish(sequence, size: int = 1) -> int:
    return sequence.publish("publish", None, b'"' + b"x" * size + b'"', STAMP)


@BOTH
def test_offsets_rise_by_one_and_each_push_is_delivered_with_its_own(make):
    sequence = make(b'"events:a"', b"e", 10, 10_000)
    got = []
    sequence.deliver = lambda push, offset: got.append((push, offset))
    assert [publish(sequence) for _ in range(3)] == [1, 2, 3]
    assert [offset for _, offset in got] == [1, 2, 3]
    assert [push for push, _ in got] == sequence.between(1, 3)
    assert got[1][0] == (
        b'{"type":"publish","room":"events:a","offset":2,"epoch":"e","content":"x",'
        b'"timestamp":"2025-07-15T10:30:00.123Z"}'
    )


@BOTH
def test_a_delivery_that_fails_has_its_offset_and_is_kept(make):
    sequence = make(b'"events:a"', b"e", 10, 10_000)

    def refuse(push, offset):
        raise OSError("planted")

    sequence.deliver = refuse
    with pytest.raises(OSError, match="planted"):
        publish(sequence)
    assert (sequence.offset, len(sequence)) == (1, 1)


@BOTH
def test_an_order_goes_on_from_where_it_was_with_pushes_made_elsewhere(make):
    sequence = make(b'"chat:a"', b"e", 10, 10_000, None, 41)
    got = []
    sequence.deliver = lambda push, offset: got.append((push, offset))
    assert (sequence.first, sequence.offset, sequence.between(1, 100)) == (42, 41, [])
    assert sequence.append(b"made elsewhere") == 42
    assert publish(sequence) == 43
    assert got[0] == (b"made elsewhere", 42)
    assert sequence.between(1, 42) == [b"made elsewhere"]


@BOTH
@pytest.mark.parametrize("bounds", [(-1, 0), (0, -1)])
def test_negative_bounds_are_refused(make, bounds):
    with pytest.raises(ValueError, match="at least 0"):
        make(b'"events:a"', b"e", *bounds)


@given(
    messages_max=st.integers(0, 40),
    bytes_max=st.integers(0, 4000),
    together_max=st.integers(0, 8000),
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 600)), max_size=120),
    spans=st.lists(st.tuples(st.integers(-5, 130), st.integers(-5, 130)), max_size=5),
    scale=st.sampled_from([1, 1, 40]),  # arenas that are worth making smaller again need large pushes
)
def test_any_run_of_publications_is_kept_as_the_twin_keeps_it(
    messages_max, bytes_max, together_max, sizes, spans, scale
):
    bytes_max, together_max = bytes_max * scale, together_max * scale
    budget, twins_budget = Budget(together_max), oracle.Budget(together_max)
    rooms = [Sequence(b'"events:a"', b"e", messages_max, bytes_max, budget) for _ in range(3)]
    twins = [oracle.Sequence(b'"events:a"', b"e", messages_max, bytes_max, twins_budget) for _ in range(3)]
    for room, unit in sizes:
        size = unit * scale if unit % 3 else unit
        compiled, twin = rooms[room], twins[room]
        assert publish(compiled, size) == publish(twin, size)
        for name in ("offset", "first", "size_bytes"):
            assert getattr(compiled, name) == getattr(twin, name), name
        assert len(compiled) == len(twin)
        assert budget.used == twins_budget.used <= together_max
    for compiled, twin in zip(rooms, twins, strict=True):
        for low, high in [*spans, (compiled.first, compiled.offset)]:
            assert compiled.between(low, high) == twin.between(low, high)
    del rooms, compiled
    assert budget.used == 0


def test_what_it_returns_is_the_callers_own_and_outlives_it():
    sequence = Sequence(b'"events:a"', b"e", 4, 10_000)
    pushes = []
    sequence.deliver = lambda push, offset: pushes.append(push)
    for _ in range(11):
        publish(sequence)
    kept = sequence.between(1, 11)
    assert kept == pushes[7:]
    for _ in range(11):
        publish(sequence, 200)
    del sequence
    assert kept == pushes[7:11]


@BOTH
def test_a_push_that_no_arena_keeps_is_delivered_whole(make):
    sequence = make(b'"events:a"', b"e", 10, 300)
    got = []
    sequence.deliver = lambda push, offset: got.append(push)
    publish(sequence, 20)
    publish(sequence, 5000)
    publish(sequence, 20)
    assert [len(push) > 5000 for push in got] == [False, True, False]
    assert sequence.between(1, 3) == got[2:]


def test_a_sequence_that_the_collector_finds_in_a_cycle_gives_back_its_budget():
    budget = Budget(10_000)

    class Owner:
        def __init__(self) -> None:
            self.sequence = Sequence(b'"events:a"', b"e", 4, 10_000, budget)
            self.sequence.deliver = self.deliver

        def deliver(self, push, offset):
            pass

    for _ in range(100):
        publish(Owner().sequence)
    gc.collect()
    assert budget.used == 0
