"""The client of Vault's transit engine, against one that speaks its API over a real socket."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from realtime.backends.sealing.masters import KeyLost, Masters
from realtime.backends.sealing.table import WrappedKey
from realtime.backends.sealing.vault import VaultTransit
from realtime.edge.sealing import open_masters
from realtime.errors import SettingsError, Unavailable
from realtime.ids import TenantId
from realtime.settings import Settings
from tests.sealing.fake_vault import FakeVault
from tests.sealing.stage import master

SECRET = bytes(range(32))
KEY = WrappedKey(TenantId("acme"), 1, b"8 bytes!", "", 0)


@pytest_asyncio.fixture(params=[False, True], ids=["sized", "chunked"])
async def vault(request) -> AsyncIterator[FakeVault]:
    async with FakeVault(chunked=request.param) as running:
        yield running


def client(vault: FakeVault, **options) -> VaultTransit:
    token = options.pop("token", vault.token)
    return VaultTransit(vault.url, token=lambda: token, **{"timeout_s": 5.0, **options})


async def test_a_data_key_comes_back_and_vault_alone_can_open_it(vault):
    masters = Masters({}, client(vault))
    wrapped = await masters.wrap(KEY, SECRET)
    assert wrapped.startswith("transit:realtime:vault:v1:")
    assert await masters.unwrap(KEY._replace(wrapped=wrapped)) == SECRET
    assert vault.asked == ["/v1/transit/encrypt/realtime", "/v1/transit/decrypt/realtime"]
    with pytest.raises(KeyLost, match=r"data key .* of tenant acme needs vault key realtime, which is not"):
        await Masters({"m1": master("m1")}).unwrap(KEY._replace(wrapped=wrapped))


async def test_a_wrapped_key_does_not_open_for_another_tenant_or_id(vault):
    masters = Masters({}, client(vault))
    moved = KEY._replace(wrapped=await masters.wrap(KEY, SECRET))
    for other in (moved._replace(tenant=TenantId("other")), moved._replace(id=b"another!")):
        with pytest.raises(KeyLost, match="is not opened by vault key realtime"):
            await masters.unwrap(other)


async def test_rewrap_takes_the_newest_version_and_older_ones_open(vault):
    masters = Masters({}, client(vault))
    first = KEY._replace(wrapped=await masters.wrap(KEY, SECRET))
    vault.rotate()
    assert await masters.unwrap(first) == SECRET
    second = first._replace(wrapped=await masters.rewrap(first))
    assert second.wrapped.startswith("transit:realtime:vault:v2:")
    assert await masters.unwrap(second) == SECRET
    assert vault.asked[-2:] == ["/v1/transit/rewrap/realtime", "/v1/transit/decrypt/realtime"]


async def test_a_key_moves_from_a_setting_into_vault_and_back(vault):
    local = Masters({"m1": master("m1")})
    both = Masters({"m1": master("m1")}, client(vault))
    key = KEY._replace(wrapped=await local.wrap(KEY, SECRET))
    key = key._replace(wrapped=await both.rewrap(key))
    assert key.wrapped.startswith("transit:realtime:vault:v1:")
    assert await both.unwrap(key) == SECRET


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (403, "permission denied", KeyLost),
        (404, 'no handler for route "transit/decrypt/realtime"', KeyLost),
        (400, "encryption key not found", KeyLost),
        (503, "Vault is sealed", Unavailable),
        (429, "request path rate limit quota exceeded", Unavailable),
        (500, "internal error", Unavailable),
        (472, "standby", Unavailable),
    ],
)
async def test_what_vault_refuses_is_named_and_says_whether_it_passes(vault, status, said, error):
    vault.refuse = (status, said)
    with pytest.raises(error) as caught:
        await client(vault).decrypt("vault:v1:AAAA")
    assert "vault key realtime" in caught.value.message
    assert f"{status} ({said})" in caught.value.message


async def test_no_error_has_the_token_not_even_where_vault_says_it_back(vault):
    transit = client(vault)
    vault.refuse = (403, f"token {vault.token} is expired")
    with pytest.raises(KeyLost) as caught:
        await transit.encrypt(SECRET)
    assert vault.token not in str(caught.value)
    assert "token *** is expired" in caught.value.message
    assert vault.token not in repr(transit)


async def test_a_wrong_token_is_refused(vault):
    with pytest.raises(KeyLost, match="permission denied"):
        await client(vault, token="wrong").encrypt(SECRET)
    assert vault.asked == []


async def test_a_token_in_a_file_may_be_another_at_any_time(vault, tmp_path):
    path = tmp_path / "token"
    path.write_text("expired\n")
    masters = open_masters(Settings(vault_url=vault.url, vault_token_file=str(path)))
    with pytest.raises(KeyLost, match="permission denied"):
        await masters.wrap(KEY, SECRET)
    path.write_text(f"{vault.token}\n")
    assert await masters.wrap(KEY, SECRET)
    path.unlink()
    with pytest.raises(Unavailable, match=r"Vault cannot be asked: vault_token_file .*token: No such file"):
        await masters.wrap(KEY, SECRET)
    with pytest.raises(SettingsError, match=r"vault_token_file .*token: No such file"):
        open_masters(Settings(vault_url=vault.url, vault_token_file=str(path)))


async def test_a_vault_that_is_away_is_named_and_found_again(vault):
    transit = client(vault)
    sealed = await transit.encrypt(SECRET)
    await vault.stop()
    with pytest.raises(Unavailable, match="vault key realtime: Vault cannot be asked") as caught:
        await transit.decrypt(sealed)
    assert caught.value.retry_after_s == 1.0
    await vault.start()
    assert await transit.decrypt(sealed) == SECRET


async def test_a_vault_that_does_not_answer_is_given_up_in_time(vault):
    vault.hold = asyncio.Event()
    with pytest.raises(Unavailable, match=r"no answer in 0\.05 s"):
        await client(vault, timeout_s=0.05).encrypt(SECRET)


async def test_a_vault_that_dies_within_an_answer_is_no_answer(vault):
    vault.hold = asyncio.Event()
    asking = asyncio.create_task(client(vault).encrypt(SECRET))
    await vault.waiting.wait()
    await vault.stop()
    with pytest.raises(Unavailable, match="Vault cannot be asked"):
        await asking


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"100000\r\n"
        + b"x" * 2**20
        + b"\r\n1\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"data": null',
        b'HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{"data": {"ciphertext": 12345}}',
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_an_answer_that_is_none_is_no_crash(vault, raw):
    vault.raw = raw
    with pytest.raises(Unavailable, match="vault key realtime: Vault cannot be asked"):
        await client(vault).encrypt(SECRET)


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("https://vault.example:8200", "", "needs vault_token or vault_token_file"),
        ("https://vault.example:8200", "two\r\nlines", "one line of ASCII"),
        ("http://vault.example:8200", "t", "without TLS"),
        ("https://me:secret@vault.example", "t", "the token is vault_token's"),
        ("https://vault.example:99999", "t", "vault_url: Port out of range"),
    ],
)
async def test_settings_that_will_not_do_are_named(url, token, said):
    with pytest.raises(SettingsError, match=said) as caught:
        VaultTransit(url, token=lambda: token)
    assert "secret" not in caught.value.message


# ---------------------------------------------------------------- TLS


def certificates(folder: Path, name: str = "localhost") -> tuple[ssl.SSLContext, Path]:
    """A server's context for `name`, and the file of who signed it: itself. Made for this test alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    alternatives = x509.SubjectAlternativeName(
        [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))][: 1 + (name == "localhost")]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "vault.pem", folder / "vault.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    return context, certificate


async def test_over_tls_its_certificate_is_checked(tmp_path):
    context, signed_by = certificates(tmp_path)
    async with FakeVault(tls=context) as vault:
        transit = client(vault, ca_file=str(signed_by))
        assert await transit.decrypt(await transit.encrypt(SECRET)) == SECRET
        with pytest.raises(Unavailable, match="its certificate is not trusted"):
            await client(vault).encrypt(SECRET)
    assert len(vault.asked) == 2, "who is not trusted gets no token"


async def test_a_certificate_of_another_host_is_not_trusted(tmp_path):
    context, signed_by = certificates(tmp_path, "elsewhere.example")
    async with FakeVault(tls=context) as vault:
        with pytest.raises(Unavailable, match="its certificate is not trusted"):
            await client(vault, ca_file=str(signed_by)).encrypt(SECRET)
    assert vault.asked == []


async def test_certificates_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(SettingsError, match=r"vault_ca_file .*nothing\.pem"):
        VaultTransit("https://localhost", token=lambda: "t", ca_file=str(tmp_path / "nothing.pem"))
