"""Runs the cells of a sweep: those that have not finished, each from its last checkpoint."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scatsimclr.config import Config, parse_config
from scatsimclr.config.flat import flattened
from scatsimclr.errors import UserError
from scatsimclr.files import write_text
from scatsimclr.studies.catalogue import Cell
from scatsimclr.studies.sweep import Result, Sweep, read_result
from scatsimclr.studies.tables import write_tables
from scatsimclr.training import checkpoint
from scatsimclr.training.log import spoken
from scatsimclr.training.loop import Trainer
from scatsimclr.training.ownership import owned, remove_contents

# Settings in which the parts of a sweep may differ: they do not change its figures.
UNIMPORTANT = {"data_dir", "device", "log_every_n_steps", "dataset.download"}


def run_cells(sweep: Sweep, cells: Sequence[Cell]) -> None:
    """Runs what has not finished, and writes the tables again after every run."""
    runs = [(cell, seed) for seed in range(sweep.seeds) for cell in cells]
    pending = []
    for cell, seed in runs:
        result = read_result(sweep.folder(cell, seed))
        if result is None:
            pending.append((cell, seed))
        else:
            check_same(result["config"], sweep.config(cell, seed), sweep.folder(cell, seed))
    if len(pending) < len(runs):
        print(f"{len(runs) - len(pending)} of {len(runs)} runs have finished already")
    write_tables(sweep)
    start = time.monotonic()
    for done, (cell, seed) in enumerate(pending, start=1):
        before = time.monotonic()
        accuracy = run_cell(sweep, cell, seed)["after"][sweep.study.metric]
        now = time.monotonic()
        write_tables(sweep)
        left = (now - start) / done * (len(pending) - done)
        print(
            f"[{len(runs) - len(pending) + done}/{len(runs)}] {cell.name} seed {seed}: "
            f"{100 * float(accuracy):.2f} %  ({spoken(now - before)}"
            + (f", about {spoken(left)} left)" if left else ")"),
            flush=True,
        )


def run_cell(sweep: Sweep, cell: Cell, seed: int) -> Result:
    """Makes one run, from its checkpoint where it has one, and returns what it wrote to result.json."""
    config, folder = sweep.config(cell, seed), sweep.folder(cell, seed)
    with owned(folder):
        state = None
        if checkpoint.exists(folder):
            state = checkpoint.load(folder)
            check_same(state["config"], config, folder)
        else:
            remove_contents(folder)  # of a run that was stopped before its first checkpoint
        figures = Trainer(config, folder, state).fit()
    if sweep.study.metric not in figures["after"]:
        raise UserError(
            f"{cell.name} has no {sweep.study.metric} accuracy: the data set has no labels, or evaluation.probes or "
            "evaluation.labels_per_class leave it out"
        )
    result: Result = {"config": _dump(config), "before": figures["before"], "after": figures["after"]}
    if sweep.scale == "tiny":  # gigabytes in all, of no use
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for path in folder.glob("*.safetensors"):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def check_same(stored: dict[str, Any], config: Config, folder: Path) -> None:
    """Compares the settings of an earlier run with those asked for now.

    Raises:
        UserError: For the first one that differs, unless it is in UNIMPORTANT.
    """
    old, new = _flat(parse_config(stored)), _flat(config)
    for name in sorted((old.keys() | new.keys()) - UNIMPORTANT):
        if old.get(name) != new.get(name):
            raise UserError(
                f"{folder} was run with {name}={old.get(name)}, now it is {new.get(name)}; give another --output"
            )


def _dump(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", by_alias=True)


def _flat(config: Config) -> Mapping[str, object]:
    return flattened(_dump(config))
