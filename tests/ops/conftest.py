"""Fixtures of the tests of the compiled operators."""

from __future__ import annotations

import pytest

from scatsimclr.ops import availability
from tests.ops.machine import ISAS, forced, poisoned, threads


def pytest_generate_tests(metafunc):
    """A test with the argument `isa` runs on each instruction set of this CPU, or on those that its module names."""
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", getattr(metafunc.module, "ISAS", ISAS), indirect=True)


@pytest.fixture
def compiled():
    """Skips the test where the extension cannot be used."""
    if obstacle := availability.compiled().obstacle:
        pytest.skip(obstacle)


@pytest.fixture
def isa(request, compiled):
    with forced(request.param):
        yield request.param


@pytest.fixture
def one_thread():
    """Hundreds of tiny parallel FFTs of the references take seconds each on a busy machine."""
    with threads(1):
        yield


@pytest.fixture
def uninitialised_is_nan():
    with poisoned():
        yield
