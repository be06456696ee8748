"""`python -m scatsimclr.report RUN [RUN …]`: the report of a run, or a comparison of several."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("report")

import argparse
from collections.abc import Sequence
from pathlib import Path

from scatsimclr import commandline
from scatsimclr.errors import UserError
from scatsimclr.reporting.comparison import write_comparison
from scatsimclr.reporting.page import write_report
from scatsimclr.reporting.subject import Subject
from scatsimclr.training.metrics import read_metrics
from scatsimclr.training.setup import build_evaluation, load_data, restore


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = commandline.command_parser(
        "report",
        "One HTML page without external resources. Of one run: report.html in its folder, with what training gained, "
        "a map of the embeddings, nearest neighbours, mistakes, curves, augmented views, filters, settings. Of "
        "several: comparison.html, with their accuracies, curves and settings side by side.",
        [
            "runs/RUN",
            "runs/RUN --data-dir moved/images",
            "runs/ONE runs/OTHER --output both.html",
        ],
    )
    commandline.add_words(parser, "RUN", "run folders")
    commandline.add_output(parser, "FILE", "where to write a comparison (default: comparison.html)")
    commandline.add_data_dir(parser, "where the images of the run are now")
    return parser


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    arguments = parser()
    options = arguments.parse_intermixed_args(argv)
    folders = [Path(word) for word in commandline.split_words(options)]
    if not folders:
        arguments.error("name one or more run folders")
    for folder in folders:
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} is not a run folder: it has no config.yaml")
    settings = commandline.settings_of(options)
    if len(folders) == 1:
        if options.output:
            raise UserError(
                "--output is for a comparison; the report of one run is report.html in its folder"
            )
        print(write_report(subject(folders[0], settings)))
        return 0
    if settings:
        raise UserError("a comparison reads what the runs wrote: --data-dir and settings are for one run")
    records = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    print(write_comparison(folders, records, options.output or Path("comparison.html")))
    return 0


def subject(folder: Path, settings: Sequence[str]) -> Subject:
    """What the report of a run folder is about: its last checkpoint, images, probes and records."""
    config, model, _ = restore(str(folder), None, list(settings))
    data = load_data(config)
    evaluation = None
    if data.train is not None and data.test is not None:
        evaluation = build_evaluation(config, model, data.train, data.test)
    records = read_metrics(folder / "metrics.jsonl")
    return Subject(folder, config, model, data.pretrain, data.spec, evaluation, records)
