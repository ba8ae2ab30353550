"""A host of a cluster under test: one `realtime serve --workers N`, which may be killed piece by piece."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import Server
from tests.postgres import children


class Host:
    """A supervisor and its workers on one port. All of it is called beside the event loop: it may block."""

    def __init__(self, name: str, settings: Mapping[str, object], workers: int = 2) -> None:
        self.name = name
        self.count = workers
        several = {"workers": str(workers)} if workers > 1 else {}
        self.server = self._serve({**settings, **several})
        self._stopped: set[int] = set()

    def _serve(self, settings: dict[str, object]) -> Server:
        return Server(settings)

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
