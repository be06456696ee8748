"""How threads wait, read from OpenMP itself in processes of their own: it reads its settings as PyTorch is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from scatsimclr.waiting import CHOSEN, SPINS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PyTorch brings GNU's OpenMP on Linux alone")


def spins(*command: str, **settings: str) -> int:
    """How often a thread of the process that runs a command looks before it blocks, as its OpenMP says."""
    environment = {k: v for k, v in os.environ.items() if k not in CHOSEN}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **settings}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=True
    )
    return int(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)[0])


def test_commands_block_soon():
    assert spins("-m", "scatsimclr.info") == int(SPINS)


def test_a_library_leaves_the_setting_to_the_program():
    assert spins("-c", "import torch, scatsimclr.loss") == spins("-c", "import torch") > int(SPINS)


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "77")])
def test_whoever_has_chosen_has_decided(name, value):
    chosen = spins("-m", "scatsimclr.info", **{name: value})
    assert chosen == spins("-c", "import torch", **{name: value}) != int(SPINS)
