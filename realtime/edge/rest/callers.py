"""Who asks the REST API, and what they may: keys of the policy, tokens with powers, and the rules over both.

A key is `rtk.<name>.<secret>`; the policy has its SHA-256, which is enough for a secret of 256 random bits. A
token is one of those that connections take. It has the powers that rules of the policy give its roles by
name, and, where it is signed with `jwt_secret`, those of its `scope`. All of it becomes rules of one kind, so
that a denial in the policy wins over keys and scopes too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from realtime.backends.auth.authenticator import TokenAuthenticator, authenticator_by
from realtime.backends.auth.compact import parse
from realtime.core.access import Rules, check_kinds
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.contracts import Clock
from realtime.core.patterns import matcher
from realtime.core.powers import POWERS, TENANTS, check_keys, powers_named
from realtime.errors import Forbidden, Unauthorized
from realtime.ids import DEFAULT_TENANT, TenantId, UserId, parse_tenant
from realtime.native.ratelimit import KeyedLimiter
from realtime.policy import Access, ApiKey, Policy
from realtime.policy.access import Rule
from realtime.policy.loading import read_policy
from realtime.settings import Settings

KEY_PREFIX: Final = "rtk."
SECRET_BYTES: Final = 32
KEY_CHARS_MAX: Final = 256
# Roles of our own making. What tokens say of themselves begins with neither.
KEY_ROLE: Final = "key:"
SCOPE_ROLE: Final = "scope:"
SCOPES_MAX: Final = 100
NOBODY_HASH: Final = bytes(32)
CALLERS_MAX: Final = 10_000

Check = Callable[[Identity], Awaitable[bool]]
"""Whether the token that gave an identity is revoked."""


class Caller(msgspec.Struct, frozen=True, eq=False):
    """Who asks: `name` stands in the audit log, and what it may do is held to `allows_tenant`."""

    name: str
    identity: Identity
    tenant: TenantId  # where a request names none
    tenants: tuple[str, ...] = ()  # patterns: a key's
    requests: KeyedLimiter | None = None  # a rate of its own

    @property
    def is_key(self) -> bool:
        """Whether it came with a key; with a token else."""
        return bool(self.tenants)


class Callers:
    """Knows them, by the policy that holds now.

    Raises:
        SettingsError: the policy cannot be followed.
    """

    def __init__(
        self, settings: Settings, policy: Policy, catalog: Catalog, clock: Clock, is_revoked: Check
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._is_revoked = is_revoked
        self._open = settings.open_mode
        self._tokens: TokenAuthenticator = authenticator_by(settings, clock)
        self._keys: Mapping[str, tuple[ApiKey, bytes]] = {}
        self._callers: Mapping[str, Caller] = {}
        self._rules: Rules
        self.prepare(policy)()

    @property
    def any(self) -> bool:
        """Whether anybody can ask at all."""
        return bool(self._keys) or self._takes_tokens

    def prepare(self, policy: Policy) -> Callable[[], None]:
        """Make ready for a policy; what is returned lets it hold.

        Raises:
            SettingsError: a key names no power, or rules or issuers will not do.
        """
        every = *policy.access.rules, *_rules_of(policy)
        for place, key in enumerate(policy.api.keys):  # by its place in the file, which its rule has not
            check_kinds(f"api.keys[{place}] ({key.name})", key.rooms, self._catalog)
        rules = Rules(Access(default="deny", rules=every), self._catalog)
        keys = {
            each.name: (each, bytes.fromhex(each.hash.removeprefix("sha256:"))) for each in policy.api.keys
        }
        callers = {name: _caller_of(key) for name, (key, _) in keys.items()}
        issuers = self._tokens.prepare(policy) if policy.issuers or not self._open else None
        admins = matcher(_admin_roles(policy))

        def commit() -> None:
            self._rules, self._keys, self._callers = rules, keys, callers
            self._takes_tokens = not self._open or bool(policy.issuers)
            self.gives_powers = admins  # role -> whether rules give whoever has it any power
            if issuers is not None:
                issuers()

        return commit

    def tick(self) -> None:
        """Fetch the keys of issuers that are due. Now and then."""
        self._tokens.tick()

    def close(self) -> None:
        """End all fetches."""
        self._tokens.close()

    async def identify(self, authorization: str) -> Caller:
        """Return whose header this is.

        Raises:
            Unauthorized: nobody's; TokenExpired: it was somebody's.
            Unavailable: the token's key could not be fetched, or nobody can say whether it is revoked.
        """
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer" or not given:
            raise Unauthorized("this needs a key or a token: Authorization: Bearer …")
        if given.startswith(KEY_PREFIX):
            return self._by_key(given)
        if not self._takes_tokens:
            raise Unauthorized("no tokens are taken here: no jwt_secret and no issuer is configured")
        outcome = self._tokens.authenticate(given)
        identity = outcome if isinstance(outcome, Identity) else await outcome
        if await self._is_revoked(identity):
            raise Unauthorized("the token is revoked")
        roles = {each for each in identity.roles if not each.startswith((KEY_ROLE, SCOPE_ROLE))}
        identity = msgspec.structs.replace(identity, roles=frozenset(roles | self._scopes(given)))
        return Caller(f"token:{identity.user}", identity, identity.tenant)

    def permit(self, caller: Caller, power: str, tenant: str | None, room: str = "") -> TenantId:
        """Return the tenant that the caller may do this in: the one named, or its own.

        Raises:
            BadMessage: it is no tenant's name.
            Forbidden: it has no such power there.
        """
        within = caller.tenant if tenant is None else parse_tenant(tenant)
        identity = self._acting(caller, within)
        if not self._rules.grants(identity, power, room):
            where = f" in {room}" if room else ""
            raise Forbidden(f"{power} is not allowed{where}: {POWERS[power]}")
        return within

    def powers_of(self, caller: Caller) -> frozenset[str]:
        """Return the powers that a caller has where its requests name no tenant and no room."""
        return frozenset(power for power in POWERS if self._rules.grants(caller.identity, power, ""))

    def permit_all(self, caller: Caller, power: str) -> None:
        """Raise Forbidden unless the caller may do this for all tenants together."""
        if caller.is_key:
            everywhere = "*" in caller.tenants
        else:
            everywhere = self._rules.grants(caller.identity, TENANTS, "")
        if not everywhere or not self._rules.grants(caller.identity, power, ""):
            raise Forbidden(f"{power} is not allowed, or not for all tenants: {POWERS[power]}")

    def _acting(self, caller: Caller, within: TenantId) -> Identity:
        if caller.is_key:
            if not matcher(caller.tenants)(within):
                raise Forbidden(f"this key does nothing in tenant {within!r}")
            return msgspec.structs.replace(caller.identity, tenant=within)
        if within != caller.tenant and not self._rules.grants(caller.identity, TENANTS, ""):
            raise Forbidden(f"this token does nothing in tenant {within!r}")
        return caller.identity

    def _by_key(self, given: str) -> Caller:
        name, _, secret = given.removeprefix(KEY_PREFIX).partition(".")
        key, hash = self._keys.get(name, (None, NOBODY_HASH))
        digest = hashlib.sha256(given[:KEY_CHARS_MAX].encode()).digest()
        # Compared whether or not there is such a key, and in the same time wherever they differ.
        same = hmac.compare_digest(digest, hash)
        if not same or key is None or not secret or len(given) > KEY_CHARS_MAX:
            raise Unauthorized("the key is none of ours")
        return self._callers[name]

    def _scopes(self, token: str) -> frozenset[str]:
        """The roles that stand for the powers in a verified token's `scope`: of our own tokens alone."""
        parsed = parse(token)
        if self._tokens.judge(parsed).terms.issuer:
            return frozenset()  # what an issuer calls its scopes is not for us to guess: rules give by roles
        said: Any = parsed.claims.get("scope", "")
        words = said.split()[:SCOPES_MAX] if isinstance(said, str) else ()
        return frozenset(f"{SCOPE_ROLE}{power}" for power in powers_named(words)) if words else frozenset()


