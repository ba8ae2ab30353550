"""Whether a chain of audit entries is as it was written: anything that was changed is found, and named.

What a chain alone cannot tell is that its end was cut off, or that all of it was written anew: whoever may
write the database can do that. A hash that was noted elsewhere tells it (`expected`), and so does the seal,
to whoever has its key and has not given it to the database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from realtime.core.audit import Action, Outcome
from realtime.core.audit_chain import BEGINNING, HASH_BYTES, PERSONAL, Entry, Head, entry_hash, is_sealed
from realtime.ids import TenantId

FLAWS_MAX: Final = 20
"""Flaws that are named; how many there are beyond is counted."""


class Flaw(msgspec.Struct, frozen=True):
    """What is wrong, and at which entry it shows."""

    seq: int
    what: str


class Verdict(msgspec.Struct, kw_only=True):
    """What became of one chain. It is whole where there are no flaws; the first one has the lowest seq."""

    tenant: TenantId
    entries: int = 0
    first: int = 0
    last: int = 0
    hash: bytes = BEGINNING
    erased: int = 0  # entries with personal fields that are gone
    dropped: int = 0  # entries that went for their age, as far as the log says
    flaws: list[Flaw] = msgspec.field(default_factory=list)
    more_flaws: int = 0
    remarks: list[str] = msgspec.field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.flaws


class Verifier:
    """Takes a chain's entries by seq, then its head. `expected` are hashes by seq that were noted before."""

    def __init__(
        self, tenant: TenantId, *, key: bytes = b"", expected: Mapping[int, bytes] | None = None
    ) -> None:
        self._key = key
        self._expected = dict(expected or {})
        self._met: set[int] = set()
        self._prev: bytes | None = None
        self._begins: tuple[int, bytes] | None = None  # the entry before the first one that is there
        self._drops: dict[int, bytes] = {}  # hashes of last dropped entries by seq
        self._erasures: dict[int, int] = {}  # entries erased, by the seq of the entry that says so
        self._erased: Counter[int] = Counter()  # the same as found
        self.verdict = Verdict(tenant=tenant)

    def take(self, entry: Entry) -> None:
        """Look at the next entry."""
        verdict = self.verdict
        verdict.entries += 1
        if self._prev is None:
            self._begin(entry)
        else:
            self._follow(entry)
        if entry.tenant != verdict.tenant:
            self._flaw(entry.seq, f"it belongs to the chain of {entry.tenant!r}")
        if len(entry.proofs) != len(PERSONAL) * HASH_BYTES:
            self._flaw(entry.seq, "its salts are damaged")
        elif entry_hash(entry) != entry.hash:
            self._flaw(entry.seq, "its content is not what its hash says: one of the two was changed")
        else:
            self._read(entry)
        if entry.seq in self._expected:
            self._met.add(entry.seq)
            if self._expected[entry.seq] != entry.hash:
                self._flaw(entry.seq, "its hash is not the one that was expected: the chain was rewritten")
        verdict.last, verdict.hash, self._prev = entry.seq, entry.hash, entry.hash

    def finish(self, head: Head | None) -> Verdict:
        """Return the verdict; `head` is what the store has as the chain's end."""
        verdict = self.verdict
        if verdict.entries and (head is None or (head.seq, head.hash) != (verdict.last, verdict.hash)):
            said = "none" if head is None else f"entry {head.seq}, {head.hash.hex()[:16]}…"
            self._flaw(verdict.last, f"the chain ends here, and the store's own note of its end is {said}")
        elif head is not None and not verdict.entries and head.seq:
            self._flaw(head.seq, "the chain is empty, and the store's own note of its end is this entry")
        elif head is not None and head.seq:
            self._check_seal(head)
        self._check_beginning()
        self._check_erasures()
        self._check_expected()
        verdict.flaws.sort(key=lambda flaw: flaw.seq)
        return verdict

    def _begin(self, entry: Entry) -> None:
        self.verdict.first = entry.seq
        if entry.seq != 1:
            self._begins = (entry.seq - 1, entry.prev)
        elif entry.prev != BEGINNING:
            self._flaw(entry.seq, "it is the first entry, and says that another one was before it")

    def _follow(self, entry: Entry) -> None:
        last = self.verdict.last
        if entry.seq <= last:
            self._flaw(entry.seq, "it stands twice")
        elif entry.seq != last + 1:
            only = entry.seq == last + 2
            self._flaw(last + 1, "missing" if only else f"missing, with all up to entry {entry.seq - 1}")
        elif entry.prev != self._prev:
            self._flaw(entry.seq, "it does not follow on the entry before it: one of the two was replaced")

    def _read(self, entry: Entry) -> None:
        """Take from an entry what it says about the chain."""
        if entry.erased is not None:
            self.verdict.erased += 1
            self._erased.update(int(seq) for seq in entry.erased.split() if seq.isdigit())
        elif None in entry.personal:
            self._flaw(entry.seq, "personal fields are missing, and no entry says who erased them")
        told = _told(entry)
        if entry.outcome == Outcome.ALLOWED:
            if entry.action == Action.RETENTION:
                self._drops[told.get("through", 0)] = bytes.fromhex(told.get("hash", ""))
                self.verdict.dropped = max(self.verdict.dropped, told.get("through", 0))
            elif entry.action == Action.ERASE:
                self._erasures[entry.seq] = told.get("entries", 0)
        if entry.action == Action.SEAL:
            if entry.outcome == Outcome.ALLOWED:
                self.verdict.remarks.append(f"sealed from entry {entry.seq} on; what is before bore no seal")
            else:
                self._flaw(
                    entry.seq, "the seal was another one: the chain was changed, or the key is a new one"
                )

    def _check_beginning(self) -> None:
        if self._begins is None:
            return
        seq, prev = self._begins
        if self._drops.get(seq) != prev:
            lacking = "entry 1 is" if seq == 1 else f"entries 1 to {seq} are"
            self._flaw(1, f"{lacking} missing, and no entry says that they went for their age")

    def _check_erasures(self) -> None:
        whole = self._begins is None
        for seq, found in sorted(self._erased.items()):
            said = self._erasures.get(seq)
            if said is None:
                self._flaw(seq, f"{found} entries say that this one erased them, and it does not")
            elif found > said or (whole and found != said):
                self._flaw(seq, f"it erased {said} entries, and {found} say so")
        for seq, said in self._erasures.items():
            if whole and said and seq not in self._erased:
                self._flaw(seq, f"it erased {said} entries, and none says so")

    def _check_expected(self) -> None:
        last = self.verdict.last
        for seq, noted in sorted(self._expected.items()):
            if seq in self._met:
                continue
            if seq > last:
                self._flaw(seq, f"expected, and the chain ends at entry {last}: its end was cut off")
            elif self._drops.get(seq) != noted:
                self._flaw(seq, "expected, and it is not there any more: it cannot be checked")

    def _check_seal(self, head: Head) -> None:
        if not self._key:
            if head.seal is not None:
                self.verdict.remarks.append("it is sealed: give audit_key to have the seal checked")
        elif head.seal is None:
            self._flaw(head.seq, "the chain's end bears no seal")
        elif not is_sealed(head, self._key):
            self._flaw(head.seq, "the seal is not this key's, or the chain was rewritten without it")

    def _flaw(self, seq: int, what: str) -> None:
        if len(self.verdict.flaws) < FLAWS_MAX:
            self.verdict.flaws.append(Flaw(seq, what))
        else:
            self.verdict.more_flaws += 1


def _told(entry: Entry) -> dict[str, Any]:
    """The detail of an entry that the log tells of itself; empty for all others."""
    if entry.action not in (Action.RETENTION, Action.ERASE) or not entry.detail:
        return {}
    told: dict[str, Any] = msgspec.json.decode(entry.detail)
    return told
