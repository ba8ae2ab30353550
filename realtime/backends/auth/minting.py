"""Making tokens: for clients of one's own, for tests, by `realtime token make`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from realtime.core.auth import ROOM_ACTIONS
from realtime.errors import BadMessage
from realtime.ids import DEFAULT_TENANT, parse_room, parse_tenant, parse_user

# Whoever signs with a short secret is warned where it is configured; not with every token.
warnings.filterwarnings("ignore", message=".*HMAC key.*", module=r"jwt\.")

_OF_CURVE: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


def make_token(
    key: str | bytes,
    *,
    user: str,
    ttl_s: float,
    tenant: str = DEFAULT_TENANT,
    roles: Sequence[str] = (),
    token_id: str = "",
    algorithm: str = "HS256",
    key_id: str = "",
    room: str = "",
    can: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> str:
    """Return a token for `ttl_s` seconds, signed with a secret or a private key in PEM form.

    With `room` it is a room token, which allows there what `can` names, or everything. `more` are claims
    beside these, such as `iss` and `aud`.

    Raises:
        BadMessage: a name is none, or the key is not one for `algorithm`.
    """
    issued_at = int(time.time() if now is None else now)
    claims: dict[str, Any] = {
        "sub": parse_user(user),
        "tenant": parse_tenant(tenant),
        "iat": issued_at,
        "exp": issued_at + math.ceil(ttl_s),
        **(more or {}),
    }
    if roles:
        claims["roles"] = list(roles)
    if token_id:
        claims["jti"] = token_id
    if room:
        claims["room"] = parse_room(room)
    if can:
        odd = sorted(set(can).difference(ROOM_ACTIONS))
        if odd or not room:
            raise BadMessage(f"can: goes with a room, and is of {', '.join(ROOM_ACTIONS)}")
        claims["can"] = list(can)
    headers = {"kid": key_id} if key_id else None
    try:
        return jwt.encode(claims, key, algorithm=algorithm, headers=headers)
    except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError):
        raise BadMessage(f"the key is none for {algorithm}") from None


def algorithm_of(pem: bytes) -> str:
    """Return the algorithm that a private key in PEM form signs with.

    Raises:
        BadMessage: it is none that signs tokens, or is locked by a password.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadMessage("no private key in PEM form, or one with a password") from None
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA"
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _OF_CURVE:
        return _OF_CURVE[key.curve.name]
    raise BadMessage("the private key is none of RSA, EC (P-256, P-384, P-521) and Ed25519")
