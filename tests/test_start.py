"""Signals while a command starts, before it can answer them: no traceback, and the exit status of an interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import scatsimclr
from scatsimclr import cli

# Sends a signal when something asks for the module TARGET, as a person would by chance.
AT = """
import os, runpy, signal, sys

class At:
    def find_spec(self, name, *rest):
        if name == target:
            os.kill(os.getpid(), number)

target, number = sys.argv.pop(1), int(sys.argv.pop(1))
for name in ("SIGINT", "SIGTERM"):  # whoever runs the tests may ignore them
    signal.signal(getattr(signal, name), signal.SIG_DFL)
signal.signal(signal.SIGINT, IGNORED)
sys.meta_path.insert(0, At())
sys.argv[0] = "scatsimclr"
if sys.argv[1] == "-m":
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
from scatsimclr.cli import main
sys.exit(main())
"""


def started(argv: list[str], target: str, number: int, interrupt: str = "signal.default_int_handler"):
    """The command line, which gets the signal as it imports the module."""
    code = AT.replace("IGNORED", interrupt)
    return subprocess.run(
        [sys.executable, "-c", code, target, str(int(number)), *argv], capture_output=True, text=True
    )


@pytest.mark.parametrize("form", ["module", "script"])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_an_interrupt_before_torch(name, form):
    argv = ["-m", f"scatsimclr.{name}", "--help"] if form == "module" else [name, "--help"]
    done = started(argv, "torch", signal.SIGINT)
    assert (done.returncode, done.stderr) == (130, "\nscatsimclr: interrupted\n")


@pytest.mark.parametrize(
    "target", ["scatsimclr.allocator", "torch.nn", "scatsimclr.ops", "scatsimclr.training.loop"]
)
def test_an_interrupt_in_the_midst(target):
    done = started(["-m", "scatsimclr.train", "--help"], target, signal.SIGINT)
    assert (done.returncode, done.stderr) == (130, "\nscatsimclr: interrupted\n")


def test_sigterm_ends_a_starting_command_silently():
    done = started(["-m", "scatsimclr.train", "--help"], "torch.nn", signal.SIGTERM)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


def test_what_was_ignored_stays_ignored():
    done = started(["-m", "scatsimclr.info"], "torch.nn", signal.SIGINT, "signal.SIG_IGN")
    assert (done.returncode, done.stderr) == (0, "")
    assert "operator" in done.stdout


def test_the_public_names_come_when_they_are_used():
    code = """
import sys
import scatsimclr
assert "torch" not in sys.modules and "numpy" not in sys.modules
assert {"Scattering2D", "loss", "__version__"} <= set(dir(scatsimclr))
assert scatsimclr.loss.NTXentLoss is scatsimclr.NTXentLoss
assert "NTXentLoss" in vars(scatsimclr), "found again at every use"
from scatsimclr import *
assert Scattering2D is scatsimclr.scattering.Scattering2D
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(scatsimclr.__all__) <= set(dir(scatsimclr))
    for name in scatsimclr.__all__:
        assert getattr(scatsimclr, name) is not None
    with pytest.raises(AttributeError, match="module 'scatsimclr' has no attribute 'Scattering3D'"):
        _ = scatsimclr.Scattering3D
    with pytest.raises(ImportError, match="cannot import name 'Scattering3D'"):
        from scatsimclr import Scattering3D  # noqa: F401
