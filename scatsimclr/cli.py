"""The console script `scatsimclr COMMAND …`; each command is also `python -m scatsimclr.COMMAND …`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from scatsimclr.errors import UserError

COMMANDS = {
    "train": "train an encoder on images without labels",
    "evaluate": "linear probe, few-label probe and kNN of a trained encoder",
    "report": "one HTML page of a run, or of several beside each other",
    "label": "labels for all images of a folder from labels for a few, with confidences",
    "embed": "features of your own images, as .npy or .parquet",
    "export": "an encoder for other programs: safetensors, torch.export, ONNX",
    "reproduce": "the paper's sweeps, their tables and plots beside the published figures",
    "info": "versions, devices, and which implementation serves which operator",
}


def run(command: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Exit status of a command: 0, 2 with one line for a user's mistake, 130 when interrupted.

    Names of files that the terminal cannot show are printed with escapes: no command fails on printing.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command(sys.argv[1:] if argv is None else argv) or 0
    except UserError as error:
        print(f"scatsimclr: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nscatsimclr: interrupted", file=sys.stderr)
        return 130


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: scatsimclr COMMAND …\n")
        for name, text in COMMANDS.items():
            print(f"  {name:10} {text}")
        print("\n`scatsimclr COMMAND --help` tells more.")
        return 0
    name = sys.argv[1]
    if name not in COMMANDS:
        print(f"scatsimclr: error: unknown command {name}; one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run(importlib.import_module(f"scatsimclr.{name}").command, sys.argv[2:])
