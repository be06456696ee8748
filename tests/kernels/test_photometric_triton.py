"""The Triton kernels of `photometric` without a GPU: Triton's interpreter, and its compiler's budgets.

Both run in processes of their own: TRITON_INTERPRET must be set, or unset, before the kernels are imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

INTERPRET = """
import warnings, torch
from scatsimclr.kernels import photometric as kernels
from scatsimclr.reference.photometric import photometric as reference
from tests.ops.test_photometric import arguments

warnings.simplefilter("ignore", RuntimeWarning)
torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True)
kernels.BLOCK = 64  # several blocks
count = 0
for shape, half, dtype in [
    ((5, 1, 1), 4, torch.float32), ((9, 1, 13), 2, torch.float32), ((3, 50, 1), 4, torch.float32),
    ((24, 7, 5), 0, torch.float16), ((24, 9, 11), 4, torch.float32), ((6, 23, 23), 9, torch.float64),
    ((0, 4, 4), 1, torch.float32),
]:
    given = arguments(*shape, half=half, dtype=dtype)
    got = kernels.photometric(*given)
    assert got.dtype == dtype and torch.equal(got, reference(*given)), (shape, half, dtype)
    count += 1
print(count)
"""

BUDGETS = """
import json, re, subprocess, tempfile, torch, triton
from pathlib import Path
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from scatsimclr.kernels import photometric as kernels
from tests.ops.test_photometric import arguments

BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"
PTXAS = BINARIES / ("ptxas-blackwell" if CC >= 100 else "ptxas")
PTXAS = PTXAS if PTXAS.exists() else BINARIES / "ptxas"
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.uint8: "*u8", torch.int32: "*i32",
         torch.int64: "*i64"}
launches = []
kernels.launch = lambda kernel, grid, *args, **options: launches.append((kernel, args, options))
for dtype in (torch.float32, torch.bfloat16):
    kernels.photometric(*arguments(2, 96, 96, dtype=dtype))
out = []
for kernel, args, options in launches:
    signature, constexprs, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in options:
            signature[name], constexprs[(index,)] = "constexpr", options[name]
            continue
        value = args[index]
        signature[name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        if isinstance(value, torch.Tensor) or value % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs, attributes), target=GPUTarget("cuda", CC, 32),
        options={"num_warps": kernels.WARPS, "enable_fp_fusion": False},
    )
    ptx = compiled.asm["ptx"]
    arch = re.search(r"\\.target (sm_\\w+)", ptx).group(1)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        report = subprocess.run([PTXAS, "-v", f"-arch={arch}", file.name, "-o", "/dev/null"], text=True,
                                capture_output=True, check=True).stderr
    out.append({
        "kernel": kernel.fn.__name__, "sum": options.get("SUM"), "shared": compiled.metadata.shared,
        "spills": sum(map(int, re.findall(r"(\\d+) bytes spill", report))),
        "registers": int(re.search(r"Used (\\d+) registers", report).group(1)),
        "fused": len(re.findall(r"fma\\.rn\\.f32", ptx)), "rough": len(re.findall(r"div\\.full", ptx)),
    })
print(json.dumps(out))
"""


def fresh(code, **environment):
    """What the code prints, run in a process of its own."""
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_interpreter_gives_the_references_bits():
    assert int(fresh(INTERPRET, TRITON_INTERPRET="1")) == 7


@pytest.mark.parametrize("cc", [80, 90, 100])
def test_the_compilers_budgets(cc):
    launches = json.loads(fresh(f"CC = {cc}\n" + BUDGETS))
    assert {launch["kernel"] for launch in launches} == {"colour_kernel", "rows_kernel", "columns_kernel"}
    for launch in launches:
        assert launch["spills"] == 0, launch
        assert launch["registers"] <= 128, launch
        # Roundings as the reference's: no fused multiply-add, no approximate division.
        assert launch["fused"] == launch["rough"] == 0, launch
