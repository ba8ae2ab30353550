"""What a token says, held to bounds: the claims of RFC 7519, and where an issuer has put ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from realtime.errors import TokenExpired, Unauthorized

ROLES_MAX: Final = 64
TEXT_CHARS_MAX: Final = 256
AUDIENCES_MAX: Final = 100
# Later is a mistake, or meant never to end: what `realtime token make` allows, and a little.
TTL_S_MAX: Final = 10 * 366 * 86_400.0

Claims = Mapping[str, Any]


def text(claims: Claims, name: str, default: str | None = None) -> str:
    """Return a claim that is a short text; `default` where it is absent, None for none.

    Raises:
        Unauthorized: it is missing or something else.
    """
    value = claims.get(name, default)
    if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX:
        raise Unauthorized(f"token: {name} is missing or not a short string")
    return value


def moment(claims: Claims, name: str) -> float | None:
    """Return a claim that is a NumericDate, Unix seconds; None where it is absent."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # bool is an int; 1e400 is Infinity; 1e12 seconds is the year 33658.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise Unauthorized(f"token: {name} is not a time in seconds")
    return float(value)


def check_times(
    claims: Claims, now: float, leeway_s: float, max_age_s: float = 0.0
) -> tuple[float, float | None]:
    """Return when the token ends, leeway included, and when it was issued, where it says so.

    Raises:
        TokenExpired: that has passed, or it is older than `max_age_s` (0: any age will do).
        Unauthorized: it has no `exp` or an absurd one, is not valid yet, or was issued in the future.
    """
    expires_at = moment(claims, "exp")
    if expires_at is None:
        raise Unauthorized("token has no exp")
    issued_at, not_before = moment(claims, "iat"), moment(claims, "nbf")
    if expires_at + leeway_s <= now:
        raise TokenExpired
    if expires_at > now + TTL_S_MAX:
        raise Unauthorized("token: exp is over ten years away")
    if not_before is not None and not_before - leeway_s > now:
        raise Unauthorized("token is not valid yet")
    if issued_at is not None and issued_at - leeway_s > now:
        raise Unauthorized("token: iat is in the future")
    ends = expires_at + leeway_s
    if max_age_s:
        if issued_at is None:
            raise Unauthorized("token has no iat")
        if issued_at + max_age_s + leeway_s <= now:
            raise TokenExpired("the token is too old; fetch a new one and reconnect")
        ends = min(ends, issued_at + max_age_s + leeway_s)
    return ends, issued_at


def check_audience(claims: Claims, ours: Collection[str]) -> None:
    """Raise Unauthorized unless the token is for one of `ours`.

    Without any of ours it must be for nobody in particular: RFC 7519, 4.1.3, has whoever is not named in
    `aud` refuse the token.
    """
    value = claims.get("aud")
    if "aud" not in claims and not ours:
        return
    audiences = [value] if isinstance(value, str) else value
    if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
        raise Unauthorized("token: aud is missing or no list of names")
    if len(audiences) > AUDIENCES_MAX or not set(ours).intersection(audiences):
        raise Unauthorized("token is for another audience")


def check_scopes(claims: Claims, wanted: Collection[str]) -> None:
    """Raise Unauthorized unless the token has all scopes `wanted`, in `scope` (RFC 8693, 4.2) or `scp`."""
    if not wanted:
        return
    value = claims.get("scope", claims.get("scp"))
    given = value.split(" ") if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise Unauthorized("token: scope is missing or no list of names")
    missing = sorted(set(wanted).difference(given))
    if missing:
        raise Unauthorized(f"token: the scope {missing[0]!r} is missing")


def roles(claims: Claims, path: str) -> frozenset[str]:
    """Return the names in the list that `path` leads to, by dots through objects; none where it is absent.

    A claim whose own name is the whole `path` goes first: some issuers' names have dots in them.
    """
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for part in path.split("."):
            if not isinstance(found, Mapping):
                raise Unauthorized(f"token: {path} leads to no list")
            found = found.get(part)
            if found is None:
                return frozenset()
    if not isinstance(found, list) or len(found) > ROLES_MAX:
        raise Unauthorized(f"token: {path} is not a list of at most {ROLES_MAX} names")
    if not all(isinstance(role, str) and 0 < len(role) <= 64 and role.isprintable() for role in found):
        raise Unauthorized("token: a role is not a name of 1 to 64 characters")
    return frozenset(found)
