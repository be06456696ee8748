"""`python -m tests.distributed`: runs of several processes against runs of one, and what becomes of them."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from tests.campaign import Case, parser, run_campaign
from tests.distributed import endings, equality, memory, nodes, operators, traffic


def cases(_: Path, options: argparse.Namespace) -> dict[str, Case]:
    """Every case by its name."""
    found: dict[str, Case] = {
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
        "nodes: killed": partial(nodes.lost, how="killed"),
        "nodes: frozen": partial(nodes.lost, how="frozen"),
        "nodes: cut off": partial(nodes.lost, how="cut off"),
    }
    for mode in equality.MODES:
        found[f"float64: {mode}"] = partial(equality.in_float64, mode=mode)
    for mode in ("contrastive", "rotation"):
        found[f"float32: {mode}"] = partial(equality.in_float32, mode=mode, seeds=options.seeds)
    found["two in float64: rotation"] = partial(equality.in_float64, mode="rotation", sizes=(1, 2))
    return found


if __name__ == "__main__":
    options = parser("tests.distributed", __doc__)
    options.add_argument("--kills", type=int, default=10, help="of runs under torchrun")
    options.add_argument("--moments", type=int, default=3, help="of SIGTERM, for each number of processes")
    options.add_argument("--seeds", type=int, default=10, help="of the runs in float32")
    chosen = options.parse_args()
    run_campaign(chosen, partial(cases, options=chosen))
