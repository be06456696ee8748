"""`python -m tests.faults`: kills, signals, disks and owners against the training program, and what came of them."""

from __future__ import annotations

import argparse
import signal
from functools import partial
from pathlib import Path

from tests.campaign import Case, parser, run_campaign
from tests.faults import disks, kills, memory, owners, signals
from tests.training.conftest import write_images


def cases(folder: Path, options: argparse.Namespace) -> dict[str, Case]:
    """Every case by its name; they train on the same images."""
    images = write_images(folder / "images", 20)
    found: dict[str, Case] = {
        "kills": lambda own: kills.campaign(own, images, options.kills, options.seed),
        "signals": lambda own: dict(signals.campaign(own, images, options.signals, options.seed)),
        "disk that fills": lambda own: disks.full(own, images, None),
        "disk of 30 MB": lambda own: disks.full(own, images, 30),
        "read-only disk": lambda own: disks.read_only(own, images),
        "immutable folder": lambda own: disks.immutable(own, images),
        "memory": lambda own: f"{memory.growth(own, images, options.steps):.4f}",
        "reads meanwhile": lambda own: owners.together(own, images, 0, options.reads),
    }
    for number in signals.STATUS:
        found[f"{signal.Signals(number).name} twice"] = lambda own, n=number: (
            f"{signals.twice(own, images, n):.2f} s"
        )
    for part in ("", "checkpoints", "tensorboard"):
        found[f"file as folder {part}"] = partial(disks.file_as_folder, images=images, part=part)
    for part in ("metrics.jsonl", "config.yaml", "checkpoints/last.pt"):
        found[f"folder as file {part}"] = partial(disks.folder_as_file, images=images, part=part)
    for index in range(options.pairs):
        found[f"two together {index}"] = lambda own, i=index: owners.together(own, images, i)
    return found


if __name__ == "__main__":
    options = parser("tests.faults", __doc__)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--signals", type=int, default=20, help="of each kind")
    options.add_argument("--pairs", type=int, default=5, help="of runs that are started together")
    options.add_argument("--reads", type=int, default=1000, help="of last.pt while a run writes it")
    options.add_argument("--steps", type=int, default=10_000, help="of the run whose memory is measured")
    chosen = options.parse_args()
    run_campaign(chosen, partial(cases, options=chosen))
