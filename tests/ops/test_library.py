"""The registry of operators: what the dispatcher has, what names and defaults mean, and records of runs on GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import scatsimclr
from scatsimclr import NTXentLoss, ScatSimCLR
from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.ops import availability, gpu_records, ntxent, scattering2d
from scatsimclr.ops.availability import Availability
from scatsimclr.ops.library import OPERATORS, backends, listed, serving
from scatsimclr.ops.ntxent import NTXENT
from scatsimclr.ops.scattering2d import SCATTERING2D

ABSENT = Availability(False, "it is not installed")
NO_DEVICE = Availability(True, "this machine has no such device")


def has_kernel(op, key):
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"scatsimclr::{op}", key)


@pytest.mark.parametrize("op", OPERATORS)
def test_the_dispatcher_has_what_the_table_lists(op):
    entries = OPERATORS[op].implementations
    assert list(entries)[-1] == "reference"
    assert has_kernel(op, "CompositeExplicitAutograd")
    assert has_kernel(op, "CPU") == ("cpu" in entries and availability.compiled().usable)
    assert has_kernel(op, "CUDA") == ("triton" in entries and availability.HAS_TRITON)


def test_a_gradient_has_the_implementations_of_its_operator():
    for operator in OPERATORS.values():
        if operator.part_of and operator.name != "scattering2d_pack":  # which is never named
            assert list(operator.implementations) == list(OPERATORS[operator.part_of].implementations)


def test_backends_lists_operators_without_their_parts():
    assert scatsimclr.backends is backends
    assert set(backends()) == {"batch_norm", "conv3x3", "ntxent", "photometric", "scattering2d"}
    assert [operator.name for operator in listed()] == list(backends())


def with_availability(operator, **changed):
    """The operator, as if its implementations were all available but for those in `changed`."""

    def pretend(entry):
        found = changed.get(entry.name, Availability())
        return replace(entry, availability=lambda device=None: found)

    entries = {name: pretend(entry) for name, entry in operator.implementations.items()}
    return replace(operator, implementations=entries)


@pytest.mark.skipif(not availability.HAS_TRITON, reason="triton is not installed")
@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "cuda"),
        ({"cuda": NO_DEVICE, "triton": NO_DEVICE}, "cuda"),
        ({"cuda": ABSENT}, "triton"),
        ({"cuda": ABSENT, "triton": NO_DEVICE}, "triton"),
        ({"cuda": ABSENT, "triton": ABSENT}, "reference"),
    ],
)
def test_the_default_on_a_gpu_is_the_first_that_is_installed(changed, name):
    """Whether or not this machine has a GPU."""
    assert with_availability(SCATTERING2D, **changed).default("cuda").name == name


def test_a_name_that_cannot_serve_says_why():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(
        ValueError, match=r"^backend must be 'auto' or one of \['cpu', .*\] for ntxent, got 'fast'"
    ):
        NTXENT.check("fast", cpu)
    with pytest.raises(ValueError, match=r"^backend 'cpu' of ntxent is not available: it is not installed$"):
        with_availability(NTXENT, cpu=ABSENT).check("cpu", cpu)
    with pytest.raises(ValueError, match=r"^backend 'cpu' of ntxent serves cpu tensors, got one on cuda"):
        with_availability(NTXENT).check("cpu", gpu)
    for device in (cpu, gpu):
        NTXENT.check("auto", device)
        NTXENT.check("reference", device)


@pytest.mark.skipif(not availability.HAS_TRITON, reason="triton is not installed")
@pytest.mark.parametrize(
    ("release", "capability", "served"),
    [("3.6.0", (9, 0), True), ("3.6.0", (10, 0), False), ("3.6.0", (12, 0), True), ("3.7.1", (10, 3), False),
     ("3.8.0", (10, 0), True), ("3.10.0", (10, 0), True)],
)  # fmt: skip
def test_what_triton_miscompiles_for_a_gpu_is_left_to_the_reference(release, capability, served, monkeypatch):
    import triton

    monkeypatch.setattr(triton, "__version__", release)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    availability._cannot_multiply.cache_clear()
    try:
        found = {op: names["cuda"] for op, names in backends().items()}
        gpu = torch.device("cuda", 1)
        if not served:
            assert found == {"ntxent": "reference", "scattering2d": "reference", "photometric": "triton",
                             "conv3x3": "reference", "batch_norm": "reference"}  # fmt: skip
            reason = f"is not available: Triton {release} does not compile it for compute capability 10"
            with pytest.raises(ValueError, match=reason):
                NTXENT.check("triton", gpu)
        else:
            assert found["ntxent"] == "triton"
            NTXENT.check("triton", gpu)
        rows = SimpleNamespace(dtype=torch.float32, device=gpu)
        assert ntxent._on_gpu(lambda x: False, lambda x: True, 0)(rows) == served
        packed = torch.empty(2, dtype=torch.uint8)
        assert scattering2d._packed_on_gpu(rows, [], packed, 2, 8, 2)[1] == served
    finally:
        availability._cannot_multiply.cache_clear()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_layers_name_what_serves_them(backend):
    model = ScatSimCLR(1, 2, (8, 8, 3), 8, 4, backend=backend)
    loss = NTXentLoss(backend=backend)
    found = serving(torch.nn.ModuleList([model, loss]), "cpu")
    expected = {
        op: backends()[op]["cpu"] if backend == "auto" else backend for op in ("scattering2d", "ntxent")
    }
    assert found == expected
    assert serving(ResNetSimCLR("resnet18", 4), "cpu") == {}


def test_records_say_what_has_run_on_a_gpu(tmp_path, monkeypatch):
    record = {"verified": {"ntxent": ["triton"], "scattering2d": []}}
    (tmp_path / "gpu-one.json").write_text(json.dumps(record))
    monkeypatch.setattr(gpu_records, "FOLDER", tmp_path)
    gpu_records._recorded.cache_clear()
    try:
        assert gpu_records.recorded_run("ntxent", "triton") == "gpu-one.json"
        assert gpu_records.recorded_run("scattering2d", "triton") == ""
    finally:
        gpu_records._recorded.cache_clear()
