"""`python -m scatsimclr.train`: train an encoder on images without labels."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("train")

import argparse
import sys
from pathlib import Path
from typing import Any

from scatsimclr import commandline
from scatsimclr.allocator import keep_freed_memory
from scatsimclr.config import Config, load_config
from scatsimclr.runs import continued, make_run, new_folder
from scatsimclr.training import checkpoint
from scatsimclr.training.distributed import World, joined, remembered
from scatsimclr.training.interruption import Interrupted, Interruption


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = commandline.command_parser(
        "train",
        "Contrastive training of an encoder: scattering front end, adapter network, NT-Xent loss. Without arguments it "
        "trains on scikit-learn's digits.",
        [
            "--fused",
            "--fused dataset.dataset=cifar20 epochs=100",
            "--fused dataset.dataset=folder --data-dir my/images",
            "--resume auto",
        ],
    )
    add = parser.add_argument
    commandline.add_config(
        parser, "settings file (the original's config.yaml works), or digits, cifar10, stl10, …"
    )
    add("-m", "--mode", choices=["unsupervised", "pretext"], help="training mode")
    add("--fused", action="store_true", help="fused kernels, DALI, and AMP where the device has it")
    add("--amp", choices=["off", "bf16", "fp16"], help="automatic mixed precision")
    add("--graphs", action="store_true", help="whole updates as CUDA graphs (default with --fused on CUDA)")
    add("--profile", action="store_true", help="measure the parts of a step, print them and write a trace")
    commandline.add_data_dir(
        parser,
        "where the images are, or are downloaded to; with dataset.dataset=folder, a folder, a CSV file of path or "
        "path,label, or a .npy file",
    )
    add("--run-dir", metavar="DIR", help="run folder (default: a new one under runs/)")
    add(
        "--resume",
        metavar="auto|PATH",
        help="continue from a checkpoint or run folder; auto: from the newest run",
    )
    add(
        "--resume-anyway",
        action="store_true",
        help="continue although the images, or the version of this package, are others than the checkpoint's",
    )
    commandline.add_settings(parser, "epochs=6")
    return parser


def overrides(options: argparse.Namespace) -> list[str]:
    """The options as `key=value` settings, followed by those given as such, which win."""
    named = [
        f"{name}={getattr(options, name)}" for name in ("mode", "amp", "data_dir") if getattr(options, name)
    ]
    named += [f"{name}=true" for name in ("fused", "graphs") if getattr(options, name)]
    return [*named, *options.settings]


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_intermixed_args(argv)
    stop = Interruption()
    with stop.watched():
        try:
            with joined(stop) as world:
                return train(options, world)
        except Interrupted:
            if stop.reports:
                print(f"\nstopped {stop.where}", file=sys.stderr)
            return stop.status


def train(options: argparse.Namespace, world: World) -> int:
    """Makes or continues the run that the options ask for, unless `world.stop` ends it; returns the exit status."""
    with world.stop.anywhere():
        folder, source, config = world.from_main(lambda: planned(options))
    keep_freed_memory()
    make_run(
        config, folder, source=source, profile=options.profile, world=world, anyway=options.resume_anyway
    )
    return 0


def planned(options: argparse.Namespace) -> tuple[Path, Path | None, Config]:
    """The run folder, the run or checkpoint to continue from, None for a new run, and the settings."""
    if (folder := remembered()) and checkpoint.exists(folder):
        # torchrun has restarted the processes of this run, by the same command.
        return folder, folder, load_config(base=checkpoint.load(folder)["config"])
    named, source = find_resume(options.resume, options.run_dir)
    if source is None:
        config = load_config(options.config, overrides(options))
    else:
        config = continued(checkpoint.load(source), lambda base: changed(base, options))
    return folder or named or new_folder(config), source, config


def changed(base: dict[str, Any], options: argparse.Namespace) -> Config:
    """A run's settings with the changes of the command line, or with --config those of the file."""
    given = overrides(options)
    return load_config(options.config, given) if options.config else load_config(base=base, overrides=given)


def find_resume(resume: str | None, run_dir: str | None) -> tuple[Path | None, Path | None]:
    """The run folder, and the run or checkpoint to continue from, that the options name; None for a new one."""
    folder = Path(run_dir) if run_dir else None
    if resume is None:
        return folder, None
    if resume == "auto":
        folders = [folder] if folder else Path("runs").glob("*")
        candidates = [c for c in folders if checkpoint.exists(c)]
        found = max(candidates, key=lambda c: (checkpoint.written(c), c.name), default=None)
        if found is None:
            print("nothing to resume: starting a new run")
            return folder, None
        return found, found
    path = Path(resume)
    return folder or (path if path.is_dir() else path.resolve().parents[1]), path
