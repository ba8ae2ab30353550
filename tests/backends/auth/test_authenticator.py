"""Tokens: what is taken, what is refused and why, and what the cache may and may not do."""

import base64
import hashlib
import hmac
import json
import random

import jwt
import pytest

from realtime.backends.auth import authenticator as module
from realtime.backends.auth.authenticator import authenticator_of
from realtime.backends.auth.compact import TOKEN_BYTES_MAX
from realtime.backends.auth.minting import make_token
from realtime.core.auth import Identity
from realtime.errors import BadMessage, RealtimeError, TokenExpired, Unauthorized

KEY = "0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000.0


class Wall:
    """Time that stands still until it is moved."""

    def __init__(self):
        self.now = NOW

    def time(self):
        return self.now

    monotonic = time


def authenticator(key, *, algorithms=("HS256",), **how):
    return authenticator_of((key,), algorithms, **how)


@pytest.fixture
def wall():
    return Wall()


@pytest.fixture
def tokens(wall):
    return authenticator(KEY, leeway_s=5.0, cache_tokens=3, clock=wall)


def signed(claims, key=KEY, algorithm="HS256"):
    return jwt.encode(claims, key, algorithm=algorithm)


def raw(header: bytes, payload: bytes, key: str = KEY) -> str:
    """A token with a good signature over any bytes."""

    def encode(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    signing = encode(header) + b"." + encode(payload)
    return (signing + b"." + encode(hmac.digest(key.encode(), signing, "sha256"))).decode()


def test_a_token_says_who_its_bearer_is(tokens):
    token = signed({"sub": "alice", "tenant": "acme", "exp": NOW + 60, "roles": ["dj", "mod"], "jti": "t1"})
    assert tokens.authenticate(token) == Identity(
        user="alice", tenant="acme", roles=frozenset({"dj", "mod"}), expires_at=NOW + 65, token_id="t1"
    )


def test_tenant_and_roles_have_defaults(tokens):
    identity = tokens.authenticate(signed({"sub": "alice", "exp": NOW + 60}))
    assert (identity.tenant, identity.roles, identity.token_id) == ("default", frozenset(), "")
    assert identity.issued_at is None


def test_make_token_makes_what_authenticate_takes(tokens):
    token = make_token(KEY, user="älice", ttl_s=60, tenant="acme", roles=["dj"], token_id="t1", now=NOW)
    identity = tokens.authenticate(token)
    assert (identity.user, identity.tenant, identity.roles, identity.token_id) == (
        "älice",
        "acme",
        frozenset({"dj"}),
        "t1",
    )
    assert (identity.expires_at, identity.issued_at) == (NOW + 65, NOW)


def test_make_token_refuses_a_name_that_authenticate_would_refuse():
    with pytest.raises(BadMessage, match="user id"):
        make_token(KEY, user="a\nb", ttl_s=60)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"sub": "alice"}, "no exp"),
        ({"exp": NOW + 60}, "sub"),
        ({"sub": 7, "exp": NOW + 60}, "sub"),
        ({"sub": "", "exp": NOW + 60}, "empty"),
        ({"sub": "a\x00b", "exp": NOW + 60}, "unprintable"),
        ({"sub": "a" * 200, "exp": NOW + 60}, "128 bytes"),
        ({"sub": "alice", "exp": "tomorrow"}, "exp is not a time"),
        ({"sub": "alice", "exp": True}, "exp is not a time"),
        ({"sub": "alice", "exp": float("nan")}, "no plain JSON"),
        ({"sub": "alice", "exp": float("inf")}, "no plain JSON"),
        ({"sub": "alice", "exp": 10**400}, "exp is not a time"),
        ({"sub": "alice", "exp": NOW + 60, "nbf": NOW + 30}, "not valid yet"),
        ({"sub": "alice", "exp": NOW + 60, "nbf": []}, "nbf is not a time"),
        ({"sub": "alice", "exp": NOW + 60, "tenant": "a/b"}, "tenant"),
        ({"sub": "alice", "exp": NOW + 60, "tenant": None}, "tenant"),
        ({"sub": "alice", "exp": NOW + 60, "roles": "admin"}, "roles"),
        ({"sub": "alice", "exp": NOW + 60, "roles": [1]}, "role"),
        ({"sub": "alice", "exp": NOW + 60, "roles": ["r"] * 65}, "roles"),
        ({"sub": "alice", "exp": NOW + 60, "jti": 5}, "jti"),
        ({"sub": "alice", "exp": NOW + 60, "iat": "now"}, "iat is not a time"),
    ],
)
def test_claims_out_of_bounds_are_refused_with_their_reason(tokens, claims, reason):
    token = raw(b'{"alg":"HS256","typ":"JWT"}', json.dumps(claims).encode())
    with pytest.raises(Unauthorized, match=reason):
        tokens.authenticate(token)


