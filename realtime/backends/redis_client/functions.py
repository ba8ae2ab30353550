"""Loading our functions on a node that does not have them: a new master, or one that lost them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from realtime.backends.redis_client.contract import RedisError, Reply
from realtime.backends.redis_client.link import CommandLink
from realtime.backends.redis_client.wire import Call, pack

log: Final = logging.getLogger("realtime.redis")


class FunctionLoader:
    """Loads what `source` returns, once for all commands that miss a function at a node, then repeats them.

    A command whose function is missing after that gets the error.
    """

    def __init__(
        self,
        source: Callable[[], bytes] | None,
        again: Callable[[Call], None],
        later: Callable[[Call], None],
    ) -> None:
        self.loads = 0
        self._source = source
        self._again = again
        self._later = later
        self._waiting: dict[CommandLink, list[Call]] = {}

    def load(self, link: CommandLink, call: Call) -> bool:
        """Load, then repeat `call`; False where there is nothing to load, or it was loaded for this call."""
        if self._source is None or call.loaded:
            return False
        call.loaded = True
        if link in self._waiting:
            self._waiting[link].append(call)
            return True
        try:
            text = self._source()
        except Exception:
            log.exception("the functions to load cannot be had")
            return False
        self.loads += 1
        self._waiting[link] = [call]
        command = pack(("FUNCTION", "LOAD", "REPLACE", text))
        link.take(Call(-1, command, partial(self._loaded, link), call.deadline, link, final=True))
        return True

    def _loaded(self, link: CommandLink, result: Reply | Exception) -> None:
        calls = self._waiting.pop(link)
        if isinstance(result, Exception):
            log.warning("redis %s: the functions were not loaded: %s", link.node, result)
        for call in calls:
            if not isinstance(result, Exception):
                self._again(call)
            elif isinstance(result, RedisError) and result.code not in ("LOADING", "READONLY", "BUSY"):
                call.finish(result)
            else:
                call.loaded = False
                self._later(call)
