"""`realtime install-units`: which files a host gets so that systemd runs it, and what of them is this host's.

The units come along with the package as they are; what the settings and the machine say goes into drop-ins
(10-host.conf), so that both may be written anew at any time. An operator's own stands in other drop-ins,
which nothing here touches.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import realtime
from realtime.edge import unit_settings
from realtime.errors import SettingsError, StartupError
from realtime.settings import Settings

PREFIX: Final = "/opt/realtime"
SYSTEM: Final = "etc/systemd/system"
ENVIRONMENT: Final = "etc/realtime/realtime.env"
WORKER_UNIT, API_UNIT = "realtime@.service", "realtime-api.service"
HOST_DROP_IN: Final = "10-host.conf"
WRITTEN_BY: Final = (
    "# Written by `realtime install-units`, and again by the next: put your own into another file.\n"
)
# Of all memory, for all workers of the host together.
MEMORY_PERCENT: Final = 80
PLACES: Final = {
    "sysctl.d/60-realtime.conf": "etc/sysctl.d/60-realtime.conf",
    "tmpfiles.d/realtime.conf": "etc/tmpfiles.d/realtime.conf",
    "journald.conf.d/60-realtime.conf": "etc/systemd/journald.conf.d/60-realtime.conf",
}
# With --user: who they run as instead of one that systemd makes up. The watcher needs none of its own.
USER_UNITS: Final = (WORKER_UNIT, API_UNIT)


@dataclass(frozen=True)
class Options:
    """What the command line says. `cores` are the numbers of the cores that we may use."""

    cores: Sequence[int]
    wanted: str = "auto"
    root: Path = Path("/")
    prefix: str = PREFIX
    user: str = ""
    tuning: bool = True


@dataclass(frozen=True)
class File:
    """One file of the plan. `kept`: an operator's from the day on that it is there. `shown` hides secrets."""

    text: str
    mode: int = 0o644
    kept: bool = False
    shown: str = ""


@dataclass(frozen=True)
class Plan:
    """What belongs on the host, by path below the root, and which workers it is for."""

    files: dict[str, File]
    settings: Settings
    numbers: list[int]
    environment_is_new: bool
    options: Options
    gone: list[int] = field(default_factory=list)  # instances that were enabled, and are not of it any more


def folder() -> Path:
    """Where the units lie: in the installed package, or in the checkout beside it.

    Raises:
        StartupError: nowhere.
    """
    package = Path(realtime.__file__).parent
    for each in (package / "systemd", package.parent / "systemd"):
        if (each / WORKER_UNIT).is_file():
            return each
    raise StartupError("the units are not in the installed package: install it from its wheel, or a checkout")


def make_plan(options: Options) -> Plan:
    """Decide what goes where.

    Raises:
        SettingsError: the settings, or the command line, say what the units cannot do.
        StartupError: there are no units to install.
    """
    units = folder()
    path = options.root / ENVIRONMENT
    new = not path.exists()
    environment = _environment(units) if new else path.read_text(encoding="utf-8")
    settings = unit_settings.read(environment, f"/{ENVIRONMENT}")
    numbers = unit_settings.instances(options.wanted, settings, options.cores)
    _refuse(options, settings, numbers)
    files = {f"{SYSTEM}/{each.name}": File(_at(each, options.prefix)) for each in _units(units)}
    files |= {
        f"{SYSTEM}/{name}": File(WRITTEN_BY + text) for name, text in _drop_ins(settings, numbers, options)
    }
    if options.tuning:
        files |= {place: File(_at(units / name, options.prefix)) for name, place in PLACES.items()}
    if new:
        shown = environment.replace(settings.jwt_secret, "(made when it is written)")
        files[ENVIRONMENT] = File(environment, 0o600, kept=True, shown=shown)
    gone = sorted(set(_enabled(options.root)) - set(numbers))
    return Plan(files, settings, numbers, new, options, gone)


def write(plan: Plan) -> Iterator[str]:
    """Write what is not there yet, or differs; yield a line a file. Drop-ins of ours that are past go.

    Raises:
        StartupError: a file cannot be written.
    """
    for name, file in plan.files.items():
        yield f"{_put(plan.options.root / name, file):9} /{name}"
    for path in _ours(plan.options.root):
        name = str(path.relative_to(plan.options.root))
        if name not in plan.files and path.name == HOST_DROP_IN:
            path.unlink()
            yield f"{'removed':9} /{name}"


