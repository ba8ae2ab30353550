"""What is accepted as a certificate and its key, and what is said where it is not."""

import datetime
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from realtime.edge.tls import Certificates, expiry_warning, load_certificates
from realtime.errors import SettingsError
from realtime.settings import Settings
from tests.certificates import Authority, key_pem


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def settings_of(pair, **more):
    return Settings(tls_port=1, tls_certificate=(str(pair.certificate),), tls_key=(str(pair.key),), **more)


def refusal(settings):
    with pytest.raises(SettingsError) as caught:
        load_certificates(settings)
    return caught.value.message


def test_a_certificate_says_its_names_and_when_it_ends(authority):
    shown = load_certificates(settings_of(authority.sign("a.example", "*.B.example", days=10)))
    (leaf,) = shown.leaves
    assert leaf.names == ("a.example", "*.b.example")
    left = shown.ends_at - datetime.datetime.now(datetime.UTC).timestamp()
    assert 9.9 * 86_400 < left < 10.1 * 86_400


def test_a_key_may_stand_in_its_certificates_file(authority, tmp_path):
    pair = authority.sign("both")
    both = tmp_path / "both.pem"
    both.touch(mode=0o600)
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    assert load_certificates(Settings(tls_certificate=(str(both),))).leaves[0].names == ("both",)


def test_a_key_that_everybody_may_read_is_refused(authority):
    pair = authority.sign("open")
    pair.key.chmod(0o644)
    assert "everybody on this machine may read it; chmod o=" in refusal(settings_of(pair))
    pair.key.chmod(0o640)  # a group that may read it is how packages share one
    assert load_certificates(settings_of(pair))


def test_another_certificates_key_is_refused(authority):
    pair, other = authority.sign("mine"), authority.sign("other")
    pair.key.write_bytes(other.key.read_bytes())
    assert refusal(settings_of(pair)).endswith("the key is another certificate's")


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(authority):
    pair = authority.sign("sealed")
    pair.key.write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1()), b"password"))
    assert "it is encrypted" in refusal(settings_of(pair))


@pytest.mark.parametrize("content", [b"", b"not PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END"])
@pytest.mark.parametrize("which", ["certificate", "key"])
def test_a_file_with_something_else_is_refused_by_its_name(authority, content, which):
    pair = authority.sign(f"broken-{which}")
    getattr(pair, which).write_bytes(content)
    said = refusal(settings_of(pair))
    assert f"tls_{which} {getattr(pair, which)}" in said
    assert "PEM" in said or "cannot be used" in said


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_a_file_that_is_not_there_is_refused_by_its_name(authority, which):
    pair = authority.sign(f"absent-{which}")
    getattr(pair, which).unlink()
    assert refusal(settings_of(pair)) == f"tls_{which} {getattr(pair, which)}: No such file or directory"


def test_authorities_that_are_none_are_refused(authority, tmp_path):
    nothing = tmp_path / "authorities.pem"
    nothing.write_text("nothing")
    pair = authority.sign("server")
    assert f"tls_client_ca {nothing}" in refusal(settings_of(pair, tls_client_ca=str(nothing)))
    context = load_certificates(settings_of(pair, tls_client_ca=str(authority.certificate))).context
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_no_secret_of_a_broken_key_is_in_what_is_said(authority):
    pair = authority.sign("quoted")
    text = pair.key.read_text().splitlines()
    pair.key.write_text("\n".join([*text[:2], *text[3:]]))  # a line is missing
    said = refusal(settings_of(pair))
    assert text[1][:12] not in said


def test_only_terms_that_hold_today_are_offered(authority):
    context = load_certificates(settings_of(authority.sign("terms"))).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert {each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"} == {
        *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
        *("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
        *("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
    }
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_an_expiry_is_warned_of_two_weeks_ahead(authority):
    shown = load_certificates(settings_of(authority.sign("soon", days=20)))
    at = shown.ends_at - 15 * 86_400
    assert expiry_warning(shown, at) == ""
    assert "expires in 13.0 days" in expiry_warning(shown, shown.ends_at - 13 * 86_400)
    assert "HAS EXPIRED" in expiry_warning(shown, shown.ends_at + 1)


def test_an_expired_certificate_starts_but_never_replaces_one(authority, caplog):
    """At the start it is better than nothing; at a reload it is somebody's mistake."""
    pair = authority.sign("old", days=-1)
    certificates = Certificates(settings_of(pair))
    certificates.prepare()()
    assert "HAS EXPIRED" in caplog.text
    assert certificates.expires_s < 0
    authority.sign("old", days=30)
    certificates.prepare()()
    assert certificates.expires_s > 0
    authority.sign("old", days=-1)
    with pytest.raises(SettingsError, match="has expired"):
        certificates.prepare()
    assert certificates.expires_s > 0


def test_what_is_prepared_and_not_committed_changes_nothing(authority):
    pair = authority.sign("prepared", days=20)
    certificates = Certificates(settings_of(pair))
    certificates.prepare()()
    context = certificates.context
    certificates.prepare()
    assert certificates.context is context
