"""ScatSimCLR's encoder: scattering (fixed) → adapter network (trained) → h, projection head → z.

Source: Kinakh, Taran, Voloshynovskiy, "ScatSimCLR", ICCV-W 2021, arXiv 2108.13939. Module names are those of the
original code, so that its checkpoints load.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.models.checkpointing import run_checkpointed
from scatsimclr.models.convolution import Conv3x3
from scatsimclr.models.front import LogFront
from scatsimclr.models.processes import BatchNorm1d, BatchNorm2d
from scatsimclr.models.stored import file_of, settings_of, weights_of
from scatsimclr.reference.scattering2d import channels
from scatsimclr.scattering import Scattering2D

# res_blocks -> (stem width, ((block width, count), ...)), as in the original's code. The paper's parameter counts
# for 12 and 30 blocks (7.8 M and 14.1 M) are those of a stem of 96. The one with 4 blocks is this project's own, for
# small images.
ADAPTERS = {
    4: (32, ((64, 2), (128, 2))),
    8: (32, ((64, 4), (128, 4))),
    12: (256, ((128, 4), (64, 4), (128, 4))),
    16: (256, ((128, 6), (64, 4), (128, 6))),
    30: (256, ((128, 30),)),
    45: (256, ((128, 15), (64, 15), (128, 15))),
}
POOLED = 4  # the adapter's output is averaged to 4 × 4


class ResBlock(nn.Module):
    """conv3×3–BN–ReLU–conv3×3–BN, plus the input (1×1 conv and BN where the width changes), ReLU."""

    def __init__(self, in_channels: int, out_channels: int, backend: str = "auto"):
        super().__init__()
        self.conv1 = Conv3x3(in_channels, out_channels, backend=backend)
        self.bn1 = BatchNorm2d(out_channels)
        self.conv2 = Conv3x3(out_channels, out_channels, backend=backend)
        self.bn2 = BatchNorm2d(out_channels)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        # In place: no layer needs the sum for its gradient, and a new one would be fresh memory.
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class ScatSimCLR(nn.Module):
    """Scattering front end, adapter network and projection head.

    Calling it on images x (N, C, H, W) gives h (N, 2048) and z (N, out_dim).

    Args:
        J: Scale of the scattering transform.
        L: Its number of angles.
        input_size: (H, W, C) of the images.
        res_blocks: 4, 8, 12, 16, 30 or 45 residual blocks in the adapter.
        out_dim: Width of z.
        stem: Width of the first convolution; by default the original's (32 for 8 blocks, also 32 for 4, else 256).
        front: "paper", coefficients go to the adapter as they are; or "log", as logarithms standardised by the images
            that the run is trained on, with `whitened` features beside h: see `scatsimclr.models.front`.
        head: Of z: "paper", Linear–ReLU–Linear; or "normalised", with a BatchNorm after each linear layer.
        backend: Of the scattering operator. With "auto" the adapter uses `Conv3x3`'s operator where that is faster,
            with any other name PyTorch's convolutions.

    Attributes:
        activation_checkpointing: Whether training keeps less memory and takes a third longer.

    Raises:
        ValueError: A setting is out of range.
        RuntimeError: 2^J exceeds the image.
    """

    def __init__(
        self,
        J: int,
        L: int,
        input_size: tuple[int, int, int],
        res_blocks: int,
        out_dim: int,
        *,
        stem: int | None = None,
        front: str = "paper",
        head: str = "paper",
        backend: str = "auto",
    ):
        super().__init__()
        if front not in ("paper", "log"):
            raise ValueError(f"front must be 'paper' or 'log', got {front!r}")
        if head not in ("paper", "normalised"):
            raise ValueError(f"head must be 'paper' or 'normalised', got {head!r}")
        if len(input_size) != 3:
            raise ValueError(f"input_size must be (H, W, C), got {input_size!r}")
        if res_blocks not in ADAPTERS:
            raise ValueError(f"res_blocks must be one of {sorted(ADAPTERS)}, got {res_blocks!r}")
        height, width, colours = input_size
        default_stem, groups = ADAPTERS[res_blocks]
        stem = default_stem if stem is None else stem
        if stem < 1 or out_dim < 1:
            raise ValueError(f"stem and out_dim must be positive, got {stem} and {out_dim}")
        self.input_size, self.out_dim = (height, width, colours), out_dim
        self.activation_checkpointing = False
        self.h_dim = groups[-1][0] * POOLED**2

        self._scatnet = Scattering2D(J, (height, width), L=L, backend=backend)
        coefficients = colours * channels(self._scatnet.J, self._scatnet.L, 2)
        # The original constructs this normalisation and never calls it. It is kept, frozen, so that state dicts load
        # strictly in both directions; DistributedDataParallel leaves frozen parameters alone.
        self._scatnet_bn = BatchNorm2d(coefficients).requires_grad_(False)
        grid = (height >> J, width >> J)
        self.front = LogFront(colours, self._scatnet.channels, grid) if front == "log" else None
        convolution = "auto" if backend == "auto" else "reference"
        adapter: list[nn.Module] = [
            Conv3x3(coefficients, stem, backend=convolution),
            BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        ]
        before = stem
        for block_width, count in groups:
            widths = [before] + [block_width] * count
            blocks = [ResBlock(a, b, convolution) for a, b in itertools.pairwise(widths)]
            adapter.append(nn.Sequential(*blocks))
            before = block_width
        self._adapter_network = nn.Sequential(*adapter, nn.AdaptiveAvgPool2d(POOLED))
        normalised = head == "normalised"
        self.l1 = nn.Linear(self.h_dim, self.h_dim, bias=not normalised)
        self.l2 = nn.Linear(self.h_dim, out_dim, bias=not normalised)
        self.bn1 = BatchNorm1d(self.h_dim) if normalised else nn.Identity()
        self.bn2 = BatchNorm1d(out_dim) if normalised else nn.Identity()

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, backend: str = "auto") -> ScatSimCLR:
        """Loads the encoder of a run, finished or stopped, or of an export.

        Args:
            folder: A run folder, whose last checkpoint is used; or one that holds model.safetensors and config.json.
            backend: As in the constructor.

        Returns:
            The encoder in evaluation mode. Its images must be prepared as in the run: `scatsimclr.load` does that.

        Raises:
            ValueError: A file is missing or damaged, or the model is not a ScatSimCLR.
        """
        found = settings_of(Path(folder))
        try:
            settings: Any = None if found is None else found[0]
            model, shape = settings["model"], settings["dataset"]["input_shape"]
            name, J, L, width = model["base_model"], model["J"], model["L"], model["out_dim"]
            stem, front, head = model["stem"], model.get("front", "paper"), model.get("head", "paper")
        except (LookupError, TypeError, AttributeError):
            raise ValueError(f"folder must hold the settings of a run, got {folder}") from None
        if not isinstance(name, str) or not re.fullmatch(r"scatsimclr\d{1,3}", name):
            raise ValueError(f"folder must hold a ScatSimCLR, got {str(name)[:40]} in {folder}")
        # Nothing is built before these are known to be small.
        sizes = shape if isinstance(shape, list | tuple) else ()
        numbers = [J, L, width, 1 if stem is None else stem, *sizes]
        small = len(numbers) == 7 and all(type(n) is int and 1 <= n <= 2**16 for n in numbers)
        if not small or L > 64 or J > 12:
            raise ValueError(f"folder must hold sizes that a run can have, got others in {folder}")
        try:
            made = cls(
                J, L, tuple(shape), int(name.removeprefix("scatsimclr")), width,
                stem=stem, front=front, head=head, backend=backend,
            )  # fmt: skip
            made.load_state_dict(weights_of(file_of(Path(folder))))
        except RuntimeError as error:
            problem = " ".join(str(error).split())[:160]
            raise ValueError(f"folder must hold weights of its settings, got {problem} in {folder}") from None
        return made.eval()

    def scatter(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Scattering coefficients of images.

        Args:
            x: (N, C, H, W).
            dtype: Of the result, by default autocast's where it is on, else that of x. The arithmetic is float32.

        Returns:
            (N, C·K, H/2^J, W/2^J), channels-last.
        """
        if dtype is None and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        return self._scatnet.features(x, channels_last=True, dtype=dtype)

    def encode(self, x: Tensor) -> Tensor:
        """h (N, 2048) of images x (N, C, H, W)."""
        return self.adapt(self.scatter(x))

    def adapt(self, coefficients: Tensor) -> Tensor:
        """h (N, 2048) of scattering coefficients (N, C·K, H/2^J, W/2^J)."""
        if self.front is not None:
            coefficients = self.front(coefficients)
        if self.activation_checkpointing and self.training:
            return run_checkpointed(self._adapter_network, coefficients).flatten(1)
        features: Tensor = self._adapter_network(coefficients)
        return features.flatten(1)

    def whitened(self, x: Tensor) -> Tensor:
        """Whitened log-scattering (N, F), float32, of images x (N, C, H, W); ValueError without the log front."""
        if self.front is None:
            raise ValueError("front must be 'log' for whitened features, got 'paper'")
        return self.front.whitened(self.scatter(x, dtype=torch.float32))

    def project(self, h: Tensor) -> Tensor:
        """z (N, out_dim) of h (N, 2048)."""
        z: Tensor = self.bn2(self.l2(F.relu(self.bn1(self.l1(h)))))
        return z

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encode(x)
        return h, self.project(h)
