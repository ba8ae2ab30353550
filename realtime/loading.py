"""Where the settings' values come from: defaults, a TOML file, the environment, the command line.

Later ones win. What is unknown, out of bounds or contradicts something else is an error that names the
setting, where the value came from, and what would do.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from realtime.errors import SettingsError
from realtime.policy import load_policy
from realtime.settings import KNOBS, Knob, Settings, as_text

CONFIG_VARIABLE: Final = "REALTIME_CONFIG"
_KNOB_BY_VARIABLE: Final = {knob.variable: knob.name for knob in KNOBS.values()}
# The last two are ours, but no knobs: the path of the TOML file, and what setup.py reads.
_VARIABLES: Final = frozenset({*_KNOB_BY_VARIABLE, CONFIG_VARIABLE, "REALTIME_BUILD_ONLY"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with where each value came from: `default`, a file's path, a variable or an option."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


def load(
    *,
    config: Path | None = None,
    environ: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """Merge defaults, the TOML file (`config` or REALTIME_CONFIG), the environment and `options`.

    `options` are the command line's, by knob name; text is converted. An empty variable counts as unset.

    Raises:
        SettingsError: an unknown name, a value of the wrong type or out of bounds, values that contradict
            each other, or an unreadable file.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(KNOBS, "default")
    for name, raw, source in _given(config, environ, options or {}):
        values[name] = convert(KNOBS[name], raw, source)
        sources[name] = source
    settings = Settings(**values)
    _cross_check(settings)
    return Loaded(settings, sources, tuple(_doubts(settings)))


def convert(knob: Knob, raw: Any, source: str) -> Any:
    """Return `raw` as the knob's type. Text is converted where the type is not text.

    Raises:
        SettingsError: it is of another type or out of bounds; `source` says where it stood.
    """
    text = isinstance(raw, str)
    value = raw
    if text and knob.many:
        value = tuple(item.strip() for item in raw.split(",") if item.strip())
    try:
        return msgspec.convert(value, knob.type, strict=not text)
    except msgspec.ValidationError as error:
        got = "" if knob.secret else f" {as_text(raw)!r}"
        wanted = f"{knob.unit}, {knob.bounds}" if knob.bounds else knob.unit
        raise SettingsError(f"{source}{got}: {error} ({wanted})") from error


def _given(
    config: Path | None, environ: Mapping[str, str], options: Mapping[str, Any]
) -> list[tuple[str, Any, str]]:
    """Return (knob, raw value, source), weakest source first."""
    path = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    return [
        *(_from_file(path) if path else ()),
        *_from_environment(environ),
        *((name, raw, KNOBS[name].option) for name, raw in options.items()),
    ]


def _from_file(path: Path) -> list[tuple[str, Any, str]]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"config file {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"config file {path} is not TOML: {error}") from error
    for name in table:
        if name not in KNOBS:
            raise SettingsError(f"config file {path}: unknown setting {name!r}{_nearest(name, KNOBS)}")
    return [(name, raw, f"{path}: {name}") for name, raw in table.items()]


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    for variable in environ:
        if variable.startswith("REALTIME_") and variable not in _VARIABLES:
            raise SettingsError(f"unknown environment variable {variable}{_nearest(variable, _VARIABLES)}")
    return [
        (name, environ[variable], variable)
        for variable, name in _KNOB_BY_VARIABLE.items()
        if environ.get(variable) or (variable in environ and _may_be_emptied(KNOBS[name]))
    ]


def _may_be_emptied(knob: Knob) -> bool:
    """Whether an empty variable turns something off. Everywhere else it is as good as none: an empty
    REALTIME_JWT_SECRET must not open what the config file has locked.
    """
    if not isinstance(knob.default, str) or not knob.default:
        return False
    try:
        convert(knob, "", knob.variable)
    except SettingsError:
        return False
    return True


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; did you mean {near[0]}?" if near else ""


