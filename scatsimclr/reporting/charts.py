"""Charts as SVG, the same for pages and for files. Colours are CSS classes, so that they follow the theme.

Every function returns safe markup: texts are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from scatsimclr.reporting.assets import asset

WIDTH, HEIGHT = 340, 212  # of a line chart: about the width of a phone, so that text is not scaled down
LEFT, RIGHT, TOP, BOTTOM = 50, 16, 10, 28
MAP, MARGIN = 640, 12  # width of the map of points, and of its margins
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M0-5 5 4H-5z",
    "M-3.8-3.8H3.8V3.8H-3.8z",
    "M0-5.4 5.4 0 0 5.4-5.4 0z",
)
NAMED = 24  # classes that a legend names


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: Its name in the legend.
        points: (x, y) of its points.
        group: Its colour; None for that of its place among the lines.
        dashed: Whether it is dashed.
    """

    name: str
    points: Sequence[tuple[float, float]]
    group: int | None = None
    dashed: bool = False


def colour(group: int) -> str:
    """CSS class of a group's colour; groups beyond ten reuse the colours with another shape."""
    return "kx" if group < 0 else f"k{group % 10}"


def line_chart(lines: Sequence[Line], title: str, *, percent: bool = False, legend: bool = True) -> Markup:
    """Lines over epochs, with a legend where there are several; "" without points of two epochs or more."""
    lines = [line for line in lines if line.points]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points if math.isfinite(y)]
    if not ys or min(xs) == max(xs):
        return Markup("")
    space = 16 * len(lines) if legend and len(lines) > 1 else 0
    low, high, ticks = _scale(min(ys), max(ys))
    left, right = min(xs), max(xs)
    height = HEIGHT + space

    def x_at(x: float) -> float:
        return LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return height - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        text = f"{100 * tick:.4g} %" if percent else _number(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y_at(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_at(tick) + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in _whole(left, right):
        parts.append(f'<text x="{x_at(tick):.1f}" y="{height - 9}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text x="0" y="{height - 9}" class="soft">epoch</text>')
    for index, line in enumerate(lines):
        kind = colour(index if line.group is None else line.group)
        points = [(x_at(x), y_at(y)) for x, y in line.points if math.isfinite(y)]
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line {kind}" d="{path}"{dashes}/>')
        if len(points) <= 30:
            parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in points]
        if space:
            row = 12 + 16 * index
            parts.append(f'<path class="line {kind}" d="M{LEFT} {row - 4}h18"{dashes}/>')
            parts.append(f'<text x="{LEFT + 24}" y="{row}">{escape(line.name)}</text>')
    return _svg(WIDTH, height, title, parts)


def _number(value: float) -> str:
    """A number short enough for the margin, with a true minus sign."""
    text = f"{value:.6g}"
    return (text if len(text) <= 6 else f"{value:.1e}").replace("-", "−")


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """Limits and round ticks of an axis that covers [low, high]."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    last += first == last
    return first * step, last * step, [index * step for index in range(first, last + 1)]


def _whole(left: float, right: float) -> list[int]:
    """Whole-numbered ticks of the x axis: round ones, and the last epoch, which none is so close to as to touch it."""
    _, _, ticks = _scale(left, right)
    last = math.floor(right)
    space = 0.04 * (1 + len(str(last))) * (right - left)
    shown = sorted({round(tick) for tick in ticks if tick == round(tick)})
    return [*(tick for tick in shown if left <= tick <= last - space), last]


@dataclass(frozen=True)
class Dots:
    """One series of a dot plot.

    Attributes:
        name: Its name in the legend.
        measured: (mean, standard deviation) in each row, None where there is none.
        published: Figures to compare with, likewise.
    """

    name: str
    measured: Sequence[tuple[float, float] | None]
    published: Sequence[float | None]


def dot_plot(rows: Sequence[str], series: Sequence[Dots], title: str, axis: str) -> Markup:
    """Means and standard deviations as dots and bars, a row for each name, with diamonds for published figures."""
    ends = [
        mean + sign * sd for dots in series for mean, sd in filter(None, dots.measured) for sign in (-1, 1)
    ]
    known = [value for dots in series for value in dots.published if value is not None]
    low, high, ticks = _scale(min(ends + known, default=0), max(ends + known, default=1))
    names = [dots.name for dots in series] if len(series) > 1 else []
    left = 16 + 7 * max(map(len, rows))
    right, top, step = (
        left + MAP / 2,
        44 + 16 * len(names) + (16 if known else 0),
        max(22, 10 + 9 * len(series)),
    )
    bottom = top + step * len(rows)

    def x_at(x: float) -> float:
        return left + (x - low) / (high - low) * (right - left)

    parts = [f'<text x="0" y="14">{escape(title)}</text>']
    for index, name in enumerate([*names, "published"] if known else names):
        kind, shape = (colour(index), SHAPES[0]) if index < len(names) else ("hollow kx", SHAPES[3])
        parts.append(f'<path class="{kind}" d="{shape}" transform="translate(8 {32 + 16 * index})"/>')
        parts.append(f'<text x="18" y="{36 + 16 * index}">{escape(name)}</text>')
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{x_at(tick):.1f} {top}V{bottom}"/>')
        parts.append(
            f'<text x="{x_at(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    parts.append(
        f'<text x="{right:.0f}" y="{bottom + 32}" text-anchor="end" class="soft">{escape(axis)}</text>'
    )
    for row, name in enumerate(rows):
        middle = top + (row + 0.5) * step
        parts.append(f'<text x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for index, dots in enumerate(series):
            y = middle + 9 * (index - (len(series) - 1) / 2)
            if (found := dots.measured[row]) is not None:
                mean, sd = found
                bar = f"M{x_at(mean - sd):.1f} {y:.1f}H{x_at(mean + sd):.1f}"
                parts.append(f'<path class="line {colour(index)}" d="{bar}"/>')
                place = f"translate({x_at(mean):.1f} {y:.1f})"
                parts.append(f'<path class="{colour(index)}" d="{SHAPES[0]}" transform="{place}"/>')
            if (value := dots.published[row]) is not None:
                place = f"translate({x_at(value):.1f} {y:.1f})"
                parts.append(f'<path class="hollow {colour(index)}" d="{SHAPES[3]}" transform="{place}"/>')
    return _svg(right + 12, bottom + 40, title, parts)


def scatter(points: np.ndarray, groups: Sequence[int], title: str, names: Sequence[str] = ()) -> Markup:
    """Points (n, 2), each in the colour and shape of its group (−1 for none); with `names` also a legend.

    The i-th `<path class="dot …">` is the i-th point, centred by its `transform`.
    """
    centres = placed(points)
    dots = [
        f'<path class="dot {colour(group)}" d="{SHAPES[max(group, 0) // 10 % len(SHAPES)]}" '
        f'transform="translate({x:.1f} {y:.1f})"/>'
        for (x, y), group in zip(centres, groups, strict=True)
    ]
    width, height = MAP, math.ceil(centres[:, 1].max()) + MARGIN
    if names:
        width += 150
        named = sorted(set(groups) - {-1})[:NAMED]
        height = max(height, 22 * len(named) + 24)
        for row, group in enumerate(named):
            y = 24 + 22 * row
            shape = SHAPES[group // 10 % len(SHAPES)]
            dots.append(f'<path class="{colour(group)}" d="{shape}" transform="translate({MAP + 12} {y})"/>')
            dots.append(f'<text x="{MAP + 24}" y="{y + 5}">{escape(names[group])}</text>')
    return _svg(width, height, title, dots, ' tabindex="0"')


def placed(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) shifted and scaled, both directions alike, to the width of the map; float64 (n, 2).

    The direction of the larger extent becomes the horizontal one.
    """
    points = points.astype(np.float64) - points.min(0)
    if points[:, 1].max() > points[:, 0].max():
        points = points[:, ::-1]
    return MARGIN + points / (points.max() or 1.0) * (MAP - 2 * MARGIN)


def marker(group: int) -> Markup:
    """The symbol of a group, for a legend in HTML."""
    shape = SHAPES[max(group, 0) // 10 % len(SHAPES)]
    return Markup(
        f'<svg class="mark" viewBox="-7 -7 14 14" aria-hidden="true"><path class="{colour(group)}" d="{shape}"/></svg>'
    )


def confusion(counts: np.ndarray, names: Sequence[str], title: str) -> Markup:
    """A confusion matrix, counts (classes, classes): rows true, columns predicted; opacity is the share of the row."""
    count = len(names)
    cell = 34 if count <= 30 else 12
    margin = min(180, 24 + 7 * max(len(name) for name in names))
    side = margin + count * cell
    parts = [
        f'<text x="{side}" y="{side + 16}" text-anchor="end" class="soft">rows: true, columns: taken for</text>'
    ]
    cut = [name if len(name) <= 22 else name[:21] + "…" for name in names]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for index, name in enumerate(cut):
        middle = margin + (index + 0.5) * cell
        parts.append(f'<text x="{margin - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<text transform="translate({middle + 4} {margin - 8}) rotate(-90)">{escape(name)}</text>'
        )
    for (row, column), value in np.ndenumerate(counts):
        if not value:
            continue
        x, y = margin + column * cell, margin + row * cell
        kind = "right" if row == column else "wrong"
        text = f"{escape(names[row])} taken for {escape(names[column])}: {int(value)}"
        parts.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
            f'fill-opacity="{0.2 + 0.5 * share[row, column]:.2f}"><title>{text}</title></rect>'
        )
        if count <= 30:
            parts.append(
                f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle">{int(value)}</text>'
            )
    # Small matrices are not enlarged, and large ones scroll rather than shrink.
    return _svg(side, side + 24, title, parts, f' style="min-width: {0.7 * side:.0f}px; max-width: {side}px"')


def bars(rows: Sequence[tuple[str, float, str]], title: str) -> Markup:
    """Horizontal bars for rows of (name, share in [0, 1], text)."""
    parts = []
    for index, (name, share, text) in enumerate(rows):
        y = 40 * index
        parts.append(f'<text x="0" y="{y + 13}">{escape(name)}</text>')
        parts.append(f'<text x="{WIDTH}" y="{y + 13}" text-anchor="end" class="soft">{escape(text)}</text>')
        parts.append(f'<rect class="grid-fill" x="0" y="{y + 19}" width="{WIDTH}" height="8"/>')
        length = WIDTH * min(max(share, 0), 1)
        parts.append(f'<rect class="k0" x="0" y="{y + 19}" width="{length:.1f}" height="8"/>')
    return _svg(WIDTH, 40 * len(rows), title, parts)


def _svg(width: float, height: float, title: str, parts: Sequence[str], more: str = "") -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"{more}>'
        + "".join(map(str, parts))
        + "</svg>"
    )


def standalone(svg: Markup) -> str:
    """The chart as the text of an SVG file, with its own colours for light and dark."""
    style = f"<style>{asset('theme.css')}{asset('chart.css')}svg{{background:var(--paper)}}</style>"
    head, rest = str(svg).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'
