"""Asking a worker that is alone, over its control socket: the other end of `control_socket`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Final

from realtime.backends.cluster.parcels import ANSWER, ASK, Parcel, decode_error
from realtime.core.cluster import NotServed, WorkerId
from realtime.core.cluster_local import ALONE
from realtime.core.verbs import fitting
from realtime.edge.control_socket import framed, read_parcel, short
from realtime.errors import Unavailable

ASKED_MAX: Final = 1000


class LoneWorker:
    """The one worker there is, as `core.control.Workers`. It is dialed when it is asked, again if need be."""

    def __init__(self, path: Path, asker: WorkerId, timeout_s: float) -> None:
        self._path = path
        self._asker = asker
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._dialing = asyncio.Lock()

    @property
    def workers(self) -> Collection[WorkerId]:
        """The one, whether or not it answers."""
        return (ALONE,)

    async def ask(self, worker: WorkerId, verb: str, body: bytes) -> bytes:
        """Return what it answers, as `Cluster.ask`."""
        if worker != ALONE:
            raise NotServed(f"there is no worker {worker!r}")
        fitting(body)
        if len(self._asked) >= ASKED_MAX:
            raise Unavailable("too many questions wait for the server", retry_after_s=1.0)
        writer = await self._dialed()
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(framed(Parcel(ASK, self._asker, number, verb, body)))
                await writer.drain()
                return await answer
        except TimeoutError:
            raise Unavailable("the server gives no answer in time", retry_after_s=1.0) from None
        except OSError as error:
            raise Unavailable("the server went away", retry_after_s=1.0) from error
        finally:
            del self._asked[number]

    async def close(self) -> None:
        """Hang up."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _dialed(self) -> asyncio.StreamWriter:
        async with self._dialing:
            if self._writer is None:
                try:
                    with short(self._path) as name:
                        reader, self._writer = await asyncio.open_unix_connection(name)
                except OSError as error:
                    # Nothing was sent: it is for certain that nothing was done.
                    raise NotServed(
                        f"no server listens on the control socket {self._path.name}", retry_after_s=1.0
                    ) from error
                self._reading = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (parcel := await read_parcel(reader)) is not None:
                answer = self._asked.get(parcel.number)
                if answer is None or answer.done():
                    continue
                if parcel.kind == ANSWER:
                    answer.set_result(parcel.body)
                else:
                    answer.set_exception(decode_error(parcel.body))
        finally:
            self._writer = None
            writer.close()
            for each in self._asked.values():
                if not each.done():
                    each.set_exception(Unavailable("the server went away", retry_after_s=1.0))
