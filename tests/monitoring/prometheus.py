"""A real Prometheus for tests: on a free port, in a folder of its own, asked over HTTP."""

import json
import re
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody has now."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            first = probe.getsockname()[1]
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except (OSError, OverflowError):
            continue
        return first


class Prometheus:
    """A running one. `configuration` is its file, as JSON, which is YAML too."""

    def __init__(self, folder: Path, configuration: dict[str, Any]) -> None:
        self.port = free_ports(1)
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(configuration))
        self.log: list[str] = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        assert self._ready.wait(PATIENCE_S), f"Prometheus did not start:\n{''.join(self.log)}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "Server is ready to receive web requests" in line:
                self._ready.set()

    def ask(self, path: str, **fields: str) -> Any:
        """Return the `data` of an answer of its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        assert found["status"] == "success", f"{found.get('error')}: {fields}"
        return found["data"]

    def values(self, query: str) -> list[float]:
        """What a query is now, series by series; what is no number is left out."""
        found = [float(each["value"][1]) for each in self.ask("query", query=query)["result"]]
        return [value for value in found if value == value]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)


def filled_in(query: str, job: str = "realtime", interval: str = "10s") -> str:
    """A panel's query as Grafana would ask it, for all workers of `job`."""
    for variable, value in {"$job": job, "$instance": ".*", "$__rate_interval": interval}.items():
        query = query.replace(variable, value)
    assert not re.search(r"\$\w", query), query
    return query
