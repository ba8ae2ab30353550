"""What was missed since a position, and pages of history."""

from __future__ import annotations

from realtime.core.contracts import Page, Position
from realtime.native.sequence import Sequence


def missed(sequence: Sequence, since: Position) -> list[bytes] | None:
    """Return all pushes after `since`; None where they are not all kept, or it is of another order."""
    if since.epoch != sequence.epoch or not sequence.first - 1 <= since.offset <= sequence.offset:
        return None
    return sequence.between(since.offset + 1, sequence.offset)


def page(sequence: Sequence, before: int | None, after: int | None, limit: int) -> Page:
    """Return at most `limit` pushes: the first above `after`, or the last below `before` or of all."""
    first, last = sequence.first, sequence.offset
    if after is not None:
        low = max(after + 1, first)
        high = min(low + limit - 1, last)
        return Page(sequence.between(low, high), high < last)
    high = last if before is None else min(before - 1, last)
    low = max(high - limit + 1, first)
    return Page(sequence.between(low, high), first < low <= high)


def fitted(found: Page, bytes_max: int, *, newest: bool) -> Page:
    """Return the page without what is over `bytes_max`: the oldest ones, or else the newest. One stays."""
    messages = list(found.messages)
    size = sum(map(len, messages))
    if size <= bytes_max:
        return found
    while size > bytes_max and len(messages) > 1:
        size -= len(messages.pop(0 if newest else -1))
    return Page(messages, True)
