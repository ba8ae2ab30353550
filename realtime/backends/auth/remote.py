"""An issuer's keys behind a URL: fetched beside all else, kept as long as they may be, and seen to rotate.

A token that names an unknown key makes one fetch, at most one in `refetch_s` whatever comes: a flood of made
up names costs the issuer nothing. While the URL gives no answer, what is known holds for `stale_s` longer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from realtime.backends.auth.compact import read_object
from realtime.backends.auth.fetch import Document, FetchError, fetch
from realtime.backends.auth.jwks import KeySet, read_jwks
from realtime.backends.auth.keys import Key
from realtime.core.contracts import Clock
from realtime.errors import Unauthorized, Unavailable
from realtime.policy.issuers import Issuer, check_url

log: Final = logging.getLogger("realtime.backends")

MAX_AGE_S: Final = (60.0, 86_400.0)
"""Bounds of what `Cache-Control: max-age` may ask for."""
DEFAULT_MAX_AGE_S: Final = 3600.0
RETRY_S: Final = (1.0, 60.0)
"""First and longest wait after a fetch that failed; doubled by each, give or take a quarter."""

Fetch = Callable[[str], Awaitable[Document]]


class RemoteKeys:
    """The keys of `issuer`, of its `jwks_url` or `discovery_url`. `close` ends what is under way.

    The first fetch begins with the first question or `refresh`, whichever is earlier.
    """

    def __init__(self, issuer: Issuer, clock: Clock, get: Fetch | None = None) -> None:
        self._issuer = issuer
        self._clock = clock
        self._get = get or (lambda url: fetch(url, ca_file=issuer.ca_file))
        self._keys = KeySet()
        self._known = False
        self._fresh_until = 0.0
        self._usable_until = 0.0
        self._retry_at = float("-inf")  # no fetch before, unless none was tried
        self._unknown_at = float("-inf")  # no fetch for an unknown key before
        self._failures = 0
        self._fetching: asyncio.Task[None] | None = None
        self._closed = False
        self.fetches = 0
        self.failed_fetches = 0

    def refresh(self) -> None:
        """Fetch them anew where that is due; it waits for nothing. To be called now and then."""
        now = self._clock.monotonic()
        if now >= self._fresh_until and now >= self._retry_at:
            self._begin(now)

    def find(self, key_id: str | None, algorithm: str) -> Key | Awaitable[Key]:
        """Return the key that a token names; an awaitable of it where it has to be fetched.

        Raises (the awaitable too):
            Unauthorized: the issuer has no such key, or is asked for one too often.
            Unavailable: its keys are not to be had now.
        """
        self.refresh()
        now = self._clock.monotonic()
        if self._known and now < self._usable_until:
            key = self._keys.find(key_id, algorithm)
            if key is not None:
                return key
            if self._fetching is None and now < max(self._unknown_at, self._retry_at):
                raise _unknown()
            if self._fetching is None:
                self._begin(now)
            # Another key would need another fetch: until `refetch_s` later this one's answer holds.
            return self._find_later(key_id, algorithm)
        if self._fetching is None and now < self._retry_at:
            raise self._unavailable(now)
        self._begin(now)
        return self._find_later(key_id, algorithm)

    def close(self) -> None:
        """Fetch no more; its keys verify nothing any more."""
        self._closed = True
        self._keys = self._keys.followed_by(KeySet())
        if self._fetching is not None:
            self._fetching.cancel()

    async def _find_later(self, key_id: str | None, algorithm: str) -> Key:
        assert self._fetching is not None
        # Shielded: who hangs up meanwhile must not end it for the others. It never raises by itself.
        await asyncio.wait([self._fetching])
        now = self._clock.monotonic()
        if not self._known or now >= self._usable_until:
            raise self._unavailable(now)
        key = self._keys.find(key_id, algorithm)
        if key is None:
            raise _unknown()
        return key

    def _begin(self, now: float) -> None:
        if self._fetching is None and not self._closed:
            self._unknown_at = now + self._issuer.jwks_refetch_s
            self._retry_at = now + RETRY_S[0]
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())

    async def _fetch(self) -> None:
        source = f"keys of issuer {self._issuer.issuer!r}"
        self.fetches += 1
        try:
            document = await self._document()
            keys = read_jwks(document.body, self._issuer.algorithms, source)
        except (FetchError, ValueError) as error:
            self._failed(source, error)
        else:
            self._take(keys, document.max_age_s)
        finally:
            self._fetching = None

    async def _document(self) -> Document:
        issuer = self._issuer
        if issuer.jwks_url:
            return await self._get(issuer.jwks_url)
        found = _discovered((await self._get(issuer.discovery_url)).body)
        # OpenID Connect Discovery, 4.3: it has to be the issuer's own, exactly.
        if found.get("issuer") != issuer.issuer or not isinstance(found.get("jwks_uri"), str):
            raise ValueError("the discovery document is another issuer's, or names no keys")
        check_url("jwks_uri", found["jwks_uri"])
        return await self._get(found["jwks_uri"])

    def _take(self, keys: KeySet, max_age_s: float | None) -> None:
        now = self._clock.monotonic()
        least, most = MAX_AGE_S
        age_s = DEFAULT_MAX_AGE_S if max_age_s is None else min(max(max_age_s, least), most)
        self._keys = self._keys.followed_by(keys)
        self._known, self._failures = True, 0
        self._fresh_until = now + age_s
        self._usable_until = self._fresh_until + self._issuer.jwks_stale_s

    def _failed(self, source: str, error: Exception) -> None:
        self.failed_fetches += 1
        first, longest = RETRY_S
        wait_s = min(longest, first * 2 ** min(self._failures, 10)) * random.uniform(0.75, 1.25)
        self._failures += 1
        self._retry_at = self._clock.monotonic() + wait_s
        log.warning("%s: not to be had, trying again in %.0f s: %s", source, wait_s, error)

    def _unavailable(self, now: float) -> Unavailable:
        wait_s = max(self._retry_at - now, RETRY_S[0])
        return Unavailable("the keys of the token's issuer are not to be had now", retry_after_s=wait_s)


def _discovered(raw: bytes) -> dict[str, Any]:
    try:
        return read_object(raw, "discovery document")
    except Unauthorized:
        raise ValueError("the discovery document is no JSON object") from None


def _unknown() -> Unauthorized:
    return Unauthorized("token: its issuer has no such key for its algorithm")
