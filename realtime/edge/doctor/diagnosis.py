"""What `realtime doctor` says of one thing: how it stands, and what to do where it does not stand well."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import msgspec


class State(IntEnum):
    """How one thing stands; the worst of all is the command's exit code."""

    OK = 0
    WARN = 1
    FAIL = 2

    @property
    def mark(self) -> str:
        """How it is written: ok, warn, fail."""
        return self.name.lower()


class Diagnosis(msgspec.Struct, frozen=True):
    """One thing looked at. `todo` is empty where nothing is to be done, and never where something is."""

    area: str
    state: State
    text: str
    todo: str = ""


def fine(area: str, text: str) -> Diagnosis:
    """It is as it should be."""
    return Diagnosis(area, State.OK, text)


def doubt(area: str, text: str, todo: str) -> Diagnosis:
    """It works, and will not under load, or in some time, or as one would expect."""
    return Diagnosis(area, State.WARN, text, todo)


def fault(area: str, text: str, todo: str) -> Diagnosis:
    """The server would not start, or would not do what the settings say."""
    return Diagnosis(area, State.FAIL, text, todo)


def worst(diagnoses: Iterable[Diagnosis]) -> State:
    """Return the worst state of all; OK where there are none."""
    return max((each.state for each in diagnoses), default=State.OK)
