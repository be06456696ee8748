"""Two trainings that are started together on one folder."""

from __future__ import annotations

import time
from pathlib import Path

from scatsimclr.training import checkpoint
from tests.faults.child import Child, arguments, one_line, same, weights
from tests.faults.kills import reference


def together(folder: Path, images: Path, number: int, reads: int) -> tuple[str, int]:
    """One of two runs, the other says who owns the folder; every checkpoint that is read meanwhile is whole.

    Returns:
        The loser's line, and how many times last.pt was read while the winner ran.
    """
    run = folder / f"together{number}"
    children = [Child(arguments(run, images), folder / f"together{number}-{name}.log") for name in "ab"]
    last, done = run / "checkpoints" / "last.pt", 0
    while any(child.poll() is None for child in children) and done < reads:
        if last.exists():
            checkpoint.load(run)
            done += 1
        else:
            time.sleep(0.001)
    states = [child.wait() for child in children]
    assert sorted(states) == [0, 2], "\n".join(child.text()[-1500:] for child in children)
    loser = children[states.index(2)]
    line = one_line(loser.text())
    winner = children[states.index(0)]
    assert str(winner.pid) in line, line
    whole = folder / "whole"
    if not whole.exists():
        reference(whole, images)
    assert same(weights(run, "last"), weights(whole, "last"))
    return line, done
