"""What the Triton kernels compile to: registers, spills, shared memory, instructions of loops. No GPU needed.

    python -m benchmarks.gpu_figures --output benchmarks/results/gpu-compiled.json [--before OLDER.json]

writes the figures for compute capability 80, 90 and 100, beside the file's earlier ones or those of another file, and
the table of docs/gpu.md. Shares are estimates from these figures, not measurements: of the rate of the tensor cores,
if all units work at once ("at most"), and if products and instructions take turns ("in turns"). Of both, waiting for
memory and for barriers takes more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "benchmarks/results/gpu-compiled.json"
PAGE = ROOT / "docs/gpu.md"
MARKS = "<!-- compiled figures: begin -->\n", "<!-- compiled figures: end -->\n"
CAPABILITIES = (80, 90, 100)
# Operations of a multiprocessor's tensor cores in a cycle, of which a multiply-add is two, from the vendor's data
# sheets: 16-bit operands; TF32 has half as much.
RATES = {80: 2048, 90: 4096, 100: 8192}
SCHEDULERS = 4  # instructions of warps that a multiprocessor starts in a cycle
SPECIAL = 16  # results of its special function units (MUFU) in a cycle
SOURCES = 4  # of a bin of a spectrum that is decimated by two: iterations of the loop that gathers them
Launch = dict[str, Any]


def launches(cc: int) -> dict[str, Launch]:
    """The launches of the kernels that matter, by name, as recorded; nothing runs."""
    import torch

    from scatsimclr.filters import filter_bank, padded_shape
    from scatsimclr.kernels import launching, ntxent, photometric, scattering2d
    from tests.kernels import ahead_of_time

    recorded = ahead_of_time.record()
    launching.capability = lambda device: cc // 10
    found: dict[str, Launch] = {}

    def keep(name: str, kernels: dict[str, dict[str, Any]]) -> None:
        for launch in recorded:
            kernel = launch["kernel"][1]
            wanted = kernels.get(kernel)
            if wanted is not None and all(launch["options"].get(k) == v for k, v in wanted.items()):
                found.setdefault(f"{name}: {kernel.removesuffix('_kernel')}", launch)
        recorded.clear()

    def rows(name: str, M: int, dtype: torch.dtype, kernels: dict[str, dict[str, Any]], **given: Any) -> None:
        temperature = torch.tensor(0.5) if given.get("learnt") else None
        settings = None, temperature, given.get("tau", 0.5), True, 2, 0, M
        x = torch.empty(M, 128, dtype=dtype, device="meta")
        stats = ntxent.ntxent(x, *settings)[1]
        ntxent.ntxent_backward(torch.ones(()), x, stats, *settings)
        keep(name, kernels)

    both: dict[str, dict[str, Any]] = {"forward_triangle_kernel": {}, "backward_kernel": {}}
    fixed = {kernel: {"FIXED": True} for kernel in both}
    rows("NT-Xent, 65,536 rows, bfloat16", 65536, torch.bfloat16, both)
    rows("NT-Xent, 65,536 rows, bfloat16, learnable τ", 65536, torch.bfloat16, fixed, learnt=True)
    rows("NT-Xent, 65,536 rows, bfloat16, τ = 0.01", 65536, torch.bfloat16, both, tau=0.01)
    rows("NT-Xent, 8,192 rows, bfloat16", 8192, torch.bfloat16, {"backward_kernel": {}})
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    rows("NT-Xent, 65,536 rows, TF32", 65536, torch.float32, both)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    rows("NT-Xent, 65,536 rows, float32", 65536, torch.float32, both)

    def images(name: str, size: int, dtype: torch.dtype) -> None:
        bank = filter_bank(*padded_shape((size, size), 2), 2, 2).tensors()
        filters = [torch.tensor(level).unsqueeze(-1) for level in bank]
        settings = filters, scattering2d.pack(filters, 2, 2, 2), 2, 2, 2, False
        x = torch.zeros(1, 1, size, size)
        out = scattering2d.scattering2d(x, *settings, False, dtype)
        scattering2d.scattering2d_backward(out, x, *settings)
        keep(name, {"path_kernel": {"STORE_U": False}, "path_backward_kernel": {"HAVE_DU": False}})

    torch.set_num_threads(1)
    images("scattering, 96 × 96, float32", 96, torch.float32)
    images("scattering, 96 × 96, bfloat16", 96, torch.bfloat16)
    batch = torch.zeros(2, 96, 96, 3, dtype=torch.uint8)
    order, factors = torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4)
    mirror, grayscale = torch.zeros(2, 2, dtype=torch.bool)
    weights, table = torch.zeros(2, 5, dtype=torch.int32), torch.zeros(3, 256)
    photometric.photometric(batch, mirror, order, factors, grayscale, weights, table)
    keep("photometric, 96 × 96", {"colour_kernel": {"SUM": False}, "rows_kernel": {}, "columns_kernel": {}})
    return found


def work(launch: Launch) -> float:
    """Operations of the tensor cores in an iteration of a kernel's loop, in units of 16-bit ones."""
    o = launch["options"]
    kernel = launch["kernel"][1]
    if kernel.startswith("path_"):
        # A field's transforms, of complex numbers by real matrices on both sides, and its low-pass or that's adjoint.
        transforms = (
            8 * o["PM"] * o["PN"] * (o["PM"] + o["PN"]) * (2 if kernel == "path_backward_kernel" else 1)
        )
        low_pass = 2 * o["PH"] * o["PN"] * (o["PM"] + o["PW"])
        return (transforms + low_pass) * (3 if o["SPLIT"] else 1)
    if kernel == "forward_triangle_kernel":
        operations = 2 * o["B"] ** 2 * o["BD"]
    elif o["SINGLE"]:
        operations = 4 * o["BI"] * o["BJ"] * o["BD"]
    else:  # of the two products the similarities', a loop of its own
        operations = 2 * o["BI"] * o["BJ"] * o["BK"]
    return operations * {"tf32": 2, "tf32x3": 6}.get(o["PRECISION"], 1)


