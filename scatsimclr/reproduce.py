"""`python -m scatsimclr.reproduce`: the paper's sweeps, as cells that can be stopped and gone on with."""

from __future__ import annotations

import argparse
import fnmatch
import json
import shlex
import shutil
import sys
import time
from pathlib import Path

from scatsimclr.allocator import keep_freed_memory
from scatsimclr.cli import run
from scatsimclr.config import Config, parse_config
from scatsimclr.data import datasets
from scatsimclr.errors import UserError
from scatsimclr.studies import STUDIES, Cell
from scatsimclr.sweeps import SCALES, Sweep, read_result, replace, table, write_tables
from scatsimclr.training import checkpoint
from scatsimclr.training.loop import Trainer

# Settings that may differ between the parts of a sweep: they do not change its figures.
UNIMPORTANT = {"data_dir", "device", "log_every_n_steps", "dataset.download"}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scatsimclr.reproduce",
        description="Runs a sweep of the paper, a cell of its table after the other, and writes the table (.md, .csv) "
        "and a plot (.png) beside the published figures. A sweep that was stopped goes on with the same command.",
        epilog="Examples: table1 --data-dir /data | table3 --scale small --cells '*-rotation' | "
        "study --dataset photos --seeds 3 epochs=6",
    )
    parser.add_argument("study", nargs="?", choices=list(STUDIES), help="what to reproduce")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings for all cells")
    parser.add_argument("--dataset", metavar="NAME", help="another data set than the paper's")
    parser.add_argument("--data-dir", metavar="DIR", help="where the images are, or are downloaded to")
    parser.add_argument(
        "--scale", choices=SCALES, default="full",
        help="full: the paper's; small: a tenth of the epochs, 10,000 images; tiny: proves in minutes that the sweep "
        "runs, on digits, and keeps no checkpoints",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N", help="runs per cell (default: 1, for `study` 5)")
    parser.add_argument("--cells", default="*", metavar="PATTERN", help="only these cells, such as 'J2-*'")
    parser.add_argument("--out", metavar="DIR", help="default: runs/reproduce/STUDY-DATASET-SCALE")
    parser.add_argument("--list", action="store_true", help="show the studies, or the cells of one, and end")
    return parser


def command(argv: list[str]) -> int:
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
        print(f"\nstopped; go on with {again}", file=sys.stderr)
        return 130
    print(f"\n{table(sweep)}\nwritten: {sweep.out / sweep.study.name}.md, .csv and .png")
    return 0


def plan(options: argparse.Namespace) -> Sweep:
    """The sweep that the options name."""
    study = STUDIES[options.study]
    dataset = options.dataset or ("digits" if options.scale == "tiny" else study.dataset)
    datasets.splits(dataset)  # an unknown name is told here, before anything is written
    seeds = study.seeds if options.seeds is None else options.seeds
    if seeds < 1:
        raise UserError(f"--seeds must be 1 or more, got {seeds}")
    taken = {"seed": "--seeds sets it", "dataset.dataset": "--dataset sets it"}
    taken |= dict.fromkeys(study.varied, f"the cells of {study.name} differ in it")
    for setting in options.settings:
        name = setting.partition("=")[0]
        if name in taken:
            raise UserError(f"{name} cannot be set here: {taken[name]}")
    settings = (*options.settings, *([f"data_dir={options.data_dir}"] if options.data_dir else []))
    out = Path(options.out or Path("runs") / "reproduce" / f"{study.name}-{dataset}-{options.scale}")
    sweep = Sweep(study, dataset, options.scale, seeds, settings, out)
    for cell in study.cells:
        sweep.config(cell, 0)  # likewise a wrong setting
    return sweep


def run_cells(sweep: Sweep, cells: list[Cell]) -> None:
    """Runs what is not finished; the table files are new after every run."""
    runs = [(cell, seed) for seed in range(sweep.seeds) for cell in cells]
    pending = []
    for cell, seed in runs:
        result = read_result(sweep.folder(cell, seed))
        if result is None:
            pending.append((cell, seed))
        else:
            check_same(result["config"], sweep.config(cell, seed), sweep.folder(cell, seed))
    if len(pending) < len(runs):
        print(f"{len(runs) - len(pending)} of {len(runs)} runs are finished already")
    write_tables(sweep)
    keep_freed_memory()
    start = time.monotonic()
    for done, (cell, seed) in enumerate(pending, start=1):
        before = time.monotonic()
        result = run_cell(sweep, cell, seed)
        now = time.monotonic()
        write_tables(sweep)
        left = (now - start) / done * (len(pending) - done)
        print(
            f"[{len(runs) - len(pending) + done}/{len(runs)}] {cell.name} seed {seed}: "
            f"{100 * result['after'][sweep.study.metric]:.2f} %  ({_duration(now - before)}"
            + (f", about {_duration(left)} left)" if left else ")"),
            flush=True,
        )


def run_cell(sweep: Sweep, cell: Cell, seed: int) -> dict:
    """One run, from its checkpoint where it has one. Returns what it wrote to result.json."""
    config, folder = sweep.config(cell, seed), sweep.folder(cell, seed)
    state = None
    if (folder / "checkpoints" / "last.pt").exists():
        state = checkpoint.load(folder)
        check_same(state["config"], config, folder)
    elif folder.exists():
        shutil.rmtree(folder)  # stopped before its first checkpoint
    figures = Trainer(config, folder, state).fit()
    if sweep.study.metric not in figures["after"]:
        raise UserError(
            f"{cell.name} has no {sweep.study.metric} accuracy: the data set has no labels, or evaluation.probes or "
            "evaluation.labels_per_class leave it out"
        )
    result = {"config": _dump(config), **figures}
    if sweep.scale == "tiny":  # gigabytes in all, of no use
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for name in ("model.safetensors", "features.safetensors"):
            (folder / name).unlink(missing_ok=True)
    replace(folder / "result.json", lambda path: path.write_text(json.dumps(result, indent=1) + "\n"))
    return result


def check_same(stored: dict, config: Config, folder: Path) -> None:
    """UserError for the first setting in which a run that is there differs from the one asked for."""
    old, new = _flat(_dump(parse_config(stored))), _flat(_dump(config))
    for name in sorted((old.keys() | new.keys()) - UNIMPORTANT):
        if old.get(name) != new.get(name):
            raise UserError(
                f"{folder} was run with {name}={old.get(name)}, now it is {new.get(name)}; give another --out"
            )


def _dump(config: Config) -> dict:
    return config.model_dump(mode="json", by_alias=True)


def _flat(settings: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(run(command))
