"""Two trainings that are started together on one folder."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from scatsimclr.training import checkpoint
from tests.faults.child import Child, arguments, one_line, same, weights
from tests.faults.kills import reference


def together(folder: Path, images: Path, number: int, reads: int = 0) -> tuple[str, int]:
    """One of two runs, the other says who owns the folder; every checkpoint that is read meanwhile is whole.

    Args:
        folder: Where the runs are.
        images: What they train on.
        number: The run's.
        reads: How often last.pt is read while the owner writes it after every step; it is stopped then. By default it
            is read as often as a short run allows, whose weights are those of a run without a rival.

    Returns:
        The loser's line, and how many times last.pt was read while the owner ran.
    """
    run = folder / f"together{number}"
    settings = ("epochs=1000000", "checkpoint_every_n_steps=1") if reads else ()
    children = [
        Child(arguments(run, images, *settings), folder / f"together{number}-{name}.log") for name in "ab"
    ]
    last, done = run / "checkpoints" / "last.pt", 0
    while any(child.poll() is None for child in children) and (not reads or done < reads):
        if last.exists():
            checkpoint.load(run)
            done += 1
        else:
            time.sleep(0.001)
    for child in children:
        child.send(signal.SIGTERM)
    states = [child.wait() for child in children]
    assert sorted(states) == [0, 2], "\n".join(child.text()[-1500:] for child in children)
    loser = children[states.index(2)]
    line = one_line(loser.text())
    winner = children[states.index(0)]
    assert str(winner.pid) in line, line
    if reads:
        assert done == reads, winner.text()[-1500:]
        checkpoint.load(run)
        return line, done
    whole = folder / "whole"
    if not whole.exists():
        reference(whole, images)
    assert same(weights(run, "last"), weights(whole, "last"))
    return line, done
