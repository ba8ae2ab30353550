"""One issuer: finds the key of its tokens, checks what they say, and makes identities and grants of them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from realtime.backends.auth import claims as read
from realtime.backends.auth.compact import Parsed
from realtime.backends.auth.fetch import tls_context
from realtime.backends.auth.fixed import FileKeys, Secrets
from realtime.backends.auth.jwks import KeySet, read_jwks
from realtime.backends.auth.keys import Key, long_enough, public_key_of_pem, read_key_file, secret_key
from realtime.backends.auth.remote import RemoteKeys
from realtime.core.auth import ALL_ACTIONS, ROOM_ACTIONS, Grant, Identity
from realtime.core.contracts import Clock
from realtime.core.patterns import matcher
from realtime.errors import BadMessage, SettingsError, Unauthorized
from realtime.ids import DEFAULT_TENANT, TenantId, UserId, parse_room, parse_tenant, parse_user
from realtime.policy import Issuer

ROOM_CLAIM: Final = "room"
CAN_CLAIM: Final = "can"
# Types of tokens that say what somebody else is (RFC 8725, 3.11): an ID token is told by its audience, but
# these are told by their type, and are for other endpoints than ours.
_FOREIGN_TYPES: Final = frozenset({"logout+jwt", "dpop+jwt", "secevent+jwt", "token-introspection+jwt"})

Made = TypeVar("Made", Identity, Grant)


class Keys(Protocol):
    """Where an issuer's keys come from."""

    @property
    def fetches(self) -> int:
        """How often they were asked for, elsewhere."""
        ...

    @property
    def failed_fetches(self) -> int:
        """How often that brought none."""
        ...

    def refresh(self) -> None:
        """Fetch them anew where that is due."""
        ...

    def find(self, key_id: str | None, algorithm: str) -> Key | Awaitable[Key]:
        """Return the key that a token names.

        Raises (the awaitable too):
            Unauthorized: there is none.
            Unavailable: it could not be fetched.
        """
        ...

    def close(self) -> None:
        """Fetch nothing more; all keys live no more."""
        ...


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an issuer's tokens are held to; see `policy.Issuer`. `tenant` None: the claim says which."""

    issuer: str  # empty for the tokens of `jwt_secret`, which need no `iss`
    algorithms: frozenset[str]
    audiences: frozenset[str] = frozenset()
    tenant: TenantId | None = None
    may_speak_for: Callable[[str], bool]
    tenant_claim: str = "tenant"
    user_claim: str = "sub"
    roles_claim: str = "roles"
    scopes: frozenset[str] = frozenset()
    token_type: str = ""
    leeway_s: float = 5.0
    max_age_s: float = 0.0


class Judge:
    """Judges the tokens of one issuer."""

    def __init__(self, terms: Terms, keys: Keys) -> None:
        self.terms = terms
        self.keys = keys

    def key_of(self, parsed: Parsed) -> Key | Awaitable[Key]:
        """Return the key that a token has to be of.

        Raises (the awaitable too):
            Unauthorized: its algorithm is not the issuer's, or the issuer has no such key.
            Unavailable: the key could not be fetched.
        """
        if parsed.algorithm not in self.terms.algorithms:
            raise Unauthorized("token: its algorithm is not one that is accepted")
        return self.keys.find(parsed.key_id, parsed.algorithm)

    def identity(self, parsed: Parsed, key: Key, now: float) -> Identity:
        """Return who the bearer is.

        Raises:
            TokenExpired: its time has passed.
            Unauthorized: it is not of `key`, is for a room, or says something that will not do.
        """
        claims = self._verified(parsed, key)
        if ROOM_CLAIM in claims:
            raise Unauthorized("token is for a room; it goes into the content of `join`")
        user, tenant, expires_at, issued_at = self._whose(claims, now)
        return Identity(
            user=user,
            tenant=tenant,
            roles=read.roles(claims, self.terms.roles_claim),
            expires_at=expires_at,
            token_id=read.text(claims, "jti", ""),
            issued_at=issued_at,
        )

    def grant(self, parsed: Parsed, key: Key, now: float) -> Grant:
        """Return what a room token allows. Raises as `identity`; or it is for no room."""
        claims = self._verified(parsed, key)
        if ROOM_CLAIM not in claims:
            raise Unauthorized("token is for no room")
        user, tenant, expires_at, issued_at = self._whose(claims, now)
        try:
            room = parse_room(read.text(claims, ROOM_CLAIM))
        except BadMessage as error:
            raise Unauthorized(f"token: {error.message}") from error
        return Grant(
            user=user,
            tenant=tenant,
            room=room,
            actions=_actions(claims),
            expires_at=expires_at,
            token_id=read.text(claims, "jti", ""),
            issued_at=issued_at,
        )

    def _verified(self, parsed: Parsed, key: Key) -> Mapping[str, Any]:
        """The claims of a token whose signature is good, of the type and for whom it should be."""
        terms = self.terms
        if not key.live or not key.verifies(parsed.algorithm, parsed.signed, parsed.signature):
            raise Unauthorized("token is malformed or has a wrong signature")
        if parsed.type in _FOREIGN_TYPES or (terms.token_type and parsed.type != terms.token_type):
            raise Unauthorized("token is of another type (typ)")
        read.check_audience(parsed.claims, terms.audiences)
        read.check_scopes(parsed.claims, terms.scopes)
        return parsed.claims

    def _whose(self, claims: Mapping[str, Any], now: float) -> tuple[UserId, TenantId, float, float | None]:
        terms = self.terms
        expires_at, issued_at = read.check_times(claims, now, terms.leeway_s, terms.max_age_s)
        try:
            user = parse_user(read.text(claims, terms.user_claim))
            tenant = terms.tenant
            if tenant is None:
                default = None if terms.issuer else DEFAULT_TENANT
                tenant = parse_tenant(read.text(claims, terms.tenant_claim, default))
        except BadMessage as error:
            raise Unauthorized(f"token: {error.message}") from error
        if not terms.may_speak_for(tenant):
            raise Unauthorized("token: its issuer may not speak for this tenant")
        return user, tenant, expires_at, issued_at


