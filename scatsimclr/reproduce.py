"""`python -m scatsimclr.reproduce`: the paper's sweeps, cell by cell; a stopped one continues where it was."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("reproduce")

import argparse
import fnmatch
import shlex
import sys
from pathlib import Path

from scatsimclr import commandline
from scatsimclr.data import datasets
from scatsimclr.errors import UserError
from scatsimclr.studies.catalogue import STUDIES
from scatsimclr.studies.running import run_cells
from scatsimclr.studies.sweep import SCALES, Sweep
from scatsimclr.studies.tables import table


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = commandline.command_parser(
        "reproduce",
        "Runs a sweep of the paper, one cell of its table after the other, and writes the table (.md, .csv) and a "
        "plot (.svg) beside the published figures. The same command continues a sweep that was stopped.",
        [
            "table1 --data-dir /data",
            "table3 --scale small --cells '*-rotation'",
            "study --dataset photos --seeds 3 epochs=6",
        ],
    )
    parser.add_argument("study", nargs="?", choices=list(STUDIES), help="what to reproduce")
    commandline.add_settings(parser, "epochs=6, for all cells")
    parser.add_argument("--dataset", metavar="NAME", help="another data set than the paper's")
    commandline.add_data_dir(parser, "where the images are, or are downloaded to")
    parser.add_argument(
        "--scale", choices=SCALES, default="full",
        help="full: the paper's; small: a tenth of the epochs, 10,000 images; tiny: proves in minutes that the sweep "
        "runs, on digits, and keeps no checkpoints",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N", help="runs per cell (default: the study's, 1 or 5)")
    parser.add_argument("--cells", default="*", metavar="PATTERN", help="only these cells, such as 'J2-*'")
    commandline.add_output(
        parser, "DIR", "folder of the results (default: runs/reproduce/STUDY-DATASET-SCALE)"
    )
    parser.add_argument("--list", action="store_true", help="list the studies, or the cells of one, and exit")
    return parser


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    arguments = parser()
    options = arguments.parse_intermixed_args(argv)
    if options.study is None and not options.list:
        arguments.error(f"name what to reproduce: {', '.join(STUDIES)}")
    if options.study is None:
        for study in STUDIES.values():
            print(f"{study.name:10}{len(study.cells):3} cells  {study.dataset:10}{study.title}")
        return 0
    sweep = plan(options)
    cells = [cell for cell in sweep.study.cells if fnmatch.fnmatchcase(cell.name, options.cells)]
    if not cells:
        raise UserError(f"no cell is called {options.cells}; --list shows the names")
    if options.list:
        for cell in cells:
            print(f"{cell.name:28}{' '.join(cell.settings)}")
        return 0
    try:
        run_cells(sweep, cells)
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "scatsimclr.reproduce", *argv])
        print(f"\nstopped; continue with {again}", file=sys.stderr)
        return 130
    print(f"\n{table(sweep)}\nwritten: {sweep.output / sweep.study.name}.md, .csv and .svg")
    return 0


def plan(options: argparse.Namespace) -> Sweep:
    """The sweep that the options name.

    Raises:
        UserError: For what cannot be run, before anything is written.
    """
    study = STUDIES[options.study]
    dataset = options.dataset or ("digits" if options.scale == "tiny" else study.dataset)
    datasets.splits(dataset)  # raises for an unknown name
    seeds = study.seeds if options.seeds is None else options.seeds
    commandline.check_positive("--seeds", seeds)
    taken = {"seed": "--seeds sets it", "dataset.dataset": "--dataset sets it"}
    taken |= dict.fromkeys(study.varied, f"the cells of {study.name} differ in it")
    for setting in options.settings:
        name = setting.partition("=")[0]
        if name in taken:
            raise UserError(f"{name} cannot be set here: {taken[name]}")
    default = Path("runs") / "reproduce" / f"{study.name}-{dataset}-{options.scale}"
    sweep = Sweep(
        study,
        dataset,
        options.scale,
        seeds,
        tuple(commandline.settings_of(options)),
        options.output or default,
    )
    for cell in study.cells:
        sweep.config(cell, 0)  # raises for a wrong setting
    return sweep
