"""The end of tokens whose connections have not said anything yet.

A connection that speaks has a session, and the core ends sessions with their tokens. One that only listens
for what may come has none, to cost nothing; here it costs one shared number for all that end together.
"""

from __future__ import annotations

from typing import Final

from realtime.core.auth import Identity

STEP_S: Final = 5


class SilentTokens:
    """Counts silent connections by the step of time in which their tokens end."""

    def __init__(self) -> None:
        self._ending: dict[int, int] = {}

    def add(self, identity: Identity) -> None:
        """One more silent connection of `identity`."""
        if identity.expires_at is not None:
            step = int(identity.expires_at) // STEP_S
            self._ending[step] = self._ending.get(step, 0) + 1

    def remove(self, identity: Identity) -> None:
        """One less: it has spoken, or is gone."""
        if identity.expires_at is None:
            return
        step = int(identity.expires_at) // STEP_S
        left = self._ending.get(step, 0) - 1
        if left > 0:
            self._ending[step] = left
        else:
            self._ending.pop(step, None)

    def due(self, now: float) -> bool:
        """Whether the tokens of some have ended by `now` (Unix seconds): it is time to look who they are.

        Looking is a walk over all connections, so it is asked for at most once a step.
        """
        step = int(now) // STEP_S
        ended = [each for each in self._ending if each < step]
        for each in ended:
            del self._ending[each]
        return bool(ended)
