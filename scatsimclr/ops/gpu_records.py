"""Records of runs on GPUs: `records/gpu-<device>.json`, written by benchmarks/gpu_check.py and shipped.

Their format is described in benchmarks/gpu/results.py. A dry run verifies nothing.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).with_name("records")


@lru_cache(maxsize=1)
def _recorded() -> dict[tuple[str, str], str]:
    found = {}
    for path in sorted(FOLDER.glob("gpu-*.json")):
        for op, names in json.loads(path.read_text())["verified"].items():
            found.update({(op, name): path.name for name in names})
    return found


def recorded_run(op: str, name: str) -> str:
    """Which record says that an implementation ran on a GPU and agreed with the reference.

    Args:
        op: an operator.
        name: one of its implementations.

    Returns:
        The record's file name; empty where there is none.
    """
    return _recorded().get((op, name), "")
