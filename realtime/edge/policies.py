"""The policy of a running worker: read at the start, and again when it is told to.

A new policy holds whole or not at all: everybody who follows it prepares first, and only when nobody has
refused does any of it hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from realtime.core.audit import NO_AUDITOR, NO_TENANT, Action, Auditor, Event, Outcome
from realtime.errors import SettingsError
from realtime.policy import Policy, load_policy
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

Commit = Callable[[], None]
"""Lets what was prepared hold. It does not fail."""
Prepare = Callable[[Policy], Commit]
"""Does all that may fail over a policy (with SettingsError), and changes nothing yet."""


class Policies:
    """The policy that holds, and those who follow it.

    Raises:
        SettingsError: the file that the settings name holds no policy.
    """

    def __init__(self, settings: Settings, audit: Auditor = NO_AUDITOR) -> None:
        self._path = Path(settings.policy_path) if settings.policy_path else None
        self._audit = audit
        self._followers: list[Prepare] = []
        self.current = self._read()
        self.reloads = 0
        self.failed_reloads = 0

    def follow(self, prepare: Prepare) -> None:
        """Let the policy of now hold for one more, and from here on each that is read.

        Raises:
            SettingsError: it cannot be followed.
        """
        prepare(self.current)()
        self._followers.append(prepare)

    def reload(self) -> bool:
        """Read the file again; where that cannot be done, say so and leave everything as it is."""
        try:
            policy = self._read()
            commits = [prepare(policy) for prepare in self._followers]
        except SettingsError as error:
            self.failed_reloads += 1
            log.error("reload refused, what held before holds on: %s", error.message)
            self._tell(Outcome.FAILED)
            return False
        for commit in commits:
            commit()
        self.current = policy
        self.reloads += 1
        log.info("reloaded %s", self._path or "certificates and data files; there is no policy file")
        self._tell(Outcome.ALLOWED)
        return True

    def _read(self) -> Policy:
        return Policy() if self._path is None else load_policy(self._path)

    def _tell(self, outcome: Outcome) -> None:
        target = "" if self._path is None else self._path.name
        self._audit.record(
            Event(tenant=NO_TENANT, action=Action.RELOAD, outcome=outcome, actor="operator", target=target)
        )
