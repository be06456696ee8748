"""`python -m tests.distributed`: runs of several processes against runs of one, and what becomes of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tests.distributed import endings, equality, memory, nodes, operators, traffic
from tests.faults.disks import ImpossibleError


def cases(options: argparse.Namespace) -> dict[str, Callable[[Path], object]]:
    """Every case by its name; each takes a folder of its own."""
    found: dict[str, Callable[[Path], object]] = {
        "operators: batch norm": operators.batch_norm_over_processes,
        "operators: layers": operators.layers_over_processes,
        "operators: losses": operators.losses_over_processes,
        "operators: gradients": operators.gradients_over_processes,
        "memory": memory.of_losses,
        "traffic": traffic.of_processes,
        "endings: whole runs": endings.whole_runs,
        "endings: shards": endings.from_shards,
        "endings: stopped": partial(endings.stopped, moments=options.moments, seed=options.seed),
        "endings: killed": endings.killed,
        "endings: failed": endings.failed,
        "torchrun: restarted": partial(endings.restarted, kills=options.kills, seed=options.seed),
        "torchrun: preempted": endings.preempted,
        "nodes: addresses": partial(nodes.whole, networks=False),
        "nodes: networks": partial(nodes.whole, networks=True),
        "nodes: replaced": partial(nodes.restarted, replaced=True),
        "nodes: one fewer": partial(nodes.restarted, replaced=False),
        "nodes: killed": partial(nodes.lost, how="killed"),
        "nodes: frozen": partial(nodes.lost, how="frozen"),
        "nodes: cut off": partial(nodes.lost, how="cut off"),
    }
    for mode in equality.MODES:
        found[f"float64: {mode}"] = partial(equality.in_float64, mode=mode)
    for mode in ("contrastive", "rotation"):
        found[f"float32: {mode}"] = partial(equality.in_float32, mode=mode, seeds=options.seeds)
        found[f"short: {mode}"] = partial(equality.in_float32, mode=mode, seeds=4, sizes=(1, 2))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.distributed", description=__doc__.partition(": ")[2]
    )
    parser.add_argument("--kills", type=int, default=10, help="of runs under torchrun")
    parser.add_argument("--moments", type=int, default=3, help="of SIGTERM, for each number of processes")
    parser.add_argument("--seeds", type=int, default=10, help="of the runs in float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose names begin so")
    options = parser.parse_args()
    torch.set_num_threads(1)  # no thread is started before the forks
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        for index, (case, run) in enumerate(cases(options).items()):
            if not case.startswith(tuple(options.only)):
                continue
            folder = Path(name) / str(index)
            folder.mkdir()
            start = time.monotonic()
            try:
                result: object = run(folder)
            except ImpossibleError as error:
                result = f"not possible here: {error}"
            except Exception:
                failed += 1
                result = "FAILED\n" + traceback.format_exc()
            print(f"{case:32} {time.monotonic() - start:6.1f} s  {result}", flush=True)
    print(f"{failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
