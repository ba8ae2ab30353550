"""Attacks by tokens, over real connections: each is refused, whatever carries it, with the right code.

By a header the client sees an HTTP 401. By a subprotocol or a first message a browser sees a close code:
4500, so that it does not come back, or 4003 where a newer token would do. A token that cannot stand in the
header is refused with it (400).
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.attacks.wire import Peer, message
from tests.conftest import Server
from tests.tokens import (
    Signer,
    b64,
    claims,
    ec_signer,
    ed_signer,
    issuer_toml,
    jwks,
    rsa_signer,
    secret_signer,
)

SECRET = b64(bytes(range(7, 55)))
RS, ES, ED = "https://rs.example", "https://es.example", "https://ed.example"
AUDIENCE = "realtime"
BAD_TOKEN, TOKEN_EXPIRED = 4500, 4003


class Forge:
    """The keys of the server's issuers, and strangers' keys."""

    def __init__(self) -> None:
        self.hs = secret_signer(SECRET)
        self.rs, self.es, self.ed = rsa_signer("rs1"), ec_signer("es1"), ed_signer("ed1")
        self.stranger_rs, self.stranger_es = rsa_signer("stranger"), ec_signer("es1")
        self.stranger_ed = ed_signer("ed1")

    def rs_claims(self, **more: object) -> dict[str, object]:
        return claims(**{"iss": RS, "aud": AUDIENCE, "scope": "chat other", **more})

    def es_claims(self, **more: object) -> dict[str, object]:
        return claims(**{"iss": ES, "aud": [AUDIENCE, "x"], "tenant": "acme", **more})

    def ed_claims(self, **more: object) -> dict[str, object]:
        return claims(**{"iss": ED, "aud": AUDIENCE, "tenant": "beta-7", **more})


@pytest.fixture(scope="module")
def forge() -> Forge:
    return Forge()


@pytest.fixture(scope="module")
def locked(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes tokens of its own secret, and of three issuers."""
    folder: Path = tmp_path_factory.mktemp("issuers")
    (folder / "rs.pem").write_bytes(forge.rs.public_pem)
    (folder / "es.json").write_bytes(jwks(forge.es, forge.ed))
    common = {"audience": [AUDIENCE]}
    policy = folder / "policy.toml"
    policy.write_text(
        issuer_toml(
            issuer=RS,
            algorithms=["RS256"],
            public_key_file=str(folder / "rs.pem"),
            tenant="acme",
            scopes=["chat"],
            max_age_s=3600,
            **common,
        )
        + issuer_toml(
            issuer=ES,
            algorithms=["ES256"],
            jwks_file=str(folder / "es.json"),
            tenants=["acme"],
            roles_claim="realm_access.roles",
            **common,
        )
        + issuer_toml(
            issuer=ED,
            algorithms=["EdDSA"],
            jwks_file=str(folder / "es.json"),
            tenants=["beta-*"],
            token_type="at+jwt",
            **common,
        )
    )
    running = Server({"jwt_secret": SECRET, "policy_path": str(policy), "handshake_timeout_s": 20})
    yield running
    running.finish()


def der(forge: Forge, token: str) -> str:
    """The same token with its signature in DER, as it is outside of JWS."""
    signed = token.rpartition(".")[0].encode()
    return f"{signed.decode()}.{b64(forge.es.private.sign(signed, ec.ECDSA(hashes.SHA256())))}"


