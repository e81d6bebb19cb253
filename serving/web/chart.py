"""Two curves over time as SVG: the live loop against the first champion left alone.

Drawn on the server without style attributes (the content security policy allows none): colours come from the style
sheet by class. This module knows nothing of where the numbers come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

WIDTH, HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 28


@dataclass(frozen=True, slots=True)
class Point:
    """One window: where it starts, both curves' values (finite, or None for none), and the version that served it."""

    at: datetime
    live: float | None
    static: float | None
    version: int


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    count: int

    def x(self, index: int) -> float:
        """Windows are drawn at equal distances; a single one stands in the middle."""
        span = WIDTH - _LEFT - _RIGHT
        return _LEFT + (span * index / (self.count - 1) if self.count > 1 else span / 2)

    def y(self, value: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (self.high - value) / (self.high - self.low)


def draw(title: str, points: Sequence[Point]) -> str:
    """The chart as one `<svg>` element, or nothing when no point has a value."""
    values = [value for point in points for value in (point.live, point.static) if value is not None]
    if not values:
        return ""
    ticks = _ticks(min(values), max(values))
    scale = _Scale(ticks[0], ticks[-1], len(points))
    summary = f"{title}, {len(points)} windows from {points[0].at:%Y-%m-%d} to {points[-1].at:%Y-%m-%d}"
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(summary)}">',
        *_grid(scale, ticks),
        *_dates(scale, points),
        *_changes(scale, points),
        *_curve(scale, points, "static"),
        *_curve(scale, points, "live"),
        *_hover(scale, points),
        "</svg>",
    ]
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose [low, high]."""
    span = max(high - low, abs(high) * 0.02, 1e-6)
    magnitude = 10.0 ** math.floor(math.log10(span))
    step = next(part * magnitude for part in (0.2, 0.25, 0.5, 1, 2, 2.5) if span / (part * magnitude) <= 4)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _grid(scale: _Scale, ticks: Sequence[float]) -> Iterator[str]:
    decimals = max(2, *(len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in ticks))
    for tick in ticks:
        y = scale.y(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.{decimals}f}</text>'


def _dates(scale: _Scale, points: Sequence[Point]) -> Iterator[str]:
    """At most five dates along the bottom, the outer two inside the frame."""
    last = len(points) - 1
    shown = sorted({round(last * part / 4) for part in range(5)}) if last > 4 else range(last + 1)
    for index in shown:
        anchor = "middle" if 0 < index < last or last == 0 else "start" if index == 0 else "end"
        x = scale.x(index)
        yield f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{points[index].at:%-d %b}</text>'


def _changes(scale: _Scale, points: Sequence[Point]) -> Iterator[str]:
    """A line where another version began to serve."""
    for index in range(1, len(points)):
        if points[index].version != points[index - 1].version:
            x = (scale.x(index) + scale.x(index - 1)) / 2
            yield f'<line class="change" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'


def _curve(scale: _Scale, points: Sequence[Point], name: str) -> Iterator[str]:
    """One path, broken where a value is missing; a dot where a value stands alone."""
    drawn: list[str] = []
    pen_down = False
    for index, point in enumerate(points):
        value = point.live if name == "live" else point.static
        if value is None:
            pen_down = False
            continue
        x, y = scale.x(index), scale.y(value)
        drawn.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = True
        yield f'<circle class="dot {name}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
    yield f'<path class="curve {name}" d="{"".join(drawn)}"/>'


def _hover(scale: _Scale, points: Sequence[Point]) -> Iterator[str]:
    """An invisible band a window whose tooltip says both values."""
    width = (WIDTH - _LEFT - _RIGHT) / max(len(points) - 1, 1)
    for index, point in enumerate(points):
        values = ", ".join(
            f"{name} {value:.4f}"
            for name, value in (("live", point.live), ("left alone", point.static))
            if value is not None
        )
        text = escape(f"{point.at:%-d %b %Y}: {values or 'no labels yet'} (v{point.version})")
        x = scale.x(index) - width / 2
        yield (
            f'<rect class="band" x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{HEIGHT - _TOP - _BOTTOM}">'
            f"<title>{text}</title></rect>"
        )
