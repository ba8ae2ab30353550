"""The chain of a tenant's audit entries: what is hashed, and how. `docs/audit.md` specifies it for others.

Each entry has the hash of the one before it, so that none can be changed, taken out, put in or moved without
changing all that follow. What may be personal (actor, source, target, detail) goes in as commitments, hashes
over a random salt and the value: erasing removes both, leaves the commitment, and the chain holds on.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from realtime.core.audit import OPERATOR, SERVER, Action, Event, Outcome
from realtime.core.audit_notes import Note
from realtime.ids import TenantId

ENTRY: Final = b"realtime-audit-entry-1"
FIELD: Final = b"realtime-audit-field-1"
SEAL: Final = b"realtime-audit-seal-1"
PERSONAL: Final = ("actor", "source", "target", "detail")
HASH_BYTES: Final = 32
BEGINNING: Final = bytes(HASH_BYTES)
"""What the first entry of a chain has as the hash before it."""
TEXT_CHARS_MAX: Final = 512
DETAIL_CHARS_MAX: Final = 4096
OWN: Final = frozenset({Action.RETENTION, Action.ERASE, Action.LOST, Action.SEAL})
"""What the log tells of itself."""
PEERS: Final = frozenset({Action.CONNECT, Action.REFRESH, Action.JOIN, Action.PUBLISH, Action.READ})
"""What nobody but users does."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_encode_detail = msgspec.json.Encoder(order="sorted").encode


class Entry(msgspec.Struct, kw_only=True, gc=False):
    """One entry as it is kept. Times are Unix microseconds; `detail` is a JSON object as text.

    A personal field that has been erased is None. `proofs` has 32 bytes for each of them, in their order: its
    salt, or once it is erased its commitment. `erased` are the seqs of the entries that say so, as `12 40`.
    """

    tenant: TenantId
    seq: int
    at_us: int
    until_us: int
    count: int
    action: str
    outcome: str
    actor: str | None
    source: str | None
    target: str | None
    detail: str | None
    proofs: bytes
    erased: str | None
    prev: bytes
    hash: bytes

    @property
    def personal(self) -> tuple[str | None, ...]:
        """Its personal fields, in the order of `PERSONAL`."""
        return self.actor, self.source, self.target, self.detail


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a chain: its last entry, and the seal over it (None: it bears none)."""

    tenant: TenantId
    seq: int = 0
    hash: bytes = BEGINNING
    seal: bytes | None = None


def parts(*contents: bytes) -> bytes:
    """Return all of them, each with its length before it in four bytes: no two sequences come out alike."""
    return b"".join([len(content).to_bytes(4, "big") + content for content in contents])


# What every entry begins with, and what every field does: name, and the length of the salt that follows.
_ENTRY_START: Final = parts(ENTRY)
_FIELD_STARTS: Final = tuple(parts(FIELD, name.encode()) + b"\0\0\0\x20" for name in PERSONAL)
_PLACES: Final = tuple(slice(start, start + HASH_BYTES) for start in range(0, 4 * HASH_BYTES, HASH_BYTES))


def commitment(place: int, salt: bytes, value: str) -> bytes:
    """Return the hash that stands for the personal field at `place` of `PERSONAL`."""
    content = value.encode()
    return hashlib.sha256(
        b"%b%b%b%b" % (_FIELD_STARTS[place], salt, len(content).to_bytes(4, "big"), content)
    ).digest()


def entry_hash(entry: Entry) -> bytes:
    """Return the hash that the entry has to have by its content."""
    at = rfc3339(entry.at_us)
    until = at if entry.until_us == entry.at_us else rfc3339(entry.until_us)
    fields = (str(entry.seq), at, until, str(entry.count), entry.action, entry.outcome)
    return hashlib.sha256(
        _ENTRY_START
        + parts(entry.tenant.encode(), *[field.encode() for field in fields], *commitments(entry), entry.prev)
    ).digest()


def commitments(entry: Entry) -> list[bytes]:
    """Return what stands for each personal field in the chain."""
    proofs = entry.proofs
    return [
        proofs[_PLACES[place]] if value is None else commitment(place, proofs[_PLACES[place]], value)
        for place, value in enumerate(entry.personal)
    ]


def link(head: Head, note: Note) -> Entry:
    """Return the entry that a note becomes after `head`."""
    event = note.event
    entry = Entry(
        tenant=head.tenant,
        seq=head.seq + 1,
        at_us=note.at_us,
        until_us=note.until_us,
        count=note.events,
        action=event.action.value,
        outcome=event.outcome.value,
        actor=clean(event.actor),
        source=clean(event.source),
        target=clean(event.target),
        detail=_detail(event.detail),
        proofs=os.urandom(len(PERSONAL) * HASH_BYTES),
        erased=None,
        prev=head.hash,
        hash=b"",
    )
    entry.hash = entry_hash(entry)
    return entry


def extend(
    heads: Mapping[TenantId, Head], notes: Iterable[Note], key: bytes, now_us: int
) -> tuple[list[Entry], list[Head]]:
    """Return the entries that `notes` become after `heads`, and the heads then, sealed where there is a key.

    A chain that is to be sealed and bears no seal of this key gets an entry first that says so.
    """
    ends = dict(heads)
    entries: list[Entry] = []

    def add(note: Note) -> None:
        tenant = note.event.tenant
        entry = link(ends.get(tenant) or Head(tenant=tenant), note)
        ends[tenant] = Head(tenant=tenant, seq=entry.seq, hash=entry.hash)
        entries.append(entry)

    wanted = list(notes)
    tenants = dict.fromkeys(note.event.tenant for note in wanted)
    for tenant in tenants:
        head = heads.get(tenant)
        if head is not None and is_unsealed(head, key):
            outcome = Outcome.ALLOWED if head.seal is None else Outcome.FAILED
            add(Note(own_entry(Action.SEAL, outcome, tenant, after=head.seq), 1, now_us, now_us))
    for note in wanted:
        add(note)
    return entries, [sealed(ends[tenant], key) for tenant in tenants]


def sealed(head: Head, key: bytes) -> Head:
    """Return the head with a seal over it; with none where there is no key."""
    return msgspec.structs.replace(head, seal=seal(head, key) if key else None)


def seal(head: Head, key: bytes) -> bytes:
    """Return the HMAC that says that this head was written by somebody who has the key."""
    return hmac.digest(key, parts(SEAL, head.tenant.encode(), b"%d" % head.seq, head.hash), "sha256")


def is_sealed(head: Head, key: bytes) -> bool:
    """Whether the head bears the key's seal."""
    return head.seal is not None and hmac.compare_digest(head.seal, seal(head, key))


