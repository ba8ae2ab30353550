"""Sharing connections out between workers, seen from outside of them: it is ordered, and followed to its end.

What the workers do about it is `edge/shed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from typing import Final

from realtime.core.cluster import WorkerId
from realtime.edge.outsider import Outsider, Shares
from realtime.edge.shed import balanced
from realtime.errors import Unavailable

LOOK_EVERY_S: Final = 0.5


async def share_out(
    outsider: Outsider,
    ratio: float,
    *,
    patience_s: float,
    among: Collection[WorkerId] = (),
    tell: Callable[[Shares], object] = lambda shares: None,
) -> Shares:
    """Have no worker have more than `ratio` times the mean, and return how many each has in the end.

    `tell` is told of each change on the way. Of some workers `among` all, only those are made even.

    Raises:
        Unavailable: the workers are not to be had, or not even after `patience_s`.
    """
    shares = await outsider.shed(ratio, among)
    until, before = time.monotonic() + patience_s, None
    while True:
        if shares != before:
            tell(shares)
            before = shares
        if is_even(shares, ratio):
            return shares
        if time.monotonic() >= until:
            most = ratio_of(shares.connections.values())
            raise Unavailable(f"after {patience_s:g} s one worker has {most:g} times the mean")
        await asyncio.sleep(LOOK_EVERY_S)
        with contextlib.suppress(Unavailable):  # one may just have ended: the next look knows
            shares = await outsider.shed(0.0, among)


def is_even(shares: Shares, ratio: float) -> bool:
    """Whether no worker has more than that, and nobody is on the way."""
    return not shares.away and balanced(shares.connections, ratio)


def ratio_of(connections: Collection[int]) -> float:
    """How many times the mean the worker with the most connections has."""
    whole = sum(connections)
    return round(max(connections) * len(connections) / whole, 3) if whole else 1.0
