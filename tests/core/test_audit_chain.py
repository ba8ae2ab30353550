"""The chain of audit entries: whatever is changed in it is found, and what is erased is gone for good."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core import audit_chain
from realtime.core.audit import Action, Event, Outcome
from realtime.core.audit_chain import PERSONAL, Entry, Head
from realtime.core.audit_notes import Note
from realtime.core.audit_verify import Verdict, Verifier
from realtime.ids import TenantId

ACME = TenantId("acme")
ENTRIES = 6


def a_chain(count: int = ENTRIES, **more: object) -> tuple[list[Entry], Head]:
    fields = {"action": Action.JOIN, "outcome": Outcome.DENIED, "source": "192.0.2.1", "target": "chat:x"}
    notes = [
        Note(Event(**{"tenant": ACME, "actor": f"user{n}", **fields, **more}), 1, 10 + n, 20 + n)
        for n in range(count)
    ]
    entries, (head,) = audit_chain.extend({}, notes, b"", 0)
    return entries, head


def verified(entries: list[Entry], head: Head | None, **options: object) -> Verdict:
    verifier = Verifier(ACME, **options)
    for entry in entries:
        verifier.take(entry)
    return verifier.finish(head)


def changed(value: object, how: bytes) -> object:
    """Something else of the same type."""
    if isinstance(value, int):
        return value + 1 + how[0]
    if isinstance(value, bytes):
        place = how[0] % len(value)
        return value[:place] + bytes([value[place] ^ (1 + how[1] % 255)]) + value[place + 1 :]
    return f"{value or ''}{how[0]}"


FIELDS = [name for name in Entry.__struct_fields__ if name != "erased"]
assert FIELDS[-1] == "hash"


@given(st.integers(0, ENTRIES - 1), st.sampled_from(FIELDS), st.binary(min_size=2, max_size=2))
def test_any_change_of_any_field_is_found_where_it_was_or_right_after(place: int, field: str, how: bytes):
    entries, head = a_chain()
    forged = changed(getattr(entries[place], field), how)
    entries[place] = msgspec.structs.replace(entries[place], **{field: forged})
    found = verified(entries, head)
    assert not found.whole
    assert min(flaw.seq for flaw in found.flaws) <= place + 2


@given(st.integers(0, ENTRIES - 1), st.sampled_from(FIELDS[:-1]), st.binary(min_size=2, max_size=2))
def test_a_change_with_a_hash_that_fits_is_found_too(place: int, field: str, how: bytes):
    entries, head = a_chain()
    forged = changed(getattr(entries[place], field), how)
    entries[place] = msgspec.structs.replace(entries[place], **{field: forged})
    entries[place] = msgspec.structs.replace(entries[place], hash=audit_chain.entry_hash(entries[place]))
    assert not verified(entries, head).whole


@given(st.permutations(range(ENTRIES)), st.integers(0, ENTRIES))
def test_any_other_order_and_any_lack_is_found(order: list[int], count: int):
    entries, head = a_chain()
    found = verified([entries[place] for place in order[:count]], head)
    assert found.whole == (order[:count] == list(range(ENTRIES)))


@given(st.integers(0, ENTRIES), st.integers(0, ENTRIES - 1))
def test_an_entry_more_is_found(at: int, which: int):
    entries, head = a_chain()
    entries.insert(at, entries[which])
    assert not verified(entries, head).whole


def test_two_chains_do_not_mix():
    entries, head = a_chain()
    stray = Event(tenant=TenantId("other"), action=Action.JOIN, outcome=Outcome.DENIED, actor="alice")
    others, _ = audit_chain.extend({}, [Note(stray, 1, 0, 0)], b"", 0)
    assert not verified([*others, *entries[1:]], head).whole


@given(st.sets(st.sampled_from(PERSONAL), min_size=1))
def test_what_is_erased_leaves_the_hash_and_nothing_to_guess_it_by(fields: set[str]):
    (entry,), _ = a_chain(1)
    erased = audit_chain.erase(entry, fields, 7)
    assert audit_chain.entry_hash(erased) == erased.hash == entry.hash
    assert {name for name in PERSONAL if getattr(erased, name) is None} == fields
    # Neither the value nor its salt, and without the salt nobody can try values.
    for place, name in enumerate(PERSONAL):
        salt = entry.proofs[32 * place : 32 * place + 32]
        assert (salt in erased.proofs) == (name not in fields)


def test_a_commitment_is_salted():
    (one, other), _ = a_chain(2, actor="alice")
    salts = one.proofs[:32], other.proofs[:32]
    assert salts[0] != salts[1]
    assert audit_chain.commitments(one)[0] != audit_chain.commitments(other)[0]
    assert hashlib.sha256(b"alice").digest() not in audit_chain.commitments(one)


@given(
    st.lists(st.binary(max_size=6), max_size=4),
    st.lists(st.binary(max_size=6), max_size=4),
)
def test_no_two_sequences_of_parts_are_encoded_alike(one: list[bytes], other: list[bytes]):
    assert (audit_chain.parts(*one) == audit_chain.parts(*other)) == (one == other)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"actor": "alice"}, {"actor", "source", "detail"}),
        ({"actor": "bob"}, set()),
        ({"actor": "server", "target": "alice"}, {"source", "target", "detail"}),
        ({"actor": "operator", "target": "alice"}, {"target", "detail"}),
        ({"actor": "bob", "target": "user:alice"}, {"target", "detail"}),
        ({"actor": "bob", "detail": {"sender": "alice"}}, {"detail"}),
        ({"actor": "bob", "detail": {"sender": "alice2"}}, set()),
        ({"actor": "alice", "action": Action.ERASE}, set()),
        ({"actor": "alice", "action": Action.RETENTION}, set()),
    ],
)
def test_what_of_an_entry_tells_of_a_user(fields: dict, named: set[str]):
    (entry,), _ = a_chain(1, **fields)
    assert audit_chain.naming(entry, "alice") == named


def test_what_one_entry_may_take_is_bounded():
    (entry,), _ = a_chain(1, detail={f"k{n}": "x" * 1000 for n in range(100)}, target="y" * 10_000)
    assert len(entry.detail) <= 4096
    assert len(entry.target) <= 512


@pytest.mark.parametrize(
    ("at_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_763_717_109_123_456, "2025-11-21T09:25:09.123456Z"),
        (1_000_000, "1970-01-01T00:00:01.000000Z"),
    ],
)
def test_times_are_rfc_3339(at_us: int, text: str):
    assert audit_chain.rfc3339(at_us) == text
