"""What a run tells on the terminal: what is about to run, what its images are short of, and what came of it."""

from __future__ import annotations

from torch import nn

from scatsimclr.data.dali import dali_missing
from scatsimclr.data.imageset import ImageSet
from scatsimclr.evaluation.table import Figures, accuracy_table
from scatsimclr.models import parameter_count
from scatsimclr.ops.library import serving
from scatsimclr.reporting.results import scores, verdict
from scatsimclr.training.loop import Trainer


def describe(trainer: Trainer) -> None:
    """Prints what is about to run, in a few lines."""
    config, data = trainer.config, trainer.data
    used = serving(nn.ModuleList([trainer.model, trainer.update.criterion]), trainer.device.type)
    operators = ", ".join(f"{operator} {name}" for operator, name in used.items())
    amp = str(trainer.update.amp).removeprefix("torch.") if trainer.update.amp else "off"
    height, width, channels = config.dataset.input_shape
    kind = {1: "grey images", 3: "images"}.get(channels, f"images in {channels} channels")
    print(f"data       {config.dataset.dataset}: {len(data.pretrain)} {kind} of {height}×{width} to train on, "
          f"{len(data.validation)} held out")  # fmt: skip
    if config.batch_size == len(data.pretrain):
        print(f"           few images: batches of {config.batch_size}")
    for line in left_out(data.pretrain):
        print(f"           {line}")
    scales = f", J={config.model.J}, L={config.model.L}" if config.model.scattering else ""
    print(
        f"model      {config.model.base_model}{scales}, {parameter_count(trainer.model):,} trained parameters"
    )
    if trainer.head is not None and config.pretext is not None:
        print(f"pretext    {config.task}, λ={config.pretext.lambda_:g} from epoch {config.pretext.start_epoch} on, "
              f"{parameter_count(trainer.head):,} parameters in its head")  # fmt: skip
    graphs = (
        ", CUDA graphs"
        if config.resolved_graphs(trainer.device.type, distributed=bool(trainer.world.steps))
        else ""
    )
    many = f"{trainer.world.size} processes, " if trainer.world.shared else ""
    print(
        f"machine    {many}{trainer.device}, amp {amp}{graphs}; {operators}; augmentation {augmentation(trainer)}"
    )
    if config.minutes is not None:
        epochs = f"{config.epochs} epoch{'s' * (config.epochs > 1)}"
        print(f"time       {epochs}, about {config.minutes:g} minutes by the speed of the first steps"
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
        epochs = f"{trainer.config.epochs} epoch{'s' * (trainer.config.epochs > 1)}"
        print(f"trained {epochs} in {seconds:.0f} s, "
              f"{images / seconds:.0f} images/s (two views each)")  # fmt: skip
    print(
        f"run folder: {trainer.folder}  (report.html, plots/, metrics.jsonl, model.safetensors, checkpoints/)"
    )
