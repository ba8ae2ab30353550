"""Plots as inline SVG: lines over a linear or logarithmic scale; the page's style has their colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 720
HEIGHT: Final = 260
LEFT: Final = 64
RIGHT: Final = 16
TOP: Final = 28
BOTTOM: Final = 40

Point = tuple[float, float]
Scale = Callable[[float], float]


class Line(NamedTuple):
    """One line: `colour` 0 to 3 is a class of the page's."""

    name: str
    points: Sequence[Point]
    colour: int


class Tick(NamedTuple):
    """A mark of an axis."""

    at: float
    text: str


def plot(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    y_name: str,
    x_ticks: Sequence[Tick] = (),
    logarithmic: bool = False,
) -> str:
    """Return a figure. Without a point there is nothing to draw, and it says so."""
    points = [point for line in lines for point in line.points if not logarithmic or point[1] > 0]
    if not points:
        return f"<figure><figcaption>{escape(title)}: nothing was measured</figcaption></figure>"
    xs, ys = [x for x, _ in points], [y for _, y in points]
    y_ticks = _decades(min(ys), max(ys)) if logarithmic else _steps(max(ys))
    across = _linear(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    bottom, top = y_ticks[0].at, y_ticks[-1].at
    scale = _logarithmic if logarithmic else _linear
    up = scale(bottom, top, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">'
    ]
    parts += [_across(tick, up(tick.at)) for tick in y_ticks]
    parts += [_upright(tick, across(tick.at)) for tick in x_ticks or _x_steps(min(xs), max(xs))]
    parts.append(
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_name)}</text>'
    )
    parts.append(f'<text class="axis" x="4" y="14">{escape(y_name)}</text>')
    for place, line in enumerate(lines):
        drawn = [(across(x), up(y)) for x, y in line.points if not logarithmic or y > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        parts.append(f'<polyline class="line c{line.colour}" points="{path}"/>')
        x = LEFT + 150 * place
        parts.append(f'<rect class="c{line.colour} fill" x="{x + 90}" y="6" width="10" height="10"/>')
        parts.append(f'<text class="axis" x="{x + 104}" y="15">{escape(line.name)}</text>')
    return "".join([*parts, "</svg></figure>"])


def _across(tick: Tick, y: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(tick.text)}</text>'
    )


def _upright(tick: Tick, x: float) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="axis" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" '
        f'text-anchor="middle">{escape(tick.text)}</text>'
    )


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    across = _linear(math.log10(low), math.log10(high), start, end)
    return lambda value: across(math.log10(value))


def _decades(low: float, high: float) -> list[Tick]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [Tick(10.0**power, f"{10.0**power:g}") for power in range(first, max(last, first + 1) + 1)]


def _steps(high: float) -> list[Tick]:
    """Four or five round steps from 0 to above `high`."""
    if high <= 0:
        return [Tick(0.0, "0"), Tick(1.0, "1")]
    size = 10 ** math.floor(math.log10(high))
    step = next(size * each for each in (0.25, 0.5, 1.0, 2.0, 2.5) if size * each * 5 >= high)
    return [Tick(step * number, f"{step * number:g}") for number in range(math.ceil(high / step) + 1)]


def _x_steps(low: float, high: float) -> list[Tick]:
    return [tick for tick in _steps(high) if low <= tick.at <= high]
