"""The ports: free for a server that is to start here, or taken by one of ours that runs already."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Final

from realtime.edge import listener
from realtime.edge.doctor.diagnosis import Diagnosis, doubt, fault, fine
from realtime.errors import StartupError
from realtime.settings import Settings

PATIENCE_S: Final = 2.0


def ports(settings: Settings, workers: int) -> Iterator[Diagnosis]:
    """Try each port that the server would listen on."""
    yield _port(settings, "port", settings.port, "http")
    if settings.tls_port:
        yield _port(settings, "tls_port", settings.tls_port, "https")
    for number in range(workers if settings.admin_port else 0):
        yield _port(settings, "admin_port", settings.admin_port + number, "http")


def _port(settings: Settings, name: str, port: int, scheme: str) -> Diagnosis:
    try:
        listening = listener.listen(settings, port, shared=settings.share_port)
    except StartupError as error:
        if scheme == "http" and (node := _ours(settings, port)):
            return fine(name, f"{port}: a realtime server ({node}) runs there")
        if scheme == "https" and _ours(settings, settings.port):
            return doubt(name, f"{error.message}; by the running server, it seems", "nothing, if it is so")
        return fault(name, error.message, f"`ss -ltnp 'sport = :{port}'` says who has it")
    with listening:
        return fine(name, f"can listen on {listener.url(settings, listening, scheme)}")


def _ours(settings: Settings, port: int) -> str:
    """The node that /health names there; empty where it is no server of ours."""
    host = "127.0.0.1" if settings.host in listener.ANYWHERE else settings.host
    asking = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        asking.request("GET", "/health")
        found = json.loads(asking.getresponse().read(4096))
    except (OSError, ValueError, http.client.HTTPException):
        return ""
    finally:
        asking.close()
    return str(found.get("node", "")) if isinstance(found, dict) else ""
