"""Which engine computes a node of the scattering tree on a GPU: Triton or CUDA C++."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from .scattering2d_tables import Node

# The largest side of a node's folded spectrum up to which an engine serves it by default. Estimated on 2026-11-25 from
# operation counts for an H100, not yet measured (benchmarks/gpu_check.py does). A path of 52 × 52 (tile 64 × 64):
# Triton 4.6e6 operations of a tensor core, three times that for float32, and about 1,500 cycles of gathering, so 2,700
# or 5,500 cycles of a multiprocessor; C++ about 17,000 instructions of a warp at two thirds of the issue rate, 6,500
# cycles. Beyond 64 Triton goes through device memory, some 80 bytes a pixel of each path; C++ stays on chip.
PREFERRED = ((64, "triton"), (160, "c++"))
RADICES = (2, 3, 5, 7, 11, 13)


def shared_bytes(node: Node, h: int, w: int) -> int:
    """Shared memory of a block of the C++ kernel: `shared_bytes` of csrc/cuda/scattering2d_phases.h."""
    (rows, columns), high, wide = node.out, -(-h // 4) * 4, -(-w // 4) * 4
    complexes = rows * (columns | 1) + rows + columns
    return 8 * complexes + 4 * (rows * high + columns * wide + high * columns + rows + columns)


def only_small_factors(length: int) -> bool:
    """Whether the C++ kernel has a transform of this length."""
    for radix in RADICES:
        while length % radix == 0:
            length //= radix
    return length == 1


@lru_cache(maxsize=16)
def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for."""
    properties: Any = torch.cuda.get_device_properties(device)  # whose stubs lack this field
    return int(properties.shared_memory_per_block_optin)


def in_cpp(node: Node, outputs: tuple[int, int], engine: str, device: torch.device) -> bool:
    """Whether the C++ kernel computes a node's forward pass: where the engine asks for it, and it can.

    Args:
        node: the node.
        outputs: (h, w), the size of its coefficients.
        engine: "triton", "preferred" or "c++", see `scatsimclr.kernels.scattering2d.scattering2d`.
        device: the GPU.
    """
    if engine == "triton":
        return False
    if engine == "preferred":
        names = [name for size, name in PREFERRED if max(node.out) <= size]
        if not names or names[0] != "c++":
            return False
    fits = shared_bytes(node, *outputs) <= shared_limit(device)
    return fits and all(map(only_small_factors, node.out))
