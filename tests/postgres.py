"""A real PostgreSQL server for tests: of its own, in a temporary directory, without fsync.

Not even `kill` loses what the kernel has been given; only a power cut would, and no test here can prove that.

The machine's own service, where there is one, is left alone. PostgreSQL does not run as root, so where we are
root it runs as the user `postgres` or `nobody`. A machine without it fails the tests that need it.
"""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import asyncpg
import pytest

from tests.ports import free_port

START_TIMEOUT_S = 60.0
INSTALL = "PostgreSQL is not installed: apt-get install postgresql, or `make test` as root, which does it"


class PostgresServer:
    """One cluster. `start` may be called again after `stop`, and after `kill`, which is kill -9 of it all."""

    def __init__(self, shared_buffers: str = "32MB") -> None:
        self._shared_buffers = shared_buffers
        self._programs = programs()
        self._user = server_user()
        self.folder = Path(tempfile.mkdtemp(prefix="realtime-pg-"))
        self._as_user = {}
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
            self._as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        self.port = free_port()
        self.log: list[str] = []
        self._said = threading.Condition()
        self._databases = 0
        self._initialise()

    def start(self) -> Self:
        """Start it, and wait until it takes connections."""
        began = len(self.log)
        self._ended = False
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": self._shared_buffers,
            "max_connections": 60,
        }
        self.process = subprocess.Popen(
            [
                self._programs / "postgres",
                *("-D", self.folder / "data"),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},
            **self._as_user,
        )
        self._reader = threading.Thread(target=self._read, args=[self.process], daemon=True)
        self._reader.start()
        with self._said:
            up = self._said.wait_for(lambda: self._ended or self._is_up(began), START_TIMEOUT_S)
        if not up or self._ended:
            self.process.kill()
            pytest.fail("PostgreSQL did not start:\n" + "".join(self.log[began:]))
        return self

    def stop(self) -> None:
        """End it, sessions and all."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # "fast": it does not wait for clients
        self.process.wait()
        self._reader.join()

    def kill(self) -> None:
        """End every process of it at once."""
        # Stopped first, so that it starts no others meanwhile.
        self.process.send_signal(signal.SIGSTOP)
        for pid in children(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def remove(self) -> None:
        """Stop it for good, without the checkpoint: of the databases of a run that alone took 100 s."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def new_database(self) -> str:
        """Return the URL of a database that nobody has used."""
        self._databases += 1
        name = f"test{self._databases}"
        connection = await asyncpg.connect(self.url("postgres"))
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return self.url(name)

    def _initialise(self) -> None:
        done = subprocess.run(
            [
                self._programs / "initdb",
                *("-D", self.folder / "data", "-U", "postgres", "--auth=trust"),
                *("--encoding=UTF8", "--locale=C"),
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **self._as_user,
        )
        if done.returncode:
            pytest.fail(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _is_up(self, began: int) -> bool:
        return any("ready to accept connections" in line for line in self.log[began:])

    def _read(self, process: subprocess.Popen[str]) -> None:
        with process.stdout as lines:
            for line in lines:
                with self._said:
                    self.log.append(line)
                    self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()


def programs() -> Path:
    """Where `initdb` and `postgres` are: on the PATH, where pg_config says, or where Debian has them."""
    places = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    if shutil.which("pg_config"):
        said = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
        places.append(Path(said.stdout.strip()))
    debian = glob.glob("/usr/lib/postgresql/*/bin")
    places += sorted(map(Path, debian), key=lambda place: float(place.parent.name), reverse=True)
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    pytest.fail(INSTALL)


def server_user() -> pwd.struct_passwd | None:
    """Who the server runs as: us, unless we are root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return known[name]
    pytest.fail("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def children(pid: int) -> list[int]:
    """Process ids of the direct children of `pid`."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of the whole run."""
    server = PostgresServer().start()
    yield server
    server.remove()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for a test that stops or kills it."""
    server = PostgresServer().start()
    yield server
    server.remove()
