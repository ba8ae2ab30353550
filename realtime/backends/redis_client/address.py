"""Where Redis is and how to be let in: what a URL says."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from realtime.errors import StartupError

PORT: Final = 6379
TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
YES: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Endpoint(NamedTuple):
    """A node's host and port: what it is known by."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Address(NamedTuple):
    """Seeds to look for the nodes at, who we are there, and the TLS context where there is TLS."""

    seeds: tuple[Endpoint, ...]
    user: str
    password: str | None
    db: int
    tls: ssl.SSLContext | None


def parse_url(url: str) -> Address:
    """Read `redis://user:password@host:port,host:port/db`, or `rediss://…?ssl_ca_certs=…` for TLS.

    User, password, port (6379) and db (0) may be left out. User and password are percent-encoded.

    Raises:
        StartupError: it is none, or its certificates cannot be read; the message never has the password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss"):
        raise StartupError("REDIS_URL: it begins with redis:// or rediss://")
    rest, _, query = rest.partition("?")
    # The last @: a password may have one, though it should be encoded.
    authority, _, path = _split_path(rest)
    credentials, at, hosts = authority.rpartition("@")
    user, colon, password = credentials.partition(":")
    if at and not colon:
        raise StartupError("REDIS_URL: before the @ stands user:password or :password")
    return Address(
        seeds=tuple(_endpoint(text) for text in hosts.split(",")),
        user=unquote(user) or "default",
        password=unquote(password) if colon else None,
        db=_db(path),
        tls=_tls(scheme, query),
    )


def _split_path(rest: str) -> tuple[str, str, str]:
    credentials, at, hosts = rest.rpartition("@")
    hosts, slash, path = hosts.partition("/")
    return credentials + at + hosts, slash, path


def _endpoint(text: str) -> Endpoint:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise StartupError(f"REDIS_URL: {text!r} is no [address]:port")
        port = port[1:]
    elif ":" in text:
        host, _, port = text.rpartition(":")
    if not host or (":" in host and not text.startswith("[")):
        raise StartupError(f"REDIS_URL: {text!r} is no host:port")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise StartupError(f"REDIS_URL: {port!r} is no port")
    return Endpoint(host, int(port or PORT))


def _db(path: str) -> int:
    if path and not (path.isascii() and path.isdigit()):
        raise StartupError(f"REDIS_URL: after the last / stands the number of the database, not {path!r}")
    return int(path or 0)


def _tls(scheme: str, query: str) -> ssl.SSLContext | None:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := set(options) - set(TLS_OPTIONS):
        known = ", ".join(TLS_OPTIONS)
        raise StartupError(f"REDIS_URL: unknown: {', '.join(sorted(unknown))}; known: {known}")
    if scheme == "redis":
        if options:
            raise StartupError(f"REDIS_URL: {', '.join(sorted(options))} need rediss://")
        return None
    check = YES.get(options.get("ssl_check_hostname", "true").lower())
    if check is None:
        raise StartupError("REDIS_URL: ssl_check_hostname is true or false")
    keyfile = options.get("ssl_keyfile")
    certfile = options.get("ssl_certfile")
    if keyfile and not certfile:
        raise StartupError("REDIS_URL: ssl_keyfile needs ssl_certfile")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if certfile:
            context.load_cert_chain(certfile, keyfile)
    except OSError as error:
        raise StartupError(f"REDIS_URL: the certificates cannot be read: {error}") from error
    context.check_hostname = check
    return context
