"""A host of a cluster under test: one `realtime serve --workers N`, which may be killed piece by piece."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import jwt

from tests.cluster.network import Place
from tests.conftest import Server
from tests.postgres import children

SECRET = secrets.token_hex(32)  # of this process's hosts in namespaces
MODULE = "tests.cluster.tally"  # what a host runs: the server, with rooms whose owner counts
TOKEN_TTL_S = 24 * 3600


class Placed(Server):
    """A server in a network namespace."""

    def __init__(self, settings: dict[str, object], place: Place) -> None:
        self._place = place
        super().__init__(settings, MODULE)

    @property
    def launcher(self) -> tuple[str, ...]:
        return self._place.launcher


class Host:
    """A supervisor and its workers on one port. All of it is called beside the event loop: it may block."""

    def __init__(
        self, name: str, settings: Mapping[str, object], workers: int = 2, place: Place | None = None
    ) -> None:
        self.name = name
        self.count = workers
        several = {"workers": str(workers)} if workers > 1 else {}
        self._stopped: set[int] = set()
        if place is None:
            self.server = Server({**settings, **several}, MODULE)
            return
        # Open mode is for loopback alone.
        proof = {"host": place.address, "jwt_secret": SECRET}
        self.server = Placed({**settings, **several, **proof}, place)

    def token(self, user: str) -> str | None:
        """Return what a user proves who it is with; None where the host runs open."""
        if "jwt_secret" not in self.server.settings:
            return None
        return jwt.encode({"sub": user, "exp": int(time.time()) + TOKEN_TTL_S}, SECRET, "HS256")

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to."""
        return self.server.host, self.server.port

    def workers(self) -> list[int]:
        """Process ids of the workers that there are now."""
        if self.count == 1:
            return [self.server.pid]
        return [pid for pid in children(self.server.pid) if _is_worker(pid)]

    def kill(self, pid: int) -> None:
        """End a worker at once."""
        os.kill(pid, signal.SIGKILL)

    def stop(self, pid: int) -> None:
        """Let a worker do nothing, until `resume`."""
        os.kill(pid, signal.SIGSTOP)
        self._stopped.add(pid)

    def resume(self) -> None:
        """Let all stopped workers go on."""
        while self._stopped:
            os.kill(self._stopped.pop(), signal.SIGCONT)

    def restart(self) -> int:
        """End it in an orderly way and start it again; return its exit code."""
        code = self.server.stop(signal.SIGTERM)
        self.server.start()
        return code

    def end(self) -> None:
        """End whatever of it still runs, at once."""
        self.resume()
        if self.server.process.poll() is None:
            workers = self.workers() if self.count > 1 else []
            self.server.process.kill()
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.server.process.wait()

    def finish(self) -> None:
        """End it for good; it fails where it logged a traceback, or did not end well."""
        self.resume()
        self.server.finish()

    def keep_log(self, folder: Path) -> None:
        """Write what it has said into a file."""
        (folder / f"{self.name}.log").write_text(self.server.whole_log(), encoding="utf-8")


def _is_worker(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False
    # What multiprocessing starts to clean up behind it serves nobody.
    return b"resource_tracker" not in command and bool(command)
