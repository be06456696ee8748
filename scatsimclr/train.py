"""`python -m scatsimclr.train`: train an encoder on images without labels."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("train")

import argparse
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from scatsimclr import commandline
from scatsimclr.allocator import keep_freed_memory
from scatsimclr.config import Config, load_config
from scatsimclr.data.dali import dali_missing
from scatsimclr.data.imageset import ImageSet
from scatsimclr.errors import UserError
from scatsimclr.evaluation.table import Figures, accuracy_table
from scatsimclr.models import parameter_count
from scatsimclr.ops.library import serving
from scatsimclr.reporting.results import scores, verdict
from scatsimclr.training import checkpoint
from scatsimclr.training.interruption import Interrupted, Interruption
from scatsimclr.training.loop import Trainer
from scatsimclr.training.ownership import owned

# What a resumed run may change; everything else would make it another run.
CHANGEABLE = {
    "epochs", "data_dir", "device", "validate_every_n_epochs", "eval_every_n_epochs", "log_every_n_steps",
    "checkpoint_every_n_steps", "checkpoint_every_minutes", "evaluation", "graphs", "activation_checkpointing",
}  # fmt: skip


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
    commandline.add_data_dir(parser, "where the images are, or are downloaded to")
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
            return train(options, stop)
        except Interrupted:
            print(f"\nstopped {stop.where}", file=sys.stderr)
            return stop.status


def train(options: argparse.Namespace, stop: Interruption) -> int:
    """Makes or continues the run that the options ask for, unless `stop` ends it; returns the exit status."""
    with stop.anywhere():
        folder, source = find_resume(options.resume, options.run_dir)
        state = None if source is None else checkpoint.load(source)
        config = resumed_config(state, options) if state else load_config(options.config, overrides(options))
    folder = folder or new_folder(config)
    with owned(folder):
        if state is None and checkpoint.exists(folder):
            raise UserError(
                f"{folder} already holds a run; give --resume auto to continue it, or another --run-dir"
            )
        keep_freed_memory()
        with stop.anywhere():
            if source is not None:  # again: another process may have gone on until it let the folder go
                state = checkpoint.load(source)
            trainer = Trainer(
                config, folder, state, profile=options.profile, stop=stop, anyway=options.resume_anyway
            )
            describe(trainer)
        try:
            results = trainer.fit()
        except Interrupted:
            progress = trainer.progress
            epoch = min(progress.epoch + 1, trainer.config.epochs)
            if checkpoint.exists(folder):
                stop.where = (
                    f"after step {progress.step}, epoch {epoch}; continue with: "
                    f"python -m scatsimclr.train --resume {shlex.quote(str(folder))}"
                )
            raise
        print_results(trainer, results)
    return 0


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


def resumed_config(state: dict[str, Any], options: argparse.Namespace) -> Config:
    """The checkpoint's settings with the changes of the command line; UserError where they would make another run."""
    before = load_config(base=state["config"])
    if options.config:
        after = load_config(options.config, overrides(options))
    else:
        after = load_config(base=before.as_json(), overrides=overrides(options))
    if after.dataset.shape_is_open or after.model.base_model == "auto":
        after = after.with_input_shape(before.dataset.input_shape)
    old, new = before.model_dump(), after.model_dump()
    changed = [name for name in old if name not in CHANGEABLE and old[name] != new[name]]
    if changed:
        raise UserError(
            f"a resumed run keeps its settings, but {', '.join(changed)} differ from the checkpoint's; "
            "start a new run for them"
        )
    return after


def new_folder(config: Config) -> Path:
    """A run folder's name that is not taken, below runs/."""
    model = config.model.base_model if config.model.base_model != "auto" else "scatsimclr"
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{config.dataset.dataset}-{model}"
    folder, copies = Path("runs") / name, 1
    while folder.exists():
        folder, copies = Path("runs") / f"{name}-{copies + 1}", copies + 1
    return folder


def describe(trainer: Trainer) -> None:
    """Prints what is about to run, in a few lines."""
    config, data = trainer.config, trainer.data
    used = serving(nn.ModuleList([trainer.model, trainer.update.criterion]), trainer.device.type)
    operators = ", ".join(f"{operator} {name}" for operator, name in used.items())
    amp = str(trainer.update.amp).removeprefix("torch.") if trainer.update.amp else "off"
    height, width, channels = config.dataset.input_shape
    kind = "grey images" if channels == 1 else "images"
    print(f"data       {config.dataset.dataset}: {len(data.pretrain)} {kind} of {height}×{width} to train on, "
          f"{len(data.validation)} held out")  # fmt: skip
    for line in left_out(data.pretrain):
        print(f"           {line}")
    scales = f", J={config.model.J}, L={config.model.L}" if config.model.scattering else ""
    print(
        f"model      {config.model.base_model}{scales}, {parameter_count(trainer.model):,} trained parameters"
    )
    if trainer.head is not None and config.pretext is not None:
        print(f"pretext    {config.task}, λ={config.pretext.lambda_:g} from epoch {config.pretext.start_epoch} on, "
              f"{parameter_count(trainer.head):,} parameters in its head")  # fmt: skip
    graphs = ", CUDA graphs" if config.resolved_graphs(trainer.device.type) else ""
    print(
        f"machine    {trainer.device}, amp {amp}{graphs}; {operators}; augmentation {augmentation(trainer)}"
    )
    if config.minutes is not None:
        print(f"time       {config.epochs} epochs, about {config.minutes:g} minutes by the speed of the first steps"
              f"{'' if config.epochs > 1 else ' (at least one epoch)'}")  # fmt: skip
    print(
        f"run        {trainer.folder}"
        + (f", from step {trainer.progress.step}" if trainer.progress.step else "")
    )


def left_out(images: ImageSet) -> list[str]:
    """What a user should know about images that are there but not used: a line for each note and each reason."""
    reasons: dict[str, list[str]] = {}
    for path, reason in images.skipped:
        reasons.setdefault(reason.partition(":")[0], []).append(path)
    lines = [
        f"{len(paths)} {'file' if len(paths) == 1 else 'files'} left out, {reason}; the first: {paths[0]}"
        for reason, paths in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    return [*images.notes, *lines]


def augmentation(trainer: Trainer) -> str:
    """Which augmentation makes the views; with `--fused` and without DALI, also why."""
    missing, settings = dali_missing(), trainer.config.data
    why = f" ({missing})" if trainer.config.fused and settings.pipeline == "auto" and missing else ""
    return trainer.loader.augment.name + why


def print_results(trainer: Trainer, results: dict[str, Figures]) -> None:
    """Prints the closing table (scattering alone, untrained and trained network), the speed, and the run folder."""
    figures = [results["before"], results["after"]]
    print()
    if results["after"]:
        print(accuracy_table(figures, trainer.config.evaluation))
        if text := verdict(scores(trainer.config, trainer.log.records())):
            print(text)
    else:
        print("no labels: no accuracy to measure")
    images = trainer.config.epochs * len(trainer.loader) * trainer.config.batch_size
    if seconds := trainer.progress.seconds:
        print(f"trained {trainer.config.epochs} epochs in {seconds:.0f} s, "
              f"{images / seconds:.0f} images/s (two views each)")  # fmt: skip
    print(
        f"run folder: {trainer.folder}  (report.html, plots/, metrics.jsonl, model.safetensors, checkpoints/)"
    )
