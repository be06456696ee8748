"""A sweep: a study on one data set at one scale, the folder of its results, and the tables and plots of them."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scatsimclr.config import Config, load_config
from scatsimclr.data.shape import with_shape
from scatsimclr.errors import UserError
from scatsimclr.studies import Cell, Study

SCALES = ("full", "small", "tiny")
# What is measured in every run -> (the evaluation it is from, the prefix of its keys).
SERIES = {
    "scattering alone": ("after", "scattering_"),
    "untrained": ("before", ""),
    "trained": ("after", ""),
    "trained, recommended": ("after", "recommended_"),
}


@dataclass(frozen=True)
class Sweep:
    """A study on one data set at one scale, and the folder of its results."""

    study: Study
    dataset: str
    scale: str
    seeds: int
    settings: tuple[str, ...]
    out: Path

    def config(self, cell: Cell, seed: int) -> Config:
        """All settings of one run; those of the command line come last."""
        study = self.study
        own = [
            f"dataset.dataset={self.dataset}",
            *study.settings,
            *study.adapted.get(self.dataset, ()),
            *cell.settings,
        ]
        scaled = _scaled(load_config(None, own), self.scale, study.metric)
        return with_shape(load_config(None, [*own, *scaled, *self.settings, f"seed={seed}"]))

    def folder(self, cell: Cell, seed: int) -> Path:
        return self.out / "cells" / cell.name / f"seed{seed}"

    def accuracies(self, cell: Cell, what: str = "trained") -> list[float]:
        """What the finished runs of a cell reached, in %, by seed; what: a name of SERIES. Runs of earlier versions
        did not measure all of them."""
        found = [read_result(self.folder(cell, seed)) for seed in range(self.seeds)]
        when, prefix = SERIES[what]
        values = [result[when].get(prefix + self.study.metric) for result in found if result is not None]
        return [100 * value for value in values if value is not None]


def _scaled(config: Config, scale: str, metric: str) -> list[str]:
    """The settings that make a smaller run of `config`."""
    if scale == "full":
        return []
    if scale == "tiny":
        # 16 pixels are the least that J=4 takes
        labels = config.evaluation.labels_per_class if metric.startswith("logistic_") else ()
        settings = ["epochs=1", "batch_size=32", "dataset.limit=128", "evaluation.probe_epochs=1",
                    "dataset.input_shape=(16, 16, 3)", "evaluation.seeds=1",
                    f"evaluation.labels_per_class={list(labels)}"]  # fmt: skip
        return settings + (["pretext.start_epoch=0"] if config.mode == "pretext" else [])
    settings = [f"epochs={max(2, config.epochs // 10)}", f"flat_epochs={max(1, config.flat_epochs // 10)}",
                "dataset.limit=10000"]  # fmt: skip
    if config.mode == "pretext":
        settings.append(f"pretext.start_epoch={config.pretext.start_epoch // 10}")
    return settings


def read_result(folder: Path) -> dict | None:
    """What a finished run wrote; None for one that is not finished."""
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError:
        raise UserError(f"{path} cannot be read; remove it to run the cell again") from None


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file so that a crash leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")  # processes may share a sweep
    write(temporary)
    os.replace(temporary, path)


def write_tables(sweep: Sweep) -> None:
    """OUT/<study>.md, .csv and .png of the cells that are finished."""
    path = sweep.out / sweep.study.name
    replace(path.with_suffix(".md"), lambda to: to.write_text(table(sweep)))
    replace(path.with_suffix(".csv"), lambda to: to.write_text(spreadsheet(sweep)))
    replace(path.with_suffix(".png"), lambda to: plot(sweep).savefig(to, dpi=120, bbox_inches="tight"))


def mean_and_sd(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values for them."""
    return (
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )


def _entry(sweep: Sweep, cell: Cell, what: str = "trained") -> str:
    """`63.12 ± 0.40`, with the number of runs while some are missing."""
    values = sweep.accuracies(cell, what)
    mean, sd = mean_and_sd(values)
    if mean is None:
        return "–"
    partly = f" ({len(values)} of {sweep.seeds})" if len(values) < sweep.seeds else ""
    return f"{mean:.2f}" + (f" ± {sd:.2f}" if sd is not None else "") + partly


def _published(sweep: Sweep, cell: Cell) -> str:
    if sweep.dataset not in cell.published:
        return "–"
    return f"{cell.published[sweep.dataset]:.{sweep.study.decimals}f}"


