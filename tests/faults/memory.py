"""Memory over thousands of steps."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tests.faults.child import Child, arguments

PAGE = os.sysconf("SC_PAGE_SIZE")


def growth(folder: Path, images: Path, steps: int) -> float:
    """Resident memory after `steps` steps over that after a tenth of them.

    Raises:
        AssertionError: The run ended with an error.
    """
    run = folder / "long"
    settings = ["batch_size=2", "epochs=100000", "log_every_n_steps=10", "checkpoint_every_n_steps=100",
                "eval_every_n_epochs=1000000", "validate_every_n_epochs=1000000"]  # fmt: skip
    child = Child(arguments(run, images, *settings), folder / "long.log")
    sizes: dict[int, int] = {}
    metrics = run / "metrics.jsonl"
    position = 0
    while len(sizes) < 2:
        assert child.poll() is None, child.text()[-3000:]
        time.sleep(0.02)
        if not metrics.exists():
            continue
        with metrics.open() as file:
            file.seek(position)
            lines = file.readlines()
            position = file.tell()
        for line in lines:
            step = json.loads(line)["step"]
            for mark in (steps // 10, steps):
                if step >= mark and mark not in sizes:
                    sizes[mark] = PAGE * int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
    child.send(9)
    child.wait()
    return sizes[steps] / sizes[steps // 10]
