"""Issuers in the policy: what each needs, and the sentence about what is wrong."""

import pytest

from realtime.errors import SettingsError
from realtime.policy.loading import read_policy

GOOD = {
    "issuer": "https://i.example",
    "audience": ["realtime"],
    "algorithms": ["RS256"],
    "jwks_url": "https://i.example/jwks",
    "tenant": "acme",
}


def read(**changes: object):
    table = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return read_policy({"issuers": [table]}, "policy.toml").issuers[0]


def test_an_issuer_needs_no_more_than_this():
    assert read().tenant_claim == "tenant"
    assert read(tenant=None, tenants=["a-*"]).tenants == ("a-*",)
    assert read(jwks_url="http://127.0.0.1:8080/jwks").jwks_url
    assert read(jwks_url="http://localhost/jwks").jwks_url
    assert read(jwks_url=None, secret_env="S", algorithms=["HS256"]).secret_env == "S"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issuer": ""}, "issuer"),
        ({"audience": []}, "audience"),
        ({"audience": None}, "audience"),
        ({"algorithms": []}, "algorithms"),
        ({"algorithms": ["none"]}, "none"),
        ({"algorithms": ["RS1"]}, "RS1"),
        ({"jwks_url": None}, "none is"),
        ({"jwks_file": "keys.json"}, "jwks_url and jwks_file are"),
        ({"tenant": None}, "either `tenant` or `tenants`"),
        ({"tenants": ["a"]}, "either `tenant` or `tenants`"),
        ({"tenant": "a/b"}, "tenant"),
        ({"algorithms": ["HS256"]}, "HS algorithms"),
        ({"algorithms": ["HS256", "RS256"]}, "HS algorithms"),
        ({"jwks_url": None, "secret_env": "S"}, "HS algorithms"),
        ({"jwks_url": None, "secret_env": "S", "algorithms": ["HS256", "RS256"]}, "HS algorithms"),
        ({"jwks_url": None, "secret_env": "REALTIME_S", "algorithms": ["HS256"]}, "those of settings"),
        ({"jwks_url": "http://i.example/jwks"}, "not https"),
        ({"jwks_url": "http://127.0.0.1.evil.example/jwks"}, "not https"),
        ({"jwks_url": "file:///etc/passwd"}, "no https URL"),
        ({"jwks_url": "https:///jwks"}, "no https URL"),
        ({"jwks_url": "https://u:p@i.example/jwks"}, "a user"),
        ({"jwks_url": "https://i.example/jwks\r\nX: y"}, "odd characters"),
        ({"jwks_url": "https://i.example:99999/"}, "no URL"),
        ({"jwks_url": "https://[::1/"}, "no URL"),
        ({"leeway_s": 301}, "leeway_s"),
        ({"jwks_refetch_s": 0}, "jwks_refetch_s"),
        ({"rolesclaim": "x"}, "did you mean roles_claim"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, object], reason: str):
    with pytest.raises(SettingsError, match=reason):
        read(**changes)
