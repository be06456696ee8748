"""Runs ended by kill -9 at random steps and resumed: the views of every step, the metrics and the weights."""

import random
import subprocess
import sys

import torch

from scatsimclr.training import checkpoint
from tests.training.conftest import TINY
from tests.training.test_loop import repeatable

# Trains, appends a digest of each step's images and views to a file, and kills itself before one step.
RUN = """
import hashlib, os, signal, sys
import torch
from scatsimclr.train import command
from scatsimclr.training.loop import Trainer

torch.set_num_threads(1)
end, log, *argv = sys.argv[1:]
original = Trainer._batches

def recorded(self, done):
    for batch in original(self, done):
        tensors = (batch.indices, batch.views, *batch.pretext)
        digest = hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()
        with open(log, "a") as file:
            file.write(f"{self.progress.step} {digest}\\n")
        if self.progress.step == int(end):
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

Trainer._batches = recorded
sys.exit(command(argv))
"""
EPOCHS, KILLS = 3, 3


def start(folder, images, *settings, end=-1):
    argv = ["--fused", "--run-dir", str(folder), "--data-dir", str(images), "--resume", "auto", *TINY,
            f"epochs={EPOCHS}", "batch_size=3", "evaluation.probes=[knn]", *settings]  # fmt: skip
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", RUN, str(end), str(folder / "views.txt"), *argv],
        capture_output=True,
        text=True,
    )


def views(folder):
    """Step -> digest; a step that was done twice must have seen the same."""
    seen = {}
    for line in (folder / "views.txt").read_text().splitlines():
        step, digest = line.split()
        assert seen.setdefault(int(step), digest) == digest
    return seen


def test_a_run_killed_at_random_steps_is_the_run_that_was_not(images, tmp_path):
    # The pretext head has dropout: the random state is resumed, too.
    settings = ["checkpoint_every_n_steps=2", "mode=pretext", "pretext.rotation=true"]
    whole = start(tmp_path / "whole", images, *settings)
    assert whole.returncode == 0, whole.stderr
    expected = views(tmp_path / "whole")
    steps = len(expected)
    assert sorted(expected) == list(range(steps))
    assert steps >= 12
    folder = tmp_path / "killed"
    # The first kill may come before the first checkpoint: the run then starts anew.
    for end in sorted(random.Random(0).sample(range(steps), KILLS)):
        assert start(folder, images, *settings, end=end).returncode == -9
    last = start(folder, images, *settings)
    assert last.returncode == 0, last.stderr
    assert views(folder) == expected
    assert repeatable(folder) == repeatable(tmp_path / "whole")
    ours, theirs = (checkpoint.load(path) for path in (folder, tmp_path / "whole"))
    for part in ("model", "head"):
        for name, value in theirs[part].items():
            assert torch.equal(ours[part][name], value)
