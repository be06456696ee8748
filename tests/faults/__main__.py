"""`python -m tests.faults`: kills, signals, disks and owners against the training program, and what came of them."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from tests.faults import disks, kills, memory, owners, signals
from tests.training.conftest import write_images


def cases(folder: Path, images: Path, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Every case by its name; each gets a folder of its own."""

    def own(name: str) -> Path:
        path = folder / name.replace(" ", "-")
        path.mkdir()
        return path

    found: dict[str, Callable[[], object]] = {
        "kills": lambda: kills.campaign(own("kills"), images, options.kills, options.seed),
        "signals": lambda: dict(signals.campaign(own("signals"), images, options.signals, options.seed)),
        "disk that fills": lambda: disks.full(own("fills"), images, None),
        "disk of 30 MB": lambda: disks.full(own("full"), images, 30),
        "read-only disk": lambda: disks.read_only(own("read-only"), images),
        "immutable folder": lambda: disks.immutable(own("immutable"), images),
        "memory": lambda: f"{memory.growth(own('memory'), images, options.steps):.4f}",
    }
    for number in signals.STATUS:
        name = signal.Signals(number).name
        found[f"{name} twice"] = lambda n=number, m=name: (
            f"{signals.twice(own(f'twice {m}'), images, n):.2f} s"
        )
    for part in ("", "checkpoints", "tensorboard"):
        found[f"file as folder {part}"] = lambda p=part: disks.file_as_folder(own(f"file {p}"), images, p)
    for part in ("metrics.jsonl", "config.yaml", "checkpoints/last.pt"):
        name = f"folder as file {part}"
        found[name] = lambda p=part, m=name: disks.folder_as_file(own(m.replace("/", "-")), images, p)
    for index in range(options.pairs):
        name = f"two together {index}"
        found[name] = lambda i=index, m=name: owners.together(own(m), images, i)
    found["reads meanwhile"] = lambda: owners.together(own("reads"), images, 0, options.reads)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition(": ")[2])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=20, help="of each kind")
    parser.add_argument("--pairs", type=int, default=5, help="of runs that are started together")
    parser.add_argument("--reads", type=int, default=1000, help="of last.pt while a run writes it")
    parser.add_argument("--steps", type=int, default=10_000, help="of the run whose memory is measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose names begin so")
    options = parser.parse_args()
    torch.set_num_threads(1)  # no thread is started before the forks
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        images = write_images(Path(name) / "images", 20)
        for case, run in cases(Path(name), images, options).items():
            if not case.startswith(tuple(options.only)):
                continue
            start = time.monotonic()
            try:
                result: object = run()
            except disks.ImpossibleError as error:
                result = f"not possible here: {error}"
            except Exception:
                failed += 1
                result = "FAILED\n" + traceback.format_exc()
            print(f"{case:32} {time.monotonic() - start:6.1f} s  {result}", flush=True)
    print(f"{failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
