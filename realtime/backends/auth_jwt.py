"""Tokens: JWT signed with one shared key (HS256 by default), through PyJWT, which stops here.

Claims: `sub` (user id) and `exp` are required; `tenant` (default `default`), `roles` (a list of names,
default none), `jti`, `nbf` and `iat` are read where they stand. The algorithm is the configuration's, never
the token's.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt

from realtime.core.auth import Identity
from realtime.errors import BadMessage, TokenExpired, Unauthorized
from realtime.ids import DEFAULT_TENANT, parse_tenant, parse_user

# A short key is refused or warned about once, when settings are loaded; not on every token.
warnings.filterwarnings("ignore", message=".*HMAC key.*", module=r"jwt\.")

TOKEN_BYTES_MAX: Final = 8192
ROLES_MAX: Final = 64

# Only the signature is PyJWT's to judge: time is judged here, by the injected clock.
_OPTIONS: Final[Any] = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class JwtAuthenticator:
    """Turns tokens into identities, and remembers the verified ones until they expire.

    A reconnect storm is many clients with few tokens each: a remembered token costs one SHA-256 instead of
    base64, HMAC and two JSON documents. At most `cache_tokens` are kept, the oldest goes first; only tokens
    with a good signature enter, so nobody without a key can push others out. Tokens themselves are not kept.
    """

    def __init__(
        self,
        secret: str,
        *,
        algorithms: Sequence[str] = ("HS256",),
        leeway_s: float = 5.0,
        cache_tokens: int = 20_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not secret:
            raise ValueError("secret is empty")
        self._secret = secret
        self._algorithms = list(algorithms)
        self._leeway_s = leeway_s
        self._cache_tokens = cache_tokens
        self._clock = clock
        self._verified: dict[bytes, Identity] = {}

    def authenticate(self, token: str) -> Identity:
        """Return who `token` says its bearer is.

        Raises:
            TokenExpired: `exp` has passed.
            Unauthorized: it is no token of ours: malformed, of another key or algorithm, or its claims are
                missing or out of bounds.
        """
        encoded = token.encode("utf-8", "replace")
        if len(encoded) > TOKEN_BYTES_MAX:
            raise Unauthorized(f"token is over {TOKEN_BYTES_MAX} bytes")
        digest = hashlib.sha256(encoded).digest()
        identity = self._verified.get(digest)
        if identity is None:
            identity = self._identity(self._claims(encoded))
            self._remember(digest, identity)
        elif self._expired(identity):
            del self._verified[digest]
            raise TokenExpired
        return identity

    def _claims(self, token: bytes) -> dict[str, Any]:
        """The payload of a token with a good signature."""
        try:
            claims = jwt.decode(token, self._secret, algorithms=self._algorithms, options=_OPTIONS)
        # PyJWT parses the header before it knows the signature, so RecursionError (a header nested too deep),
        # ValueError and TypeError are a stranger's to cause.
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthorized("token is malformed or has a wrong signature") from error
        return dict(claims)

    def _identity(self, claims: dict[str, Any]) -> Identity:
        now = self._clock()
        expires_at = _timestamp(claims, "exp")
        if expires_at is None:
            raise Unauthorized("token has no exp")
        if expires_at + self._leeway_s <= now:
            raise TokenExpired
        not_before = _timestamp(claims, "nbf")
        if not_before is not None and not_before - self._leeway_s > now:
            raise Unauthorized("token is not valid yet")
        try:
            user = parse_user(_text(claims, "sub", None))
            tenant = parse_tenant(_text(claims, "tenant", DEFAULT_TENANT))
        except BadMessage as error:
            raise Unauthorized(f"token: {error.message}") from error
        return Identity(
            user=user,
            tenant=tenant,
            roles=_roles(claims),
            expires_at=expires_at + self._leeway_s,
            token_id=_text(claims, "jti", ""),
            issued_at=_timestamp(claims, "iat"),
        )

    def _expired(self, identity: Identity) -> bool:
        return identity.expires_at is not None and identity.expires_at <= self._clock()

    def _remember(self, digest: bytes, identity: Identity) -> None:
        if self._cache_tokens == 0:
            return
        if len(self._verified) >= self._cache_tokens:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = identity


def make_token(
    secret: str,
    *,
    user: str,
    ttl_s: float,
    tenant: str = DEFAULT_TENANT,
    roles: Sequence[str] = (),
    token_id: str = "",
    algorithm: str = "HS256",
    now: float | None = None,
) -> str:
    """Return a token that `JwtAuthenticator` with the same secret takes for `ttl_s` seconds.

    Raises:
        BadMessage: the user or tenant is no valid id.
    """
    issued_at = int(time.time() if now is None else now)
    claims: dict[str, Any] = {
        "sub": parse_user(user),
        "tenant": parse_tenant(tenant),
        "iat": issued_at,
        "exp": issued_at + math.ceil(ttl_s),
    }
    if roles:
        claims["roles"] = list(roles)
    if token_id:
        claims["jti"] = token_id
    return jwt.encode(claims, secret, algorithm=algorithm)


def _timestamp(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # bool is an int; NaN and Infinity pass Python's JSON; 1e12 seconds is the year 33658.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise Unauthorized(f"token: {name} is not a time in seconds")
    return float(value)


def _text(claims: dict[str, Any], name: str, default: str | None) -> str:
    value = claims.get(name, default)
    if not isinstance(value, str) or len(value) > 256:
        raise Unauthorized(f"token: {name} is missing or not a short string")
    return value


def _roles(claims: dict[str, Any]) -> frozenset[str]:
    roles = claims.get("roles") or ()
    if not isinstance(roles, list | tuple) or len(roles) > ROLES_MAX:
        raise Unauthorized(f"token: roles is not a list of at most {ROLES_MAX} names")
    if not all(isinstance(role, str) and 0 < len(role) <= 64 for role in roles):
        raise Unauthorized("token: a role is not a name of 1 to 64 characters")
    return frozenset(roles)
