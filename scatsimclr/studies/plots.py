"""The plot of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from scatsimclr.reporting.charts import Dots, dot_plot, standalone
from scatsimclr.studies.catalogue import Cell
from scatsimclr.studies.sweep import SERIES, Sweep, mean_and_sd


def plot(sweep: Sweep) -> str:
    """The text of an SVG file: the finished cells by row, in a colour for each series, and published accuracies."""
    study = sweep.study
    series = [_series(sweep, what, study.cells, what) for what in SERIES] if study.baselines else [
        _series(sweep, column, [cell for cell in study.cells if cell.column == column]) for column in study.columns
    ]  # fmt: skip
    title = f"{study.title} ({sweep.dataset}, scale {sweep.scale})"
    return standalone(dot_plot(study.rows, series, title, "test accuracy, %"))


def _series(sweep: Sweep, name: str, cells: Sequence[Cell], what: str = "trained") -> Dots:
    by_row = {cell.row: cell for cell in cells}
    measured: list[tuple[float, float] | None] = []
    published: list[float | None] = []
    for row in sweep.study.rows:
        cell = by_row.get(row)
        mean, sd = mean_and_sd(sweep.accuracies(cell, what)) if cell else (None, None)
        measured.append(None if mean is None else (mean, sd or 0.0))
        # Published figures are of trained networks.
        published.append(cell.published.get(sweep.dataset) if cell and what == "trained" else None)
    return Dots(name, measured, published)
