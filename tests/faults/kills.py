"""Runs killed with SIGKILL at random moments, a third of them while they write, and resumed."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from scatsimclr.training import checkpoint
from tests.faults.child import Child, arguments, die_inside_a_write, same, weights

IN_A_ROW = 12  # kills of one run before it may end
INSIDE_WRITES = 0.35


@dataclass
class Killed:
    """Counts over a campaign."""

    kills: int = 0
    inside_writes: int = 0
    before_first_checkpoint: int = 0
    runs: int = 0


def reference(folder: Path, images: Path) -> float:
    """A run that nothing disturbs; returns its seconds."""
    start = time.monotonic()
    child = Child(arguments(folder, images), folder.with_suffix(".log"))
    assert child.wait() == 0, child.text()
    return time.monotonic() - start


def readable(folder: Path) -> bool:
    """Whether there is a checkpoint; each that is there loads."""
    for path in (folder / "checkpoints").glob("*.pt"):
        checkpoint.load(path)
    return checkpoint.exists(folder)


def campaign(folder: Path, images: Path, kills: int, seed: int = 0) -> Killed:
    """Kills runs until `kills` have been; each then ends with the weights of the run that was not killed.

    Raises:
        AssertionError: A run could not be resumed, or ended with other weights.
    """
    draw, counts = random.Random(seed), Killed()
    whole = folder / "whole"
    seconds = reference(whole, images)
    expected = {name: weights(whole, name) for name in ("last", "best")}
    while counts.kills < kills:
        run = folder / f"run{counts.runs}"
        log = run.with_suffix(".log")
        for _ in range(min(IN_A_ROW, kills - counts.kills)):
            inside = draw.random() < INSIDE_WRITES
            prepare = die_inside_a_write(run, draw.randint(1, 12), draw.uniform(0, 0.004)) if inside else None
            child = Child(arguments(run, images), log, prepare)
            if not inside:
                time.sleep(draw.uniform(0, 0.8 * seconds))
                child.send(signal.SIGKILL)
            status = child.wait()
            if status == 0:  # it was faster
                break
            assert status == -signal.SIGKILL, child.text()[-3000:]
            counts.kills += 1
            counts.inside_writes += inside
            counts.before_first_checkpoint += not readable(run)
        child = Child(arguments(run, images), log)
        assert child.wait() == 0, child.text()[-3000:]
        for name, tensors in expected.items():
            assert same(weights(run, name), tensors), f"{name}.pt of {run}"
        counts.runs += 1
    return counts
