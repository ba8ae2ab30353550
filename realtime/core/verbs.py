"""What this worker answers to other workers: its handlers by verb, and what becomes of what they raise."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Final

from realtime.core.cluster import BODY_BYTES_MAX, Answer, NotServed, WorkerId
from realtime.core.router import Spawn
from realtime.errors import Internal, RealtimeError, TooLarge

log: Final = logging.getLogger("realtime.core")


class Verbs:
    """Handlers by verb. `spawn` runs what has to wait."""

    def __init__(self, spawn: Spawn) -> None:
        self._answers: dict[str, Answer] = {}
        self._spawn = spawn

    def add(self, verb: str, answer: Answer) -> None:
        """Let `answer` take `verb`.

        Raises:
            ValueError: another one does already; a mistake of ours.
        """
        if verb in self._answers:
            raise ValueError(f"verb {verb!r} is answered already")
        self._answers[verb] = answer

    def asked(self, worker: WorkerId, verb: str, body: bytes) -> bytes | Awaitable[bytes]:
        """Return the answer to what `worker` asks; b"" where the handler has none to give.

        Raises (the awaitable too):
            NotServed: nobody here knows the verb.
            RealtimeError: what the handler answers with; Internal for its own failure, which is logged.
        """
        answer = self._answers.get(verb)
        if answer is None:
            raise NotServed(f"this worker does not know {verb!r}")
        try:
            outcome = answer(worker, body)
        except RealtimeError:
            raise
        except Exception as error:  # whatever it is, it is this request's alone
            raise _failure(verb, error) from error
        if outcome is None:
            return b""
        return fitting(outcome) if isinstance(outcome, bytes) else _later(verb, outcome)

    def told(self, worker: WorkerId, verb: str, body: bytes) -> None:
        """Take what `worker` tells. Nobody hears of what goes wrong, so it is logged."""
        try:
            outcome = self.asked(worker, verb, body)
        except RealtimeError as error:
            log.warning("%s told %r in vain: %s", worker, verb, error.message)
            return
        if not isinstance(outcome, bytes):
            self._spawn(_heard(worker, verb, outcome))


def fitting(body: bytes) -> bytes:
    """Return `body`.

    Raises:
        TooLarge: it has over `BODY_BYTES_MAX`.
    """
    if len(body) > BODY_BYTES_MAX:
        raise too_large(body)
    return body


def too_large(body: bytes) -> TooLarge:
    """Return the error for what is larger than workers hand to each other."""
    return TooLarge(f"{len(body)} bytes for another worker; at most {BODY_BYTES_MAX} are taken")


async def _later(verb: str, outcome: Awaitable[bytes | None]) -> bytes:
    try:
        return fitting(await outcome or b"")
    except RealtimeError:
        raise
    except Exception as error:  # whatever it is, it is this request's alone
        raise _failure(verb, error) from error


async def _heard(worker: WorkerId, verb: str, outcome: Awaitable[bytes]) -> None:
    try:
        await outcome
    except RealtimeError as error:
        log.warning("%s told %r in vain: %s", worker, verb, error.message)


def _failure(verb: str, error: Exception) -> Internal:
    log.error("the answer to %r failed", verb, exc_info=error)
    return Internal()
