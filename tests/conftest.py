"""What tests of several layers share: a real `realtime serve` in a process of its own.

`server` is one server for the whole run, in open mode; a test that needs settings of its own, or restarts or
kills the server, asks for `serve` and gets a fresh one. Both listen on a port of our own (tests/ports.py),
count as up when the server says where it listens, and are stopped by their process id. A server that will not
start, or that logged a traceback, fails the test with its whole log.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import hypothesis
import pytest

from realtime.loading import CONFIG_VARIABLE
from realtime.settings import KNOBS, as_text
from tests.parallel import pytest_xdist_make_scheduler  # noqa: F401 - a hook
from tests.ports import free_port
from tests.postgres import own_postgres, postgres  # noqa: F401 - fixtures
from tests.redis_cluster import (  # noqa: F401 - fixtures
    own_redis_cluster,
    own_redis_node,
    redis_cluster,
    redis_node,
)
from tests.summary import pytest_terminal_summary  # noqa: F401 - a hook

# Servers that tests start would else compile all of the package anew, each of them: half of a server's start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A busy machine must not fail a test: hypothesis bounds the examples here, not the time of one.
hypothesis.settings.register_profile("realtime", deadline=None, print_blob=True)
hypothesis.settings.load_profile("realtime")

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
_ADDRESS = re.compile(r"http://(?P<host>\[[^]]+\]|[^\s:/]+):(?P<port>\d+)")


class Server:
    """A `realtime serve` process. Settings are given by name; its `port` is a free one, unless it is given.

    `module` is what runs it: `realtime`, or a module that adds features to it for a test. Without a
    `sqlite_path` or `audit_path` of its own it keeps nothing: servers of one run would meet in one file. A
    subclass may run another `command` that says where it listens; `ends_with` is how it ends when told to.
    Who loses the connection is gone at once, unless `presence_grace_s` is given.
    """

    ends_with = 0
    pass_fds: Sequence[int] = ()
    tls = None  # `port` is the plain one

    def __init__(self, settings: dict[str, object], module: str = "realtime") -> None:
        self.module = module
        nothing_kept = {"sqlite_path": "", "audit_path": "", "presence_grace_s": 0}
        self.settings = {"port": free_port(), **nothing_kept, **settings}
        self.log: list[str] = []
        self.may_log_tracebacks = False
        self._said = threading.Condition()
        self.start()

    def start(self) -> Self:
        """Start the process and wait until it says where it listens. Used again, it takes the same port."""
        began = len(self.log)
        self.process = subprocess.Popen(
            [*self.launcher, sys.executable, *self.command],
            cwd=ROOT,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=self.pass_fds,
        )
        self._said_all = False
        self._reader = threading.Thread(target=self._read, args=[self.process], daemon=True)
        self._reader.start()
        found = self.wait_for_line(_ADDRESS.pattern, after=began, timeout_s=START_TIMEOUT_S)
        self.host, self.port = found["host"].strip("[]"), int(found["port"])
        self.settings["port"] = self.port
        return self

    @property
    def launcher(self) -> tuple[str, ...]:
        """What the command begins with."""
        return ()

    @property
    def command(self) -> tuple[str, ...]:
        """What Python is called with."""
        return "-m", self.module, "serve"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """Where its pages are, without a slash at the end."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Its WebSocket endpoint; `{ws_url}/alice` connects as alice."""
        return f"ws{self.url.removeprefix('http')}{self.settings.get('ws_path', '/ws')}"

    def wait_for_line(self, pattern: str, *, after: int = 0, timeout_s: float = 60.0) -> re.Match[str]:
        """Return the match of the first line from number `after` on that has `pattern`; fail without one."""

        def look() -> re.Match[str] | bool:
            matches = (re.search(pattern, line) for line in self.log[after:])
            return next((match for match in matches if match), self._said_all)

        with self._said:
            found = self._said.wait_for(look, timeout_s)
        if isinstance(found, bool):
            why = f"ended with exit code {self.process.wait()}" if found else f"took over {timeout_s} s"
            self.kill()
            pytest.fail(f"the server {why} before it said {pattern!r}:\n{self.whole_log()}")
        return found

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, return the exit code. A server that has ended keeps its code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(
                f"the server did not end within {STOP_TIMEOUT_S} s of {how.name}:\n{self.whole_log()}"
            )
        self._reader.join()
        return code

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def restart(self) -> Self:
        """Stop it and start it anew on the same port."""
        self.stop()
        return self.start()

    def whole_log(self) -> str:
        return "".join(self.log)

    def finish(self) -> None:
        """Stop it if it still runs; fail if it ended by itself or logged a traceback."""
        running = self.process.poll() is None
        code = self.stop()
        if running and code != self.ends_with:
            pytest.fail(f"the server ended with exit code {code} after SIGTERM:\n{self.whole_log()}")
        if "Traceback" in self.whole_log() and not self.may_log_tracebacks:
            pytest.fail(f"the server logged a traceback:\n{self.whole_log()}")

    def _environ(self) -> dict[str, str]:
        given = {KNOBS[name].variable: as_text(value) for name, value in self.settings.items()}
        # Settings of whoever runs the tests are not for the servers under test.
        ours = {knob.variable for knob in KNOBS.values()} | {CONFIG_VARIABLE}
        inherited = {name: value for name, value in os.environ.items() if name not in ours}
        return inherited | given | {"PYTHONUNBUFFERED": "1"}

    def _read(self, process: subprocess.Popen[str]) -> None:
        with process.stdout as lines:
            for line in lines:
                with self._said:
                    self.log.append(line)
                    self._said.notify_all()
        with self._said:
            if process is self.process:  # of the one before, what a successor of its holds open ends later
                self._said_all = True
            self._said.notify_all()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers with settings of one's own: `serve(max_message_bytes=1024, echo_path="/echo")`."""
    started: list[Server] = []

    def start(module: str = "realtime", **settings: object) -> Server:
        started.append(Server(settings, module))
        return started[-1]

    yield start
    for server in started:
        server.finish()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of the whole run: open mode, defaults but for limits that a test suite would meet."""
    running = Server({"max_connections_per_user": 10_000})
    yield running
    running.finish()
