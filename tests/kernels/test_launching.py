"""What every launcher of the Triton kernels does alike: grids, devices, memory between calls, settings of torch."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton", reason="triton is not installed")
from scatsimclr.kernels import launching, ntxent, photometric, scattering2d
from scatsimclr.kernels import scattering2d_planes as planes
from scatsimclr.kernels import scattering2d_tables as tables


@pytest.fixture(autouse=True)
def _hopper(monkeypatch):
    """Devices that are not there are not asked what they are."""
    monkeypatch.setattr(launching, "capability", lambda device: 9)


@pytest.fixture
def launches(monkeypatch):
    """Launches, recorded instead of run: kernel's name, programs, arguments."""
    found = []

    def launch(kernel, programs, *args, **options):
        found.append((kernel.fn.__name__, programs, args))

    monkeypatch.setattr(launching, "launch", launch)
    return found


def run_scattering2d(size, device):
    J, L = 2, 2
    filters = [torch.empty(size, size, 1, device=device)]
    blob = tables.layout(J, L, 2, size, size)[1]
    packed = torch.empty(blob, dtype=torch.uint8, device=device)
    x = torch.empty(1, 1, size, size, device=device)
    settings = filters, packed, J, L, 2, True
    out = scattering2d.scattering2d(x, *settings, False, torch.float32)
    scattering2d.scattering2d_backward(out, x, *settings)


def run_photometric(size, device):
    images = torch.empty(2, size, size, 3, dtype=torch.uint8, device=device)
    order, factors = (torch.empty(2, 4, dtype=dtype, device=device) for dtype in (torch.int64, torch.float32))
    mirror, grayscale = (torch.empty(2, dtype=torch.bool, device=device) for _ in range(2))
    weights = torch.empty(2, 5, dtype=torch.int32, device=device)
    table = torch.empty(3, 256, device=device)
    photometric.photometric(images, mirror, order, factors, grayscale, weights, table)


def run_ntxent(rows, device, depth=128, labelled=False):
    x = torch.empty(rows, depth, device=device, dtype=torch.bfloat16)
    labels = torch.empty(rows, dtype=torch.int64, device=device) if labelled else None
    settings = labels, None, 0.5, True, 2, 0, rows
    stats = ntxent.ntxent(x, *settings)[1]
    ntxent.ntxent_backward(torch.empty((), device=device), x, stats, *settings)


@pytest.mark.parametrize("size", [4096, 6000, 8192])
@pytest.mark.parametrize("run", [run_scattering2d, run_photometric])
def test_large_images_fit_a_grid(launches, run, size):
    run(size, "meta")
    assert launches
    for name, programs, _ in launches:
        assert isinstance(programs, int), (name, programs)  # one dimension: others end at 65,535
        assert 0 < programs < 2**31, (name, programs)


@pytest.mark.parametrize(("rows", "depth"), [(1 << 22, 128), (64, 1 << 23)])
def test_many_rows_and_columns_fit_a_grid(launches, rows, depth):
    run_ntxent(rows, "meta", depth, labelled=True)
    assert all(isinstance(programs, int) and 0 < programs < 2**31 for _, programs, _ in launches)


@pytest.mark.parametrize(
    "run",
    [
        lambda device: scattering2d._launch(planes.pad_kernel, 1, torch.empty(1, device=device)),
        lambda device: run_photometric(20, device),
        lambda device: run_ntxent(512, device),
        lambda device: run_ntxent(4096, device, labelled=True),
    ],
    ids=["scattering2d", "photometric", "ntxent", "ntxent of tiles"],
)
def test_every_launch_is_on_the_device_of_its_tensors(monkeypatch, run):
    """Not on the current one, which for images on a second GPU is the first."""
    from triton.runtime.jit import JITFunction

    current, seen = [torch.device("cuda", 0)], []

    @contextmanager
    def guard(device):
        current.append(torch.device(device))
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(JITFunction, "run", lambda self, *args, **options: seen.append(current[-1]))
    with FakeTensorMode():
        run(torch.device("cuda", 1))
    assert set(seen) == {torch.device("cuda", 1)}


def test_nothing_launches_but_the_launcher():
    folder = Path(launching.__file__).parent
    launching_files = {path.name for path in folder.glob("*.py") if "num_warps=" in path.read_text()}
    assert launching_files == {"launching.py"}


@pytest.mark.parametrize(("rows", "labelled"), [(512, False), (4096, False), (4096, True)])
def test_a_call_keeps_no_memory(launches, rows, labelled):
    """Under torch.compile(mode="reduce-overhead") a call's memory is a CUDA graph's, which takes it back."""
    with FakeTensorMode():
        run_ntxent(rows, torch.device("cuda", 0), labelled=labelled)
        first = {id(arg) for _, _, args in launches for arg in args if isinstance(arg, torch.Tensor)}
        kept = list(launches)  # so that no other object takes an identity over
        launches.clear()
        run_ntxent(rows, torch.device("cuda", 0), labelled=labelled)
    assert kept
    second = {id(arg) for _, _, args in launches for arg in args if isinstance(arg, torch.Tensor)}
    assert not first & second


SETTINGS = [
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.set_float32_matmul_precision('high')",
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_precision_of_products_is_read_however_it_was_set(setting):
    """torch raises where the older name is read after a newer one was set."""
    x, matmul = torch.empty(2, 2), torch.backends.cuda.matmul
    assert ntxent.mode(x) == "fp32"
    try:
        exec(setting, {"torch": torch})
        assert ntxent.mode(x) == "tf32"
    finally:
        if "fp32_precision" in setting:
            torch.backends.fp32_precision = matmul.fp32_precision = "none"
        else:
            torch.set_float32_matmul_precision("highest")
    assert not matmul.allow_tf32  # nothing is left of the setting
    assert ntxent.mode(x) == "fp32"


def test_columns_are_divided_where_rows_are_few():
    """Programs for rows, blocks of columns, columns: of 132 multiprocessors, 64 and 32 would be at work."""
    few, many = ((64, 128, 8192), (32, 64, 4096)), ((512, 1024, 65536), (8192, 16384, 1 << 20), (1, 2, 100))
    assert [ntxent._parts(*given, 128) for given in few] == [2, 4]
    assert [ntxent._parts(*given, 128) for given in many] == [
        1,
        1,
        1,
    ]  # of a million rows, parts would take gigabytes