def shares(cc: int, launch: Launch, figures: dict[str, int]) -> dict[str, float]:
    """Estimated shares of the tensor cores' rate, for loops of products whose inner ones, if any, gather a spectrum."""
    path = launch["kernel"][1].startswith("path_")
    if not path and (figures["inner"] or "PRECISION" not in launch["options"]):
        return {}
    warps = launch["options"]["num_warps"]
    products = work(launch) / RATES[cc]
    issue = (figures["instructions"] + (SOURCES - 1) * figures["inner"]) * warps / SCHEDULERS
    special = figures["mufu"] * warps * 32 / SPECIAL
    return {
        "at most": round(products / max(products, issue, special), 3),
        "in turns": round(products / (products + max(issue, special)), 3),
    }


def compiled(cc: int, launch: Launch) -> dict[str, Any]:
    """The figures of one launch."""
    import triton
    from triton.backends.compiler import GPUTarget

    from benchmarks.gpu import sass
    from tests.kernels import ahead_of_time

    [(_, source, options)] = ahead_of_time.sources([launch])
    made = triton.compile(source, target=GPUTarget("cuda", cc, 32), options=options)
    report = ahead_of_time.assemble(made.asm["ptx"], cc)
    loop = sass.hottest(_disassembled(made.asm["cubin"]))
    figures = {
        "registers": int(re.search(r"Used (\d+) registers", report).group(1)),
        "spills": sum(map(int, re.findall(r"(\d+) bytes spill", report))),
        "shared": made.metadata.shared,
        "instructions": loop.instructions if loop else 0,
        "inner": loop.inner if loop else 0,
        **(loop.counts if loop else {}),
    }
    return {**figures, "warps": options["num_warps"], "shares": shares(cc, launch, figures)}


def _disassembled(cubin: bytes) -> str:
    import triton

    binaries = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
        command = [binaries / "cuobjdump", "--dump-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown: before → after where both are known."""
    lines = [
        "| kernel | cc | registers | spilled bytes | shared KB | instructions of the loop | MUFU | barriers | "
        "asynchronous copies | share at most | in turns |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    before = found["before"]["figures"] if found.get("before") else {}
    for name, by_capability in found["figures"].items():
        for cc, after in by_capability.items():
            earlier = before.get(name, {}).get(cc)

            def cell(value: Any, earlier: Any = earlier, after: Any = after) -> str:
                new, old = value(after), value(earlier) if earlier else None
                return new if old in (None, new) else f"{old} → {new}"

            def share(kind: str) -> Any:
                return lambda f, kind=kind: f"{f['shares'][kind]:.0%}" if f["shares"] else "–"

            cells = [cell(lambda f, key=key: f"{f.get(key, 0):,}") for key in ("registers", "spills")]
            cells += [cell(lambda f: f"{f['shared'] / 1024:.0f}")]
            keys = ("instructions", "mufu", "barriers", "async")
            cells += [cell(lambda f, key=key: f"{f.get(key, 0):,}") for key in keys]
            cells += [cell(share("at most")), cell(share("in turns"))]
            lines.append(" | ".join([f"| {name}", cc, *cells]) + " |")
    return "\n".join(lines) + "\n"


def written(page: str, found: dict[str, Any]) -> str:
    """The page with the table between its marks."""
    head, rest = page.split(MARKS[0])
    _, tail = rest.split(MARKS[1])
    return f"{head}{MARKS[0]}\n{table(found)}\n{MARKS[1]}{tail}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--before", type=Path, help="a file whose figures are shown as the earlier ones")
    parser.add_argument(
        "--only", type=int, nargs="+", default=CAPABILITIES, metavar="CC", help="the others stay"
    )
    parser.add_argument(
        "--kernels", default="", metavar="TEXT", help="only those whose names have it; others stay"
    )
    given = parser.parse_args()
    import triton

    found: dict[str, Any] = {"figures": {}, "before": None}
    if given.output.exists():
        found = json.loads(given.output.read_text(encoding="utf-8"))
    if given.before:
        found["before"] = json.loads(given.before.read_text(encoding="utf-8"))
        found["before"].pop("before", None)
    found["triton"] = triton.__version__
    for cc in given.only:
        for name, launch in launches(cc).items():
            if given.kernels in name:
                by_capability = found["figures"].setdefault(name, {})
                by_capability[str(cc)] = compiled(cc, launch)
                found["figures"][name] = {key: by_capability[key] for key in sorted(by_capability, key=int)}
                print(cc, name, by_capability[str(cc)], flush=True)
                text = json.dumps(found, indent=1, ensure_ascii=False)
                given.output.write_text(text + "\n", encoding="utf-8")
    if given.output.resolve() == RESULTS:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
