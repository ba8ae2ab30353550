"""Keys and sets of keys: which may verify what, and which are refused when they are read."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from realtime.backends.auth.jwks import KEYS_MAX, KeySet, read_jwks
from realtime.backends.auth.keys import key_of_jwk, long_enough, public_key_of_pem, secret_key
from tests.tokens import Signer, b64, ec_signer, ed_signer, jwks, rsa_signer

ALL = ("RS256", "PS256", "ES256", "ES384", "EdDSA")


@pytest.mark.parametrize(
    "signer",
    [rsa_signer("r"), rsa_signer("r", "PS256"), ec_signer("e"), ec_signer("e", "ES384"), ed_signer("d")],
    ids=lambda each: each.algorithm,
)
def test_a_key_verifies_by_its_own_algorithms_alone(signer: Signer):
    signature = signer.sign(b"signed")
    for key in (key_of_jwk(signer.jwk(), ALL), public_key_of_pem(signer.public_pem, ALL)):
        assert key.verifies(signer.algorithm, b"signed", signature)
        assert not key.verifies(signer.algorithm, b"signed!", signature)
        for other in {*ALL, "HS256", "none"} - {signer.algorithm}:
            assert not key.verifies(other, b"signed", signature)
        assert b64(signature) not in repr(key)


def test_a_key_of_an_algorithm_takes_no_other_of_its_type():
    key = key_of_jwk(rsa_signer("r").jwk(alg="PS256"), ALL)
    assert key.algorithms == {"PS256"}
    assert not key.verifies("RS256", b"x", rsa_signer("r").sign(b"x"))


@pytest.mark.parametrize("bits", [1024, 1536])
def test_a_short_rsa_key_is_refused(bits: int):
    weak = rsa_signer(f"weak{bits}", bits=bits)
    for read in (lambda: key_of_jwk(weak.jwk(), ALL), lambda: public_key_of_pem(weak.public_pem, ALL)):
        with pytest.raises(ValueError, match=rf"{bits} bits"):
            read()


def test_a_curve_of_no_algorithm_is_refused():
    stranger = Signer("ES256", ec.generate_private_key(ec.SECP256K1()))
    with pytest.raises(ValueError, match="secp256k1"):
        public_key_of_pem(stranger.public_pem, ALL)


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        b"\x01" + bytes(31),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
        bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ],
    ids=lambda point: point.hex()[:8],
)
def test_an_ed25519_point_of_small_order_is_refused(point: bytes):
    """With such a key one signature is good for any message."""
    with pytest.raises(ValueError, match=r"small order|parameters are none"):
        key_of_jwk({"kty": "OKP", "crv": "Ed25519", "x": b64(point)}, ALL)


def test_a_sound_ed25519_point_is_none_of_them():
    for _ in range(20):
        public = ed25519.Ed25519PrivateKey.generate().public_key()
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        assert key_of_jwk({"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}, ALL).algorithms == {"EdDSA"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use": "enc"}, "not for signatures"),
        ({"key_ops": ["sign"]}, "not for verifying"),
        ({"kid": 7}, "kid"),
        ({"d": "AAAA"}, "private"),
        ({"kty": "oct", "k": "c2VjcmV0"}, "private or shared"),
        ({"kty": "XYZ"}, "of type"),
        ({"alg": "HS256"}, "of type"),
        ({"alg": "none"}, "of type"),
        ({"x": "!"}, "parameters are none"),
        ({"x": None}, "parameters are none"),
        ({"crv": "P-384"}, "parameters are none"),
    ],
)
def test_a_jwk_that_verifies_nothing_here_is_refused(change: dict[str, object], reason: str):
    with pytest.raises(ValueError, match=reason):
        key_of_jwk({**ec_signer("e").jwk(), **change}, ALL)


def test_a_private_key_in_a_file_is_refused():
    with pytest.raises(ValueError, match="private key"):
        public_key_of_pem(ec_signer().private_pem, ALL)


def test_a_secret_has_to_be_as_long_as_the_longest_hash():
    assert long_enough("x" * 32, ["HS256"])
    assert not long_enough("x" * 31, ["HS256"])
    assert not long_enough("x" * 32, ["HS256", "HS512"])


def test_a_secret_is_in_no_repr():
    assert "hunter2" not in repr(secret_key("hunter2" * 8, ["HS256"]))


# ---------------------------------------------------------------- sets


def test_a_set_gives_the_key_that_is_named_and_no_other():
    one, two, other = ec_signer("1"), ec_signer("2"), rsa_signer("3")
    found = read_jwks(jwks(one, two, other), ALL, "here")
    assert found.find("1", "ES256").id == "1"
    assert found.find("1", "RS256") is None  # another key's algorithm
    assert found.find("4", "ES256") is None
    assert found.find(None, "RS256").id == "3"  # the only one
    assert found.find(None, "ES256") is None  # one of two


def test_keys_of_no_use_are_passed_over():
    raw = json.dumps(
        {"keys": ["x", {"kty": "oct"}, {**ec_signer("e").jwk(), "use": "enc"}, rsa_signer("r").jwk()]}
    )
    assert [each.id for each in read_jwks(raw.encode(), ALL, "here").keys] == ["r"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[{"kty":"oct","k":"AAAA"}]}',
        b'{"keys":[],"keys":[]}',
        b'{"keys":' + b"[" * 5000,
        b"\xff",
        json.dumps({"keys": [{}] * (KEYS_MAX + 1)}).encode(),
        jwks(ec_signer("same"), ec_signer("same")),
    ],
    ids=lambda raw: raw[:20],
)
def test_what_is_no_set_for_us_is_refused(raw: bytes):
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons differ, the class is the contract
        read_jwks(raw, ALL, "here")


def test_a_key_that_stays_is_the_same_object_and_one_that_goes_lives_no_more():
    stays, goes, comes = ec_signer("s"), ec_signer("g"), ec_signer("c")
    before = read_jwks(jwks(stays, goes), ALL, "here")
    after = before.followed_by(read_jwks(jwks(stays, comes), ALL, "here"))
    assert after.find("s", "ES256") is before.find("s", "ES256")
    assert before.find("s", "ES256").live
    assert not before.find("g", "ES256").live
    assert after.find("c", "ES256").live
    after.followed_by(KeySet())
    assert not after.find("s", "ES256").live


def test_another_key_under_an_old_name_is_another():
    before = read_jwks(jwks(ec_signer("k")), ALL, "here")
    before.followed_by(read_jwks(jwks(ec_signer("k")), ALL, "here"))
    assert not before.find("k", "ES256").live
