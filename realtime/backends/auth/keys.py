"""Keys that verify: each knows the algorithms it is for, so that no token can choose another for it.

Weak keys are refused when they are loaded: RSA below 2048 bits (RFC 7518, 3.3), secrets shorter than the hash
(3.2) where they come from the policy, curves that are not the algorithm's own (3.4), Ed25519 points of small
order, with which a signature of nobody would be good.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from realtime.files import read_bounded

# A short key is refused or warned about once, when it is loaded; not on every token.
warnings.filterwarnings("ignore", message=".*HMAC key.*", module=r"jwt\.")

RSA_BITS: Final = range(2048, 16_385)
KEY_FILE_BYTES_MAX: Final = 256 * 1024
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final = {"secp256r1": ("ES256", 32), "secp384r1": ("ES384", 48), "secp521r1": ("ES512", 66)}
_HASH_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_P: Final = 2**255 - 19
# y of the points of order 1, 2, 4 and 8 on edwards25519; two of order 8 differ by the sign alone.
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)
_ALGORITHMS: Final = jwt.algorithms.get_default_algorithms()


class Key:
    """One key. `live` turns False when its issuer has it no more: what it had verified counts no longer."""

    __slots__ = ("_prepared", "algorithms", "id", "identity", "live")

    def __init__(self, id: str | None, algorithms: Collection[str], prepared: Any, identity: bytes) -> None:
        self.id = id
        self.algorithms = frozenset(algorithms)
        self.identity = identity  # equal for equal keys
        self.live = True
        self._prepared = prepared

    def __repr__(self) -> str:
        """Which one it is, and nothing of what it is made of."""
        return f"Key({self.id!r}, {'/'.join(sorted(self.algorithms))})"

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` by `algorithm`, which has to be one of this key's, is of this key."""
        if algorithm not in self.algorithms:
            return False
        try:
            return bool(_ALGORITHMS[algorithm].verify(signed, self._prepared, signature))
        except (ValueError, TypeError):  # a signature of a form that is none
            return False


def secret_key(secret: str, algorithms: Collection[str], id: str | None = None) -> Key:
    """Return the key of a shared secret; whether it is long enough is the caller's to say."""
    raw = secret.encode()
    return Key(id, algorithms, raw, b"oct:" + raw)


def long_enough(secret: str, algorithms: Collection[str]) -> bool:
    """Whether a secret has as many bytes as the longest hash of `algorithms` (RFC 7518, 3.2)."""
    return len(secret.encode()) >= max(_HASH_BYTES[each] for each in algorithms)


def public_key(loaded: object, algorithms: Collection[str], id: str | None = None) -> Key:
    """Return a public key for those of `algorithms` that are its type's.

    Raises:
        ValueError: it is too weak, of no type that is known, or for none of `algorithms`.
    """
    if isinstance(loaded, rsa.RSAPublicKey):
        if loaded.key_size not in RSA_BITS or loaded.public_numbers().e < 3:
            raise ValueError(f"an RSA key of {loaded.key_size} bits: 2048 to {RSA_BITS[-1]} will do")
        own: Collection[str] = _RSA
    elif isinstance(loaded, ec.EllipticCurvePublicKey):
        if loaded.curve.name not in _CURVES:
            raise ValueError(f"an EC key on {loaded.curve.name}: P-256, P-384 or P-521 will do")
        own = {_CURVES[loaded.curve.name][0]}
    elif isinstance(loaded, ed25519.Ed25519PublicKey):
        _check_order(loaded.public_bytes(Encoding.Raw, PublicFormat.Raw))
        own = {"EdDSA"}
    else:
        raise ValueError("a key that is none of RSA, EC and Ed25519")
    wanted = frozenset(own) & frozenset(algorithms)
    if not wanted:
        raise ValueError(f"a key for {'/'.join(sorted(own))}, which the issuer's `algorithms` do not have")
    encoded = loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(id, wanted, loaded, encoded)


def public_key_of_pem(pem: bytes, algorithms: Collection[str]) -> Key:
    """Return the public key in a PEM text.

    Raises:
        ValueError: it is none, or as `public_key`.
    """
    if b"PRIVATE" in pem:
        raise ValueError("a private key, which belongs to the issuer alone")
    try:
        loaded = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("no public key in PEM form") from None
    return public_key(loaded, algorithms)


def read_key_file(path: Path) -> bytes:
    """Return what a file of keys holds.

    Raises:
        ValueError: it cannot be read, or is too large to be one.
    """
    try:
        return read_bounded(path, KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def key_of_jwk(jwk: dict[str, Any], algorithms: Collection[str]) -> Key:
    """Return the public key that a JSON Web Key (RFC 7517) is, for its `alg` or else its type's algorithms.

    Raises:
        ValueError: it is none that verifies signatures here.
    """
    use, operations, id, alg = (jwk.get(name) for name in ("use", "key_ops", "kid", "alg"))
    if use not in (None, "sig"):
        raise ValueError("a key that is not for signatures")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise ValueError("a key that is not for verifying")
    if id is not None and not isinstance(id, str):
        raise ValueError("a kid that is no text")
    if "d" in jwk or "k" in jwk:
        raise ValueError("a private or shared key in a public set")
    wanted = frozenset(algorithms) if alg is None else frozenset({alg}) & frozenset(algorithms)
    load = _LOADERS.get(jwk.get("kty", ""))
    if load is None or not wanted:
        raise ValueError(f"a key of type {str(jwk.get('kty'))[:20]!r} for {str(alg)[:20]!r}")
    try:
        loaded = load(jwk)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise ValueError("a key whose parameters are none") from None
    return public_key(loaded, wanted, id)


_LOADERS: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "RSA": jwt.algorithms.RSAAlgorithm.from_jwk,
    "EC": jwt.algorithms.ECAlgorithm.from_jwk,
    "OKP": jwt.algorithms.OKPAlgorithm.from_jwk,
}


def _check_order(point: bytes) -> None:
    """Raise ValueError over an Ed25519 key of small order, or one that is not in its shortest form."""
    y = int.from_bytes(point, "little") & ((1 << 255) - 1)
    if y >= _P or y in _SMALL_ORDER:
        raise ValueError("an Ed25519 key of small order")
