"""Training in a process of its own, beside programs that keep cores busy; `bench_shared` compares.

`python -m benchmarks.shared NAME BATCH` makes STEPS steps of training for each line that it reads, and answers each
with the loss of the first of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scatsimclr.waiting import CHOSEN, block_soon

STEPS, SIZE = 2, 32


def steps(name: str, batch: int) -> Callable[[], float]:
    """A call that trains for STEPS steps, on views that it makes as our training does; it returns the first's loss."""
    if name == "ours":
        block_soon()
    import torch

    from benchmarks.measure import THREADS
    from benchmarks.peers import kymatio_module
    from benchmarks.steps import DECAY, LR, TAU, J, L, OurStep, PlainStep
    from scatsimclr.allocator import keep_freed_memory
    from scatsimclr.config import load_config
    from scatsimclr.data.imageset import ImageSet
    from scatsimclr.models.scatsimclr import ScatSimCLR
    from scatsimclr.training.setup import build_loader

    torch.set_num_threads(THREADS)
    keep_freed_memory()
    torch.manual_seed(0)
    given = [
        f"lr={LR}",
        f"weight_decay={DECAY}",
        f"loss.temperature={TAU}",
        f"dataset.input_shape=({SIZE}, {SIZE}, 3)",
    ]
    config = load_config(None, ["fused=true", *given])
    encoder = ScatSimCLR(J, L, (SIZE, SIZE, 3), 8, 128)
    plain = name == "plain"
    step = PlainStep(encoder, kymatio_module(J, (SIZE, SIZE), L)) if plain else OurStep(encoder, config)
    images = torch.randint(0, 256, (STEPS * batch, SIZE, SIZE, 3), dtype=torch.uint8)
    loader = build_loader(
        config, ImageSet(images, torch.full((len(images),), -1), ()), batch, 0, torch.device("cpu")
    )

    def train() -> float:
        losses = [step(made.views) for made in loader.epoch(0)]
        return losses[0].item()

    return train


@contextmanager
def trainer(name: str, batch: int) -> Iterator[Callable[[], float]]:
    """A call that has another process train for STEPS steps; it returns the first's loss."""
    environment = {k: v for k, v in os.environ.items() if k not in CHOSEN}
    command = [sys.executable, "-m", "benchmarks.shared", name, str(batch)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        to, answers = process.stdin, process.stdout

        def call() -> float:
            to.write("\n")
            to.flush()
            return float(answers.readline())

        try:
            yield call
        finally:
            to.close()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never wait, for the duration of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    train = steps(sys.argv[1], int(sys.argv[2]))
    for _ in sys.stdin:
        print(train(), flush=True)


if __name__ == "__main__":
    main()
