"""One issuer: what of a token counts, for whom it may speak, and what becomes of it with a new policy."""

import asyncio
from pathlib import Path

import pytest

from realtime.backends.auth.authenticator import TokenAuthenticator, authenticator_of
from realtime.errors import RealtimeError, SettingsError, TokenExpired, Unauthorized
from realtime.policy import Issuer, Policy
from tests.tokens import Signer, claims, ec_signer, jwks, key_server, secret_signer

SECRET = "s" * 40
NAME = "https://i.example"
KEY = ec_signer("k1")


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(KEY))
    return str(path)


def issuer(keys: str, **more: object) -> Issuer:
    settings = {"issuer": NAME, "audience": ("us",), "algorithms": ("ES256",), "jwks_file": keys}
    return Issuer(**{**settings, **({} if "tenants" in more else {"tenant": "acme"}), **more})


def locked(*issuers: Issuer, secret: str = "") -> TokenAuthenticator:
    return authenticator_of([secret] if secret else [], ["HS256"], issuers)


def token(signer: Signer = KEY, **more: object) -> str:
    return signer.token(claims(**{"iss": NAME, "aud": "us", **more}))


def refusal(authenticator: TokenAuthenticator, text: str) -> str:
    with pytest.raises(RealtimeError) as caught:
        authenticator.authenticate(text)
    return caught.value.message


def test_a_fixed_tenant_goes_before_what_the_token_says(keys: str):
    assert locked(issuer(keys)).authenticate(token(tenant="other")).tenant == "acme"


@pytest.mark.parametrize(
    ("tenant", "taken"),
    [("acme", True), ("beta-1", True), ("beta-", True), ("beta", False), ("gamma", False), ("ACME", False)],
)
def test_an_issuer_speaks_for_its_tenants_alone(keys: str, tenant: str, taken: bool):
    authenticator = locked(issuer(keys, tenants=("acme", "beta-*")))
    if taken:
        assert authenticator.authenticate(token(tenant=tenant)).tenant == tenant
    else:
        with pytest.raises(Unauthorized):
            authenticator.authenticate(token(tenant=tenant))


def test_claims_are_found_where_the_issuer_puts_them(keys: str):
    authenticator = locked(
        issuer(keys, user_claim="uid", tenants=("*",), tenant_claim="org", roles_claim="realm_access.roles")
    )
    text = token(uid="u1", org="o1", realm_access={"roles": ["dj"]}, roles=["root"], jti="j")
    identity = authenticator.authenticate(text)
    assert (identity.user, identity.tenant, identity.roles, identity.token_id) == ("u1", "o1", {"dj"}, "j")


@pytest.mark.parametrize(
    ("path", "found", "roles"),
    [
        ("a.b", {"a": {"b": ["x"]}}, {"x"}),
        ("a.b", {"a": {}}, set()),
        ("a.b", {}, set()),
        ("https://x.example/roles", {"https://x.example/roles": ["y"]}, {"y"}),
        ("roles", {"roles": []}, set()),
    ],
)
def test_roles_are_at_the_end_of_their_path(keys: str, path: str, found: dict[str, object], roles: set[str]):
    assert locked(issuer(keys, roles_claim=path)).authenticate(token(**found)).roles == roles


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"scope": "a b"}, True),
        ({"scope": "b x a"}, True),
        ({"scp": ["a", "b"]}, True),
        ({"scp": "a b"}, True),
        ({"scope": "a"}, False),
        ({"scope": "ab"}, False),
        ({"scope": ["a", "b", 1]}, False),
        ({"scope": "a", "scp": ["a", "b"]}, False),
        ({}, False),
    ],
)
def test_all_scopes_have_to_be_there(keys: str, given: dict[str, object], taken: bool):
    authenticator = locked(issuer(keys, scopes=("a", "b")))
    if taken:
        assert authenticator.authenticate(token(**given))
    else:
        assert "scope" in refusal(authenticator, token(**given))


