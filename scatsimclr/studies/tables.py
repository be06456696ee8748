"""The tables of a sweep: Markdown for readers, CSV for programs."""

from __future__ import annotations

import csv
import io

from scatsimclr.files import write_text
from scatsimclr.studies.catalogue import Cell
from scatsimclr.studies.plots import plot
from scatsimclr.studies.sweep import SERIES, Sweep, mean_and_sd

# The columns of the CSV file that hold a name of SERIES.
COLUMNS = {
    "mean": "trained",
    "untrained_mean": "untrained",
    "scattering_mean": "scattering alone",
    "whitened_mean": "whitened scattering",
    "recommended_mean": "trained, recommended",
}


def write_tables(sweep: Sweep) -> None:
    """Writes STUDY.md, STUDY.csv and STUDY.svg, of the cells that have finished, to the sweep's folder."""
    sweep.output.mkdir(parents=True, exist_ok=True)
    path = sweep.output / sweep.study.name
    write_text(path.with_suffix(".md"), table(sweep))
    write_text(path.with_suffix(".csv"), spreadsheet(sweep))
    write_text(path.with_suffix(".svg"), plot(sweep))


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
    """The Markdown file: rows and columns as published, our figures and, for the same data set, the published ones."""
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
    """A sentence about what was measured."""
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
    """What a reader of the table has to know, a sentence or two each."""
    study, notes = sweep.study, []
    if study.published(sweep.dataset):
        place = "Ours / published" if len(study.columns) > 1 else "Published"
        notes.append(f"{place}: {study.source}.")
    elif study.source:
        notes.append(f"{study.source}, has no figures for {sweep.dataset}: none are shown.")
    notes += study.notes
    if study.baselines and sweep.config(study.cells[0], 0).model.front != "log":
        notes.append("Whitened scattering is only measured with model.front=log.")
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
    names = [name for mean in COLUMNS for name in (mean, mean.replace("mean", "sd"))]
    writer.writerow(
        ["study", "dataset", "scale", "cell", "row", "column", "metric", "runs", *names, "published"]
    )
    for cell in sweep.study.cells:
        values = sweep.accuracies(cell)
        found = [figure for what in COLUMNS.values() for figure in mean_and_sd(sweep.accuracies(cell, what))]
        figures = ["" if figure is None else f"{figure:.4f}" for figure in found]
        writer.writerow([
            sweep.study.name, sweep.dataset, sweep.scale, cell.name, cell.row, cell.column, sweep.study.metric,
            len(values), *figures, cell.published.get(sweep.dataset, ""),
        ])  # fmt: skip
    return text.getvalue()
