from pathlib import Path

import pytest
import torch

import scatsimclr


def pytest_addoption(parser):
    parser.addoption(
        "--every-launch",
        action="store_true",
        help="compile every launch of the GPU kernels' tests for every compute capability, not a sample",
    )


def pytest_report_header():
    return f"scatsimclr: {Path(scatsimclr.__file__).parent}"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
