"""`[network]`: what it may say, and what it may not say together."""

import pytest

from realtime.errors import SettingsError
from realtime.policy import Network, Policy
from realtime.policy.loading import read_policy


def network(**values: object) -> Network:
    return read_policy({"network": values}, "policy.toml").network


def test_nothing_said_lets_everybody_in():
    assert not Policy().network.exclusive
    assert not Policy().network.by_country


@pytest.mark.parametrize(
    ("values", "exclusive"),
    [
        ({"deny": ["192.0.2.0/24"]}, False),
        ({"allow": ["192.0.2.0/24"]}, True),
        ({"allow_files": ["offices.txt"]}, True),
        ({"countries_allow": ["DE"], "geo_database": "x"}, True),
        ({"countries_deny": ["DE"], "geo_database": "x"}, False),
        ({"allow": ["192.0.2.0/24"], "default": "allow"}, False),
        ({"default": "deny"}, True),
    ],
)
def test_who_is_not_named_is_denied_where_others_are_allowed(values: dict[str, object], exclusive: bool):
    assert network(**values).exclusive is exclusive


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"proxy_protocol": "required"}, "proxy_protocol is required and trusted_proxies names nobody"),
        ({"proxy_header": "forwarded"}, "proxy_header is forwarded and trusted_proxies names nobody"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "0.0.0.0/0 is everybody, who could then be anybody"),
        ({"trusted_proxies": ["::/0"]}, "::/0 is everybody"),
        ({"countries_deny": ["KP"]}, "need a geo_database"),
        (
            {"countries_deny": ["KP"], "countries_allow": ["KP"], "geo_database": "x"},
            "countries_allow and countries_deny both name KP",
        ),
        ({"countries_deny": ["kp"], "geo_database": "x"}, "network.countries_deny[0]"),
        ({"countries_deny": ["Korea"], "geo_database": "x"}, "network.countries_deny[0]"),
        ({"proxy_protocol": "on"}, "network.proxy_protocol"),
        ({"proxy_header": "x-client-ip"}, "network.proxy_header"),
        ({"geo_failure": "ignore"}, "network.geo_failure"),
        ({"alow": []}, "did you mean allow?"),
    ],
)
def test_what_contradicts_is_refused(values: dict[str, object], said: str):
    with pytest.raises(SettingsError, match=r"policy\.toml") as caught:
        network(**values)
    assert said in caught.value.message
