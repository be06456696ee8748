"""Step: which device and versions the results are of, and which packages are absent."""

from __future__ import annotations

import importlib.util
import os
import platform
from typing import Any

import torch

from benchmarks.gpu.device import Cases, Device, NotRun

# What steps can use and need not have: peers, DALI, and what the package needs for more than kernels.
OPTIONAL = ("kymatio", "pydantic", "pooch", "filelock", "nvidia.dali", "inf_cl", "pytest", "cv2")


def absent() -> list[str]:
    """The optional packages that cannot be imported."""

    def found(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ImportError:
            return False

    return [name for name in OPTIONAL if not found(name)]


def cases(device: Device) -> Cases:
    """The device and its software."""
    if not device.dry and not torch.cuda.is_available():
        raise NotRun("no GPU here")

    def describe() -> dict[str, Any]:
        import triton

        found = {
            "device": "dry run", "torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda,
            "python": platform.python_version(), "cores": os.cpu_count(),
        }  # fmt: skip
        if not device.dry:
            properties = torch.cuda.get_device_properties(0)
            found |= {
                "device": properties.name, "capability": [properties.major, properties.minor],
                "multiprocessors": properties.multi_processor_count, "memory": properties.total_memory,
                "driver": torch._C._cuda_getDriverVersion(),
            }  # fmt: skip
        return {"machine": found, "absent": absent()}

    return {"describe": describe}
