"""What all sections of the policy are made of."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the policy. Sections may add `check`, for what bounds cannot say."""

    def check(self) -> None:
        """Raise ValueError where values contradict each other."""


Pattern = Annotated[str, Meta(min_length=1, max_length=200)]
"""A name in which `*` stands for any number of any characters; all else is meant literally."""
Patterns = Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=1000)]