def remove(root: Path) -> Iterator[str]:
    """Remove what `write` has written but the settings; yield a line a file. Links that enable it go too.

    Raises:
        StartupError: a file cannot be removed.
    """
    system = root / SYSTEM
    links = [path for path in system.glob("*.wants/realtime*") if path.is_symlink()]
    for path in [*links, *_ours(root)]:
        try:
            path.unlink()
        except OSError as error:
            raise StartupError(f"cannot remove {path}: {error.strerror}") from error
        yield f"removed   /{path.relative_to(root)}"
    for path in [*system.glob("realtime*.d"), system / "realtime.target.wants"]:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _refuse(options: Options, settings: Settings, numbers: list[int]) -> None:
    if unit_settings.hidden(options.prefix) or not options.prefix.startswith("/"):
        raise SettingsError(
            f"--prefix {options.prefix}: units see no homes and no temporary folders: install it into /opt"
        )
    own = unit_settings.drop_ins(options.root / SYSTEM / f"{WORKER_UNIT}.d")
    found = list(unit_settings.contradictions(settings, numbers, own))
    if found:
        raise SettingsError(f"/{ENVIRONMENT}: " + "; ".join(found))


def _environment(units: Path) -> str:
    """The settings of a host that has none yet: open to all addresses, with a key that nobody has yet."""
    example = (units / "realtime.env.example").read_text(encoding="utf-8")
    return example.replace("REALTIME_JWT_SECRET=\n", f"REALTIME_JWT_SECRET={secrets.token_hex(32)}\n")


def _units(units: Path) -> list[Path]:
    return sorted(each for each in units.iterdir() if each.suffix in (".service", ".socket", ".target"))


def _at(path: Path, prefix: str) -> str:
    return path.read_text(encoding="utf-8").replace(f"{PREFIX}/", f"{prefix.rstrip('/')}/")


def _drop_ins(settings: Settings, numbers: list[int], options: Options) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the drop-ins: what the units cannot know by themselves."""
    several = len(numbers) > 1
    lines = ["[Service]", f"MemoryHigh={MEMORY_PERCENT // len(numbers)}%"]
    if several:
        lines.append("Environment=REALTIME_SHARE_PORT=true")
    if settings.tls_port:
        lines.append("Sockets=realtime@%i.socket realtime-tls@%i.socket")
    user = [f"User={options.user}", "DynamicUser=no"] if options.user else []
    yield f"{WORKER_UNIT}.d/{HOST_DROP_IN}", "\n".join([*lines, *user, ""])
    if user:
        yield f"{API_UNIT}.d/{HOST_DROP_IN}", "\n".join(["[Service]", *user, ""])
    yield f"realtime@.socket.d/{HOST_DROP_IN}", _socket(settings, settings.port)
    if settings.tls_port:
        yield f"realtime-tls@.socket.d/{HOST_DROP_IN}", _socket(settings, settings.tls_port)


def _socket(settings: Settings, port: int) -> str:
    # The empty one forgets the address of the unit itself; others would be added to it.
    listen = f"[Socket]\nListenStream=\nListenStream={unit_settings.address(settings, port)}\n"
    return f"{listen}Backlog={settings.backlog}\nDeferAcceptSec={settings.tcp_defer_accept_s}s\n"


def _put(path: Path, file: File) -> str:
    try:
        if path.exists() and (file.kept or path.read_text(encoding="utf-8") == file.text):
            return "unchanged"
        known = path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, file.mode)
        with open(descriptor, "w", encoding="utf-8") as writing:
            os.fchmod(descriptor, file.mode)  # whatever the umask says
            writing.write(file.text)
        beside.replace(path)  # whole or not at all
    except OSError as error:
        raise StartupError(f"cannot write {path}: {error.strerror} (are you root?)") from error
    return "changed" if known else "wrote"


def _ours(root: Path) -> list[Path]:
    """What is there of what any run of ours may have written, but the settings."""
    system = root / SYSTEM
    units = [system / each.name for each in _units(folder())]
    drop_ins = [path for unit in units for path in [system / f"{unit.name}.d" / HOST_DROP_IN]]
    return [
        path for path in [*units, *drop_ins, *(root / place for place in PLACES.values())] if path.exists()
    ]


def _enabled(root: Path) -> Iterator[int]:
    for path in (root / SYSTEM / "realtime.target.wants").glob("realtime@*.service"):
        number = path.stem.partition("@")[2]
        if number.isascii() and number.isdigit():
            yield int(number)
