"""A few of the cases of `python -m tests.distributed`, in a process of their own: it forks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch.distributed as dist


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
@pytest.mark.parametrize(
    "cases",
    [
        ["operators"],
        ["two in float64: rotation"],
        ["endings: killed", "endings: failed"],
    ],
    ids=lambda cases: cases[0].partition(":")[0],
)
def test_runs_of_several_processes(cases):
    command = [sys.executable, "-m", "tests.distributed", "--moments", "1", "--only", *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert done.stdout.endswith("0 failed\n")
    assert len(done.stdout.splitlines()) > len(cases)