def _cross_check(settings: Settings) -> None:
    """Refuse values that contradict each other."""
    if settings.reconnect_min_ms > settings.reconnect_max_ms:
        raise SettingsError(
            f"reconnect_min_ms {settings.reconnect_min_ms} is above "
            f"reconnect_max_ms {settings.reconnect_max_ms}"
        )
    if settings.answer_bytes >= settings.unicast_limit_bytes:
        raise SettingsError(
            f"answer_bytes {settings.answer_bytes} is not below unicast_limit_bytes "
            f"{settings.unicast_limit_bytes}: an answer would cut off whoever asked for it"
        )
    if settings.ring_ttl_s / settings.ring_beat_s < 2.999:  # three, as far as floats can say so
        raise SettingsError(
            f"ring_ttl_s {settings.ring_ttl_s:g} is below three times ring_beat_s {settings.ring_beat_s:g}: "
            "a worker would be taken for dead over one late beat"
        )
    if settings.shed_ratio and settings.shed_ratio < 1.01:
        raise SettingsError(
            f"shed_ratio {settings.shed_ratio:g} is below 1.01: workers are never that even; 0 turns it off"
        )
    if settings.echo_path and settings.echo_path == settings.ws_path:
        raise SettingsError(f"echo_path and ws_path are both {settings.ws_path}")
    _cross_check_tls(settings)
    _cross_check_scaling(settings)
    _cross_check_files(settings)
    for origin in settings.allowed_origins:
        parts = urlsplit(origin)
        if origin != "null" and (not parts.scheme or not parts.netloc or parts.path or parts.query):
            raise SettingsError(f"allowed_origins: {origin!r} is not scheme://host[:port]")
    secrets = [each for each in (settings.jwt_secret, *settings.jwt_previous_secrets) if each]
    if not settings.loopback and any(len(secret.encode()) < 32 for secret in secrets):
        # RFC 7518, 3.2: a shorter key than the hash can be searched for offline from one token.
        raise SettingsError(
            "jwt_secret is shorter than 32 bytes, or one before it, which only loopback may use; "
            "make one with: openssl rand -hex 32"
        )
    if settings.jwt_previous_secrets and not settings.jwt_secret:
        raise SettingsError("jwt_previous_secrets are those before jwt_secret, and there is none")
    if settings.token_cookie and not settings.allowed_origins:
        raise SettingsError(
            "token_cookie needs allowed_origins: browsers send cookies along whichever page connects"
        )
    if _open(settings) and not settings.loopback:
        raise SettingsError(
            f"host {settings.host} can be reached from outside and no key is configured: set "
            "REALTIME_JWT_SECRET (make one with: openssl rand -hex 32), or listen on 127.0.0.1"
        )


def _cross_check_tls(settings: Settings) -> None:
    if settings.tls_port and not settings.tls_certificate:
        raise SettingsError(f"tls_port {settings.tls_port} needs a tls_certificate")
    if settings.tls_port and settings.tls_port in (settings.port, settings.admin_port):
        raise SettingsError(f"tls_port {settings.tls_port} is the port of something else")
    if settings.tls_key and len(settings.tls_key) != len(settings.tls_certificate):
        raise SettingsError(
            f"tls_key has {len(settings.tls_key)} files and tls_certificate {len(settings.tls_certificate)}: "
            "one key for each certificate, in the same order, or none where they stand in the same files"
        )


def _cross_check_scaling(settings: Settings) -> None:
    if settings.autoscale_down_ratio >= settings.autoscale_up_ratio:
        raise SettingsError(
            f"autoscale_down_ratio {settings.autoscale_down_ratio:g} is not below autoscale_up_ratio "
            f"{settings.autoscale_up_ratio:g}: workers would come and go for ever"
        )
    if settings.autoscale_webhook_url and len(settings.autoscale_webhook_secret.encode()) < 32:
        raise SettingsError(
            "autoscale_webhook_url needs an autoscale_webhook_secret of 32 bytes or more, or anybody could "
            "tell its receiver the same; make one with: openssl rand -hex 32"
        )
    if settings.metrics_port and settings.metrics_port in (
        settings.port,
        settings.admin_port,
        settings.tls_port,
    ):
        raise SettingsError(f"metrics_port {settings.metrics_port} is the port of something else")


def _cross_check_files(settings: Settings) -> None:
    if settings.s3_endpoint and not settings.s3_bucket:
        raise SettingsError("s3_endpoint needs an s3_bucket")
    if settings.chat_url_secret and len(settings.chat_url_secret.encode()) < 32:
        raise SettingsError("chat_url_secret is shorter than 32 bytes; make one with: openssl rand -hex 32")
    kept = settings.s3_bucket or settings.chat_files_path not in ("", "auto")
    if settings.chat_url_secret or not (settings.chat_files_url or (settings.redis_url and kept)):
        return
    raise SettingsError(
        "attachments of several processes need one chat_url_secret, which signs their URLs: set "
        "REALTIME_CHAT_URL_SECRET (make one with: openssl rand -hex 32)"
    )


def _open(settings: Settings) -> bool:
    """Whether nobody's tokens are taken: there is no secret, and the policy names no issuer."""
    return settings.open_mode and not (
        settings.policy_path and load_policy(Path(settings.policy_path)).issuers
    )


def _doubts(settings: Settings) -> list[str]:
    """What works but should not stay so: one loud line each."""
    doubts = []
    if _open(settings):
        doubts.append(
            "OPEN MODE: no REALTIME_JWT_SECRET, so everybody on this machine may connect as anyone; "
            "for development only"
        )
    elif settings.jwt_secret and len(settings.jwt_secret.encode()) < 32:
        doubts.append("jwt_secret is shorter than 32 bytes: good enough for this machine only")
    if settings.tls_certificate and not settings.tls_port:
        doubts.append("tls_certificate is given but no tls_port: nobody is served by TLS")
    return doubts
