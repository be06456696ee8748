"""The console script `scatsimclr COMMAND …`; each command is also `python -m scatsimclr.COMMAND …`."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from scatsimclr.commandline import run
from scatsimclr.extras import TRAIN, require
from scatsimclr.version import __version__
from scatsimclr.waiting import block_soon

COMMANDS = {
    "train": "train an encoder on images without labels",
    "evaluate": "probe a trained encoder: kNN, a few labels, all labels",
    "report": "one HTML page about a run, or a comparison of several",
    "label": "labels, with confidences, for all images of a folder from labels for a few",
    "embed": "features of your own images, as .npy or .parquet",
    "shards": "images as files that training maps into memory, for more than it holds",
    "export": "an encoder for other programs: safetensors, torch.export, ONNX",
    "reproduce": "the paper's sweeps: their tables and plots beside the published figures",
    "info": "versions, devices, and which implementation serves which operator",
}


def main() -> int:
    """Runs the command that the first argument names."""
    if sys.argv[1:2] == ["--version"]:
        print(f"scatsimclr {__version__}")
        return 0
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: scatsimclr COMMAND …\n")
        for name, text in COMMANDS.items():
            print(f"  {name:10} {text}")
        print("\n`scatsimclr COMMAND --help` describes a command, `scatsimclr --version` prints the version.")
        return 0
    name = sys.argv.pop(1)
    if name not in COMMANDS:
        print(f"scatsimclr: error: unknown command {name}; one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    start(name)


def start(name: str) -> NoReturn:
    """Runs a command with the arguments of the process, and ends the process with its exit status.

    A command's file calls this before its imports, which take seconds: an interrupt would leave a traceback of
    whichever of them it met, and some libraries would go on without what they were importing. While the command runs,
    an interrupt is a KeyboardInterrupt, as everywhere.
    """
    asked = signal.getsignal(signal.SIGINT)
    watched = asked is signal.default_int_handler  # else ignored, as nohup does
    if watched:
        signal.signal(signal.SIGINT, _end)
    block_soon()

    def command(argv: list[str]) -> int | None:
        require("scatsimclr", "", "torch", "numpy")
        if name != "info":
            require(f"scatsimclr {name}", "train", *TRAIN)
        program: Callable[[list[str]], int | None] = importlib.import_module(f"scatsimclr.{name}").command
        try:
            if watched:
                signal.signal(signal.SIGINT, asked)
            return program(argv)
        finally:
            if watched:
                signal.signal(signal.SIGINT, _end)

    sys.exit(run(command))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the process without Python's own way out, which imports and calls back."""
    os.write(2, b"\nscatsimclr: interrupted\n")
    os._exit(128 + number)
