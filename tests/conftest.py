from pathlib import Path

import pytest
import torch

import scatsimclr


def pytest_addoption(parser):
    parser.addoption(
        "--every-launch",
        action="store_true",
        help="GPU kernels: every compute capability instead of 9.0, and the cases that take minutes",
    )


def pytest_report_header():
    return f"scatsimclr: {Path(scatsimclr.__file__).parent}"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
