"""Compiles recorded Triton launches for a GPU that is not there, and reads which resources they need.

A launch is recorded as its `description`, in a process of the interpreter (see race.py) or by `record`. What compiles
runs in a process without TRITON_INTERPRET: `run` starts one.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Shared memory that one program may ask for, by compute capability.
LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
Description = dict[str, Any]


def served() -> list[int]:
    """Compute capabilities for which the Triton that is installed compiles products of matrices."""
    from scatsimclr.ops import availability

    return [cc for cc in LIMITS if not availability._cannot_multiply(divmod(cc, 10))]


def capabilities(found: Iterable[Any], usual: Any) -> list[Any]:
    """Test parameters of which all but the usual one are for --every-launch."""
    import pytest

    return [one if one == usual else pytest.param(one, marks=pytest.mark.every_launch) for one in found]


def run(code: str, given: str = "", **environment: str) -> str:
    """What the code prints, run in a process of its own that can import this file.

    Args:
        code: of Python.
        given: what it can read from its standard input.
        environment: variables to set.
    """
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    inherited["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        input=given,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def interpret(code: str, cases: int) -> list[Description]:
    """Runs code that ends with `count` cases done in the interpreter, watched for races; its distinct launches."""
    watched = f"import race\nrace.watch()\n{code}\nprint(race.results(count))"
    found = json.loads(run(watched, TRITON_INTERPRET="1"))
    assert found["races"] == []
    assert found["cases"] == cases
    assert found["launches"]
    return found["launches"]


def compile_all(launches: list[Description], ccs: Iterable[int]) -> None:
    """Takes the launches through `front_end` for the compute capabilities."""
    code = f"""
import json, sys, ahead_of_time
launches = json.load(sys.stdin)
print([ahead_of_time.front_end(launches, cc) for cc in {list(ccs)}])
"""
    assert min(json.loads(run(code, json.dumps(launches)))) > 0


def description(kernel: Any, args: tuple, options: dict[str, Any]) -> Description:
    """What the compiler sees of a launch: kernel, types of arguments, options; of numbers what it may specialise."""
    import torch

    pointers = {
        torch.bfloat16: "*bf16",
        torch.float16: "*fp16",
        torch.float32: "*fp32",
        torch.float64: "*fp64",
        torch.uint8: "*u8",
        torch.int32: "*i32",
        torch.int64: "*i64",
    }
    seen = []
    for value in args:
        if isinstance(value, torch.Tensor):
            meta = value.device.type == "meta"
            seen.append([pointers[value.dtype], 16 if meta or value.data_ptr() % 16 == 0 else 2])
        elif isinstance(value, float):
            seen.append(["fp32", 2])
        else:
            kind = "i32" if -(2**31) <= value < 2**31 else "i64"
            seen.append([kind, 1 if value == 1 else 16 if value % 16 == 0 else 2])
    return {"kernel": [kernel.fn.__module__, kernel.fn.__name__], "args": seen, "options": options}


def record() -> list[Description]:
    """Launches are from now on recorded, with how many programs they have, and not run."""
    from scatsimclr.kernels import launching

    launches = []

    def launch(kernel, programs, *args, warps=4, **options):
        launches.append({**description(kernel, args, {**options, "num_warps": warps}), "programs": programs})

    launching.launch = launch
    return launches


def sources(launches: list[Description]) -> Iterator[tuple[Description, Any, dict[str, Any]]]:
    """Of each distinct launch: its description, what triton.compile takes, and the compiler's options."""
    from triton.compiler import ASTSource

    known = set()
    for launch in launches:
        module, name = launch["kernel"]
        kernel = getattr(importlib.import_module(module), name)
        signature, constexprs, attributes = {}, {}, {}
        for param, (kind, multiple) in zip(kernel.params, launch["args"], strict=False):
            if kind[0] == "i" and param.do_not_specialize:
                multiple = 2
            if kind[0] == "i" and multiple == 1:  # a constant for Triton's launcher, too
                signature[param.name], constexprs[(param.num,)] = "constexpr", 1
                continue
            signature[param.name] = kind
            if multiple == 16:
                attributes[(param.num,)] = [["tt.divisibility", 16]]
        compiler = dict(launch["options"])
        for param in kernel.params:
            if param.name in compiler:
                signature[param.name] = "constexpr"
                constexprs[(param.num,)] = compiler.pop(param.name)
        key = (module, name, str(signature), str(constexprs), str(attributes), str(compiler))
        if key not in known:
            known.add(key)
            yield launch, ASTSource(kernel, signature, constexprs, attributes), compiler


def front_end(launches: list[Description], cc: int) -> int:
    """Takes each distinct launch through Triton's front end, up to layouts for the compute capability; how many."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    target, count = GPUTarget("cuda", cc, 32), 0
    for launch, source, given in sources(launches):
        backend = make_backend(target)
        options = backend.parse_options(given)
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        stages: dict[str, Any] = {}
        backend.add_stages(stages, options, source.language)
        made = backend.get_codegen_implementation(options), backend.get_module_map(), context
        print(
            f"cc {cc}: {launch}", file=sys.stderr, flush=True
        )  # the last line, where the compiler ends the process
        module = source.make_ir(target, options, *made)
        for stage in ("ttir", "ttgir"):
            module = stages[stage](module, {})
        count += 1
    return count


def report(launches: list[Description], cc: int) -> None:
    """Prints, as JSON, what each distinct launch compiles to for the compute capability."""
    import triton
    from triton.backends.compiler import GPUTarget

    out = []
    for launch, source, options in sources(launches):
        compiled = triton.compile(source, target=GPUTarget("cuda", cc, 32), options=options)
        ptx = compiled.asm["ptx"]
        assembled = assemble(ptx, cc)
        out.append(
            {
                "kernel": launch["kernel"][1],
                "mode": launch.get("mode", ""),
                "options": launch["options"],
                "shared": compiled.metadata.shared,
                "spills": sum(map(int, re.findall(r"(\d+) bytes spill", assembled))),
                "registers": int(re.search(r"Used (\d+) registers", assembled).group(1)),
                "fused": len(re.findall(r"fma\.rn\.f32", ptx)),
                "rough": len(re.findall(r"div\.full", ptx)),
                "matrix": [i for i in ("mma.sync", "wgmma.mma_async", "tcgen05.mma") if i in ptx],
            }
        )
    print(json.dumps(out))


def assemble(ptx: str, cc: int) -> str:
    """What ptxas says of the code."""
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
