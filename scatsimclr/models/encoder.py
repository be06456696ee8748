"""The encoders that can be trained."""

from __future__ import annotations

from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.models.scatsimclr import ScatSimCLR

Encoder = ScatSimCLR | ResNetSimCLR
