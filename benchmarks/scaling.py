"""What a step costs each of W processes, on paper: `python -m benchmarks.scaling` prints docs/scaling.md's table.

Bytes are those that a process sends (it receives as many) by the ring algorithms of NCCL and gloo: an all-reduce of b
bytes sends 2 (W − 1)/W · b, an all-gather to b bytes (W − 1)/W · b. Operations count a multiply-add as two; a backward
pass takes twice as many as the forward pass, except through the scattering transform, which is fixed.

`tests.distributed.traffic` counts the bytes and `tests.distributed.memory` the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.work import scattering_work
from scatsimclr.config import Config, load_config
from scatsimclr.ops.ntxent_ring import TILE
from scatsimclr.training.setup import build_model

VIEWS = 2
GPUS, BATCHES = (8, 64, 512), (4096, 32768, 262144)
COLUMNS = (
    *("GPUs", "batch", "gradients", "BatchNorm", "loss, all", "loss, ring", "memory, all", "memory, ring"),
    *("encoder", "loss"),
)
SETTINGS = (
    "fused=true",
    "dataset.input_shape=(64, 64, 3)",
    "model.base_model=scatsimclr12",
    "model.J=2",
    "model.L=8",
)


@dataclass(frozen=True)
class Encoder:
    """What of an encoder decides the cost of a step.

    Attributes:
        parameters: Numbers that are trained.
        moments: Channels of each BatchNorm.
        width: D, of z.
        trained: Operations of the layers that are trained, for one view, forward.
        fixed: Those of the scattering transform.
    """

    parameters: int
    moments: tuple[int, ...]
    width: int
    trained: float
    fixed: float

    @classmethod
    def of(cls, config: Config) -> Encoder:
        """Counts those of the settings' encoder, without a pretext task."""
        model = build_model(config).eval()
        height, width, channels = config.dataset.input_shape
        operations = 0

        def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            nonlocal operations
            weight = layer.weight
            assert isinstance(weight, Tensor)
            operations += 2 * output.numel() * weight[0].numel()

        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        with torch.inference_mode():
            model(torch.zeros(1, channels, height, width))
        fixed = 0.0
        if config.model.scattering:
            shape = (1, channels, height, width)
            fixed = scattering_work(shape, config.model.J, config.model.L)["flop"]
        return cls(
            sum(p.numel() for p in model.parameters() if p.requires_grad),
            tuple(layer.num_features for layer in model.modules() if isinstance(layer, _BatchNorm)),
            config.model.out_dim,
            operations,
            fixed,
        )


@dataclass(frozen=True)
class Step:
    """A step of `batch` images by `processes` processes; figures are each process's.

    Attributes:
        encoder: What is trained.
        processes: W.
        batch: Images of all.
        itemsize: Bytes of a number of gradients and rows.
    """

    encoder: Encoder
    processes: int
    batch: int
    itemsize: int = 4

    @property
    def passed_on(self) -> float:
        """(W − 1)/W."""
        return (self.processes - 1) / self.processes

    @property
    def rows(self) -> int:
        """Of z, in all processes: M."""
        return VIEWS * self.batch

    @property
    def own_rows(self) -> float:
        """Of a process: n = M/W."""
        return self.rows / self.processes

    @property
    def gradients(self) -> float:
        """Bytes sent for the sum of gradients."""
        return 2 * self.passed_on * self.encoder.parameters * self.itemsize

    @property
    def moments(self) -> float:
        """Bytes sent for BatchNorm: C + 1 and C numbers forward, 2 C backward, in float64."""
        return sum(2 * self.passed_on * 8 * (4 * channels + 1) for channels in self.encoder.moments)

    @property
    def gathered(self) -> float:
        """Bytes sent for the loss by the all-gather: rows, and two statistics of each."""
        return self.passed_on * self.rows * (self.encoder.width + 2) * self.itemsize

    @property
    def ring(self) -> float:
        """Bytes sent for the loss in the ring: rows and int64 labels twice, statistics once."""
        row = self.encoder.width * self.itemsize + 8
        return self.passed_on * self.rows * (2 * row + 2 * self.itemsize)

    @property
    def gathered_memory(self) -> float:
        """Bytes that the loss holds beyond its own rows with the all-gather: all rows, and their gradient."""
        statistics = 2 * self.itemsize
        return (
            self.rows * (self.encoder.width * self.itemsize + statistics)
            + self.own_rows * self.encoder.width * self.itemsize
        )

    @property
    def ring_memory(self) -> float:
        """Likewise in the ring: own rows normalised, their gradient, one block at work and one on its way, each with 16
        bytes of labels and statistics a row; and 14 bytes for every similarity of a tile.
        """
        blocks = min(self.processes + 1, 4)
        row = self.encoder.width * self.itemsize + 16
        return blocks * self.own_rows * row + 14 * min(TILE, self.own_rows) ** 2

    @property
    def encoding(self) -> float:
        """Operations of the encoder, forward and backward."""
        return self.own_rows * (3 * self.encoder.trained + self.encoder.fixed)

    @property
    def similarities(self) -> float:
        """Operations of the loss: own rows with all, forward, and again with their product with the rows backward."""
        return 6 * self.own_rows * self.rows * self.encoder.width


def table(encoder: Encoder) -> Iterator[str]:
    """The lines of a Markdown table: every number of GPUs with every batch."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    for processes in GPUS:
        for batch in BATCHES:
            step = Step(encoder, processes, batch)
            sent = (step.gradients, step.moments, step.gathered, step.ring)
            held = (step.gathered_memory, step.ring_memory)
            work = (step.encoding, step.similarities)
            bytes_ = [words(count, "B") for count in (*sent, *held)]
            cells = [f"{processes}", f"{batch:,}", *bytes_, *(words(count, "FLOP") for count in work)]
            yield f"| {' | '.join(cells)} |"


def words(count: float, unit: str) -> str:
    """A count with three significant figures and a prefix."""
    factor, prefix = next((f, p) for f, p in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if count >= f)
    return f"{count / factor:.3g} {prefix}{unit}"


def main() -> None:
    encoder = Encoder.of(load_config(None, SETTINGS))
    print("\n".join(table(encoder)))


if __name__ == "__main__":
    main()
