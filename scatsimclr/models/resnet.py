"""The SimCLR baselines: ResNet-18 and ResNet-50 with a projection head.

Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016; torchvision's variant (the
stride of a bottleneck in its 3×3 convolution). Module names are torchvision's inside a stage and the original
ScatSimCLR code's outside, so that checkpoints of both load.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.models.checkpointing import run_checkpointed
from scatsimclr.models.convolution import Conv3x3, StridedConv3x3
from scatsimclr.models.processes import BatchNorm2d

# name -> (bottleneck blocks?, blocks of each stage)
DEPTHS = {"resnet18": (False, (2, 2, 2, 2)), "resnet50": (True, (3, 4, 6, 3))}
WIDTHS = (64, 128, 256, 512)
# torchvision's names of the modules of `_features`, in order, including those without weights.
TORCHVISION = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")


def _conv(before: int, after: int, size: int, stride: int = 1, backend: str = "auto") -> nn.Conv2d:
    if (size, stride) == (3, 1):
        return Conv3x3(before, after, backend=backend)
    if size == 3:
        return StridedConv3x3(before, after, stride)
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Two 3×3 convolutions, or 1×1, 3×3, 1×1 with four times the width, and the shortcut."""

    def __init__(self, before: int, width: int, stride: int, bottleneck: bool, backend: str):
        super().__init__()
        after = 4 * width if bottleneck else width
        shapes = [(before, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)]
        self.count = len(shapes)
        for index, (a, b, size, step) in enumerate(shapes, start=1):
            setattr(self, f"conv{index}", _conv(a, b, size, step, backend))
            setattr(self, f"bn{index}", BatchNorm2d(b))
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(_conv(before, after, 1, stride), BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for index in range(1, self.count + 1):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x))
            if index < self.count:
                x = F.relu(x, inplace=True)
        return F.relu(x + shortcut, inplace=True)


class ResNetSimCLR(nn.Module):
    """ResNet without its classifier, and a projection head.

    Calling it on images x (N, in_channels, H, W) gives h (N, 512 or 2048) and z (N, out_dim).

    Args:
        base_model: "resnet18" or "resnet50".
        out_dim: Width of z.
        cifar_stem: Whether the first convolution is 3×3 with stride 1 and without pooling, for images of 32×32, instead
            of 7×7 with stride 2 and pooling.
        in_channels: Channels of the images: 3, or 1 for grey ones.
        backend: Of the 3×3 convolutions of stride 1, see `scatsimclr.models.convolution.Conv3x3`.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        base_model: str,
        out_dim: int,
        *,
        cifar_stem: bool = False,
        in_channels: int = 3,
        backend: str = "auto",
    ):
        super().__init__()
        if base_model not in DEPTHS:
            raise ValueError(f"base_model must be one of {sorted(DEPTHS)}, got {base_model!r}")
        if out_dim < 1 or in_channels < 1:
            raise ValueError(f"out_dim and in_channels must be positive, got {out_dim} and {in_channels}")
        bottleneck, counts = DEPTHS[base_model]
        stem = _conv(in_channels, 64, 7, 2)
        pool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        if cifar_stem:
            stem, pool = _conv(in_channels, 64, 3, backend=backend), nn.Identity()
        stages, before = [], 64
        for index, (width, count) in enumerate(zip(WIDTHS, counts, strict=True)):
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and index > 0 else 1
                blocks.append(Block(before, width, stride, bottleneck, backend))
                before = 4 * width if bottleneck else width
            stages.append(nn.Sequential(*blocks))
        self.out_dim, self.h_dim = out_dim, before
        self.activation_checkpointing = False
        self._features = nn.Sequential(
            stem, BatchNorm2d(64), nn.ReLU(inplace=True), pool, *stages, nn.AdaptiveAvgPool2d(1)
        )
        self._l1 = nn.Linear(before, before)
        self._l2 = nn.Linear(before, out_dim)
        for module in self._features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def encode(self, x: Tensor) -> Tensor:
        """h (N, h_dim) of images x (N, in_channels, H, W)."""
        if self.activation_checkpointing and self.training:
            return run_checkpointed(self._features, x).flatten(1)
        features: Tensor = self._features(x)
        return features.flatten(1)

    def project(self, h: Tensor) -> Tensor:
        """z (N, out_dim) of h (N, h_dim)."""
        z: Tensor = self._l2(F.relu(self._l1(h)))
        return z

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encode(x)
        return h, self.project(h)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet's state dict with the names of `ResNetSimCLR._features`, without its classifier."""
    places = {name: str(index) for index, name in enumerate(TORCHVISION)}
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if first != "fc":
            renamed[f"{places[first]}.{rest}"] = value
    return renamed


def is_torchvision(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has torchvision's names."""
    return "conv1.weight" in state and "layer1.0.conv1.weight" in state
