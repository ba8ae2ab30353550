"""What the units' settings say, read as systemd reads them, and what of it cannot work under the units."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from realtime.errors import SettingsError
from realtime.loading import load
from realtime.settings import KNOBS, Settings

STATE: Final = "/var/lib/realtime"
# Not there, or not what others see there, for a process with ProtectHome= and PrivateTmp=.
HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
WRITTEN: Final = ("sqlite_path", "audit_path", "chat_files_path")


def parse_environment(text: str, name: str) -> dict[str, str]:
    """Read a file of environment as systemd does: NAME=VALUE lines, # and ; comments, quotes around values.

    Raises:
        SettingsError: a line is none of these; `name` says of which file.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        key, equals, value = stripped.partition("=")
        if not equals or not key.isidentifier():
            raise SettingsError(f"{name}, line {number}: it is no NAME=VALUE")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[key] = value
    return found


def read(text: str, name: str) -> Settings:
    """Return the settings that a unit with this file of environment has.

    Raises:
        SettingsError: they would not do.
    """
    return load(environ=parse_environment(text, name)).settings


def instances(wanted: str, settings: Settings, cores: Sequence[int]) -> list[int]:
    """Return the numbers of the workers, which are those of their cores: `auto`, or so many.

    `auto` is one a core, and without Redis one.

    Raises:
        SettingsError: there are not so many cores, or no Redis between so many.
    """
    if wanted == "auto":
        return list(cores) if settings.redis_url else list(cores[:1])
    if not (wanted.isascii() and wanted.isdigit() and int(wanted)):
        raise SettingsError(f"--cores {wanted}: it is a number from 1 on, or auto")
    count = int(wanted)
    if count > len(cores):
        raise SettingsError(f"--cores {count}: this machine lets us use {len(cores)}")
    if count > 1 and not settings.redis_url:
        raise SettingsError(
            f"--cores {count}: {count} workers need a Redis between them, or members of one room would not "
            "see each other: set REDIS_URL, or --cores 1"
        )
    return list(cores[:count])


def address(settings: Settings, port: int) -> str:
    """Return what ListenStream= is for `port`.

    Raises:
        SettingsError: `host` is a name, which systemd does not look up.
    """
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    try:
        v6 = ipaddress.ip_address(host).version == 6
    except ValueError:
        raise SettingsError(
            f"host {settings.host!r} is a name, and a socket unit listens on an address: set REALTIME_HOST"
        ) from None
    return f"[{host}]:{port}" if v6 else f"{host}:{port}"


def contradictions(settings: Settings, numbers: Sequence[int], drop_ins: str) -> Iterator[str]:
    """Yield what cannot work under the units, each as a line that says what would.

    `drop_ins` is the text of the operator's own, whose ReadWritePaths= may have what the units do not allow.
    """
    if settings.workers != "1":
        yield f"workers is {settings.workers}, and each unit is one worker: leave REALTIME_WORKERS out"
    if settings.instance >= 0:
        yield "instance is the units' to say, for each its own: leave REALTIME_INSTANCE out"
    if not settings.port:
        yield "port is 0, and a socket unit has to name one: set REALTIME_PORT"
    administrative = range(settings.admin_port, settings.admin_port + max(numbers, default=0) + 1)
    if settings.admin_port:
        for name in ("port", "tls_port", "chat_api_port"):
            if getattr(settings, name) in administrative:
                yield (
                    f"{name} {getattr(settings, name)} is one of the workers' admin_ports, "
                    f"{administrative[0]} to {administrative[-1]}: set REALTIME_ADMIN_PORT to another"
                )
    for name in WRITTEN:
        path = getattr(settings, name)
        outside = path.startswith("/") and not PurePosixPath(path).is_relative_to(STATE)
        if outside and str(PurePosixPath(path).parent) not in drop_ins and path not in drop_ins:
            yield (
                f"{name} is {path}, which is read-only to the units (ProtectSystem=strict): put it below "
                f"{STATE}, or name its folder by ReadWritePaths= in a drop-in of your own"
            )
    for name in KNOBS:
        yield from (
            f"{name} is {path}, which the units do not see (ProtectHome=, PrivateTmp=): use /etc/realtime"
            for path in _paths(getattr(settings, name))
            if hidden(path)
        )


def hidden(path: str) -> bool:
    """Whether a unit does not see what stands there."""
    return any(PurePosixPath(path).is_relative_to(each) for each in HIDDEN)


def drop_ins(directory: Path) -> str:
    """The text of all drop-ins in a folder but our own."""
    if not directory.is_dir():
        return ""
    others = (path for path in sorted(directory.glob("*.conf")) if path.name != "10-host.conf")
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in others)


def _paths(value: object) -> Iterator[str]:
    values = value if isinstance(value, tuple) else (value,)
    yield from (each for each in values if isinstance(each, str) and each.startswith("/"))