def new_key(name: str) -> tuple[str, str]:
    """Return a new key of that name, and the hash that the policy has of it."""
    key = f"{KEY_PREFIX}{name}.{secrets.token_urlsafe(SECRET_BYTES)}"
    return key, f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def stanza(name: str, hash: str, powers: Sequence[str], tenants: Sequence[str], rooms: Sequence[str]) -> str:
    """Return what the policy file says of a key.

    Raises:
        SettingsError: it could not: a name that is none, or a power that there is not.
    """
    table = {"name": name, "hash": hash, "powers": powers, "tenants": tenants, "rooms": rooms}
    _rules_of(read_policy({"api": {"keys": [table]}}, "of this key"))
    return "[[api.keys]]\n" + "".join(f"{field} = {json.dumps(value)}\n" for field, value in table.items())


def _caller_of(key: ApiKey) -> Caller:
    first = key.tenants[0]
    tenant = DEFAULT_TENANT if "*" in first else parse_tenant(first)
    who = f"{KEY_ROLE}{key.name}"
    rate = key.requests_per_second
    requests = KeyedLimiter(rate, max(1.0, 2 * rate), 1) if rate else None
    return Caller(who, Identity(UserId(who), tenant, frozenset({who})), tenant, key.tenants, requests)


def _rules_of(policy: Policy) -> list[Rule]:
    """What keys and scopes allow, as rules."""
    check_keys(policy.api.keys)
    rules = [Rule(roles=(f"{SCOPE_ROLE}{power}",), actions=(power,)) for power in POWERS]
    for key in policy.api.keys:
        powers = tuple(sorted(powers_named(key.powers)))
        rules.append(
            Rule(roles=(f"{KEY_ROLE}{key.name}",), tenants=key.tenants, actions=powers, rooms=key.rooms)
        )
    return rules


def _admin_roles(policy: Policy) -> tuple[str, ...]:
    """The roles, as patterns, to which rules of the policy give any power."""
    return tuple(
        role
        for rule in policy.access.rules
        if rule.effect == "allow" and POWERS.keys() & set(rule.actions)
        for role in rule.roles
    )
