"""The console script `scatsimclr COMMAND …`; each command is also `python -m scatsimclr.COMMAND …`."""

from __future__ import annotations

import importlib
import sys

from scatsimclr.commandline import run

COMMANDS = {
    "train": "train an encoder on images without labels",
    "evaluate": "probe a trained encoder: kNN, a few labels, all labels",
    "report": "one HTML page about a run, or a comparison of several",
    "label": "labels, with confidences, for all images of a folder from labels for a few",
    "embed": "features of your own images, as .npy or .parquet",
    "export": "an encoder for other programs: safetensors, torch.export, ONNX",
    "reproduce": "the paper's sweeps: their tables and plots beside the published figures",
    "info": "versions, devices, and which implementation serves which operator",
}


def main() -> int:
    """Runs the command that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: scatsimclr COMMAND …\n")
        for name, text in COMMANDS.items():
            print(f"  {name:10} {text}")
        print("\n`scatsimclr COMMAND --help` describes a command.")
        return 0
    name = sys.argv[1]
    if name not in COMMANDS:
        print(f"scatsimclr: error: unknown command {name}; one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run(importlib.import_module(f"scatsimclr.{name}").command, sys.argv[2:])