def table(sweep: Sweep) -> str:
    """The Markdown file: rows and columns as published, ours and, for the same data set, the published figure."""
    study, published = sweep.study, sweep.study.published(sweep.dataset)
    cells = {(cell.row, cell.column): cell for cell in study.cells}
    columns = list(study.columns)
    if study.baselines:
        columns = list(SERIES)
        rows = [[_entry(sweep, cell, what) for what in SERIES] for cell in study.cells]
    elif len(columns) == 1:
        columns = ["ours", "published"] if published else ["ours"]
        rows = [
            [_entry(sweep, cell)] + ([_published(sweep, cell)] if published else []) for cell in study.cells
        ]
    else:
        rows = [
            [
                _entry(sweep, cells[row, column])
                + (f" / {_published(sweep, cells[row, column])}" if published else "")
                for column in columns
            ]
            for row in study.rows
        ]
    lines = [f"# {study.title}", "", describe(sweep), ""]
    lines += [f"| {study.corner} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in zip(study.rows, rows, strict=True)]
    notes = [f"- {note}" for note in remarks(sweep)]
    return "\n".join([*lines, *(["", *notes] if notes else []), ""])


def describe(sweep: Sweep) -> str:
    """What was measured, in a sentence."""
    config, study = sweep.config(sweep.study.cells[0], 0), sweep.study
    height, width, _ = config.dataset.input_shape
    kind, _, labels = study.metric.partition("_")
    name = {"linear": "linear probe", "logistic": "logistic regression"}[kind]
    probe = f"{name} with {labels} labels per class" if labels else f"{name} with all labels"
    spread = f"{sweep.seeds} seeds (mean ± standard deviation)" if sweep.seeds > 1 else "1 seed"
    return (
        f"Test accuracy in %, {probe}. Data set {sweep.dataset}, {height}×{width} pixels, scale {sweep.scale}: "
        f"{config.epochs} epoch{'s' * (config.epochs > 1)}, batches of {config.batch_size}, {spread}."
    )


def remarks(sweep: Sweep) -> list[str]:
    """What a reader of the table has to know."""
    study, notes = sweep.study, []
    if study.published(sweep.dataset):
        place = "Ours / published" if len(study.columns) > 1 else "Published"
        notes.append(f"{place}: {study.source}.")
    elif study.source:
        notes.append(f"{study.source}, has no figures for {sweep.dataset}: none are shown.")
    notes += study.notes
    if sweep.scale == "small":
        notes.append("Scale small: a tenth of the epochs, and 10,000 images at most.")
    if sweep.scale == "tiny":
        notes.append(
            "Scale tiny: 128 images, pretext tasks from the start, a probe of one epoch. The figures only prove that "
            "the sweep runs."
        )
    shown = [setting for setting in sweep.settings if not setting.startswith("data_dir=")]
    if shown:
        notes.append(f"Settings for all cells: {' '.join(shown)}.")
    return notes


def spreadsheet(sweep: Sweep) -> str:
    """The CSV file: a line for each cell, accuracies in %."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["study", "dataset", "scale", "cell", "row", "column", "metric", "runs", "mean", "sd", "untrained_mean",
         "untrained_sd", "scattering_mean", "scattering_sd", "recommended_mean", "recommended_sd", "published"]
    )  # fmt: skip
    for cell in sweep.study.cells:
        values = sweep.accuracies(cell)
        kinds = ("trained", "untrained", "scattering alone", "trained, recommended")
        found = [figure for what in kinds for figure in mean_and_sd(sweep.accuracies(cell, what))]
        figures = ["" if figure is None else f"{figure:.4f}" for figure in found]
        writer.writerow([
            sweep.study.name, sweep.dataset, sweep.scale, cell.name, cell.row, cell.column, sweep.study.metric,
            len(values), *figures, cell.published.get(sweep.dataset, ""),
        ])  # fmt: skip
    return text.getvalue()


def plot(sweep: Sweep) -> Figure:
    """The figure of the finished cells: ours in colour, the published accuracy as a dashed line or a diamond."""
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
    sweep: Sweep, cells: list[Cell], places: list[float], what: str = "trained"
) -> tuple[list, list, list]:
    """(places, means, standard deviations) of the cells that have results."""
    points = [
        (place, *mean_and_sd(sweep.accuracies(cell, what))) for place, cell in zip(places, cells, strict=True)
    ]
    points = [(place, mean, sd or 0.0) for place, mean, sd in points if mean is not None]
    return tuple(map(list, zip(*points, strict=True))) if points else ([], [], [])


def _known(sweep: Sweep, cells: list[Cell], places: list[float]) -> tuple[list, list]:
    """(places, published accuracies) of the cells that have one."""
    points = [
        (place, cell.published[sweep.dataset])
        for place, cell in zip(places, cells, strict=True)
        if sweep.dataset in cell.published
    ]
    return tuple(map(list, zip(*points, strict=True))) if points else ([], [])


def _lines(sweep: Sweep, axes: Axes) -> None:
    """Accuracy over the columns, a line for each row, or over the rows, a line for each column."""
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
    """A group of points for each row, a colour for each column or baseline; bars would have to start at 0."""
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
    """The legend, with an entry for the published figures where there are some."""
    handles, _ = axes.get_legend_handles_labels()
    handles += [published] if sweep.study.published(sweep.dataset) else []
    axes.legend(handles=handles, bbox_to_anchor=(1, 1), loc="upper left", frameon=False)
