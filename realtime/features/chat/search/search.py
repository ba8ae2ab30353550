"""Search in what was said."""

from __future__ import annotations

from realtime.features.chat.part import Part


class Search(Part):
    """See the module."""
