"""Line charts and dot rows as inline SVG: text in, text out. Colours are the page's, by class.

Every point has a <title>, so that pointing at it tells the figures. The ends of a whisker are the worst and the best
round.
"""

import html
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

WIDTH: Final = 340
HEIGHT: Final = 200
LEFT: Final = 52
RIGHT: Final = 12
TOP: Final = 12
BOTTOM: Final = 26
TICKS: Final = 4


class Series(NamedTuple):
    """One line. values, spans (lowest, highest): one for each x, None where nothing was measured."""

    name: str
    css: str
    values: Sequence[float | None]
    spans: Sequence[tuple[float, float] | None] = ()


class Chart(NamedTuple):
    """What is drawn. xs: the labels of evenly spaced places. log: the y axis, which then does not begin at 0."""

    title: str
    unit: str
    xs: Sequence[str]
    series: Sequence[Series]
    log: bool = False


def svg(chart: Chart) -> str:
    """The chart; empty if there is nothing to draw."""
    drawn = [value for series in chart.series for value in series.values if value is not None]
    drawn += [end for series in chart.series for span in series.spans if span for end in span]
    if not drawn:
        return ""
    scale = Scale(min(drawn), max(drawn), log=chart.log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">']
    for tick in scale.ticks:
        y = scale.y(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    for i, label in enumerate(chart.xs):
        x = _x(i, len(chart.xs))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(label)}</text>')
    for number_of, series in enumerate(chart.series):
        parts += _line(chart, series, scale, 5.0 * (number_of - (len(chart.series) - 1) / 2))
    return "".join([*parts, "</svg>"])


def _line(chart: Chart, series: Series, scale: "Scale", shift: float) -> list[str]:
    """shift: whiskers of several series at the same x would hide each other."""
    count = len(chart.xs)
    spots = [
        (i, _x(i, count) + (shift if count < 8 else 0), scale.y(value), value)
        for i, value in enumerate(series.values) if value is not None
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for _, x, y, _ in spots)
    parts = [f'<polyline class="{series.css}" points="{path}"/>']
    for i, x, y, value in spots:
        span = series.spans[i] if i < len(series.spans) else None
        if span:
            low, high = scale.y(span[0]), scale.y(span[1])
            parts.append(f'<path class="{series.css} whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        told = f"{series.name}, {chart.xs[i]}: {number(value)} {chart.unit}".rstrip().replace(", :", ":")
        if span:
            told += f" ({number(span[0])} to {number(span[1])})"
        title = f"<title>{html.escape(told)}</title>"
        parts.append(f'<circle class="{series.css}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{title}</circle>')
    return parts


def _x(i: int, count: int) -> float:
    inner = WIDTH - LEFT - RIGHT
    return LEFT + inner / 2 if count == 1 else LEFT + inner * (0.08 + 0.84 * i / (count - 1))


class Scale:
    """From values to pixels, with ticks at round numbers."""

    def __init__(self, least: float, most: float, *, log: bool) -> None:
        self.log = log
        if log:
            least = max(least, 1e-9)
            self.low, self.high = 10 ** math.floor(math.log10(least)), 10 ** math.ceil(math.log10(most * 1.0001))
            decades = round(math.log10(self.high / self.low))
            self.ticks = [self.low * 10**power for power in range(decades + 1)]
        else:
            step = _step(most or 1.0)
            steps = math.ceil((most or 1.0) / step - 1e-9)
            self.low, self.high = 0.0, steps * step
            self.ticks = [step * i for i in range(steps + 1)]

    def y(self, value: float) -> float:
        """The pixel, from above."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _step(most: float) -> float:
    """1, 2 or 5 times a power of ten, so that about TICKS of them reach `most`."""
    raw = most / TICKS
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def number(value: float) -> str:
    """For people: three figures, thousands as k."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:.3g}M"
    if value >= 10_000:
        return f"{value / 1000:.3g}k"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
