"""`[[issuers]]`: whose tokens are taken beside those that `jwt_secret` signs."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from realtime.policy.section import Patterns, Section

# fmt: off
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "HS256", "HS384", "HS512",
]
# fmt: on
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Names = Annotated[tuple[Name, ...], Meta(max_length=100)]
Place = Annotated[str, Meta(max_length=2048)]
KEY_SOURCES = ("jwks_url", "discovery_url", "jwks_file", "public_key_file", "secret_env")


class Issuer(Section, frozen=True, kw_only=True):
    """One issuer of tokens: what it signs with, which tokens of it are for us, and for whom it may speak.

    Its keys come from one of five places. It speaks for one `tenant`, or for those of `tenants` (patterns)
    that the claim `tenant_claim` names, and never for others. Every name of `scopes` has to be in the token's
    `scope` (or `scp`). A dot in `roles_claim` leads into an object: `realm_access.roles`.
    """

    issuer: Annotated[str, Meta(min_length=1, max_length=512, description="The claim `iss`, exactly.")]
    audience: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)]
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)]
    jwks_url: Place = ""
    discovery_url: Place = ""
    jwks_file: Place = ""
    public_key_file: Place = ""
    secret_env: Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")] = ""
    ca_file: Place = ""
    tenant: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    tenants: Patterns | None = None
    tenant_claim: Name = "tenant"
    user_claim: Name = "sub"
    roles_claim: Name = "roles"
    scopes: Names = ()
    token_type: Annotated[str, Meta(max_length=64, description="`at+jwt` of RFC 9068, if given.")] = ""
    leeway_s: Annotated[float, Meta(ge=0, le=300)] = 5.0
    max_age_s: Annotated[float, Meta(ge=0, le=86_400 * 366, description="Since `iat`; 0: any.")] = 0.0
    jwks_refetch_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    jwks_stale_s: Annotated[float, Meta(ge=0, le=86_400 * 7)] = 3600.0

    def check(self) -> None:
        """Raise ValueError where it has no keys, keys from two places, or may speak for no tenant."""
        given = [name for name in KEY_SOURCES if getattr(self, name)]
        if len(given) != 1:
            what = "none is" if not given else f"{' and '.join(given)} are"
            raise ValueError(f"one of {', '.join(KEY_SOURCES)} has to be given; {what}")
        if bool(self.tenant) == bool(self.tenants):
            raise ValueError("give either `tenant` or `tenants`: an issuer speaks for no others")
        shared = [name for name in self.algorithms if name.startswith("HS")]
        if bool(shared) != bool(self.secret_env) or (shared and len(shared) < len(self.algorithms)):
            # One list with both would let a public key be taken for a shared secret (RFC 8725, 2.1).
            raise ValueError("HS algorithms go with `secret_env`, and all others with keys of their own")
        if self.secret_env.startswith("REALTIME_"):
            raise ValueError(f"secret_env {self.secret_env}: names with REALTIME_ are those of settings")
        for name in ("jwks_url", "discovery_url"):
            if address := getattr(self, name):
                check_url(name, address)


def check_url(name: str, address: str) -> None:
    """Raise ValueError unless keys may be fetched from `address`: by https, or http on this machine."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{name} is no URL: {error}") from None
    if parts.scheme not in ("https", "http") or not host:
        raise ValueError(f"{name} is no https URL")
    if parts.username is not None or parts.fragment or not address.isascii() or not address.isprintable():
        raise ValueError(f"{name} has a user, a fragment or odd characters")
    if " " in address:
        raise ValueError(f"{name} has a space")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(f"{name} is not https: whoever is in between could hand out keys")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
