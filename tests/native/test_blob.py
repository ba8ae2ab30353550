"""Blobs against their twin; what a peer may have written is read within its bounds, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.native import blob
from tests.oracles import blob as oracle

STAMP = b"2025-07-15T10:30:00.123Z"
RECORDS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), max_size=20),
        st.none() | st.binary(max_size=40),
        st.none() | st.binary(max_size=40),
        st.binary(max_size=30),
        st.binary(max_size=200),
    ),
    max_size=10,
)
BOTH = pytest.mark.parametrize("codec", [blob, oracle], ids=["compiled", "oracle"])


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except ValueError as error:
        return type(error)


def named(found):
    """Errors of the two are two classes of one name."""
    return found.__name__ if isinstance(found, type) else found


@given(RECORDS, st.binary(max_size=20))
def test_what_is_encoded_is_decoded_and_both_say_the_same(records, before):
    made = b"".join(blob.encode_record(*each) for each in records)
    assert made == b"".join(oracle.encode_record(*each) for each in records)
    assert blob.decode_records(before + made, len(before)) == records
    assert blob.count_records(before + made, len(before)) == len(records)


@given(RECORDS, st.integers(0, 1000), st.integers(0, 1000))
def test_pushes_are_those_of_the_twin(records, first, after):
    made = b"".join(blob.encode_record(*each) for each in records)
    arguments = (made, 0, b'"chat:lobby"', b"e", first, after)
    assert blob.pushes_of(*arguments) == oracle.pushes_of(*arguments)


@given(RECORDS, st.data())
def test_anything_is_read_within_its_bounds_or_refused(records, data):
    made = bytearray(b"".join(blob.encode_record(*each) for each in records))
    for _ in range(data.draw(st.integers(0, 4))):
        if made:
            made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(made[: data.draw(st.integers(0, len(made)))])
    for name in ("decode_records", "count_records", "records_of"):
        assert named(outcome(getattr(blob, name), cut)) == named(outcome(getattr(oracle, name), cut))


@BOTH
def test_a_push_is_what_the_protocol_says(codec):
    record = codec.encode_record("chat_message", b'"alice"', b"k", STAMP, b'{"text":"hi"}')
    assert codec.pushes_of(record, 0, b'"chat:lobby"', b"e", 7) == [
        b'{"type":"chat_message","room":"chat:lobby","from":"alice","offset":7,"epoch":"e",'
        b'"content":{"text":"hi"},"timestamp":"2025-07-15T10:30:00.123Z"}'
    ]


@BOTH
def test_what_does_not_fit_is_refused(codec):
    assert len(codec.encode_record("t", None, b"k" * 65534, STAMP, b"")) > 65534
    for arguments in (("t" * 65535, None, None), ("t", b"s" * 65535, None), ("t", None, b"k" * 65535)):
        with pytest.raises(ValueError, match="at most 65534"):
            codec.encode_record(*arguments, STAMP, b"")


@BOTH
@pytest.mark.parametrize("start", [-1, 5])
def test_a_start_outside_of_a_record_is_refused(codec, start):
    record = codec.encode_record("t", None, None, STAMP, b"null")
    with pytest.raises(ValueError, match=r"cut short|longer than itself"):
        codec.decode_records(record, start)


@BOTH
def test_a_sealed_record_is_counted_and_cut_out_and_nothing_of_it_is_read(codec):
    plain = codec.encode_record("t", None, None, STAMP, b"null")
    sealed = (2 + 40).to_bytes(4, "little") + b"\xff\xff" + b"\xf9" * 40
    made = plain + sealed + plain
    assert codec.count_records(made) == 3
    assert codec.records_of(made) == [plain, sealed, plain]
    for read in (codec.decode_records, lambda each: codec.pushes_of(each, 0, b'"chat:lobby"', b"e", 1)):
        with pytest.raises(codec.SealedRecord):
            read(made)
        with pytest.raises(ValueError, match="cut short"):
            read(sealed[:-1])
