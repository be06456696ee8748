"""The networks that can be trained."""

from __future__ import annotations

from typing import TypeAlias

from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.models.scatsimclr import ScatSimCLR

Encoder: TypeAlias = ScatSimCLR | ResNetSimCLR
