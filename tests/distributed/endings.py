"""How runs of several processes end: one is stopped, killed, or fails, and the others with it."""

from __future__ import annotations

import math
import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from scatsimclr import train
from scatsimclr.data.datasets import normalization, request
from scatsimclr.data.pieces import source
from scatsimclr.data.sharding import write
from scatsimclr.training import checkpoint
from scatsimclr.training.metrics import read_metrics
from scatsimclr.training.update import Update
from tests.distributed.processes import GENTLE, ranks, torchrun
from tests.faults.child import Child, one_line, same, weights

SETTINGS = [*GENTLE, "evaluation.probes=[knn]", "checkpoint_every_n_steps=2"]
ENDED = 10.0  # seconds within which all processes have ended


def arguments(folder: Path, *settings: str) -> list[str]:
    return ["--run-dir", str(folder), *SETTINGS, *settings]


def run(size: int, argv: Sequence[str], log: Path) -> None:
    """A run that nothing disturbs."""
    states = ended(ranks(size, argv, log, train.command), 900)
    assert states == [0] * size, log.read_text()[-5000:]


def ended(children: Sequence[Child], seconds: float = ENDED) -> list[int]:
    """The exit statuses of processes that end within so many seconds."""
    end = time.monotonic() + seconds
    return [child.wait(max(0.1, end - time.monotonic())) for child in children]


def losses(folder: Path) -> dict[int, float]:
    """Of each step."""
    return {r["step"]: r["loss"] for r in read_metrics(folder / "metrics.jsonl") if r["event"] == "train"}


def difference(folder: Path, expected: Path) -> float:
    """The largest relative difference between two runs' losses of the same step."""
    ours, theirs = losses(folder), losses(expected)
    assert ours.keys() == theirs.keys(), (sorted(ours), sorted(theirs))
    return max(abs(ours[step] - theirs[step]) / theirs[step] for step in theirs)


def after_steps(folder: Path, steps: int, children: Sequence[Child] = (), seconds: float = 300) -> None:
    """Waits until a run has logged so many steps."""
    end = time.monotonic() + seconds
    while max(losses(folder), default=0) < steps:
        assert time.monotonic() < end, f"{losses(folder)}"
        assert all(child.poll() is None for child in children), children[0].text()[-3000:]
        time.sleep(0.01)


def whole_runs(folder: Path) -> str:
    """Everything that one, two and four processes write: the same figures, and the same features for the probes."""
    places = {size: folder / f"whole{size}" for size in (1, 2, 4)}
    worst = 0.0
    for size, place in places.items():
        run(
            size,
            arguments(place, "best_by=knn", "neighbours=2", "model.front=log", "evaluation.batch_size=16"),
            place.with_suffix(".log"),
        )
        worst = max(worst, difference(place, places[1]))
        ours, theirs = (read_metrics(p / "metrics.jsonl") for p in (place, places[1]))
        assert [r["event"] for r in ours] == [r["event"] for r in theirs]
        for own, other in zip(ours, theirs, strict=True):
            for name, value in other.items():
                if isinstance(value, float) and not name.endswith("_per_second"):
                    assert math.isclose(own[name], value, rel_tol=1e-4, abs_tol=1e-5), (size, own, other)
        assert sorted(p.name for p in place.iterdir()) == sorted(p.name for p in places[1].iterdir())
    assert worst < 1e-6, worst
    return f"losses {worst:.1e}"


def from_shards(folder: Path) -> str:
    """Two processes train, validate and evaluate on shards as on the images in memory: the same bits."""
    asked = request("digits", "pretrain", size=(16, 16), channels=1)
    place = folder / "bytes"
    write(source(asked), place, 10**5, progress=False)
    mean, std = normalization("digits", 1)
    common = [
        f"dataset.normalization={[list(mean), list(std)]}",
        "best_by=knn",
        "neighbours=2",
        "model.front=log",
    ]
    for name in ("digits", "shards"):
        settings = ["--config", "digits", *common, f"dataset.dataset={name}", f"data_dir={place}"]
        run(2, arguments(folder / name, *settings), folder / f"{name}.log")
    assert same(weights(folder / "digits", "last"), weights(folder / "shards", "last"))
    assert losses(folder / "digits") == losses(folder / "shards")
    probes = [
        [
            record
            for record in read_metrics(folder / name / "metrics.jsonl")
            if record["event"] == "evaluation"
        ]
        for name in ("digits", "shards")
    ]
    assert probes[0] == probes[1]
    return "the same weights and figures"


