from __future__ import annotations

import pytest

from tests.kernels.ahead_of_time import served


@pytest.fixture
def front_ends(request):
    """Compute capabilities for which every launch of the interpreter goes through Triton's front end."""
    return served() if request.config.getoption("--every-launch") else [90]
