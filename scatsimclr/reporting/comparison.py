"""The page of several runs: accuracies, curves, rates and differing settings, from what the runs wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from scatsimclr.config import Config, load_config
from scatsimclr.config.flat import flattened
from scatsimclr.errors import UserError
from scatsimclr.files import printable, write_text
from scatsimclr.reporting import charts, results
from scatsimclr.reporting.charts import Line
from scatsimclr.reporting.results import Record, Score
from scatsimclr.reporting.templates import render

# (title, event, key, whether it is a share) of what is compared as curves, where at least one run has it.
CURVES = (
    ("Training loss", "epoch", "loss", False), ("Loss on held-out images", "validation", "loss", False),
    ("kNN accuracy", "evaluation", "knn", True), ("Linear probe, all labels", "evaluation", "linear", True),
    ("Twin found", "quality", "found_again", True), ("Effective rank of z", "quality", "rankme", False),
    ("Images per second", "epoch", "images_per_second", False),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run folder's name, settings and records."""

    name: str
    config: Config
    records: Sequence[Record]


@dataclass(frozen=True)
class Row:
    """A probe and what each run reached by it: (its score, None where it has none; whether it is the best)."""

    title: str
    scores: Sequence[tuple[Score | None, bool]]


def write_comparison(folders: Sequence[Path], records: Sequence[Sequence[Record]], output: Path) -> Path:
    """Writes the page that compares runs.

    Args:
        folders: The run folders.
        records: The records of each.
        output: The file to write.

    Returns:
        `output`.

    Raises:
        UserError: For a folder whose settings cannot be read, or an output that cannot be written.
    """
    names = _names(folders)
    runs = [
        Run(name, load_config(str(folder / "config.yaml")), entries)
        for name, folder, entries in zip(names, folders, records, strict=True)
    ]
    context = {
        "title": f"{len(runs)} runs",
        "runs": [(charts.marker(index), run) for index, run in enumerate(runs)],
        "probes": _probes(runs),
        "features": [results.features_in_words(run.records)["recommended"] for run in runs],
        "measures": _measures(runs),
        "speeds": [results.throughput(run.config, run.records) for run in runs],
        "curves": _curves(runs),
        "differences": differences([run.config for run in runs]),
    }
    text = printable(render("comparison.html", context))
    try:
        write_text(output, text)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror or error}") from None
    return output


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _probes(runs: Sequence[Run]) -> list[Row]:
    """One row for each probe that a run has, its scores in the order of the runs."""
    by_run = [{score.key: score for score in results.scores(run.config, run.records)} for run in runs]
    titles = {key: score.title for found in by_run for key, score in found.items()}
    rows = []
    for key, title in titles.items():
        scores = [found.get(key) for found in by_run]
        reached = [score.reached for score in scores if score and score.reached is not None]
        best = [score is not None and len(reached) > 1 and score.reached == max(reached) for score in scores]
        rows.append(Row(title, list(zip(scores, best, strict=True))))
    return rows


def _measures(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    by_run = [{m.title: m.after for m in results.measures(run.records)} for run in runs]
    titles = dict.fromkeys(title for found in by_run for title in found)
    return [(title, [found.get(title, "–") for found in by_run]) for title in titles]


def _curves(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    found = []
    for title, event, key, shares in CURVES:
        lines = [
            Line(
                run.name,
                [(r["epoch"], r[key]) for r in results.of_event(run.records, event) if key in r],
                index,
            )
            for index, run in enumerate(runs)
        ]
        if chart := charts.line_chart(lines, title, percent=shares, legend=False):
            found.append((title, chart))
    return found


def differences(configs: Sequence[Config]) -> list[tuple[str, list[str]]]:
    """Dotted names of the settings in which the runs differ, each with the values of all runs."""
    flat = [
        {name: "–" if value is None else str(value) for name, value in flattened(settings).items()}
        for settings in (config.model_dump(mode="json", by_alias=True) for config in configs)
    ]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = [(name, [settings.get(name, "–") for settings in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]