def stopped(folder: Path, *, moments: int = 1, seed: int = 0) -> str:
    """SIGTERM to one of two: all end with a checkpoint and a line, and one, two or four processes go on from it."""
    whole, draw, slowest = folder / "whole", random.Random(seed), 0.0
    run(2, arguments(whole), folder / "whole.log")
    worst = 0.0
    for index in range(moments):
        for size in (2, 1, 4):
            place = folder / f"stopped{index}-{size}"
            log = place.with_suffix(".log")
            children = ranks(2, arguments(place), log, train.command)
            after_steps(place, draw.randint(1, 20), children)
            start = time.monotonic()
            children[draw.randint(0, 1)].send(signal.SIGTERM)
            states = ended(children)
            slowest = max(slowest, time.monotonic() - start)
            text = log.read_text()
            assert states == [0, 0], text[-5000:]
            assert "Traceback" not in text, text[-5000:]
            (line,) = (line for line in text.splitlines() if line.startswith("stopped "))
            command = re.search(
                r"continue with: torchrun --nproc-per-node=2 -m scatsimclr.train (--resume .+)$", line
            )
            assert command is not None, line
            run(size, shlex.split(command[1]), place.with_suffix(".again.log"))
            if size == 2:
                assert same(weights(place, "last"), weights(whole, "last"))
            worst = max(worst, difference(place, whole))
    assert worst < 1e-6, worst
    return f"ended within {slowest:.1f} s; losses after going on by 2, 1 and 4: {worst:.1e}"


def killed(folder: Path) -> str:
    """SIGKILL to one of two: the other says so in one line, and ends; the checkpoint is there to go on from."""
    slowest = 0.0
    for victim in (0, 1):
        place = folder / f"killed{victim}"
        children = ranks(2, arguments(place), place.with_suffix(".log"), train.command)
        after_steps(place, 5, children)
        start = time.monotonic()
        children[victim].send(signal.SIGKILL)
        states = ended(children)
        slowest = max(slowest, time.monotonic() - start)
        assert states[victim] == -signal.SIGKILL
        assert states[1 - victim] == 1, children[0].text()[-5000:]
        line = one_line(children[0].text())
        assert " is gone; the run ends, and continues from its last checkpoint" in line
        assert victim == 0 or f"rank 1 (process {children[1].pid})" in line, line
        assert checkpoint.load(place)["step"] > 0
    return f"ended within {slowest:.1f} s"


def failed(folder: Path) -> str:
    """A bug in one process is what its traceback says; the others are silent. A user's mistake is one line."""
    slowest = 0.0
    place = folder / "bug"
    original = Update.__call__

    def bug(self, *arguments, **named):
        if self.world.rank == 1 and self.attempts == 4:
            raise ZeroDivisionError("a bug of rank 1")
        return original(self, *arguments, **named)

    for name, patched, settings, statuses in (
        ("bug", bug, [], {70, 1}),
        ("mistake of all", original, ["lr=1e30"], {2}),
        ("mistake before the run", original, ["model.J=5"], {2}),
        ("unknown setting", original, ["epochz=3"], {2}),
    ):
        place = folder / name.replace(" ", "-")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Update, "__call__", patched)
            children = ranks(3, arguments(place, *settings), place.with_suffix(".log"), train.command)
        states = ended(children, 60)
        text = children[0].text()
        assert set(states) <= statuses, (states, text[-5000:])
        if name == "bug":
            assert text.count("Traceback") == 1, text[-5000:]
            assert "ZeroDivisionError: a bug of rank 1" in text
            assert "scatsimclr: error" not in text
        else:
            one_line(text)
    return f"{slowest:.1f} s"


def restarted(folder: Path, *, kills: int = 10, size: int = 2, seed: int = 0) -> str:
    """torchrun with restarts: kills at random moments of a run leave the weights of a run that nothing disturbed."""
    whole, draw = folder / "whole", random.Random(seed)
    if not whole.exists():
        run(size, arguments(whole), folder / "whole.log")
    counts: list[int] = []
    for index in range(kills):
        place = folder / f"restarted{index}"
        log = place.with_suffix(".log")
        process = torchrun(size, arguments(place), log, restarts=2)
        try:
            moment = draw.randint(0, 24)
            after_steps(place, moment)
            time.sleep(draw.uniform(0, 0.1))
            workers = children_of(process.pid)
            if len(workers) == size:
                os.kill(draw.choice(workers), signal.SIGKILL)
            status = process.wait(900)
        finally:
            process.kill()
        assert status == 0, log.read_text()[-5000:]
        assert same(weights(place, "last"), weights(whole, "last")), log.read_text()[-3000:]
        counts.append(log.read_text().count(", from step "))
    return f"{kills} kills, {sum(counts)} of them after the first checkpoint: the same weights"


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "scatsimclr.train" in line]


def preempted(folder: Path) -> str:
    """SIGTERM to torchrun, which passes it on, and to all processes besides, as Slurm sends it: a checkpoint, and 0."""
    place = folder / "preempted"
    log = place.with_suffix(".log")
    process = torchrun(2, arguments(place, "epochs=1000"), log)
    after_steps(place, 5)
    start = time.monotonic()
    for pid in (*children_of(process.pid), process.pid):
        os.kill(pid, signal.SIGTERM)
    process.wait(60)
    text = log.read_text()
    assert text.count("\nstopped after step ") == 1, text[-5000:]
    assert "stopped at once" not in text
    assert checkpoint.load(place)["step"] >= 5
    return f"{time.monotonic() - start:.1f} s"
