"""Certificates and the terms on which TLS is spoken, and how both are replaced while it is.

What is offered is what Mozilla calls intermediate without its oldest part: TLS 1.2 with ECDHE and AEAD only,
and TLS 1.3. Compression (CRIME) and renegotiation by the client are off, early data (replays) is never taken.
A context, and with it the key of its session tickets, lives until the next reload.
"""

from __future__ import annotations

import logging
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from realtime.backends.certificates import Leaf, read_leaf
from realtime.errors import SettingsError
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all sound
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
ALPN: Final = ["http/1.1"]  # a WebSocket over HTTP/2 (RFC 8441) is not spoken here
WARN_BEFORE_S: Final = 14 * 86_400
OTHERS: Final = stat.S_IROTH | stat.S_IWOTH | stat.S_IXOTH


class Shown(NamedTuple):
    """What is shown to who connects: the first certificate's context knows the others, by name."""

    context: ssl.SSLContext
    leaves: tuple[Leaf, ...]

    @property
    def ends_at(self) -> float:
        """When the first of them expires, in Unix seconds."""
        return min(leaf.ends_at for leaf in self.leaves)


class Certificates:
    """The certificates that hold, from `prepare` and its commit on."""

    _shown: Shown

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now

    def prepare(self) -> Callable[[], None]:
        """Read all files; what is returned lets them hold for whoever connects from then on.

        Raises:
            SettingsError: a file is no use; what held before holds on.
        """
        shown = load_certificates(self._settings)
        now = self._now()
        if hasattr(self, "_shown") and not all(leaf.begins_at <= now < leaf.ends_at for leaf in shown.leaves):
            raise SettingsError("tls_certificate: a certificate has expired, or does not hold yet")

        def commit() -> None:
            self._shown = shown
            warning = expiry_warning(shown, now)
            if warning:
                log.warning(warning)

        return commit

    @property
    def context(self) -> ssl.SSLContext:
        """What the next client is met with."""
        return self._shown.context

    @property
    def expires_s(self) -> int:
        """Seconds until the first certificate expires; below 0 since it has."""
        return int(self._shown.ends_at - self._now())


def load_certificates(settings: Settings) -> Shown:
    """Read the certificates and keys that the settings name.

    Raises:
        SettingsError: a file cannot be read, holds something else, is encrypted, a key is another
            certificate's, or everybody on the machine may read it.
    """
    contexts: list[ssl.SSLContext] = []
    leaves: list[Leaf] = []
    for certificate, key in zip(
        settings.tls_certificate, settings.tls_key or settings.tls_certificate, strict=True
    ):
        leaves.append(_leaf(certificate))
        contexts.append(_context(settings, certificate, key))
    if len(contexts) > 1:
        contexts[0].sni_callback = _choose_by_name(contexts, leaves)
    return Shown(contexts[0], tuple(leaves))


def expiry_warning(shown: Shown, now: float) -> str:
    """One line about certificates that expire soon, or have; empty where none does."""
    left_s = shown.ends_at - now
    if left_s > WARN_BEFORE_S:
        return ""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(shown.ends_at))
    how = f"expires in {left_s / 86_400:.1f} days" if left_s > 0 else "HAS EXPIRED"
    return f"the TLS certificate {how}, at {when} UTC: renew it, then send SIGHUP"


def _leaf(path: str) -> Leaf:
    pem = _read(path, "tls_certificate")
    try:
        return read_leaf(pem)
    except ValueError as error:
        raise SettingsError(f"tls_certificate {path}: no certificate in PEM form") from error


def _read(path: str, knob: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{knob} {path}: {error.strerror}") from error


def _context(settings: Settings, certificate: str, key: str) -> ssl.SSLContext:
    _read(key, "tls_key")
    if Path(key).stat().st_mode & OTHERS:
        raise SettingsError(f"tls_key {key}: everybody on this machine may read it; chmod o= {key}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[settings.tls_min_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)

    def refuse_to_ask() -> NoReturn:  # OpenSSL would ask at the terminal
        raise SettingsError(f"tls_key {key}: it is encrypted; give one that is not, readable to us alone")

    try:
        context.load_cert_chain(certificate, key, password=refuse_to_ask)
    except ssl.SSLError as error:
        raise SettingsError(f"tls_key {key}, tls_certificate {certificate}: {_words(error)}") from error
    if settings.tls_client_ca:
        _demand_certificates(context, settings.tls_client_ca)
    return context


def _demand_certificates(context: ssl.SSLContext, path: str) -> None:
    _read(path, "tls_client_ca")
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise SettingsError(f"tls_client_ca {path}: {_words(error)}") from error
    context.verify_mode = ssl.CERT_REQUIRED


def _words(error: ssl.SSLError) -> str:
    reasons = {
        "KEY_VALUES_MISMATCH": "the key is another certificate's",
        "NO_START_LINE": "no private key in PEM form",
        "NO_CERTIFICATE_OR_CRL_FOUND": "no certificate in PEM form",
    }
    reason = error.reason or "PEM"
    return reasons.get(reason, f"it cannot be used ({reason.lower().replace('_', ' ')})")


def _choose_by_name(
    contexts: list[ssl.SSLContext], leaves: list[Leaf]
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """Return what shows who names a server (RFC 6066, 3) the first certificate that has its name."""
    by_name: dict[str, ssl.SSLContext] = {}
    for context, leaf in zip(contexts, leaves, strict=True):
        for name in leaf.names:
            by_name.setdefault(name, context)

    def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        asked = (name or "").lower()
        # A star stands for one whole label, the leftmost one (RFC 9525, 6.3).
        found = by_name.get(asked) or by_name.get(f"*.{asked.partition('.')[2]}")
        if found is not None:
            connection.context = found

    return choose
