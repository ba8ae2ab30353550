"""permessage-deflate: round trips against Python's zlib, every legal end, bombs and damaged data."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.native.deflate import BadData, Deflater, Inflater, TooBig
from tests.oracles import deflate as oracle

TAIL = b"\x00\x00\xff\xff"
KEPT_BYTES = 65536
LIMIT = 1 << 20
SIZES = [0, 1, 2, 125, 126, 4095, 4096, 65535, 65536, 65537, 200_000]

# Compressible, incompressible and in between, as (a piece, how often).
messages = st.builds(
    lambda piece, times, rest: piece * times + rest,
    st.binary(min_size=1, max_size=50),
    st.integers(0, 3000),
    st.binary(max_size=300),
)


def deflated(message: bytes, *, wbits: int = -15, flush: int = zlib.Z_SYNC_FLUSH, level: int = 6) -> bytes:
    compressor = zlib.compressobj(level, wbits=wbits)
    return compressor.compress(message) + compressor.flush(flush)


def noise(n: int) -> bytes:
    """`n` bytes that deflate cannot shrink, the same every time."""
    state, out = 1, bytearray()
    while len(out) < n:
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        out += (state >> 32).to_bytes(4, "big")
    return bytes(out[:n])


@pytest.fixture(scope="module")
def inflater():
    return Inflater()


@pytest.mark.parametrize("window_bits", range(9, 16))
@pytest.mark.parametrize("level", [1, 6, 9])
def test_python_inflates_what_we_deflate_within_the_window(level, window_bits):
    deflater = Deflater(level, window_bits)
    for n in SIZES:
        for message in (b"abcdefg" * (n // 7 + 1), noise(n)):
            wire = deflater.compress(message)
            assert zlib.decompressobj(-window_bits).decompress(wire + TAIL) == message


@pytest.mark.parametrize("wbits", range(-15, -8))
def test_we_inflate_what_python_deflates_with_any_window(inflater, wbits):
    for n in SIZES:
        for message in (b"abcdefg" * (n // 7 + 1), noise(n)):
            assert inflater.decompress(deflated(message, wbits=wbits)[:-4], LIMIT) == message


@settings(max_examples=100, deadline=None)
@given(st.lists(messages, max_size=4), st.integers(1, 9), st.integers(9, 15))
def test_any_messages_come_back_each_on_its_own(several, level, window_bits):
    deflater, inflater = Deflater(level, window_bits), Inflater()
    for message in several:
        wire = deflater.compress(message)
        assert wire == Deflater(level, window_bits).compress(message), "depends on what came before"
        assert not wire.endswith(TAIL)
        assert inflater.decompress(wire, len(message)) == message


def test_the_empty_message_is_one_zero_byte():
    assert Deflater().compress(b"") == b"\x00"  # RFC 7692, 7.2.3.6


def test_hello_is_the_example_of_the_rfc():
    assert Deflater().compress(b"Hello").hex() == "f248cdc9c90700"  # RFC 7692, 7.2.3.1


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        pytest.param("00", b"", id="7.2.3.6 empty"),
        pytest.param("", b"", id="no data at all"),
        pytest.param("01", b"", id="the empty stored block is final"),
        pytest.param("000500faff48656c6c6f00", b"Hello", id="7.2.3.3 stored block"),
        pytest.param("f348cdc9c9070000", b"Hello", id="7.2.3.4 final block"),
        pytest.param("f348cdc9c90700", b"Hello", id="final block and nothing behind it"),
        pytest.param("f24805000000ffffcac9c90700", b"Hello", id="7.2.3.5 two blocks"),
        pytest.param("f348cdc9c90700f348cdc9c9070000", b"HelloHello", id="two final blocks"),
        pytest.param("f348cdc9c90700f248cdc9c90700", b"HelloHello", id="a block behind a final one"),
    ],
)
def test_a_legal_message_is_inflated(inflater, wire, message):
    data = bytes.fromhex(wire)
    assert inflater.decompress(data, 100) == oracle.inflate(data, 100) == message


def test_a_block_behind_a_final_one_may_point_back_into_it(inflater):
    first, second = noise(20_000), noise(30_000)[10_000:]
    head = deflated(first, flush=zlib.Z_FINISH)
    behind = zlib.compressobj(wbits=-15, zdict=first)
    tail = behind.compress(second) + behind.flush(zlib.Z_SYNC_FLUSH)
    assert len(tail) < 15_000, "nothing points back"
    assert inflater.decompress((head + tail)[:-4], LIMIT) == first + second


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param("ff", id="reserved block type"),
        pytest.param("f348", id="cut in a block"),
        pytest.param("f248cdc9c907", id="cut before the last byte"),
        pytest.param("f248cdc9c907000000ffff", id="the tail was not removed"),
        pytest.param("f348cdc9c90700ff", id="garbage behind a final block"),
        pytest.param("000500faff4865", id="cut in a stored block"),
        pytest.param("000500fbff48656c6c6f00", id="stored length and its complement differ"),
        pytest.param("f240620300", id="points back before the message"),
        pytest.param("0400", id="broken code lengths"),
    ],
)
def test_damaged_data_is_bad_data_and_the_next_message_is_read(inflater, wire):
    data = bytes.fromhex(wire)
    with pytest.raises(BadData):
        oracle.inflate(data, 100)
    with pytest.raises(BadData):
        inflater.decompress(data, 100)
    assert inflater.decompress(Deflater().compress(b"next"), 100) == b"next"


@pytest.mark.parametrize("message", [b"Hello, Hello, Hello", noise(300)])
def test_a_message_cut_anywhere_is_never_taken_for_whole(inflater, message):
    wire = Deflater().compress(message)
    assert inflater.decompress(wire, 1000) == message
    for n in range(2, len(wire)):  # the first byte of a stored block, alone, is the empty message
        with pytest.raises(BadData):
            inflater.decompress(wire[:n], 1000)


def outcome(inflate, data: bytes, limit: int) -> bytes | str:
    try:
        return inflate(data, limit)
    except (BadData, TooBig) as error:
        return type(error).__name__


@settings(max_examples=400, deadline=None)
@given(
    message=messages,
    limit=st.one_of(st.integers(0, 400), st.sampled_from([65535, 65536, 70_000, LIMIT])),
    flush=st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH]),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=2), st.booleans()), max_size=2),
)
def test_whole_or_damaged_data_is_answered_as_the_oracle_answers(inflater, message, limit, flush, damage):
    data = deflated(message, flush=flush)[: None if flush == zlib.Z_FINISH else -4]
    for place, put, replaces in damage:
        data = data[:place] + put + data[place + (len(put) if replaces else 0) :]
    assert outcome(inflater.decompress, data, limit) == outcome(oracle.inflate, data, limit)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 300))
def test_any_bytes_are_answered_as_the_oracle_answers(inflater, data, limit):
    assert outcome(inflater.decompress, data, limit) == outcome(oracle.inflate, data, limit)


@pytest.mark.parametrize("n", [0, 1, 65535, 65536, 65537, 131_072, 131_073])
def test_a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not(inflater, n):
    for fresh_or_used in (Inflater(), inflater):
        assert fresh_or_used.decompress(Deflater().compress(bytes(n)), n) == bytes(n)
        with pytest.raises(TooBig):
            fresh_or_used.decompress(Deflater().compress(bytes(n + 1)), n)


def test_every_size_around_the_buffers_own_is_inflated(inflater):
    # A buffer filled to the last byte may hide output still due; 65,537 zeros once looked incomplete so.
    for n in [*range(KEPT_BYTES - 300, KEPT_BYTES + 300), *range(2 * KEPT_BYTES - 20, 2 * KEPT_BYTES + 20)]:
        for message in (bytes(n), b"0123456789" * (n // 10) + bytes(n % 10)):
            assert Inflater().decompress(deflated(message)[:-4], LIMIT) == message
            assert inflater.decompress(deflated(message, flush=zlib.Z_FINISH), n) == message


def test_a_bomb_costs_no_more_than_the_limit_and_leaves_nothing_held():
    bomb = deflated(bytes(100_000_000), level=9)[:-4]
    assert len(bomb) < 100_000
    inflater = Inflater()
    for limit in (10, 1000, 100_000, 1_000_000):
        with pytest.raises(TooBig):
            inflater.decompress(bomb, limit)
        assert inflater.buffer_bytes <= max(limit + 1, KEPT_BYTES)
    assert inflater.buffer_bytes <= KEPT_BYTES or inflater.decompress(b"", 10) == b""
    assert inflater.buffer_bytes <= KEPT_BYTES


def test_buffers_shrink_after_a_large_message():
    inflater, deflater = Inflater(), Deflater()
    large = noise(600_000)
    wire = deflater.compress(large)
    assert inflater.decompress(wire, LIMIT) == large
    assert len(large) <= inflater.buffer_bytes <= LIMIT + 1
    assert deflater.buffer_bytes >= len(wire)
    for _ in range(2):
        assert inflater.decompress(deflater.compress(b"small"), LIMIT) == b"small"
    assert inflater.buffer_bytes <= KEPT_BYTES
    assert deflater.buffer_bytes <= KEPT_BYTES


def test_a_message_of_final_blocks_only_is_read_in_linear_time(inflater):
    # 150,000 resets; with a dictionary set at each they would copy 5 GB.
    assert inflater.decompress(
        deflated(bytes(40_000), flush=zlib.Z_FINISH) + b"\x03\x00" * 150_000, LIMIT
    ) == bytes(40_000)


@pytest.mark.parametrize(("level", "window_bits"), [(0, 15), (10, 15), (6, 8), (6, 16), (6, -15)])
def test_a_level_or_window_zlib_cannot_serve_is_refused(level, window_bits):
    with pytest.raises(ValueError, match="must be"):
        Deflater(level, window_bits)
