"""Processes of a run on this machine: forked with torchrun's environment, or started by torchrun itself."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.faults.child import Child

T = TypeVar("T")
# A run of 30 steps of 5 images, which four processes cannot share equally. In float32, another order of summation makes
# another run as soon as a ReLU's input is nearer to zero than its rounding. The rate, the size of the network's maps
# and of the batch are such that this is rare: `tests.distributed.equality` counts it.
GENTLE = [
    "dataset.dataset=digits", "dataset.input_shape=(16, 16, 1)", "dataset.limit=57", "dataset.valid_size=0.1",
    "model.base_model=scatsimclr4", "model.J=3", "model.L=2", "model.front=paper", "model.head=paper",
    "loss.temperature=0.5", "lr=1.0e-5", "batch_size=5", "epochs=3", "log_every_n_steps=1", "eval_every_n_epochs=3",
    "data.pipeline=torch", "data.prefetch=0", "fused=true", "amp=off",
]  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process, of the processes of one machine."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def ranks(
    size: int, argv: Sequence[str], log: Path, command: Callable[[list[str]], int | None]
) -> list[Child]:
    """Starts a command in `size` forked processes that make one run.

    Args:
        size: Number of processes.
        argv: The command's arguments.
        log: Everything that they print, one file for all, appended to.
        command: As `scatsimclr.cli.run` takes it.
    """
    port = free_port()
    return [
        Child(argv, log, lambda r=rank: os.environ.update(environment(r, size, port)), command)
        for rank in range(size)
    ]


def together(size: int, work: Callable[[], T], folder: Path) -> list[T]:
    """What `work` returns in each of `size` processes, by rank.

    Raises:
        AssertionError: One of them failed.
    """

    def command(argv: list[str]) -> int:
        result = work()
        rank = os.environ.get("RANK", "0")
        (folder / f"result-{size}-{rank}").write_bytes(pickle.dumps(result))
        return 0

    log = folder / f"log-{size}"
    children = ranks(size, [], log, command)
    states = [child.wait() for child in children]
    assert states == [0] * size, log.read_text()[-5000:]
    return [pickle.loads((folder / f"result-{size}-{rank}").read_bytes()) for rank in range(size)]


def torchrun(
    size: int, argv: Sequence[str], log: Path, *, restarts: int = 0, options: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Starts `python -m scatsimclr.train` in `size` processes by torchrun; what it prints is appended to `log`."""
    command = [*TORCHRUN, "--standalone", f"--nproc-per-node={size}", f"--max-restarts={restarts}", *options]
    with log.open("ab") as file:
        return subprocess.Popen(
            [*command, "-m", "scatsimclr.train", *argv],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
