"""The socket by which `realtime upgrade` finds a running service on its own machine, and asks it.

It lies in a folder that only the service's user may enter, named by the port and the process: whoever can
open it could as well send that process a signal. One line of JSON is asked, one is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from realtime.errors import RealtimeError, StartupError
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

LINE_BYTES_MAX: Final = 64 * 1024
ASK_S: Final = 5.0  # in which whoever connects has to say something
ENDING: Final = ".sock"


class Asked(msgspec.Struct, frozen=True):
    """What is asked; to `do` there is `upgrade` alone. `shed` lets it close connections of a worker that has
    many more of them than the others have.
    """

    do: str = "upgrade"
    shed: bool = True


class Shared(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many connections the workers had, by their numbers, when all of them were replaced; and how many
    they had in the end, or why that is not known.
    """

    before: list[int] = []
    after: list[int] = []
    failed: str = ""


class Upgraded(NamedTuple):
    """What came of an upgrade: what is told of each process that was replaced, as plain data or a struct."""

    reports: Sequence[Any]
    shared: Shared | None = None


Upgrade = Callable[[Asked], Awaitable[Upgraded]]
"""Upgrades the service; RealtimeError where nothing came of it."""


class Answered(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it: the workers' reports, or why it failed; `pid` is who answered."""

    pid: int
    reports: list[dict[str, Any]] = []
    failed: str = ""
    shared: Shared | None = None


def folder(settings: Settings) -> Path:
    """Return where the sockets lie: as the settings say, or systemd, or else one folder for each user."""
    if settings.runtime_path:
        return Path(settings.runtime_path)
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    mine = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(mine) / "realtime" if mine else Path(tempfile.gettempdir()) / f"realtime-{os.getuid()}"


class Door:
    """The service's end. `open` may fail, and the service serves all the same. `after` is called when an
    upgrade that went well has been answered, or nobody waits for the answer any more.
    """

    def __init__(
        self,
        settings: Settings,
        port: int,
        upgrade: Upgrade,
        after: Callable[[], object] = lambda: None,
    ) -> None:
        self._path = folder(settings) / f"{port}-{os.getpid()}{ENDING}"
        self._upgrade = upgrade
        self._after = after
        self._server: asyncio.AbstractServer | None = None
        self._asked: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Let `realtime upgrade` find this process."""
        try:
            made = _bound(self._path)
        except (OSError, StartupError) as error:
            log.warning("`realtime upgrade` will not find this process: %s: %s", self._path, error)
            return
        self._server = await asyncio.start_unix_server(self._serve, sock=made, limit=LINE_BYTES_MAX)

    async def close(self) -> None:
        """Let nobody find it any more, and answer those who have asked. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        if self._asked:
            await asyncio.wait(self._asked, timeout=ASK_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        try:
            async with asyncio.timeout(ASK_S):
                line = await reader.readline()
            if not line:
                return  # it only looked whether anybody is here
            answer = await self._answer(msgspec.json.decode(line, type=Asked))
            try:
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
            finally:  # also where nobody waits for it any more
                if not answer.failed:
                    asyncio.get_running_loop().call_soon(self._after)
        except (TimeoutError, msgspec.MsgspecError, ValueError, OSError) as error:
            log.info("somebody at %s asked nothing: %s", self._path, error)
        finally:
            writer.close()

    async def _answer(self, asked: Asked) -> Answered:
        try:
            told = await self._upgrade(asked)
        except RealtimeError as error:
            return Answered(os.getpid(), failed=error.message)
        except Exception as error:  # whatever it is: somebody waits for an answer, and the process serves on
            log.exception("the upgrade failed")
            return Answered(os.getpid(), failed=f"{type(error).__name__}: {error}; see its log")
        return Answered(os.getpid(), reports=msgspec.to_builtins(told.reports), shared=told.shared)


def find(settings: Settings, pid: int | None) -> Path:
    """Return the socket of the one service that runs: on the settings' port, or of the process `pid`.

    Raises:
        StartupError: there is none, or there are several.
    """
    where = folder(settings)
    found = [path for path in sorted(where.glob(f"*-*{ENDING}")) if _listens(path)]
    if pid is not None:
        fitting = [path for path in found if path.stem.endswith(f"-{pid}")]
    else:
        fitting = [path for path in found if path.stem.startswith(f"{settings.port}-")] or found
    if not fitting:
        whose = f"process {pid}" if pid is not None else "a service"
        raise StartupError(f"{where} has no socket of {whose} that runs: give --runtime-path as it has it")
    if len(fitting) > 1:
        pids = ", ".join(path.stem.rpartition("-")[2] for path in fitting)
        raise StartupError(f"several services run here, processes {pids}: choose one by --pid")
    return fitting[0]


def ask(path: Path, asked: Asked) -> Answered:
    """Have the service behind a socket upgraded, and wait for what comes of it.

    Raises:
        StartupError: it gives no answer.
    """
    with socket.socket(socket.AF_UNIX) as end:
        try:
            end.connect(str(path))
            end.sendall(msgspec.json.encode(asked) + b"\n")
            with end.makefile("rb") as lines:
                line = lines.readline(LINE_BYTES_MAX)
            return msgspec.json.decode(line, type=Answered)
        except (OSError, msgspec.MsgspecError) as error:
            raise StartupError(f"{path}: the service gives no answer ({error}): see its log") from error


def _bound(path: Path) -> socket.socket:
    """Return a socket at `path`, which is new, in a folder that nobody else may enter."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = path.parent.stat()
    if state.st_uid not in (os.getuid(), 0) or (state.st_uid == os.getuid() and state.st_mode & 0o022):
        raise StartupError("others may write to that folder")
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
        made.listen()
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def _listens(path: Path) -> bool:
    """Whether somebody is behind a socket; what is left of one who died is removed."""
    with socket.socket(socket.AF_UNIX) as end:
        try:
            end.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        except OSError:
            return False
    return True