def with_signature(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{b64(signature)}" if signature else f"{token.rpartition('.')[0]}."


def unsigned(alg: str, forge: Forge) -> str:
    header = b64(json.dumps({"alg": alg, "typ": "JWT"}).encode())
    return f"{header}.{b64(json.dumps(claims()).encode())}."


def stray_bits(token: str) -> str:
    """The same bytes by another text: the bits that decode to nothing are not zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]
    tail = token.rpartition(".")[2]
    assert len(tail) % 4, "there are no such bits"
    return other


def flipped(token: str) -> str:
    head, body, tail = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{head}.{b64(json.dumps({**changed, 'sub': 'root'}).encode())}.{tail}"


def hs_with_public_key(forge: Forge, key: bytes) -> str:
    """The classic: the issuer's public key, which everybody has, as if it were a shared secret."""
    return secret_signer(key, kid="rs1").token(forge.rs_claims())


def raw(header: str, body: str | None = None) -> Callable[[Forge], str]:
    """A token of our own secret over a header and claims that no library would write."""
    return lambda forge: forge.hs.raw(header.encode(), (body or json.dumps(claims())).encode())


def own(header: dict[str, object] | None = None, /, **more: object) -> Callable[[Forge], str]:
    """A token of our own secret, with these claims."""
    return lambda forge: forge.hs.token(claims(**more), **(header or {}))


def rs(**more: object) -> Callable[[Forge], str]:
    return lambda forge: forge.rs.token(forge.rs_claims(**more))


def es(**more: object) -> Callable[[Forge], str]:
    return lambda forge: forge.es.token(forge.es_claims(**more))


HS_HEADER = '{"alg":"HS256","typ":"JWT"}'
FUTURE = int(time.time()) + 86_400  # these tests may run long after they are read
KEYS_IN_TOKENS = {"kty": "oct", "k": b64(b"x" * 32)}

ATTACKS: dict[str, Callable[[Forge], str]] = {
    # no signature
    **{f"alg-{alg}": lambda forge, alg=alg: unsigned(alg, forge) for alg in ("none", "None", "NONE", "nOnE")},
    "alg-empty": lambda forge: unsigned("", forge),
    "signature-cut-off": lambda forge: with_signature(forge.hs.token(claims()), b""),
    "signature-of-one-byte": lambda forge: with_signature(forge.hs.token(claims()), b"\0"),
    "no-signature-part": lambda forge: forge.hs.token(claims()).rpartition(".")[0],
    "claims-changed-after-signing": lambda forge: flipped(forge.hs.token(claims())),
    "another-secret": lambda forge: secret_signer("another" * 8).token(claims()),
    "empty-secret": lambda forge: secret_signer(b"").token(claims()),
    # which algorithm
    "hs-with-the-public-pem": lambda forge: hs_with_public_key(forge, forge.rs.public_pem),
    "hs-with-the-stripped-pem": lambda forge: hs_with_public_key(forge, forge.rs.public_pem.strip()),
    "hs-with-the-jwk": lambda forge: hs_with_public_key(forge, json.dumps(forge.rs.jwk()).encode()),
    "hs-of-our-secret-as-an-issuer": lambda forge: forge.hs.token(forge.rs_claims()),
    "hs512-where-hs256-is-set": lambda forge: secret_signer(SECRET, "HS512").token(claims()),
    "rs512-where-rs256-is-set": lambda forge: Signer("RS512", forge.rs.private).token(forge.rs_claims()),
    "ps256-where-rs256-is-set": lambda forge: Signer("PS256", forge.rs.private).token(forge.rs_claims()),
    "es256-by-the-rs-issuer": lambda forge: forge.es.token(forge.rs_claims()),
    "rs256-by-the-local-secret": lambda forge: forge.rs.token(claims()),
    "eddsa-key-of-another-issuer": lambda forge: forge.ed.token(forge.es_claims()),
    "alg-a-list": raw('{"alg":["HS256"],"typ":"JWT"}'),
    "alg-missing": raw('{"typ":"JWT"}'),
    "alg-twice": raw('{"alg":"none","alg":"HS256"}'),
    "alg-by-an-escaped-name": raw('{"alg":"HS256","\\u0061lg":"none"}'),
    # which key
    "kid-path": own({"kid": "../../../../dev/null"}, exp=1),
    "kid-path-of-an-issuer": lambda forge: secret_signer(b"").token(forge.es_claims(), kid="/dev/null"),
    "kid-sql": lambda forge: forge.stranger_es.token(forge.es_claims(), kid="x' UNION SELECT 'k' --"),
    "kid-unknown": lambda forge: forge.es.token(forge.es_claims(), kid="es2"),
    "kid-of-another-key": lambda forge: forge.es.token(forge.es_claims(), kid="ed1"),
    "kid-huge": lambda forge: forge.es.token(forge.es_claims(), kid="k" * 3000),
    "kid-a-number": lambda forge: forge.es.token(forge.es_claims(), kid=1),
    "kid-an-object": lambda forge: forge.es.token(forge.es_claims(), kid={"$ne": None}),
    "kid-empty": lambda forge: forge.es.token(forge.es_claims(), kid=""),
    "kid-with-a-nul": lambda forge: forge.es.token(forge.es_claims(), kid="es1\0"),
    "strangers-key-under-our-kid": lambda forge: forge.stranger_es.token(forge.es_claims()),
    "strangers-rs-key": lambda forge: forge.stranger_rs.token(forge.rs_claims()),
    "strangers-ed-key": lambda forge: forge.stranger_ed.token(forge.ed_claims(), typ="at+jwt"),
    "jwk-brought-along": lambda forge: forge.stranger_es.token(
        forge.es_claims(), jwk=forge.stranger_es.jwk()
    ),
    "jku-brought-along": lambda forge: forge.stranger_es.token(
        forge.es_claims(), jku="http://127.0.0.1:9/keys"
    ),
    "x5u-brought-along": lambda forge: forge.stranger_rs.token(
        forge.rs_claims(), x5u="http://127.0.0.1:9/cert"
    ),
    "x5c-brought-along": lambda forge: forge.stranger_rs.token(forge.rs_claims(), x5c=["MIIB"]),
    "jku-on-a-good-token": own({"jku": "http://127.0.0.1:9/keys"}),
    "jwk-on-a-good-token": own({"jwk": KEYS_IN_TOKENS}),
    # signatures
    "es-signature-in-der": lambda forge: der(forge, forge.es.token(forge.es_claims())),
    "es-signature-of-zeros": lambda forge: with_signature(forge.es.token(forge.es_claims()), bytes(64)),
    "es-signature-too-short": lambda forge: with_signature(forge.es.token(forge.es_claims()), bytes(63)),
    "ed-signature-of-zeros": lambda forge: with_signature(
        forge.ed.token(forge.ed_claims(), typ="at+jwt"), bytes(64)
    ),
    "ed-signature-of-small-order": lambda forge: with_signature(
        forge.ed.token(forge.ed_claims(), typ="at+jwt"), b"\x01" + bytes(63)
    ),
    "rs-signature-of-zeros": lambda forge: with_signature(forge.rs.token(forge.rs_claims()), bytes(256)),
    "signature-with-stray-bits": lambda forge: stray_bits(forge.hs.token(claims())),
    # forms
    "empty": lambda forge: "",
    "two-dots": lambda forge: "..",
    "words": lambda forge: "undefined",
    "padding": lambda forge: forge.hs.token(claims()) + "=",
    "space-within": lambda forge: forge.hs.token(claims()).replace(".", ". ", 1),
    "plain-base64": lambda forge: forge.hs.token(claims()).replace(".", ".+/", 1),
    "four-parts": lambda forge: forge.hs.token(claims()) + ".e30",
    "jwe": lambda forge: ".".join([b64(b'{"alg":"dir","enc":"A256GCM"}'), "", *["AAAA"] * 3]),
    "oversized": own(pad="x" * 9000),
    "crit": own({"crit": ["exp"]}),
    "b64-false": own({"b64": False, "crit": ["b64"]}),
    "nested-token": own({"cty": "JWT"}),
    "compressed": own({"zip": "DEF"}),
    "header-no-object": raw('["HS256"]'),
    "header-nested-deeply": raw('{"alg":"HS256","x":' + "[" * 2000 + "]" * 2000 + "}"),
    "claims-nested-deeply": raw(HS_HEADER, '{"x":' + "[" * 2000 + "]" * 2000 + "}"),
    "claims-no-object": raw(HS_HEADER, '"alice"'),
    "claims-no-json": raw(HS_HEADER, "{sub:alice}"),
    "claims-no-utf8": lambda forge: forge.hs.raw(HS_HEADER.encode(), b'{"sub":"\xff"}'),
    "claims-twice": raw(HS_HEADER, f'{{"sub":"alice","exp":{FUTURE},"sub":"root"}}'),
    "claims-with-nan": raw(HS_HEADER, '{"sub":"alice","exp":NaN}'),
    "another-type": own({"typ": "logout+jwt"}),
    "at-jwt-wanted": lambda forge: forge.ed.token(forge.ed_claims()),
    # claims
    "exp-missing": own(exp=None),
    "exp-null": raw(HS_HEADER, '{"sub":"alice","exp":null}'),
    "exp-a-text": own(exp="9999999999"),
    "exp-true": own(exp=True),
    "exp-negative": own(exp=-1),
    "exp-in-three-hundred-years": own(exp=10_000_000_000),
    "exp-beyond-all-numbers": raw(HS_HEADER, '{"sub":"alice","exp":1e999}'),
    "nbf-in-the-future": own(nbf=FUTURE),
    "nbf-a-text": own(nbf="now"),
    "iat-in-the-future": own(iat=FUTURE),
    "sub-missing": own(sub=None),
    "sub-a-number": own(sub=7),
    "sub-empty": own(sub=""),
    "sub-with-a-line-break": own(sub="alice\nroot"),
    "sub-too-long": own(sub="a" * 129),
    "jti-a-list": own(jti=["a"]),
    "roles-a-text": own(roles="admin"),
    "roles-of-numbers": own(roles=[1]),
    "too-many-roles": own(roles=[f"r{n}" for n in range(65)]),
    "tenant-a-number": own(tenant=1),
    "tenant-with-a-slash": own(tenant="acme/other"),
    "tenant-null": raw(HS_HEADER, f'{{"sub":"a","exp":{FUTURE},"tenant":null}}'),
    "iss-a-list": rs(iss=[RS]),
    "iss-with-a-slash-more": lambda forge: forge.rs.token(forge.rs_claims(iss=RS + "/")),
    "iss-missing": lambda forge: forge.rs.token(forge.rs_claims(iss=None)),
    "aud-of-another": rs(aud="billing"),
    "aud-missing": rs(aud=None),
    "aud-an-object": rs(aud={"realtime": True}),
    "aud-for-nobody": rs(aud=[]),
    "aud-where-we-have-none": own(aud="billing"),
    "scope-missing": rs(scope=None),
    "scope-of-another": rs(scope="chatter other"),
    "iat-missing-where-age-counts": rs(iat=None),
    "tenant-of-another-issuer": es(tenant="beta-7"),
    "tenant-missing": es(tenant=None),
    "roles-where-an-object-should-be": es(realm_access=["admin"]),
    "room-token": own(room="chat:secret"),
}
EXPIRED: dict[str, Callable[[Forge], str]] = {
    "expired": own(exp=time.time() - 60),
    "expired-in-1970": own(exp=1),
    "expired-of-an-issuer": es(exp=time.time() - 60),
    "too-old": rs(iat=time.time() - 7200),
}
EXPIRED_NAMED_BY_KID = "kid-path"  # the kid says nothing where a secret signs: it is refused for its time
# What cannot stand in a header of tokens (RFC 6455, 4.1): refused with the handshake.
NO_HTTP_TOKEN = {"padding", "space-within", "plain-base64"}
CASES = {**{name: (make, BAD_TOKEN) for name, make in ATTACKS.items() if name != EXPIRED_NAMED_BY_KID}} | {
    name: (make, TOKEN_EXPIRED)
    for name, make in {**EXPIRED, EXPIRED_NAMED_BY_KID: ATTACKS[EXPIRED_NAMED_BY_KID]}.items()
}


def test_there_are_as_many_as_promised():
    assert len(CASES) >= 100


@pytest.mark.parametrize("attack", CASES)
def test_a_bad_token_in_a_header_is_refused_with_401(locked: Server, forge: Forge, attack: str):
    with Peer(locked) as peer:
        response = peer.upgrade_with(f"Authorization: Bearer {CASES[attack][0](forge)}")
        assert response.status == 401, response
        expired = ', error_description="expired"' if CASES[attack][1] == TOKEN_EXPIRED else ""
        assert response.header("WWW-Authenticate") == f'Bearer error="invalid_token"{expired}'
        assert peer.read_to_end() == b""


@pytest.mark.parametrize("attack", CASES)
def test_a_bad_token_in_a_subprotocol_is_refused_by_a_close_code(locked: Server, forge: Forge, attack: str):
    make, code = CASES[attack]
    with Peer(locked) as peer:
        response = peer.upgrade_with(f"Sec-WebSocket-Protocol: realtime.v1.json, bearer.{make(forge)}")
        if attack in NO_HTTP_TOKEN:
            assert response.status == 400
        else:
            assert response.status == 101
            assert response.header("Sec-WebSocket-Protocol") == "realtime.v1.json"
            assert peer.read_close() == code
        assert b"connected" not in peer.received


@pytest.mark.parametrize("attack", CASES)
def test_a_bad_token_in_a_first_message_closes_the_connection(locked: Server, forge: Forge, attack: str):
    make, code = CASES[attack]
    with Peer(locked) as peer:
        peer.upgrade("/ws")
        peer.send(message(json.dumps({"type": "connect", "id": 1, "content": {"token": make(forge)}})))
        answer = json.loads(peer.read_message())
        assert (answer["type"], answer["content"]["name"]) == ("error", "unauthorized")
        assert peer.read_close() == code


def test_the_good_tokens_that_the_attacks_begin_with_are_taken(locked: Server, forge: Forge):
    """Without this the attacks could all be refused for a reason of their own."""
    good = {
        forge.hs.token(claims()): ("alice", "default"),
        forge.rs.token(forge.rs_claims()): ("alice", "acme"),
        forge.es.token(forge.es_claims(realm_access={"roles": ["dj"]})): ("alice", "acme"),
        forge.ed.token(forge.ed_claims(), typ="at+jwt"): ("alice", "beta-7"),
        forge.ed.token(forge.ed_claims(sub="bob"), typ="application/AT+JWT"): ("bob", "beta-7"),
    }
    for token, (user, tenant) in good.items():
        with Peer(locked) as peer:
            assert peer.upgrade_with(f"Authorization: Bearer {token}").status == 101
            content = json.loads(peer.read_until('"connected"'))["content"]
            assert (content["user_id"], content["tenant"]) == (user, tenant)


def test_no_refusal_and_no_log_line_holds_a_token_or_the_secret(locked: Server, forge: Forge):
    token = forge.hs.token(claims(exp=time.time() - 60, marker="planted-marker"))
    with Peer(locked) as peer:
        response = peer.upgrade_with(f"Authorization: Bearer {token}")
        said = response.body.decode() + str(response.headers)
    for part in (*token.split("."), SECRET, "planted-marker"):
        assert part not in said
        assert part not in locked.whole_log()
