"""The plot of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scatsimclr.studies.catalogue import Cell
from scatsimclr.studies.sweep import SERIES, Sweep, mean_and_sd


def plot(sweep: Sweep) -> Figure:
    """Draws the finished cells in colour, and published accuracies as dashed lines or diamonds."""
    study = sweep.study
    size = {"points": (1.5 * len(study.rows) + 2, 4), "horizontal": (7, 0.32 * len(study.rows) + 1)}
    figure = Figure(figsize=size.get(study.plot, (6.5, 4)))
    axes = figure.subplots()
    draw = {"points": _points, "horizontal": _horizontal}.get(study.plot, _lines)
    draw(sweep, axes)
    axes.set_axisbelow(True)
    axes.set_title(f"{study.title}\n{sweep.dataset}, scale {sweep.scale}", fontsize=10)
    return figure


def _measured(
    sweep: Sweep, cells: Sequence[Cell], places: Sequence[float], what: str = "trained"
) -> tuple[list[float], list[float], list[float]]:
    """(places, means, standard deviations) of the cells that have results."""
    at, means, deviations = [], [], []
    for place, cell in zip(places, cells, strict=True):
        mean, sd = mean_and_sd(sweep.accuracies(cell, what))
        if mean is not None:
            at.append(place)
            means.append(mean)
            deviations.append(sd or 0.0)
    return at, means, deviations


def _known(sweep: Sweep, cells: Sequence[Cell], places: Sequence[float]) -> tuple[list[float], list[float]]:
    """(places, published accuracies) of the cells that have one."""
    known = [
        (place, cell) for place, cell in zip(places, cells, strict=True) if sweep.dataset in cell.published
    ]
    return [place for place, _ in known], [cell.published[sweep.dataset] for _, cell in known]


def _lines(sweep: Sweep, axes: Axes) -> None:
    """Lines over the columns, one for each row, or over the rows, one for each column."""
    over = "column" if sweep.study.plot == "columns" else "row"
    line_of = "row" if over == "column" else "column"
    groups: dict[str, list[Cell]] = {}
    for cell in sweep.study.cells:
        groups.setdefault(getattr(cell, line_of), []).append(cell)
    ticks = []
    for index, (label, cells) in enumerate(groups.items()):
        places = ticks = [float(getattr(cell, over).rpartition("=")[2]) for cell in cells]
        label = label if len(groups) > 1 else "ours"
        axes.errorbar(*_measured(sweep, cells, places), color=f"C{index}", marker="o", capsize=3, label=label)
        axes.plot(*_known(sweep, cells, places), color=f"C{index}", marker="x", linestyle="--", alpha=0.6)
    name = "L" if over == "column" else sweep.study.corner
    axes.set(
        xlabel=name, ylabel="test accuracy, %", xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks]
    )
    axes.grid(alpha=0.3)
    published = Line2D([], [], color="0.4", marker="x", linestyle="--", label="published")
    _legend(sweep, axes, published)


def _points(sweep: Sweep, axes: Axes) -> None:
    """A group of points for each row, a colour for each column or baseline. Bars would have to start at 0."""
    study = sweep.study
    series = [(what, list(study.cells), what) for what in SERIES] if study.baselines else [
        (column, [cell for cell in study.cells if cell.column == column], "trained") for column in study.columns
    ]  # fmt: skip
    for index, (label, cells, what) in enumerate(series):
        shift = (0.8 / len(series) if len(series) > 3 else 0.22) * (index - (len(series) - 1) / 2)
        places = [study.rows.index(cell.row) + shift for cell in cells]
        axes.errorbar(*_measured(sweep, cells, places, what), color=f"C{index}", marker="o", linestyle="", capsize=4,
                      label=label)  # fmt: skip
        at, known = _known(sweep, cells, places)
        axes.scatter(at, known, s=60, marker="D", facecolor="none", edgecolor=f"C{index}")
    axes.set(ylabel="test accuracy, %", xticks=range(len(study.rows)),
             xticklabels=[row.replace(", ", "\n") for row in study.rows])  # fmt: skip
    axes.set_xlim(-0.5, len(study.rows) - 0.5)
    axes.grid(alpha=0.3, axis="y")
    published = Line2D([], [], color="0.4", marker="D", fillstyle="none", linestyle="", label="published")
    _legend(sweep, axes, published)


def _horizontal(sweep: Sweep, axes: Axes) -> None:
    """A bar for each row, from the top."""
    study, cells = sweep.study, list(sweep.study.cells)
    places = [float(index) for index in range(len(cells))]
    at, means, spread = _measured(sweep, cells, places)
    axes.barh(at, means, 0.75, xerr=spread if any(spread) else None, capsize=2, color="C0", alpha=0.85,
              label="ours")  # fmt: skip
    at, known = _known(sweep, cells, places)
    if known:
        axes.scatter(known, at, s=24, marker="D", color="black", zorder=3, label="published")
    axes.set(xlabel="test accuracy, %", yticks=places, yticklabels=study.rows, ylim=(len(cells) - 0.4, -0.6))
    axes.grid(alpha=0.3, axis="x")
    axes.legend(bbox_to_anchor=(1, 1), loc="upper left", frameon=False)


def _legend(sweep: Sweep, axes: Axes, published: Line2D) -> None:
    """Draws the legend, with an entry for published figures where there are some."""
    handles, _ = axes.get_legend_handles_labels()
    handles += [published] if sweep.study.published(sweep.dataset) else []
    axes.legend(handles=handles, bbox_to_anchor=(1, 1), loc="upper left", frameon=False)
