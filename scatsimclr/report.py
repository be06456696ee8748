"""`python -m scatsimclr.report RUN [RUN …]`: the report of a run, or a comparison of several."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scatsimclr.cli import run
from scatsimclr.errors import UserError
from scatsimclr.reporting.comparison import write_comparison
from scatsimclr.reporting.page import write_report
from scatsimclr.reporting.subject import Subject
from scatsimclr.training.metrics import read_metrics
from scatsimclr.training.setup import build_evaluation, load_data, restore


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scatsimclr.report",
        description="One HTML page without outside resources. Of one run: report.html in its folder, with what "
        "training gained, a map of the embeddings, nearest neighbours, mistakes, curves, augmented views, filters, "
        "settings. Of several: comparison.html, their accuracies, curves and settings beside each other.",
        epilog="Examples: runs/RUN | runs/RUN --data-dir moved/images | runs/ONE runs/OTHER --output both.html",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folder")
    parser.add_argument(
        "-o", "--output", type=Path, help="where a comparison goes (default: comparison.html)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the images of one run are now")
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="a setting, such as device=cpu"
    )
    return parser


def command(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    for folder in options.runs:
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} is not a run folder: it has no config.yaml")
    if len(options.runs) == 1:
        if options.output:
            raise UserError(
                "--output is for a comparison; the report of one run is report.html in its folder"
            )
        print(write_report(subject(options.runs[0], options.set, options.data_dir)))
        return 0
    if options.data_dir or options.set:
        raise UserError("a comparison reads what the runs have written: --data-dir and --set are for one run")
    records = [read_metrics(folder / "metrics.jsonl") for folder in options.runs]
    print(write_comparison(options.runs, records, options.output or Path("comparison.html")))
    return 0


def subject(folder: Path, changes: list[str], data_dir: str | None) -> Subject:
    """What the report of a run folder is about: its last checkpoint, images, probes and records."""
    changes = changes + ([f"data_dir={data_dir}"] if data_dir else [])
    config, model, _ = restore(str(folder), None, changes)
    data = load_data(config)
    evaluation = None if data.test is None else build_evaluation(config, model, data.train, data.test)
    records = read_metrics(folder / "metrics.jsonl")
    return Subject(folder, config, model, data.pretrain, data.spec, evaluation, records)


if __name__ == "__main__":
    sys.exit(run(command))
