"""SIGTERM, SIGHUP, SIGUSR1 and SIGINT at random moments: a checkpoint, a line, and a run that goes on."""

from __future__ import annotations

import json
import random
import re
import shlex
import signal
import time
from collections import Counter
from pathlib import Path

from scatsimclr.training import checkpoint
from tests.faults.child import Child, arguments, same, weights
from tests.faults.kills import reference

STATUS = {signal.SIGTERM: 0, signal.SIGHUP: 0, signal.SIGUSR1: 0, signal.SIGINT: 130}


def repeated_steps(folder: Path) -> int:
    """How often metrics.jsonl has a step that it already had."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    counts = Counter(record["step"] for record in records if record["event"] == "train")
    return sum(count - 1 for count in counts.values())


def begun(child: Child, seconds: float = 60) -> None:
    """Waits until a run has begun to train: before, it has nothing to save."""
    end = time.monotonic() + seconds
    while "\nrun " not in child.text():
        assert time.monotonic() < end, child.text()
        time.sleep(0.005)


def stopped(child: Child, number: int) -> str:
    """The line of a run that a signal stopped: the command that goes on with it, or "" if it had ended before.

    Raises:
        AssertionError: Another exit status, a traceback, or not one line.
    """
    status, text = child.wait(), child.text()
    assert "Traceback" not in text, text[-3000:]
    lines = [line for line in text.splitlines() if line.startswith("stopped ")]
    if not lines and status == 0:
        assert "run folder: " in text, text[-3000:]
        return ""
    assert status == STATUS[signal.Signals(number)], text[-3000:]
    assert len(lines) == 1, text[-3000:]
    return lines[0]


def campaign(folder: Path, images: Path, times: int, seed: int = 0) -> Counter[str]:
    """Stops runs by each signal `times` times; each goes on to the weights of the undisturbed run.

    Raises:
        AssertionError: Something else.
    """
    draw, counts = random.Random(seed), Counter()
    whole = folder / "whole"
    seconds = reference(whole, images)
    expected = {name: weights(whole, name) for name in ("last", "best")}
    for number in STATUS:
        for index in range(times):
            run = folder / f"{number.name}{index}"
            child = Child(arguments(run, images), run.with_suffix(".log"))
            begun(child)
            time.sleep(draw.uniform(0, 0.6 * seconds))
            child.send(number)
            line = stopped(child, number)
            if line:
                resume = re.search(r"--resume (.+)$", line)
                # Before the first step there is nothing to continue from, and the line may not say that there is.
                assert (resume is not None) == checkpoint.exists(run), line
                assert resume is None or shlex.split(resume[1]) == [str(run)], line
                again = Child(arguments(run, images), run.with_suffix(".again.log"))
                assert again.wait() == 0, again.text()[-3000:]
                counts[number.name] += 1
            for name, tensors in expected.items():
                assert same(weights(run, name), tensors), f"{name}.pt of {run}"
            assert repeated_steps(run) == 0
    return counts


def twice(folder: Path, images: Path, number: int) -> float:
    """Seconds from the second of two signals to the end, without a traceback."""
    run = folder / f"twice{int(number)}"
    child = Child(arguments(run, images, "epochs=1000"), run.with_suffix(".log"))
    begun(child)
    child.send(number)
    child.send(number)
    start = time.monotonic()
    status = child.wait()
    assert "Traceback" not in child.text(), child.text()[-3000:]
    assert status in (STATUS[signal.Signals(number)], 128 + number, -number), child.text()[-3000:]
    return time.monotonic() - start
