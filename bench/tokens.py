"""`python -m bench.tokens`: what does it cost to authenticate a token, the first time and again?

The authenticator alone, in one process: signature, claims, tenant, roles, as in a handshake. "First" is a
token that was never seen; "again" one that is remembered, as in a reconnect storm; "forged" one whose
signature is wrong, which is what a stranger can make the server do. Each round has tokens of its own, and
every result is looked at.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.report import headline, spread_percent
from realtime.backends.auth.authenticator import TokenAuthenticator
from realtime.backends.auth.fixed import FileKeys
from realtime.backends.auth.issuer import Judge, Terms, local_judge
from realtime.backends.auth.jwks import KeySet
from realtime.backends.auth.keys import public_key_of_pem
from realtime.core.auth import Identity
from realtime.core.patterns import matcher
from realtime.errors import Unauthorized

SECRET = "bench" * 8
ISSUER = "https://issuer.example"


def main() -> None:
    """Measure each algorithm in turn, several rounds interleaved, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.tokens", description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000, help="tokens a round (default: 2000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    asked = parser.parse_args()
    private = {
        "HS256": SECRET,
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "PS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    costs: dict[str, dict[str, list[float]]] = {
        name: {"first": [], "again": [], "forged": []} for name in private
    }
    for round in range(asked.rounds):
        for name, key in private.items():
            for what, us in measured(name, key, asked.tokens, round).items():
                costs[name][what].append(us)
    print(headline("tokens", "what does it cost to authenticate one?"))
    print(f"microseconds a token, median of {asked.rounds} rounds of {asked.tokens} (spread)")
    print(f"{'':8}{'first':>18}{'again':>18}{'forged':>18}{'first/s a core':>18}")
    for name, found in costs.items():
        cells = [_cell(found[what]) for what in ("first", "again", "forged")]
        rate = 1e6 / statistics.median(found["first"])
        print(f"{name:8}" + "".join(f"{cell:>18}" for cell in cells) + f"{rate:>18,.0f}")


def measured(algorithm: str, key: Any, count: int, round: int) -> dict[str, float]:
    """Return microseconds a token by what is done with it."""
    now = time.time()
    tokens = [
        jwt.encode(
            {
                "iss": ISSUER,
                "aud": "realtime",
                "sub": f"user{round}-{n}",
                "tenant": "acme",
                "roles": ["dj", "mod"],
                "iat": int(now),
                "exp": int(now) + 3600,
                "jti": f"{round}-{n}",
            },
            key,
            algorithm=algorithm,
            headers={"kid": "k1"},
        )
        for n in range(count)
    ]
    authenticator = TokenAuthenticator(_judge(algorithm, key), cache_tokens=count)
    first = _timed(authenticator.authenticate, tokens)
    again = _timed(authenticator.authenticate, tokens)
    forged = [_forged(each) for each in tokens]
    return {"first": first, "again": again, "forged": _timed(authenticator.authenticate, forged, good=False)}


def _judge(algorithm: str, key: Any) -> Judge:
    if algorithm == "HS256":
        return local_judge((key,), (algorithm,), audiences=("realtime",))
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    terms = Terms(
        issuer=ISSUER,
        algorithms=frozenset({algorithm}),
        audiences=frozenset({"realtime"}),
        may_speak_for=matcher(("acme",)),
    )
    return Judge(terms, FileKeys(KeySet([public_key_of_pem(pem, [algorithm])])))


def _forged(token: str) -> str:
    """The same with another first byte of its signature."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def _timed(authenticate: Callable[[str], object], tokens: list[str], *, good: bool = True) -> float:
    taken = 0
    began = time.perf_counter()
    for token in tokens:
        try:
            taken += isinstance(authenticate(token), Identity)
        except Unauthorized:
            continue
    spent = time.perf_counter() - began
    if taken != (len(tokens) if good else 0):
        raise SystemExit(f"{taken} of {len(tokens)} tokens were taken")
    return spent / len(tokens) * 1e6


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({spread_percent(values):.0f} %)"


if __name__ == "__main__":
    main()
