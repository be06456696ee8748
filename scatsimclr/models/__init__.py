"""Encoders: ScatSimCLR's adapter networks on a scattering front end."""

from torch import nn


def parameter_count(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
