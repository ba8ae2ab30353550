"""Sets of keys (RFC 7517, 5), and which key of a set a token may have been signed with."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Any, Final

from realtime.backends.auth.compact import KEY_ID_CHARS_MAX, read_object
from realtime.backends.auth.keys import Key, key_of_jwk
from realtime.errors import Unauthorized

log: Final = logging.getLogger("realtime.backends")

KEYS_MAX: Final = 100


class KeySet:
    """The keys of one issuer at one time."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the one key a token with this header can be of; None where there is none, or several.

        A token that names no key is of the only one for its algorithm; one that does, of that one alone.
        """
        fitting = [
            each
            for each in self.keys
            if algorithm in each.algorithms and (key_id is None or each.id is None or each.id == key_id)
        ]
        named = [each for each in fitting if key_id is not None and each.id == key_id]
        candidates = named or fitting
        return candidates[0] if len(candidates) == 1 else None

    def followed_by(self, other: KeySet) -> KeySet:
        """Return `other` with those of our key objects that are in it too; the rest of ours live no more."""
        ours = {(each.id, each.algorithms, each.identity): each for each in self.keys}
        kept = [ours.pop((each.id, each.algorithms, each.identity), each) for each in other.keys]
        for gone in ours.values():
            gone.live = False
        return KeySet(kept)


def read_jwks(raw: bytes, algorithms: Collection[str], source: str) -> KeySet:
    """Return the keys of a JWK Set that verify by one of `algorithms`. Others in it are passed over.

    Raises:
        ValueError: it is no JWK Set, has over `KEYS_MAX` keys, one `kid` for two of them, or none for us.
    """
    try:
        entries: Any = read_object(raw, "set").get("keys")
    except Unauthorized:
        raise ValueError("no JSON object with `keys`") from None
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise ValueError(f"`keys` is no list of at most {KEYS_MAX} keys")
    keys: list[Key] = []
    for entry in entries:
        try:
            keys.append(_key(entry, algorithms))
        except ValueError as error:
            log.info("%s: passed over: %s", source, error)
    names = [each.id for each in keys if each.id is not None]
    if len(set(names)) < len(names):
        raise ValueError("one `kid` for two keys")
    if not keys:
        raise ValueError(f"no key for any of {', '.join(sorted(algorithms))}")
    return KeySet(keys)


def _key(entry: Any, algorithms: Collection[str]) -> Key:
    if not isinstance(entry, dict):
        raise ValueError("an entry that is no object")
    if len(str(entry.get("kid") or "")) > KEY_ID_CHARS_MAX:
        raise ValueError(f"a kid of over {KEY_ID_CHARS_MAX} characters")
    return key_of_jwk(entry, algorithms)
