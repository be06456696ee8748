"""Step: the device's own limits, which shares are of."""

from __future__ import annotations

from benchmarks import measure
from benchmarks.gpu.device import Cases, Device


def cases(device: Device) -> Cases:
    """Rates of large matrix products and of a copy."""
    sizes = device.pick({}, {"n": 32, "count": 1 << 12})
    return {"rates": lambda: measure.limits(device.type, **sizes)}
