"""The audit log's hashes in plain Python, from docs/audit.md alone: they verify what was exported.

realtime audit export --proofs | python tests/oracles/audit.py
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from typing import Any

PERSONAL = ("actor", "source", "target", "detail")


def part(content: bytes) -> bytes:
    """Its length in four bytes, and itself."""
    return len(content).to_bytes(4, "big") + content


def sha256(*contents: str | bytes) -> bytes:
    """The hash of all of them as parts."""
    encoded = (content.encode() if isinstance(content, str) else content for content in contents)
    return hashlib.sha256(b"".join(map(part, encoded))).digest()


def hash_of(entry: dict[str, Any]) -> str:
    """The hash that an exported entry has to have."""
    proofs = bytes.fromhex(entry["proofs"])
    commitments = []
    for place, name in enumerate(PERSONAL):
        value, proof = entry[name], proofs[32 * place : 32 * place + 32]
        if name == "detail" and value is not None:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        erased = value is None
        commitments.append(proof if erased else sha256("realtime-audit-field-1", name, proof, value))
    said = [str(entry[name]) for name in ("tenant", "seq", "at", "until", "count", "action", "outcome")]
    return sha256("realtime-audit-entry-1", *said, *commitments, bytes.fromhex(entry["prev"])).hex()


def first_bad(lines: Iterable[str]) -> str | None:
    """The first entry of an export that is not what it was, or does not follow; None where all are and do."""
    ends: dict[str, tuple[int, str]] = {}
    for entry in map(json.loads, lines):
        seq, prev = ends.get(entry["tenant"], (entry["seq"] - 1, entry["prev"]))
        follows = (entry["seq"], entry["prev"]) == (seq + 1, prev)
        if not follows or hash_of(entry) != entry["hash"]:
            return f"{entry['tenant']}:{entry['seq']}"
        ends[entry["tenant"]] = (entry["seq"], entry["hash"])
    return None


if __name__ == "__main__":
    sys.exit(first_bad(sys.stdin))
