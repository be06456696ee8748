"""The operator library: where schemas are defined, the compiled extension is loaded, and the table of
implementations is kept.

`backend="auto"` is PyTorch's dispatcher: an operator's reference is registered as
CompositeExplicitAutograd (served where nothing better is), the compiled kernels under the key of their
device. Naming a backend looks the implementation up in `IMPLEMENTATIONS` and calls it directly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

LIBRARY = torch.library.Library("scatsimclr", "DEF")
LIBRARY.define("cpu_isa() -> str")
LIBRARY.define("cpu_isa_force(str name) -> ()")


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operator.

    name: "reference", "cpu", "triton" or "cuda".
    device: the device type it serves, or "any".
    forward, backward: callables with the operators' own signatures; backward is None where there is none.
    missing: why it cannot be used on this machine, or None where it can.
    """

    name: str
    device: str
    forward: Callable
    backward: Callable | None
    missing: Callable[[], str | None] = lambda: None


# The one reason not to serve a GPU that says nothing about the installation.
NO_GPU = "this machine has no CUDA device"

# op -> name -> Implementation, in order of preference (the first that serves a device is its default).
IMPLEMENTATIONS: dict[str, dict[str, Implementation]] = {}


def extension_path() -> Path | None:
    """The compiled library beside the package, or None where the package was installed without it."""
    found = sorted(Path(__file__).parents[1].glob("_C*.so"))
    return found[0] if found else None


def cuda_extension_path() -> Path | None:
    """The compiled CUDA library beside the package, or None where it was not built."""
    found = sorted(Path(__file__).parents[1].glob("_cuda*.so"))
    return found[0] if found else None


def cuda_extension_missing() -> str | None:
    if cuda_extension_path() is None:
        return "the package was installed without its CUDA extension (no nvcc, or SCATSIMCLR_CUDA=0)"
    if torch.version.cuda is None:
        return "this PyTorch is a build without CUDA"
    return None if torch.cuda.is_available() else NO_GPU


def load_extension() -> None:
    """Registers the compiled operators. A library that is there but does not load is an error.

    The CUDA library is loaded only where PyTorch has CUDA: it needs its symbols.
    """
    for path in (extension_path(), cuda_extension_path() if torch.version.cuda else None):
        if path is not None:
            _load(path)


def _load(path: Path) -> None:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(
            f"the compiled extension {path.name} is there but does not load with torch {torch.__version__}: "
            f"{error}. Rebuild it (`make setup`, or `pip install --no-build-isolation .`), or remove it to use "
            "the reference path."
        ) from error


def extension_missing() -> str | None:
    return None if extension_path() else "the package was installed without its compiled extension"


def key_call(op: torch._ops.OpOverload, key: torch._C.DispatchKey) -> Callable:
    """A callable that runs the kernel registered for one dispatch key, whatever the default is."""
    keys = torch._C.DispatchKeySet(key)
    return lambda *args, **kwargs: op.redispatch(keys, *args, **kwargs)


def check_backend(op: str, backend: str) -> None:
    """ValueError for what is neither "auto" nor the name of an implementation of `op`."""
    if backend != "auto" and backend not in IMPLEMENTATIONS[op]:
        raise ValueError(
            f"backend must be 'auto' or one of {sorted(IMPLEMENTATIONS[op])} for {op}, got {backend!r}"
        )


def select(op: str, backend: str, device: torch.device) -> Implementation:
    """The named implementation of `op`, or a ValueError that says why it cannot serve `device`."""
    table = IMPLEMENTATIONS[op]
    check_backend(op, backend)
    implementation = table[backend]
    if reason := implementation.missing():
        raise ValueError(f"backend {backend!r} of {op} is not available: {reason}")
    if implementation.device not in ("any", device.type):
        raise ValueError(
            f"backend {backend!r} of {op} serves {implementation.device} tensors, got one on {device}"
        )
    return implementation


def differentiable(forward: Callable, setup_context: Callable, backward: Callable) -> Callable:
    """A callable of a named implementation with the operator's own autograd formula, outside the dispatcher.

    What `backward` computes with PyTorch's operators or other such callables is differentiable in turn.
    """

    class Named(torch.autograd.Function):
        @staticmethod
        def forward(*args):
            return forward(*args)

        @staticmethod
        def backward(ctx, *grads):
            # Of a list of tensors the dispatcher's formula has a list, which is no input here.
            return tuple(None if isinstance(g, list) else g for g in backward(ctx, *grads))

    Named.setup_context = staticmethod(setup_context)
    return Named.apply


def called(op: torch._ops.OpOverload, args: Sequence, tensors: Sequence[Tensor | None]):
    """op(*args), past the dispatcher's autograd, ten microseconds of Python, where none of `tensors` wants it."""
    wanted = torch.is_grad_enabled() and any([t is not None and t.requires_grad for t in tensors])
    if wanted or torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def forward_mode(*tensors: Tensor | None) -> bool:
    """Whether a derivative of forward mode (`torch.func.jvp`, dual tensors) goes through one of the tensors.

    The operators have none: where this is so, plain PyTorch has to compute the value.
    """
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def gradients_again(function: Callable[..., tuple], inputs: Sequence[Tensor], cotangents: Sequence) -> list:
    """Products of cotangents with the derivative of a gradient, by PyTorch's own derivatives of plain PyTorch.

    function: gets `inputs`, or copies of them that ask for a gradient, and returns tensors made with `create_graph`.
    cotangents: one for each of these, or None. Returns a tensor or None for each input, differentiable in turn where a
    graph is asked for.
    """
    higher = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [
            x if higher and x.requires_grad else x.detach().requires_grad_(x.is_floating_point())
            for x in inputs
        ]
        found = function(*leaves)
        pairs = [(y, g) for y, g in zip(found, cotangents, strict=True) if g is not None and y.requires_grad]
        if not pairs:
            return [None] * len(inputs)
        outputs, weights = zip(*pairs, strict=True)
        return list(torch.autograd.grad(outputs, leaves, weights, create_graph=higher, allow_unused=True))


def default_implementation(op: str, device: str) -> Implementation:
    """The implementation that `backend="auto"` uses on a device type.

    Read off PyTorch's dispatcher table, so that it cannot differ from what runs.
    """
    table = IMPLEMENTATIONS[op]
    key = {"cpu": "CPU", "cuda": "CUDA"}[device]
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"scatsimclr::{op}", key):
        for implementation in table.values():
            if implementation.device == device and implementation.missing() in (None, NO_GPU):
                return implementation
    return table["reference"]


@lru_cache(maxsize=1)
def _recorded() -> dict[tuple[str, str], str]:
    found = {}
    for path in sorted((Path(__file__).parents[2] / "benchmarks/results").glob("gpu-*.json")):
        for op, names in json.loads(path.read_text())["verified"].items():
            found.update({(op, name): path.name for name in names})
    return found


def recorded_run(op: str, name: str) -> str:
    """The file of `benchmarks/results/` that records that an implementation ran on a GPU and agreed with the
    reference (`benchmarks/gpu_check.py` writes them); empty where there is none, as outside of a checkout."""
    return _recorded().get((op, name), "")


def backends() -> dict[str, dict[str, str]]:
    """{operator: {device type: name of the implementation that serves it}} on this machine.

    "cuda" is listed whether or not a GPU is present. Whether an implementation has run on one says
    `recorded_run`, which `python -m scatsimclr.info` prints.
    """
    return {
        op: {device: default_implementation(op, device).name for device in ("cpu", "cuda")}
        for op in IMPLEMENTATIONS
    }
