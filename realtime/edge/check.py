"""`realtime check`: would the server start here, and would it do what the configuration says?"""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from realtime.edge import listener, tls
from realtime.edge.process import connections_allowed, file_limit_warning, worker_count
from realtime.errors import SettingsError, StartupError
from realtime.loading import Loaded
from realtime.policy import load_policy
from realtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `ok`, a `warning` that does not stop the start, or what `failed`."""

    ok: bool
    text: str
    warning: bool = False

    @property
    def mark(self) -> str:
        return "fail" if not self.ok else "warn" if self.warning else "ok"


def findings(loaded: Loaded) -> Iterator[Finding]:
    """Look at one thing after another, and say what was found."""
    settings, built = loaded.settings, True
    for finding in installation(loaded):
        yield finding
        built = built and not (finding.text.startswith("compiled build") and not finding.ok)
    if built:
        yield _store(settings)
        yield _workers(settings)
    yield _files(settings)
    yield _port(settings)
    if settings.tls_port:
        yield _tls(settings)


def installation(loaded: Loaded) -> Iterator[Finding]:
    """Look at what needs neither the network nor the store: `realtime doctor` begins with the same."""
    settings = loaded.settings
    given = sum(source != "default" for source in loaded.sources.values())
    yield Finding(True, f"configuration: {given} of {len(loaded.sources)} settings given, the rest default")
    for warning in loaded.warnings:
        yield Finding(True, warning, warning=True)
    native = _native()
    yield native
    yield _tokens(settings)
    if native.ok:
        yield _features()
        yield _policy(settings)
        yield _files_kept(settings)
        yield _audit(settings)
        yield _keys(settings)


def _native() -> Finding:
    try:
        native = import_module("realtime.native")  # says itself what is not compiled
        for module in iter_modules(native.__path__, "realtime.native."):
            import_module(module.name)
    except ImportError as error:
        return Finding(False, f"compiled build: {error}")
    return Finding(True, f"compiled build: present, for Python {platform.python_version()}")


def _policy(settings: Settings) -> Finding:
    from realtime.edge.network import compile_network  # stands on compiled modules

    if not settings.policy_path:
        return Finding(True, "policy: none")
    try:
        network = load_policy(Path(settings.policy_path)).network
        compile_network(network, allowed_origins=settings.allowed_origins)
    except SettingsError as error:
        return Finding(False, f"policy: {error.message}")
    return Finding(True, f"policy: {settings.policy_path}")


def _tokens(settings: Settings) -> Finding:
    from realtime.backends.auth.authenticator import authenticator_of  # not at the top: as the features

    try:
        issuers = load_policy(Path(settings.policy_path)).issuers if settings.policy_path else ()
        if issuers:
            authenticator_of((), settings.jwt_algorithms, issuers)
    except (ImportError, SettingsError) as error:
        return Finding(False, f"tokens: {error}")
    sources = ["jwt_secret"] * bool(settings.jwt_secret) + [f"{len(issuers)} issuers"] * bool(issuers)
    return Finding(True, f"tokens: of {' and '.join(sources) or 'nobody: it would run open'}")


def _features() -> Finding:
    # Not at the top: features stand on the compiled build, and it may be what is missing.
    from realtime.core.catalog import Catalog
    from realtime.features import discover

    try:
        catalog = Catalog(discover())
    except (ImportError, TypeError, ValueError) as error:
        return Finding(False, f"features: {error}")
    names = ", ".join(feature.name for feature in catalog.features)
    return Finding(True, f"features: {names}; {len(catalog.messages)} message types")


def _store(settings: Settings) -> Finding:
    from realtime.edge import store  # not at the top: as the features
    from realtime.features import discover

    try:
        text = store.finding(settings, discover())
    except (ImportError, TypeError) as error:  # of a feature: its own finding says so
        return Finding(False, f"store: not looked at: {error}")
    except StartupError as error:
        return Finding(False, f"store: {error.message}")
    none = text.startswith("none")
    return Finding(True, f"store: {text}", warning=none)


def _files_kept(settings: Settings) -> Finding:
    from realtime.edge import files  # not at the top: as the features

    try:
        text = files.finding(settings)
    except StartupError as error:
        return Finding(False, f"attachments: {error.message}")
    return Finding(True, f"attachments: {text}")


def _audit(settings: Settings) -> Finding:
    from realtime.edge import audit  # not at the top: as the features

    try:
        text = audit.finding(settings)
    except StartupError as error:
        return Finding(False, f"audit log: {error.message}")
    return Finding(True, f"audit log: {text}", warning=text.startswith("none"))


def _keys(settings: Settings) -> Finding:
    from realtime.edge import sealing  # not at the top: as the features

    try:
        return Finding(True, f"encryption at rest: {sealing.finding(settings)}")
    except SettingsError as error:
        return Finding(False, f"encryption at rest: {error.message}")


def _workers(settings: Settings) -> Finding:
    from realtime.edge import cluster  # not at the top: as the features

    try:
        count = worker_count(settings)
        if not settings.redis_url:
            return Finding(True, "workers: one, alone")
        return Finding(True, f"workers: {count}; {cluster.finding(settings)}")
    except StartupError as error:
        return Finding(False, f"workers: {error.message}")


def _files(settings: Settings) -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    warning = file_limit_warning(files, settings)
    if warning:
        return Finding(True, f"open files: {warning}", warning=True)
    return Finding(True, f"open files: room for {connections_allowed(files, settings)} connections")


def _tls(settings: Settings) -> Finding:
    try:
        shown = tls.load_certificates(settings)
        listening = listener.listen(settings, settings.tls_port, shared=settings.share_port)
    except (SettingsError, StartupError) as error:
        return Finding(False, f"tls: {error.message}")
    where = listener.url(settings, listening, "https")
    listening.close()
    now = time.time()
    warning = tls.expiry_warning(shown, now)
    if warning:
        return Finding(True, f"tls: {warning}", warning=True)
    days = int(shown.ends_at - now) // 86_400
    return Finding(True, f"tls: can listen on {where}; the certificate holds for {days} days")


def _port(settings: Settings) -> Finding:
    try:
        listening = listener.listen(settings, shared=settings.share_port)
    except StartupError as error:
        return Finding(False, f"port: {error.message}")
    where = listener.url(settings, listening)
    listening.close()
    return Finding(True, f"port: can listen on {where}")
