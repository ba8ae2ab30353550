"""Search in what was said."""

from __future__ import annotations

from realtime.features.chat.part import Part
from realtime.features.chat.search.language import language_of


class Search(Part):
    """See the module."""

    def language(self, text: str) -> str:
        """Return the language of a message as two letters (ISO 639-1); empty: it does not show."""
        return language_of(text) or self.settings.chat_search_lang
