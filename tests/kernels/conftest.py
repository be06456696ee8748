from __future__ import annotations

import pytest

from tests.kernels.ahead_of_time import served


@pytest.fixture
def front_ends(request):
    """Compute capabilities for which every launch of the interpreter goes through Triton's front end."""
    return served() if request.config.getoption("--every-launch") else [90]


def pytest_collection_modifyitems(config, items):
    """Tests that are marked so wait for --every-launch: together they take minutes."""
    if not config.getoption("--every-launch"):
        waiting = [item for item in items if item.get_closest_marker("every_launch")]
        items[:] = [item for item in items if not item.get_closest_marker("every_launch")]
        config.hook.pytest_deselected(items=waiting)