def erase(entry: Entry, fields: Collection[str], by: int) -> Entry:
    """Return the entry without the personal `fields`, as entry number `by` of its chain will say."""
    found = commitments(entry)
    kept = [
        found[place] if name in fields else entry.proofs[_PLACES[place]]
        for place, name in enumerate(PERSONAL)
    ]
    values = dict.fromkeys(fields)
    told = str(by) if entry.erased is None else f"{entry.erased} {by}"
    return msgspec.structs.replace(entry, **values, proofs=b"".join(kept), erased=told)


def naming(entry: Entry, user: str) -> set[str]:
    """Return the personal fields of an entry that tell of `user`: none where it is not about that user.

    Where the user is who acted, or whom the server acted on, the address is the user's too. Detail says more
    about the same, so it goes with them. What the log tells of itself tells of nobody.
    """
    if entry.action in OWN:
        return set()
    told: dict[str, str | int] = {} if entry.detail is None else msgspec.json.decode(entry.detail)
    fields = {"target"} if entry.target in (user, f"user:{user}") else set()
    # A user may be called as we call ourselves: then only what users do was done by that user.
    if entry.actor == user and (user not in (SERVER, OPERATOR) or entry.action in PEERS):
        fields.add("actor")
    if "actor" in fields or (fields and entry.actor == SERVER):
        fields.add("source")
    if fields or user in told.values():
        fields.add("detail")
    # One that is erased already stays as it is: its proof is a commitment.
    return {name for name in fields if getattr(entry, name) is not None}


def quoted(text: str) -> str:
    """Return `text` as it stands in a detail where it is a value."""
    return _encode_detail(text).decode()


def own_entry(action: Action, outcome: Outcome, tenant: TenantId, **detail: str | int) -> Event:
    """Return an event that the log tells of itself."""
    return Event(tenant=tenant, action=action, outcome=outcome, actor=SERVER, detail=detail)


def rfc3339(at_us: int) -> str:
    """Return a time as RFC 3339, in UTC with microseconds."""
    return (EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def clean(text: str) -> str:
    """Return `text` as it can be kept everywhere: no U+0000, no lone surrogate, at most 512 characters."""
    if len(text) > TEXT_CHARS_MAX:
        text = text[: TEXT_CHARS_MAX - 1] + "…"
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _detail(detail: Mapping[str, str | int]) -> str:
    if not detail:
        return "{}"
    kept = {clean(name): clean(value) if isinstance(value, str) else value for name, value in detail.items()}
    text = _encode_detail(kept).decode()
    return text if len(text) <= DETAIL_CHARS_MAX else f'{{"cut":"{len(text)} characters"}}'


def is_unsealed(head: Head | None, key: bytes) -> bool:
    """Whether a chain that is to be sealed with `key` has entries and does not bear its seal."""
    return bool(key) and head is not None and head.seq > 0 and not is_sealed(head, key)


def dropped(last: Entry, count: int) -> Event:
    """Return the event that `count` entries went for their age, of which `last` was the last one."""
    told: dict[str, str | int] = {"through": last.seq, "hash": last.hash.hex(), "entries": count}
    return own_entry(Action.RETENTION, Outcome.ALLOWED, last.tenant, **told)


def leading(entries: Sequence[Entry], before_us: int, last: int) -> Entry | None:
    """Return the last of those that go for their age: all in front that ended before `before_us`.

    Entry number `last`, the chain's end, never goes: the next one has to follow on something.
    """
    found = None
    for entry in entries:
        if entry.until_us >= before_us or entry.seq >= last:
            break
        found = entry
    return found
