"""Heads of the pretext tasks: from h to the class of the rotation or of the permutation.

Source: arXiv 2108.13939, with the original code's layers and names, so that its files {"fc1", "fc2",
"classification_fc"} load.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from scatsimclr.models.processes import Dropout


def _layer(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, after), nn.ReLU(inplace=True), Dropout(0.5))


class RotationHead(nn.Module):
    """h (4B, h_dim) → logits (4B, 4), for four copies of each image: see `scatsimclr.data.pretext.Rotation`."""

    def __init__(self, h_dim: int):
        super().__init__()
        self.fc1, self.fc2 = _layer(h_dim, 512), _layer(512, 128)
        self.classification_fc = nn.Sequential(nn.Linear(128, 4))

    def forward(self, h: Tensor) -> Tensor:
        logits: Tensor = self.classification_fc(self.fc2(self.fc1(h)))
        return logits


class JigsawHead(nn.Module):
    """h (9B, h_dim) of nine tiles in a row → logits (B, 35): see `scatsimclr.data.pretext.Jigsaw`."""

    def __init__(self, h_dim: int, permutations: int = 35):
        super().__init__()
        self.fc1, self.fc2 = _layer(h_dim, 512), _layer(9 * 512, 4096)
        self.classification_fc = nn.Sequential(nn.Linear(4096, permutations))

    def forward(self, h: Tensor) -> Tensor:
        logits: Tensor = self.classification_fc(self.fc2(self.fc1(h).view(len(h) // 9, -1)))
        return logits


HEADS: dict[str, Callable[[int], RotationHead | JigsawHead]] = {
    "rotation": RotationHead,
    "jigsaw": JigsawHead,
}
