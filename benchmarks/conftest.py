"""The option --quick, the machine's description in results files, and the printed summary.

Cases marked `full` run neither with --quick nor with --benchmark-disable, under which the others show that every
benchmark still works.
"""

import importlib.metadata

import pytest
import torch

from benchmarks import measure
from benchmarks.summary import summary

PACKAGES = ("numpy", "kymatio", "pytorch_wavelets", "pytorch-metric-learning", "lightly", "triton")
PACKAGES += ("nvidia-dali-cuda130", "opencv-python-headless", "scatsimclr")


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="fewer shapes and rounds: minutes on two cores")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: a case that only runs when timed and without --quick")
    measure.quick = config.getoption("--quick")


def pytest_collection_modifyitems(config, items):
    timed = config.getoption("--benchmark-enable") or not config.getoption("--benchmark-disable")
    if config.getoption("--quick") or not timed:
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(measure.THREADS)
    yield
    torch.set_num_threads(before)


def versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def pytest_benchmark_update_machine_info(config, machine_info):
    """Adds device and versions, and removes the machine's name."""
    machine_info.pop("node", None)
    machine_info.update(
        torch=torch.__version__,
        threads=measure.THREADS,
        isa=torch.ops.scatsimclr.cpu_isa() if hasattr(torch.ops.scatsimclr, "cpu_isa") else "no extension",
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        versions=versions(),
    )


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Adds the machine's limits, and removes the rounds' times and the names of the checkout's folder and branch."""
    devices = {entry["extra_info"].get("device") for entry in output_json["benchmarks"]} - {None}
    output_json["machine_info"]["limits"] = {device: measure.limits(device) for device in sorted(devices)}
    output_json["machine_info"]["quick"] = measure.quick
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)
    for name in ("project", "branch"):
        output_json["commit_info"].pop(name, None)


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    records = [entry.extra_info for entry in session.benchmarks] if session else []
    for line in summary([record for record in records if "competitors" in record]):
        terminalreporter.write_line(line)