def local_judge(
    secrets: tuple[str, ...],
    algorithms: tuple[str, ...],
    *,
    audiences: tuple[str, ...] = (),
    leeway_s: float = 5.0,
) -> Judge:
    """Return what judges tokens that are signed with one of `secrets`; they speak for all tenants."""
    terms = Terms(
        issuer="",
        algorithms=frozenset(algorithms),
        audiences=frozenset(audiences),
        may_speak_for=matcher(("*",)),
        leeway_s=leeway_s,
    )
    return Judge(terms, Secrets([secret_key(each, algorithms) for each in secrets]))


def judge_of(issuer: Issuer, clock: Clock) -> Judge:
    """Return what judges the tokens of an issuer of the policy. Keys behind a URL are not fetched yet.

    Raises:
        SettingsError: its keys are not there, or will not do.
    """
    terms = Terms(
        issuer=issuer.issuer,
        algorithms=frozenset(issuer.algorithms),
        audiences=frozenset(issuer.audience),
        tenant=parse_tenant(issuer.tenant) if issuer.tenant else None,
        may_speak_for=matcher((issuer.tenant,) if issuer.tenant else issuer.tenants or ()),
        tenant_claim=issuer.tenant_claim,
        user_claim=issuer.user_claim,
        roles_claim=issuer.roles_claim,
        scopes=frozenset(issuer.scopes),
        token_type=issuer.token_type.lower().removeprefix("application/"),
        leeway_s=issuer.leeway_s,
        max_age_s=issuer.max_age_s,
    )
    try:
        return Judge(terms, _keys_of(issuer, clock))
    except ValueError as error:
        raise SettingsError(f"policy: issuer {issuer.issuer!r}: {error}") from error


def _keys_of(issuer: Issuer, clock: Clock) -> Keys:
    if issuer.secret_env:
        secret = os.environ.get(issuer.secret_env, "")
        if not long_enough(secret, issuer.algorithms):
            raise ValueError(
                f"the variable {issuer.secret_env} is not set, or shorter than the hash (RFC 7518)"
            )
        return Secrets([secret_key(secret, issuer.algorithms)])
    if issuer.public_key_file:
        pem = read_key_file(Path(issuer.public_key_file))
        return FileKeys(KeySet([public_key_of_pem(pem, issuer.algorithms)]))
    if issuer.jwks_file:
        raw = read_key_file(Path(issuer.jwks_file))
        return FileKeys(read_jwks(raw, issuer.algorithms, issuer.jwks_file))
    if issuer.ca_file:
        try:
            tls_context(issuer.ca_file)
        except OSError as error:
            raise ValueError(f"ca_file {issuer.ca_file}: {error.strerror or 'no certificates'}") from error
    return RemoteKeys(issuer, clock)


def _actions(claims: Mapping[str, Any]) -> frozenset[str]:
    """What the claim `can` allows. A word that is none of ours allows nothing; `join` goes without saying."""
    value = claims.get(CAN_CLAIM)
    if CAN_CLAIM not in claims:
        return ALL_ACTIONS
    if not isinstance(value, list) or len(value) > 16 or not all(isinstance(each, str) for each in value):
        raise Unauthorized(f"token: {CAN_CLAIM} is no list of {', '.join(ROOM_ACTIONS)}")
    return ALL_ACTIONS.intersection(value) | {"join"}
