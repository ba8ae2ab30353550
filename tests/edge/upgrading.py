"""Servers that are upgraded while they run: the process is another one afterwards, the service the same."""

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server
from tests.edge.peer import PATIENCE_S

SERVES = re.compile(r"process (\d+) \(version [^)]*\) serves: (\d+) connections, (\d+) rooms")


class Upgradable(Server):
    """A server in a folder of its own, where `realtime upgrade` finds it. `serving` is the process of now."""

    def __init__(self, folder, settings, module="realtime", **environ):
        self.environ = environ
        super().__init__({"runtime_path": str(folder), **settings}, module)

    def start(self):
        super().start()
        self.serving = self.process.pid
        self.others = []
        return self

    def _environ(self):
        return super()._environ() | self.environ

    async def upgrade(self, *options):
        """Run `realtime upgrade`; return (exit code, what it said)."""
        found = ["--port", str(self.port), "--runtime-path", self.settings["runtime_path"], *options]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "realtime", "upgrade", *found),
            cwd=ROOT,
            env=super()._environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(6 * PATIENCE_S):
            said = (await process.communicate())[0].decode()
        if (serves := SERVES.search(said)) is not None:
            self.others.append(self.serving)
            self.serving = int(serves[1])
        return process.returncode, said

    async def upgraded(self):
        """Upgrade, which has to go well; return how many connections and rooms went over."""
        code, said = await self.upgrade()
        assert code == 0, f"{said}\n{self.whole_log()}"
        _, connections, rooms = SERVES.search(said).groups()
        return int(connections), int(rooms)

    async def ended(self, pid):
        """Wait until a process has ended."""
        await asyncio.to_thread(_wait, pid)

    def finish(self):
        for path in Path(self.settings["runtime_path"]).glob("*.sock"):  # whoever a failed test has left
            if (pid := int(path.stem.rpartition("-")[2])) != self.process.pid:
                end(pid)
        if self.serving == self.process.pid:
            super().finish()
            return
        end(self.serving)
        # The first one ends by itself; SIGTERM might meet an interpreter that has let go of its handlers.
        code = self.stop(signal.SIGCONT)
        assert code == self.ends_with, f"the first process ended with {code}:\n{self.whole_log()}"
        assert "Traceback" not in self.whole_log() or self.may_log_tracebacks, self.whole_log()


def end(pid):
    """End a process that is not our child, and wait."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    _wait(pid)


def _wait(pid):
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(30_000):
            os.kill(pid, signal.SIGKILL)
            pytest.fail(f"process {pid} did not end")
    finally:
        os.close(fd)
