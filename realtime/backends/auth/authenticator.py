"""All issuers together: whose token it is, and the memory of those that were good."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from realtime.backends.auth.compact import TOKEN_BYTES_MAX, Parsed, parse
from realtime.backends.auth.issuer import Judge, judge_of, local_judge
from realtime.backends.auth.keys import Key
from realtime.core.auth import Grant, Identity
from realtime.core.clock import SystemClock
from realtime.core.contracts import Clock
from realtime.errors import SettingsError, TokenExpired, Unauthorized
from realtime.policy import Issuer, Policy
from realtime.settings import Settings

Made = TypeVar("Made", Identity, Grant)
Make = Callable[[Judge, Parsed, Key, float], Made]

REFRESH_EVERY_S: Final = 5.0


class Remembered(NamedTuple, Generic[Made]):
    """A token that was good: what it gives, as long as its key lives."""

    made: Made
    key: Key


class TokenAuthenticator:
    """Turns tokens into identities and grants, and remembers the verified ones until they expire.

    A reconnect storm is many clients with few tokens each: a remembered token costs one SHA-256 instead of
    base64, a signature and two JSON documents. At most `cache_tokens` are kept, the oldest goes first; only
    tokens with a good signature enter, so nobody without a key can push others out. Tokens themselves are not
    kept. `local` judges what `jwt_secret` signs; None where there is no such secret.
    """

    def __init__(
        self, local: Judge | None, *, cache_tokens: int = 20_000, clock: Clock | None = None
    ) -> None:
        self._local = local
        self._judges: Mapping[str, Judge] = {}
        self._issuers: Mapping[str, Issuer] = {}  # what they were made of
        self._cache_tokens = cache_tokens
        self._clock = clock or SystemClock()
        self._identities: dict[bytes, Remembered[Identity]] = {}
        self._grants: dict[bytes, Remembered[Grant]] = {}
        self._refresh_at = float("-inf")
        self._fetches = self._failures = 0  # of issuers that are gone

    def authenticate(self, token: str) -> Identity | Awaitable[Identity]:
        """See `core.auth.Authenticator`."""
        return self._judged(token, self._identities, _identity)

    def grant(self, token: str) -> Grant | Awaitable[Grant]:
        """See `core.auth.Authenticator`."""
        return self._judged(token, self._grants, _grant)

    def judge(self, parsed: Parsed) -> Judge:
        """Return what judges a token, by its `iss`.

        Raises:
            Unauthorized: no issuer of ours is named.
        """
        issuer = parsed.claims.get("iss")
        if "iss" in parsed.claims and not isinstance(issuer, str):
            raise Unauthorized("token: iss is no text")
        # Whoever signs with our own secret may name itself as it likes; nobody else gets past it.
        judge = self._judges.get(issuer) if isinstance(issuer, str) else None
        judge = judge or self._local
        if judge is None:
            raise Unauthorized("token is of no issuer that is known here")
        return judge

    def prepare(self, policy: Policy) -> Callable[[], None]:
        """Make ready for the issuers of a policy; what is returned lets them hold.

        Raises:
            SettingsError: one of them cannot be used, or none is left to authenticate anybody.
        """
        issuers = policy.issuers
        names = [each.issuer for each in issuers]
        if len(set(names)) < len(names):
            raise SettingsError("policy: issuers: two have the same `issuer`")
        if not issuers and self._local is None:
            raise SettingsError("policy: issuers: the last one is gone and there is no jwt_secret")
        judges = {each.issuer: self._kept(each) or judge_of(each, self._clock) for each in issuers}
        return partial(self._hold, judges, {each.issuer: each for each in issuers})

    def tick(self) -> None:
        """Begin to fetch the keys that are due. Called now and then, in the event loop."""
        now = self._clock.monotonic()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_EVERY_S
            for judge in self._judges.values():
                judge.keys.refresh()

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        keys = [judge.keys for judge in self._judges.values()]
        return {
            "tokens_remembered": len(self._identities) + len(self._grants),
            "token_key_fetches_total": self._fetches + sum(each.fetches for each in keys),
            "token_key_failures_total": self._failures + sum(each.failed_fetches for each in keys),
        }

    def close(self) -> None:
        """End all fetches."""
        for judge in self._judges.values():
            judge.keys.close()

    def _kept(self, issuer: Issuer) -> Judge | None:
        """The judge of an issuer that has not changed and whose keys come from afar: it goes on with them."""
        far = issuer.jwks_url or issuer.discovery_url
        return self._judges[issuer.issuer] if far and self._issuers.get(issuer.issuer) == issuer else None

    def _hold(self, judges: Mapping[str, Judge], issuers: Mapping[str, Issuer]) -> None:
        for name, judge in self._judges.items():
            if judges.get(name) is not judge:
                self._fetches += judge.keys.fetches
                self._failures += judge.keys.failed_fetches
                judge.keys.close()
        self._judges, self._issuers = judges, issuers
        self._identities.clear()  # what an issuer may say has changed, perhaps
        self._grants.clear()
        self._refresh_at = float("-inf")

    def _judged(
        self, token: str, remembered: dict[bytes, Remembered[Made]], make: Make[Made]
    ) -> Made | Awaitable[Made]:
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthorized(f"token is over {TOKEN_BYTES_MAX} bytes")
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = remembered.get(digest)
        if known is not None and known.key.live:
            expires_at = known.made.expires_at
            if expires_at is None or expires_at > self._clock.time():
                return known.made
            del remembered[digest]
            raise TokenExpired
        if not token.isascii():
            raise Unauthorized("token is malformed: it is no ASCII")
        parsed = parse(token)
        judge = self.judge(parsed)
        key = judge.key_of(parsed)
        if isinstance(key, Key):
            made = make(judge, parsed, key, self._clock.time())
            self._remember(remembered, digest, Remembered(made, key))
            return made
        return self._judged_later(digest, parsed, judge, key, remembered, make)

    async def _judged_later(
        self,
        digest: bytes,
        parsed: Parsed,
        judge: Judge,
        pending: Awaitable[Key],
        remembered: dict[bytes, Remembered[Made]],
        make: Make[Made],
    ) -> Made:
        key = await pending
        made = make(judge, parsed, key, self._clock.time())
        self._remember(remembered, digest, Remembered(made, key))
        return made

    def _remember(
        self, remembered: dict[bytes, Remembered[Made]], digest: bytes, good: Remembered[Made]
    ) -> None:
        if self._cache_tokens == 0:
            return
        if len(remembered) >= self._cache_tokens:
            del remembered[next(iter(remembered))]
        remembered[digest] = good


def authenticator_of(
    secrets: Sequence[str],
    algorithms: Sequence[str],
    issuers: Sequence[Issuer] = (),
    *,
    audiences: Sequence[str] = (),
    leeway_s: float = 5.0,
    cache_tokens: int = 20_000,
    clock: Clock | None = None,
) -> TokenAuthenticator:
    """Return an authenticator for tokens of `secrets` (the first signs, all are taken) and of `issuers`.

    Raises:
        SettingsError: an issuer cannot be used.
    """
    local = None
    if secrets:
        local = local_judge(tuple(secrets), tuple(algorithms), audiences=tuple(audiences), leeway_s=leeway_s)
    made = TokenAuthenticator(local, cache_tokens=cache_tokens, clock=clock)
    if issuers:
        made.prepare(Policy(issuers=tuple(issuers)))()
    return made


def authenticator_by(settings: Settings, clock: Clock) -> TokenAuthenticator:
    """Return an authenticator for tokens of the secrets in the settings, if any; issuers come later."""
    return authenticator_of(
        (settings.jwt_secret, *settings.jwt_previous_secrets) if settings.jwt_secret else (),
        settings.jwt_algorithms,
        audiences=settings.jwt_audiences,
        leeway_s=settings.jwt_leeway_s,
        cache_tokens=settings.jwt_cache_tokens,
        clock=clock,
    )


def _identity(judge: Judge, parsed: Parsed, key: Key, now: float) -> Identity:
    return judge.identity(parsed, key, now)


def _grant(judge: Judge, parsed: Parsed, key: Key, now: float) -> Grant:
    return judge.grant(parsed, key, now)
