"""Compiles recorded Triton launches for a GPU that is not there, and reads which resources they need.

`report` runs in a process without TRITON_INTERPRET: `run` starts one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Shared memory that one program may ask for, by compute capability.
LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


def run(code: str, **environment: str) -> str:
    """What the code prints, run in a process of its own that can import this file."""
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    inherited["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def record(owner: type) -> list[tuple]:
    """Replaces `owner.launch` by one that only records (mode, kernel, arguments, options, warps)."""
    launches = []

    def launch(self, kernel, grid, *args, warps=None, **options):
        launches.append((self.name, kernel, args, options, warps or self.config.warps))

    owner.launch = launch
    return launches


def report(launches: list[tuple], cc: int, **compiler_options) -> None:
    """Prints, as JSON, what each distinct launch compiles to for the compute capability."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {
        torch.bfloat16: "*bf16",
        torch.float16: "*fp16",
        torch.float32: "*fp32",
        torch.uint8: "*u8",
        torch.int32: "*i32",
        torch.int64: "*i64",
    }
    out, seen = [], set()
    for name, kernel, args, options, warps in launches:
        signature, constexprs, attributes = {}, {}, {}
        for index, (key, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
            if isinstance(value, int) and value == 1:  # a constant for Triton's launcher, too
                signature[key], constexprs[(index,)] = "constexpr", 1
                continue
            if isinstance(value, torch.Tensor):
                signature[key] = pointers[value.dtype]
            else:
                signature[key] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                attributes[(index,)] = [["tt.divisibility", 16]]
        for index, key in enumerate(kernel.arg_names):
            if key in options:
                signature[key] = "constexpr"
                constexprs[(index,)] = options[key]
        key = (kernel.fn.__name__, str(sorted(signature.items())), str(constexprs))
        if key in seen:
            continue
        seen.add(key)
        source = ASTSource(kernel, signature, constexprs, attributes)
        target = GPUTarget("cuda", cc, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": warps, **compiler_options})
        ptx = compiled.asm["ptx"]
        assembled = _assemble(ptx, cc)
        out.append(
            {
                "mode": name,
                "kernel": kernel.fn.__name__,
                "options": {k: v for k, v in options.items() if isinstance(v, (bool, int, str))},
                "shared": compiled.metadata.shared,
                "spills": sum(map(int, re.findall(r"(\d+) bytes spill", assembled))),
                "registers": int(re.search(r"Used (\d+) registers", assembled).group(1)),
                "warps": warps,
                "fused": len(re.findall(r"fma\.rn\.f32", ptx)),
                "rough": len(re.findall(r"div\.full", ptx)),
                "matrix": [i for i in ("mma.sync", "wgmma.mma_async", "tcgen05.mma") if i in ptx],
            }
        )
    print(json.dumps(out))


def _assemble(ptx: str, cc: int) -> str:
    import triton

    binaries = Path(triton.__file__).parent / "backends/nvidia/bin"
    ptxas = binaries / ("ptxas-blackwell" if cc >= 100 else "ptxas")
    ptxas = ptxas if ptxas.exists() else binaries / "ptxas"
    arch = re.search(r"\.target (sm_\w+)", ptx).group(1)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ptxas, "-v", f"-arch={arch}", file.name, "-o", "/dev/null"]
        return subprocess.run(command, text=True, capture_output=True, check=True).stderr
