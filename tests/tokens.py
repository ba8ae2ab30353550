"""Tokens for tests: keys made now, tokens made by hand, issuers of a policy, and a server of keys.

Tokens are put together here from bytes, so that what no library would make can be made too.
"""

import asyncio
import base64
import hmac
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
CURVES = {"ES256": (ec.SECP256R1(), "P-256", 32), "ES384": (ec.SECP384R1(), "P-384", 48)}


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


@dataclass(frozen=True)
class Signer:
    """A private key that signs by one algorithm; `kid` names it."""

    algorithm: str
    private: Any
    kid: str = ""

    def sign(self, signed: bytes) -> bytes:
        """The raw signature of JWS."""
        hash = HASHES.get(self.algorithm[2:])
        if self.algorithm.startswith("HS"):
            return hmac.digest(self.private, signed, f"sha{self.algorithm[2:]}")
        if self.algorithm.startswith("RS"):
            return self.private.sign(signed, padding.PKCS1v15(), hash)
        if self.algorithm.startswith("PS"):
            return self.private.sign(signed, padding.PSS(padding.MGF1(hash), hash.digest_size), hash)
        if self.algorithm.startswith("ES"):
            size = CURVES[self.algorithm][2]
            r, s = decode_dss_signature(self.private.sign(signed, ec.ECDSA(hash)))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        return self.private.sign(signed)

    @property
    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def private_pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def jwk(self, **more: Any) -> dict[str, Any]:
        """The public key as a JSON Web Key."""
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            found = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        elif isinstance(public, ec.EllipticCurvePublicKey):
            _, curve, size = CURVES[self.algorithm]
            point = public.public_numbers()
            found = {"kty": "EC", "crv": curve, "x": number(point.x, size), "y": number(point.y, size)}
        else:
            raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
            found = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
        return {**found, "use": "sig", **({"kid": self.kid} if self.kid else {}), **more}

    def token(self, claims: Mapping[str, Any], **header: Any) -> str:
        """A signed token; `header` adds to alg, typ and kid, or takes their place."""
        kid = {"kid": self.kid} if self.kid else {}
        return self.raw(
            json.dumps({"alg": self.algorithm, "typ": "JWT", **kid, **header}).encode(),
            json.dumps(claims).encode(),
        )

    def raw(self, header: bytes, claims: bytes) -> str:
        """A signed token of any bytes."""
        signed = f"{b64(header)}.{b64(claims)}"
        return f"{signed}.{b64(self.sign(signed.encode()))}"


def secret_signer(secret: str | bytes, algorithm: str = "HS256", kid: str = "") -> Signer:
    return Signer(algorithm, secret.encode() if isinstance(secret, str) else secret, kid)


@cache
def rsa_key(name: str = "", bits: int = 2048) -> rsa.RSAPrivateKey:
    """An RSA key, one a name and run: they take a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def rsa_signer(kid: str = "", algorithm: str = "RS256", bits: int = 2048) -> Signer:
    return Signer(algorithm, rsa_key(kid, bits), kid)


def ec_signer(kid: str = "", algorithm: str = "ES256") -> Signer:
    return Signer(algorithm, ec.generate_private_key(CURVES[algorithm][0]), kid)


def ed_signer(kid: str = "") -> Signer:
    return Signer("EdDSA", ed25519.Ed25519PrivateKey.generate(), kid)


def jwks(*signers: Signer) -> bytes:
    return json.dumps({"keys": [each.jwk() for each in signers]}).encode()


def claims(sub: str = "alice", ttl_s: float = 60.0, **more: Any) -> dict[str, Any]:
    """Claims of a token that is good for so long; None takes a claim away."""
    now = time.time()
    found = {"sub": sub, "iat": int(now), "exp": int(now + ttl_s), **more}
    return {name: value for name, value in found.items() if value is not None}


def issuer_toml(**settings: Any) -> str:
    """An `[[issuers]]` of a policy."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(["[[issuers]]", *lines, ""])


@dataclass
class KeyServer:
    """An HTTP server of documents, by path: (status, headers, body). It counts what is asked of it."""

    documents: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    told: threading.Condition = field(default_factory=threading.Condition)  # of each that is asked
    url: str = ""
    held: threading.Event = field(default_factory=threading.Event)  # cleared: answers wait for it

    def serve(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        """Have `path` answered with this from now on; return its URL."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.documents[path] = (status, named, body)
        return self.url + path


def certificate(folder: Path, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """A certificate of nobody's for `host`: what a server speaks TLS with, and the file that vouches."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "tls.pem", folder / "tls.key"
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, private)
    return context, chain


@contextmanager
def key_server(tls: ssl.SSLContext | None = None) -> Iterator[KeyServer]:
    """A real server on a port of its own, with `tls` one of https."""
    state = KeyServer()
    state.held.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with state.told:
                state.asked.append(self.path)
                state.told.notify_all()
            state.held.wait(20)
            status, headers, body = state.documents.get(self.path, (404, {}, b"not here"))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that hangs up on too much is none."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.held.set()
        server.shutdown()
        server.server_close()


async def asked_for(server: KeyServer, count: int, patience_s: float = 60.0) -> None:
    """Wait until so many documents have been asked for."""

    def wait() -> bool:
        with server.told:
            return server.told.wait_for(lambda: len(server.asked) >= count, patience_s)

    assert await asyncio.to_thread(wait), f"{server.asked} within {patience_s} s"
