"""The operator library: `register` defines an operator once, with everything that implements it.

`backend="auto"` is PyTorch's dispatcher: an operator's reference is registered as CompositeExplicitAutograd, which
serves where nothing better does, and kernels under the key of their device. A named backend is looked up in the
operator's own table and called directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn
from torch._ops import OpOverload

from scatsimclr.ops import availability
from scatsimclr.ops.availability import Availability

P = ParamSpec("P")
R = TypeVar("R")

LIBRARY = torch.library.Library("scatsimclr", "DEF")
LIBRARY.define("cpu_isa() -> str")
LIBRARY.define("cpu_isa_force(str name) -> ()")


@dataclass(frozen=True)
class Implementation(Generic[P, R]):
    """One way to compute an operator.

    Attributes:
        name: "cpu", "cuda", "triton" or "reference".
        device: the device type it serves, or "any".
        run: computes the operator, with the operator's own signature; not differentiable by itself.
        availability: whether it can be used on this machine: on a device, or on the current one of its type.
    """

    name: str
    device: str
    run: Callable[P, R]
    availability: Callable[..., Availability]


@dataclass(frozen=True, eq=False)
class Operator(Generic[P, R]):
    """A registered operator.

    Attributes:
        name: its name in `torch.ops.scatsimclr`.
        overload: the operator itself: the dispatcher's choice, with the registered derivative.
        implementations: by name, in order of preference: the first one that serves a device is its default.
        part_of: the operator that this one is the gradient or a helper of, or "".
    """

    name: str
    overload: OpOverload[P, R]
    implementations: Mapping[str, Implementation[P, R]]
    part_of: str

    def by(self, backend: str) -> Callable[P, R]:
        """What computes the operator for a backend that `check` accepts."""
        return self.overload if backend == "auto" else self.implementations[backend].run

    def check_name(self, backend: str) -> None:
        """Raises ValueError for what is neither "auto" nor the name of an implementation."""
        if backend != "auto" and backend not in self.implementations:
            raise ValueError(
                f"backend must be 'auto' or one of {sorted(self.implementations)} for {self.name}, got {backend!r}"
            )

    def check(self, backend: str, device: torch.device) -> None:
        """Raises a ValueError that says why a backend cannot serve tensors on `device`."""
        self.check_name(backend)
        if backend == "auto":
            return
        implementation = self.implementations[backend]
        served = implementation.device in ("any", device.type)
        if obstacle := implementation.availability(device if served else None).obstacle:
            raise ValueError(f"backend {backend!r} of {self.name} is not available: {obstacle}")
        if not served:
            raise ValueError(
                f"backend {backend!r} of {self.name} serves {implementation.device} tensors, got one on {device}"
            )

    def default(self, device: str) -> Implementation[P, R]:
        """The implementation that "auto" uses on a device type, "cpu" or "cuda".

        Read off PyTorch's dispatcher table, so that it cannot differ from what runs.
        """
        key = {"cpu": "CPU", "cuda": "CUDA"}[device]
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"scatsimclr::{self.name}", key):
            for implementation in self.implementations.values():
                if implementation.device == device and implementation.availability().installed:
                    return implementation
        return self.implementations["reference"]

    def serving(self, backend: str, device: str) -> Implementation[P, R]:
        """The implementation that computes it on a device type, for a backend that `check` accepts."""
        return self.default(device) if backend == "auto" else self.implementations[backend]


OPERATORS: dict[str, Operator[..., Any]] = {}


def register(
    op: str,
    schema: str,
    *,
    fake: Callable[P, R],
    reference: Callable[P, R],
    cpu: bool = False,
    triton: Callable[P, R] | None = None,
    cuda: Callable[P, R] | None = None,
    on_gpu: Callable[P, R] | None = None,
    products: bool = False,
    part_of: str = "",
) -> Operator[P, R]:
    """Defines an operator and registers its implementations.

    Args:
        op: the operator's name.
        schema: its arguments and results, "(Tensor x, …) -> Tensor".
        fake: gives results of the right shape, dtype and layout, for tensors without data.
        reference: plain PyTorch, for every device.
        cpu: whether the compiled extension registers a kernel for CPU tensors.
        triton: the Triton kernel.
        cuda: the CUDA C++ kernel.
        on_gpu: what "auto" runs on a GPU where Triton is installed, if not `triton` for every input.
        products: whether the Triton kernel multiplies matrices; `on_gpu` asks `availability.cannot_multiply`.
        part_of: the operator that this one is the gradient or a helper of.

    Returns:
        The operator, which `OPERATORS` holds as well.
    """
    LIBRARY.define(op + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(op, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"scatsimclr::{op}", fake, lib=LIBRARY)
    if availability.HAS_TRITON and (default := on_gpu or triton):
        LIBRARY.impl(op, default, "CUDA")
    overload: OpOverload[P, R] = getattr(torch.ops.scatsimclr, op).default
    table: list[Implementation[P, R]] = []
    if cpu:
        table.append(Implementation("cpu", "cpu", _cpu_kernel(overload), availability.compiled))
    if cuda is not None:
        table.append(Implementation("cuda", "cuda", cuda, availability.cuda))
    if triton is not None:
        needs = availability.products if products else availability.triton
        table.append(Implementation("triton", "cuda", triton, needs))
    table.append(Implementation("reference", "any", reference, availability.reference))
    operator = Operator(op, overload, {entry.name: entry for entry in table}, part_of)
    OPERATORS[op] = operator
    return operator


def late(load: Callable[[], Callable[P, R]]) -> Callable[P, R]:
    """A callable that is imported when it is called, as Triton has to be."""

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return load()(*args, **kwargs)

    return run


def _cpu_kernel(overload: OpOverload[P, R]) -> Callable[P, R]:
    """Runs the kernel registered for CPU tensors, past autograd."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        result: R = overload.redispatch(keys, *args, **kwargs)
        return result

    return run


def listed() -> list[Operator[..., Any]]:
    """The operators, without those that are part of another one."""
    return [operator for operator in OPERATORS.values() if not operator.part_of]


@runtime_checkable
class Layer(Protocol):
    """A module whose every call runs an operator.

    Attributes:
        operator_name: the operator.
        backend: as it is given to the operator.
    """

    operator_name: str
    backend: str


def serving(module: nn.Module, device: str) -> dict[str, str]:
    """{operator: name of the implementation that serves it on a device type} of the layers of a module."""
    return {
        layer.operator_name: OPERATORS[layer.operator_name].serving(layer.backend, device).name
        for layer in module.modules()
        if isinstance(layer, Layer)
    }


def backends() -> dict[str, dict[str, str]]:
    """{operator: {device type: name of the implementation that serves it}} on this machine.

    "cuda" is listed whether or not a GPU is present. `python -m scatsimclr.info` says besides whether an
    implementation has a recorded run on one.
    """
    return {
        operator.name: {device: operator.default(device).name for device in ("cpu", "cuda")}
        for operator in listed()
    }