def test_the_end_is_that_of_the_token_or_of_its_age(keys: str):
    now = claims()["iat"]
    authenticator = locked(issuer(keys, max_age_s=100.0, leeway_s=0.0))
    assert authenticator.authenticate(token(iat=now, exp=now + 50)).expires_at == now + 50
    assert authenticator.authenticate(token(iat=now, exp=now + 5000)).expires_at == now + 100
    with pytest.raises(TokenExpired):
        authenticator.authenticate(token(iat=now - 101))


def test_the_secret_judges_what_names_no_issuer_of_ours(keys: str):
    authenticator = locked(issuer(keys), secret=SECRET)
    ours = secret_signer(SECRET)
    assert authenticator.authenticate(ours.token(claims())).tenant == "default"
    assert authenticator.authenticate(ours.token(claims(iss="https://backend.example"))).user == "alice"
    with pytest.raises(Unauthorized):
        authenticator.authenticate(ours.token(claims(iss=NAME, aud="us")))
    assert "no issuer" in refusal(locked(issuer(keys)), ours.token(claims()))


def test_a_room_token_is_no_other_and_no_other_is_a_room_token(keys: str):
    authenticator = locked(issuer(keys))
    assert "for a room" in refusal(authenticator, token(room="chat:x"))
    grant = authenticator.grant(token(room="chat:x", can=["history", "fly"], jti="j"))
    assert (grant.user, grant.tenant, grant.room, grant.token_id) == ("alice", "acme", "chat:x", "j")
    assert grant.actions == {"join", "history"}
    assert authenticator.grant(token(room="chat:x")).actions == {"join", "publish", "history", "presence"}
    for odd in (
        {},
        {"room": 7},
        {"room": "nowhere"},
        {"room": "chat:x", "can": "all"},
        {"room": None, "x": 1},
    ):
        with pytest.raises(Unauthorized):
            authenticator.grant(token(**odd))


def test_each_kind_of_token_is_remembered_for_itself(keys: str):
    authenticator = locked(issuer(keys))
    text = token(room="chat:x")
    assert authenticator.grant(text) is authenticator.grant(text)
    assert "for a room" in refusal(authenticator, text)


# ---------------------------------------------------------------- another policy


def test_what_was_remembered_of_an_issuer_goes_with_it(keys: str):
    authenticator = locked(issuer(keys), secret=SECRET)
    text = token()
    assert authenticator.authenticate(text)
    authenticator.prepare(Policy())()
    with pytest.raises(Unauthorized):
        authenticator.authenticate(text)


def test_an_issuer_that_may_say_less_is_held_to_it_at_once(keys: str):
    authenticator = locked(issuer(keys, tenants=("*",)))
    text = token(tenant="beta")
    assert authenticator.authenticate(text)
    authenticator.prepare(Policy(issuers=(issuer(keys),)))()
    assert authenticator.authenticate(text).tenant == "acme"


def test_a_policy_that_will_not_do_changes_nothing(keys: str, tmp_path: Path):
    authenticator = locked(issuer(keys))
    for bad, reason in (
        (Policy(), "last one"),
        (Policy(issuers=(issuer(keys), issuer(keys))), "same"),
        (Policy(issuers=(issuer(str(tmp_path / "absent")),)), "No such file"),
        (Policy(issuers=(issuer("", jwks_file="", secret_env="NOT_SET", algorithms=("HS256",)),)), "NOT_SET"),
    ):
        with pytest.raises(SettingsError, match=reason):
            authenticator.prepare(bad)
        assert authenticator.authenticate(token())


async def test_keys_from_afar_stay_when_the_issuer_has_not_changed():
    with key_server() as server:
        there = issuer("", jwks_file="", jwks_url=server.serve("/jwks", jwks(KEY)))
        authenticator = locked(there)
        assert await authenticator.authenticate(token())
        authenticator.prepare(Policy(issuers=(there,)))()
        assert authenticator.authenticate(token(sub="bob")).user == "bob"  # at once
        authenticator.prepare(Policy(issuers=(issuer("", jwks_file="", jwks_url=server.url + "/other"),)))()
        with pytest.raises(RealtimeError):
            await authenticator.authenticate(token())
        assert server.asked == ["/jwks", "/other"]
        assert authenticator.stats()["token_key_fetches_total"] == 2
        authenticator.close()
        await asyncio.sleep(0)
