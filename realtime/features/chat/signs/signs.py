"""Signs of life: typing, reading, presence."""

from __future__ import annotations

from realtime.features.chat.part import Part


class Signs(Part):
    """See the module."""
