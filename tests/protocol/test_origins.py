"""Origins: what a browser may say that a list lets in, and what looks like it and may not."""

import pytest

from realtime.protocol.origins import OriginRules

APP = "https://app.example.com"


@pytest.mark.parametrize(
    ("entry", "origin", "allowed"),
    [
        (APP, APP, True),
        (APP, "https://APP.example.com", True),
        ("HTTPS://App.Example.com", APP, True),
        (APP, f"{APP}:443", True),
        (f"{APP}:443", APP, True),
        ("http://app.example.com:80", "http://app.example.com", True),
        (APP, f"{APP}:8443", False),
        (f"{APP}:8443", f"{APP}:8443", True),
        (f"{APP}:8443", APP, False),
        (APP, "http://app.example.com", False),
        (APP, "https://example.com", False),
        (APP, "https://app.example.com.evil.test", False),
        (APP, "https://evil.test/https://app.example.com", False),
        (APP, "https://app.example.com@evil.test", False),
        (APP, "https://evil.test#app.example.com", False),
        (APP, f"{APP}/", False),
        (APP, f"{APP}, https://evil.test", False),
        (APP, f" {APP}", False),
        (APP, f"{APP}\n", False),
        (APP, "https://app.example.com.", False),
        (APP, "app.example.com", False),
        (APP, "", False),
        (APP, "null", False),
        ("null", "null", True),
        ("null", "NULL", False),
        ("https://*.example.com", APP, True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://example.com.evil.test", False),
        ("https://*.example.com", "https://app.example.com.evil", False),
        ("https://*.example.com", "http://app.example.com", False),
        ("https://*.example.com", "https://app.example.com:8443", False),
        ("https://*.example.com:8443", "https://app.example.com:8443", True),
        ("https://*.example.com", "https://*.example.com", False),
        ("http://[::1]:8000", "http://[::1]:8000", True),
        ("http://[::1]:8000", "http://[::2]:8000", False),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example", True),
    ],
)
def test_an_origin_is_compared_by_scheme_host_and_port(entry: str, origin: str, allowed: bool):
    assert OriginRules([entry]).allow(origin) is allowed
    assert (origin in OriginRules([entry])) is allowed


@pytest.mark.parametrize("missing", [True, False])
def test_without_an_origin_the_rule_for_that_decides(missing: bool):
    assert OriginRules([APP], missing=missing).allow(None) is missing


def test_any_of_several_does():
    listed = OriginRules([APP, "null", "https://*.example.org"])
    assert [each in listed for each in (APP, "null", "https://a.example.org", "https://example.org")] == [
        *(True, True, True, False)
    ]


@pytest.mark.parametrize(
    "entry",
    [
        *("example.com", "https://", "https://example.com/", "https://example.com/path", "*", "https://*"),
        *("https://a.*.example.com", "https://*.*.example.com", "https://app.example.com:99999"),
        *("https://user@example.com", "https://bücher.example", "", "https://*.[::1]", "://x", "NULL"),
    ],
)
def test_what_is_no_origin_is_named(entry: str):
    with pytest.raises(ValueError, match=r"is not scheme://host\[:port\]") as caught:
        OriginRules([APP, entry])
    assert repr(entry) in str(caught.value)


def test_an_empty_list_is_none_and_lists_nobody():
    assert not OriginRules()
    assert APP not in OriginRules()
    assert all(OriginRules([entry]) for entry in (APP, "null", "https://*.example.org"))
