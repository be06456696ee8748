"""A few of the cases of `make faults`, in a process of their own: it forks."""

from __future__ import annotations

import subprocess
import sys


def test_a_few_kills_rivals_and_files_in_the_wrong_place():
    command = [sys.executable, "-m", "tests.faults", "--kills", "2", "--pairs", "1", "--seed", "1",
               "--only", "kills", "SIGTERM", "file", "folder", "two"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    cases = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert cases == [
        "kills", "SIGTERM twice", "file as folder", "file as folder checkpoints", "file as folder tensorboard",
        "folder as file metrics.jsonl", "folder as file config.yaml", "folder as file checkpoints/last.pt",
        "two together 0", "0 failed",
    ]  # fmt: skip
