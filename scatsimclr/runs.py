"""Training as a function: `fit` makes a run, and so does the command, by the same `make_run`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from scatsimclr.config import Config, load_config
from scatsimclr.config.flat import flattened
from scatsimclr.data.given import Given
from scatsimclr.encoder import Encoder
from scatsimclr.errors import UserError
from scatsimclr.evaluation.table import Figures
from scatsimclr.files import expanded
from scatsimclr.training import checkpoint
from scatsimclr.training.distributed import World, remember
from scatsimclr.training.interruption import Interrupted
from scatsimclr.training.loop import Trainer
from scatsimclr.training.metrics import read_metrics
from scatsimclr.training.ownership import owned
from scatsimclr.training.words import describe, print_results

# What a resumed run may change; everything else would make it another run.
CHANGEABLE = {
    "epochs", "data_dir", "device", "validate_every_n_epochs", "eval_every_n_epochs", "log_every_n_steps",
    "checkpoint_every_n_steps", "checkpoint_every_minutes", "evaluation", "graphs", "activation_checkpointing",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: Holds everything: settings, records, checkpoints, weights and the report.
        before: The untrained encoder's accuracies, see `scatsimclr.evaluation.evaluate.Evaluation.figures`; {} without
            labels.
        after: Those of the trained encoder.
    """

    folder: Path
    before: Figures
    after: Figures

    @cached_property
    def encoder(self) -> Encoder:
        """The trained encoder."""
        return Encoder.load(self.folder, changes=(("fused", True),))

    @property
    def config(self) -> Config:
        """All settings, with everything resolved that was left open."""
        return load_config(str(self.folder / "config.yaml"))

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was measured: the lines of metrics.jsonl."""
        return read_metrics(self.folder / "metrics.jsonl")

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def fit(
    images: object,
    labels: object = None,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    config: str | None = None,
    verbose: bool = True,
    report: bool = True,
    settings: Mapping[str, Any],
) -> Run:
    """See `scatsimclr.fit`."""
    changes = as_changes(settings)
    given = None
    if isinstance(images, (str, os.PathLike)) and labels is None:
        changes.append(("data_dir", os.fspath(expanded(images))))
    else:
        given = Given.of(images, labels)
    changes.append(("dataset.dataset", "folder"))
    folder = Path(run_dir) if run_dir is not None else None
    source = folder if resume and folder is not None and checkpoint.exists(folder) else None
    if source is None:
        chosen = load_config(config, changes)
    else:
        chosen = continued(checkpoint.load(source), lambda base: load_config(base=base, overrides=changes))
    return make_run(chosen, folder, source=source, given=given, verbose=verbose, report=report)


def as_changes(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Settings by their dotted names, from those and nested ones; fused kernels unless they say otherwise."""
    return [("fused", True), *flattened(settings).items()]


def make_run(
    config: Config,
    folder: Path | None = None,
    *,
    source: Path | None = None,
    given: Given | None = None,
    profile: bool = False,
    world: World | None = None,
    anyway: bool = False,
    verbose: bool = True,
    report: bool = True,
) -> Run:
    """Makes or continues a run.

    Args:
        config: Its settings.
        folder: Where; None for a new folder below runs/.
        source: The run or checkpoint to continue from.
        given: Images that are passed instead of the data set of the settings.
        profile: Whether to measure some steps.
        world: The processes that train together, of which this is one; its `stop` says how a stopped run is continued.
        anyway: Whether to continue with other images, or another version of this package.
        verbose: Whether to tell on the terminal how it goes.
        report: Whether to write the report in the end.

    Raises:
        UserError: The folder holds a run that is not to be continued, or the settings cannot be met.
        Interrupted: One of the processes was asked to stop.
    """
    folder, world = folder or new_folder(config), world or World()
    stop = world.stop
    with owned(folder) if world.main else nullcontext():
        with stop.anywhere():
            state = world.from_main(lambda: begun(folder, source))
            trainer = Trainer(
                config,
                folder,
                state,
                given=given,
                profile=profile,
                world=world,
                anyway=anyway,
                verbose=verbose,
                report=report,
            )
            if verbose and world.main:
                describe(trainer)
        try:
            results = trainer.fit()
        except Interrupted:
            progress = trainer.progress
            epoch = min(progress.epoch + 1, trainer.config.epochs)
            if checkpoint.exists(folder):
                stop.where = (
                    f"after step {progress.step}, epoch {epoch}; continue with: {command_line(world, folder)}"
                )
            raise
        if verbose and world.main:
            print_results(trainer, results)
    return Run(folder, results["before"], results["after"])


def begun(folder: Path, source: Path | None) -> dict[str, Any] | None:
    """The state to continue from, None for a new run, in a folder that this process owns.

    Raises:
        UserError: The folder holds a run that is not to be continued.
    """
    if source is None and checkpoint.exists(folder):
        raise UserError(
            f"{folder} already holds a run; --resume auto (in Python resume=True) continues it, or choose another "
            "folder"
        )
    # Only now: another process may have gone on until it let the folder go.
    state = None if source is None else checkpoint.load(source)
    remember(folder)
    return state


def command_line(world: World, folder: Path) -> str:
    """The command that continues a run, with as many processes; any other number does as well."""
    machines = world.size // world.local_size
    several = f"torchrun --nproc-per-node={world.local_size}" if machines == 1 else "torchrun …"
    return f"{several if world.shared else 'python'} -m scatsimclr.train --resume {shlex.quote(str(folder))}"


def continued(state: dict[str, Any], changed: Callable[[dict[str, Any]], Config]) -> Config:
    """The settings that a run continues with.

    Args:
        state: Of its checkpoint.
        changed: Makes them from the settings that it had.

    Raises:
        UserError: They would make it another run.
    """
    before = load_config(base=state["config"])
    after = changed(before.as_json())
    # What the run's images have decided stays decided.
    if after.dataset.shape_is_open or after.model.base_model == "auto":
        after = after.with_input_shape(before.dataset.input_shape)
    if after.dataset.normalization == "images" and not isinstance(before.dataset.normalization, str):
        after = after.with_normalization(*before.dataset.normalization)
    if after.batch_size > before.batch_size == _images(state):
        after = after.model_copy(update={"batch_size": before.batch_size})
    old, new = before.model_dump(), after.model_dump()
    different = [name for name in old if name not in CHANGEABLE and old[name] != new[name]]
    if different:
        raise UserError(
            f"a resumed run keeps its settings, but {', '.join(different)} differ from the checkpoint's; "
            "start a new run for them"
        )
    return after


def _images(state: dict[str, Any]) -> object:
    """The number of images of a checkpoint's run; None where it does not say."""
    data = state.get("data")
    return data.get("images") if isinstance(data, dict) else None


def new_folder(config: Config) -> Path:
    """A run folder's name that is not taken, below runs/."""
    model = config.model.base_model if config.model.base_model != "auto" else "scatsimclr"
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{config.dataset.dataset}-{model}"
    folder, copies = Path("runs") / name, 1
    while folder.exists():
        folder, copies = Path("runs") / f"{name}-{copies + 1}", copies + 1
    return folder