def test_another_key_is_refused(tokens):
    with pytest.raises(Unauthorized, match="signature"):
        tokens.authenticate(signed({"sub": "alice", "exp": NOW + 60}, key="x" * 32))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_the_algorithm_is_the_configurations_not_the_tokens(tokens, wall, algorithm):
    token = signed({"sub": "alice", "exp": NOW + 60}, algorithm=algorithm, key=KEY * 2)
    with pytest.raises(Unauthorized):
        tokens.authenticate(token)
    assert authenticator(KEY * 2, algorithms=[algorithm], clock=wall).authenticate(token).user == "alice"


def test_an_unsigned_token_is_refused(tokens):
    with pytest.raises(Unauthorized):
        tokens.authenticate(signed({"sub": "alice", "exp": NOW + 60}, key=None, algorithm="none"))


def test_a_token_holds_until_exp_and_the_leeway(tokens, wall):
    token = signed({"sub": "alice", "exp": NOW + 60})
    wall.now = NOW + 64.9
    assert tokens.authenticate(token).user == "alice"
    wall.now = NOW + 65
    with pytest.raises(TokenExpired):  # remembered
        tokens.authenticate(token)
    with pytest.raises(TokenExpired):  # and afresh
        tokens.authenticate(token)


def test_a_verified_token_is_not_verified_again(tokens, monkeypatch):
    token = signed({"sub": "alice", "exp": NOW + 60})
    first = tokens.authenticate(token)
    monkeypatch.setattr(module, "parse", lambda token: pytest.fail("parsed again"))
    assert tokens.authenticate(token) is first


def test_the_cache_is_bounded_and_forgets_the_oldest(tokens, monkeypatch):
    made = [signed({"sub": f"user{n}", "exp": NOW + 60}) for n in range(4)]
    for token in made:
        tokens.authenticate(token)
    decoded = []
    parse = module.parse
    monkeypatch.setattr(module, "parse", lambda token: decoded.append(token) or parse(token))
    for token in reversed(made):
        tokens.authenticate(token)
    assert decoded == [made[0]]


def test_a_token_of_ours_cannot_be_pushed_out_by_strangers(tokens, monkeypatch):
    token = signed({"sub": "alice", "exp": NOW + 60})
    tokens.authenticate(token)
    for n in range(10):
        with pytest.raises(Unauthorized):
            tokens.authenticate(signed({"sub": f"user{n}", "exp": NOW + 60}, key="x" * 32))
    monkeypatch.setattr(module, "parse", lambda token: pytest.fail("parsed again"))
    assert tokens.authenticate(token).user == "alice"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "é" * 10,
        "\ud800",
        "x" * (TOKEN_BYTES_MAX + 1),
        raw(b"[" * 5000, b"{}"),  # PyJWT parses the header before it knows the signature
        raw(b'{"alg":"HS256","typ":"JWT"}', b"[" * 3000),
        raw(b'{"alg":"HS256","typ":"JWT"}', b"[]"),
        raw(b'{"alg":"HS256","typ":"JWT"}', b"\xff"),
        raw(b'{"alg":["HS256"],"typ":"JWT"}', b"{}"),
        raw(b'{"alg":"HS256","kid":7}', b'{"sub":"a","exp":1e400}'),
        raw(b'{"alg":"HS256","b64":false,"crit":["b64"]}', b"{}"),
    ],
)
def test_what_is_no_token_is_refused_and_nothing_else_happens(tokens, token):
    with pytest.raises(Unauthorized):
        tokens.authenticate(token)


def test_a_changed_character_anywhere_is_refused(tokens):
    token = signed({"sub": "alice", "exp": NOW + 60})
    seed = int.from_bytes(hashlib.sha256(token.encode()).digest()[:4], "big")
    choose = random.Random(seed)
    for _ in range(300):
        place = choose.randrange(len(token))  # the last one too: bits that decode to nothing have to be zero
        other = choose.choice([c for c in "ABCxyz019-_.=%\x00é" if c != token[place]])
        with pytest.raises(RealtimeError):
            tokens.authenticate(token[:place] + other + token[place + 1 :])
