"""The training loop: contrastive pre-training of one encoder, from settings to a run folder.

A run folder holds config.yaml (resolved), environment.json, metrics.jsonl, tensorboard/, checkpoints/last.pt and
best.pt, model.safetensors with config.json, recommendation.json with features.safetensors, report.html and plots/.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scatsimclr.config import Config
from scatsimclr.data.augment import Augment
from scatsimclr.data.given import Given
from scatsimclr.data.loader import Batch
from scatsimclr.data.shape import with_shape
from scatsimclr.environment import environment
from scatsimclr.errors import UserError
from scatsimclr.evaluation.evaluate import Evaluation
from scatsimclr.evaluation.front import fit_front
from scatsimclr.evaluation.quality import Probe
from scatsimclr.evaluation.table import Figures
from scatsimclr.files import write_text
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.reporting.subject import Subject
from scatsimclr.training import checkpoint
from scatsimclr.training.distributed import World
from scatsimclr.training.duration import timed
from scatsimclr.training.fingerprint import check_same_images, fingerprint
from scatsimclr.training.interruption import Interrupted
from scatsimclr.training.leading import Lead
from scatsimclr.training.log import RunLog
from scatsimclr.training.metrics import Sums
from scatsimclr.training.neighbours import nearest_images
from scatsimclr.training.profile import WARM_UP, StepProfiler
from scatsimclr.training.progress import Checkpoints, Progress, check_continuable, restore
from scatsimclr.training.schedule import learning_rate_factor
from scatsimclr.training.setup import (
    build_augment,
    build_evaluation,
    build_head,
    build_loader,
    build_model,
    load_data,
    pick_device,
    placed,
    recommendation,
    shared_settings,
    with_batch,
)
from scatsimclr.training.update import Update
from scatsimclr.training.validation import Validation, validation_loader

NO_FIGURES: tuple[Figures, dict[str, float]] = ({}, {})  # of the processes that do not evaluate
# First epochs after which quality is measured, whatever `eval_every_n_epochs`: a collapse comes early.
WATCHED = 3


class Trainer:
    """One run: builds its parts from the settings, then `fit()` trains.

    Args:
        config: The settings.
        folder: The run folder, made here.
        state: Of the checkpoint to continue from, as from `checkpoint.load`; None for a new run.
        profile: Whether to measure some steps.
        given: Images that are passed instead of the data set of the settings.
        world: The processes that train together, of which this is one; the first one alone writes and prints.
        anyway: Whether to continue from a checkpoint of other images, or of another version of this package.
        verbose: Whether to tell on the terminal how it goes.
        report: Whether to write the report of the finished run.

    Attributes:
        config: The settings with everything resolved that was left open.
        data: The images.
        loader: The batches of training.
        validation: Measures the held-out images.
        model: The encoder.
        head: The pretext task's head; None without a task.
        update: The losses and the optimizer.
        progress: How far the run has come.
        checkpoints: Saves it.
        log: Records it.
        evaluation: The probes of the finished encoder; None before, and where there are no labels.

    Raises:
        UserError: The settings cannot be met on this machine, or by these images.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        state: dict[str, Any] | None = None,
        *,
        given: Given | None = None,
        profile: bool = False,
        world: World | None = None,
        anyway: bool = False,
        verbose: bool = True,
        report: bool = True,
    ):
        self.world = world = world or World()
        self.folder, self.stop = folder, world.stop
        self.device = pick_device(config, world.local_rank, world.size)
        config.resolved_graphs(self.device.type, distributed=bool(world.steps))  # before images are read
        with world.one_first():
            config = with_shape(config, given)
            self.data = data = load_data(config, given, labelled=world.main)
        if config.dataset.normalization == "images":
            config = config.with_normalization(data.spec.mean, data.spec.std)
        config = with_batch(config, len(data.pretrain))
        seen = fingerprint(data.pretrain)
        check_same_images(world.gathered(seen))
        if state is not None:
            check_continuable(state, config, seen, anyway=anyway)
        self.loader = build_loader(config, data.pretrain, config.batch_size, config.seed, self.device, world)
        held_out = validation_loader(config, data, self.device, world)
        self.quality = Probe.of(Augment(data.spec, config.seed + 2), data.validation, data.pretrain)
        self.model, self.head = self._networks(config, new=state is None)
        self.update = Update(config, self.model, self.head, self.device, world)
        warm_up = WARM_UP + self.update.warm_up
        self.profiler = StepProfiler(folder, self.update.part, warm_up) if profile and world.main else None
        self.lead = Lead(world, config, self.model)
        self.validation = Validation(config, data, held_out, self.update, self.lead)
        self.evaluation: Evaluation | None = None

        pipeline = self.loader.augment.name
        self.progress = Progress() if state is None else restore(state, self.update, pipeline)
        self.loader.neighbours = self._neighbours(config)
        if state is None and config.minutes is not None:
            share = len(data.validation) / len(data.pretrain)
            config = timed(config, self.model, self.head, self.loader, self.device, share, world)
        self.config = config

        if world.main:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "config.yaml", config.to_yaml())
            write_text(folder / "environment.json", json.dumps(environment(), indent=1) + "\n")
        self.checkpoints = Checkpoints(folder, config, self.update, pipeline, seen)
        if state is not None:
            self.checkpoints.adopt(state)
        self.report = report
        self.log = RunLog(
            folder,
            config,
            self.progress,
            len(self.loader),
            resumed=state is not None,
            verbose=verbose,
            writes=world.main,
        )

    def _neighbours(self, config: Config) -> Tensor | None:
        """The neighbours of each image, where the settings want them."""
        model, images = self.model, self.data.pretrain.images
        count = min(config.neighbours, len(images) - 1)
        if count < 1 or not isinstance(model, ScatSimCLR):
            return None
        found = self.lead(
            lambda: nearest_images(model, images, self.data.spec, count, self.lead.extract), None
        )
        return self.world.broadcast(found)

    def _networks(self, config: Config, *, new: bool) -> tuple[Encoder, nn.Module | None]:
        """The encoder and the pretext task's head, on the device; `new` says that no checkpoint will fill them."""
        torch.manual_seed(config.seed)
        model = build_model(config)
        model.activation_checkpointing = config.activation_checkpointing
        if config.fine_tune_from:
            checkpoint.load_weights(config.fine_tune_from, model)
        model = placed(model, self.device)
        if isinstance(model, ScatSimCLR) and new and not config.fine_tune_from and self.world.main:
            fit_front(model, self.data.pretrain.images, build_augment(config, config.seed + 3))
        # After the encoder, whose weights then are those of a run without a pretext task.
        head = build_head(config, model.h_dim)
        head = None if head is None else head.to(self.device)
        self.world.copy_from_main(model, head)
        return model, head

    def pretext_in(self, epoch: int) -> bool:
        """Whether the pretext task is part of the loss in an epoch."""
        settings = self.config.pretext
        if self.head is None or settings is None:
            return False
        return settings.lambda_ > 0 and epoch >= settings.start_epoch

    def fit(self) -> dict[str, Figures]:
        """Trains to the last epoch.

        Returns:
            {"before": …, "after": …}, each as from `Evaluation.figures`, or empty where there are no labels, and in all
            processes but the first.

        Raises:
            UserError: The loss is not finite.
        """
        try:
            figures = self._train()
            self.checkpoints.wait()
            self.lead(self._finish, None)
        finally:
            self.log.close()
            self.checkpoints.close()  # last: it raises what could not be written
        return figures

    def _train(self) -> dict[str, Figures]:
        config, progress = self.config, self.progress
        if progress.before is None:
            before, watched = self.lead(
                lambda: (self._evaluate(recommend=False), self._watched()), NO_FIGURES
            )
            progress.before = before
            self.log.write("evaluation", **before)
            self.log.quality(watched)
            self.log.untrained(before, watched)
        after = None
        while progress.epoch < config.epochs:
            sums, seconds = self._train_epoch()
            if (figures := self._end_epoch(sums, seconds)) is not None:
                after = figures
        if after is None:  # a finished run was resumed for its result
            after = self.lead(self._evaluate, Figures())
        return {"before": progress.before, "after": after}

    def _end_epoch(self, sums: Sums, seconds: float) -> Figures | None:
        """Measures an epoch whose steps are done, records it and saves it; returns the probes' figures, if they ran.

        Nothing is recorded before all is measured: a run that is stopped here measures this epoch when it continues.
        """
        config, progress = self.config, self.progress
        last = progress.epoch + 1 == config.epochs
        due = last or (progress.epoch + 1) % config.eval_every_n_epochs == 0
        random = torch.get_rng_state()
        progress.epoch += 1
        try:
            with self.world.together():
                validation = self._validate()

            def measured() -> tuple[Figures, dict[str, float]]:
                return (
                    self._evaluate(quick=not last) if due else Figures(),
                    self._watched() if due or progress.epoch <= WATCHED else {},
                )

            evaluation, watched = self.lead(measured, NO_FIGURES)
        except Interrupted:
            progress.epoch -= 1
            torch.set_rng_state(random)
            self.checkpoints.save_partial(progress, sums, seconds)
            raise
        progress.seconds += seconds
        if validation:
            self.log.write("validation", **validation)
        if due:
            self.log.write("evaluation", **evaluation)
        self.log.quality(watched)
        figures = sums.means()
        if self.update.amp == torch.float16:
            figures = {**figures, "skipped_updates": self.update.skipped}
        self.log.epoch(figures, self.update.rate, seconds, validation, evaluation)
        self._save(validation)
        return evaluation if due else None

    def _finish(self) -> None:
        """Writes what a finished run has beside its checkpoints."""
        checkpoint.save_pretrained(self.folder, self.model, shared_settings(self.config))
        recommendation(self.config, self.model, self.data.pretrain, self.evaluation, self.lead.extract).save(
            self.folder
        )
        if self.evaluation is not None:
            self.evaluation.classifier().save(self.folder)
        if self.report:
            data, records = self.data, self.log.records()
            self.log.report(
                Subject(
                    self.folder, self.config, self.model, data.pretrain, data.spec, self.evaluation, records
                )
            )

    def _train_epoch(self) -> tuple[Sums, float]:
        """One pass over the images. Returns the sums over its steps and the seconds it took.

        Raises:
            Interrupted: A signal came; what the steps have reached is saved.
        """
        config, progress, start = self.config, self.progress, time.perf_counter()
        partial, progress.partial = progress.partial, None
        factor = learning_rate_factor(progress.epoch, config.flat_epochs, config.epochs)
        self.update.rate = config.lr * factor
        self.update.modules().train()
        steps, sums = len(self.loader), Sums()
        if partial:
            sums.restore(partial, self.device)
            start -= partial["seconds"]
        every = config.checkpoint_every_n_steps
        with self.log.bar(sums.count * config.batch_size) as bar:
            for index, batch in enumerate(self._batches(sums.count), sums.count):
                together = min(config.accumulate, steps - (index - index % config.accumulate))
                last = (index + 1) % config.accumulate == 0 or index + 1 == steps
                # The last step's checkpoint is the epoch's; gradients that are still being accumulated are not saved.
                asked = self.world.ask(self._wishes) if last and index + 1 < steps else None
                losses = self.update(batch, share=1 / together, last=last)
                sums.add(losses)
                progress.step += 1
                self.log.step(index + 1)
                if self.profiler and self.profiler.step():
                    self._end_profile()
                bar.update(config.batch_size)
                if progress.step % config.log_every_n_steps == 0:
                    value = self._finite(losses.total.item())
                    bar.set_postfix(loss=f"{value:.4f}")
                    parts = {name: part.item() for name, part in losses.parts.items()}
                    self.log.write("train", loss=value, **parts)
                if asked is None:
                    continue
                number, due = asked()
                if number or due or (every and progress.step % every == 0):
                    self._finite(losses.total.item())
                    self.checkpoints.save_partial(progress, sums, time.perf_counter() - start)
                if number:
                    self.stop.number = number
                    raise Interrupted
        if self.profiler:  # the epoch was shorter than what is measured
            self.profiler.finish()
            self._end_profile()
        self._finite(sums.means()["loss"])
        return sums, time.perf_counter() - start

    def _wishes(self) -> tuple[int, int]:
        """The signal that came, or 0; and whether `checkpoint_every_minutes` have passed since the last checkpoint."""
        minutes = self.config.checkpoint_every_minutes
        # The first process's clock is everybody's.
        due = minutes is not None and time.monotonic() - self.checkpoints.saved >= 60 * minutes
        return self.stop.number or 0, int(due and self.world.main)

    def _batches(self, done: int) -> Iterator[Batch]:
        """The batches of the epoch after the first `done`; waiting for them is the part "data" of a step."""
        epoch = self.progress.epoch
        batches = iter(self.loader.epoch(epoch, pretext=self.pretext_in(epoch), start=done))
        while True:
            with self.update.part("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _end_profile(self) -> None:
        if self.profiler:
            self.log.line(self.profiler.text())
            self.profiler = None

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            raise UserError(
                f"the loss became {value} at step {self.progress.step}, learning rate {self.update.rate:.3g}; "
                + (
                    f"the last good checkpoint is {self.checkpoints.last}"
                    if self.checkpoints.last.exists()
                    else "there is no checkpoint yet"
                )
            )
        return value

    def _validate(self) -> dict[str, float]:
        """The figures of the held-out images, where they are due."""
        epoch = self.progress.epoch
        if epoch % self.config.validate_every_n_epochs:
            return {}
        return self.validation.measure(pretext=self.pretext_in(epoch - 1))

    def _save(self, validation: dict[str, float]) -> None:
        score = self.validation.score(validation)
        better = score < self.progress.best
        self.progress.best = min(self.progress.best, score)
        self.checkpoints.save(self.progress, best=better or self.validation.loader is None)

    def _evaluate(self, *, quick: bool = False, recommend: bool = True) -> Figures:
        if self.data.train is None or self.data.test is None:
            return {}
        evaluation = build_evaluation(
            self.config, self.model, self.data.train, self.data.test, self.lead.extract
        )
        if self.progress.epoch == self.config.epochs:
            self.evaluation = evaluation
        return evaluation.figures(quick=quick, recommend=recommend)

    def _watched(self) -> dict[str, float]:
        """Measures what needs no labels."""
        return self.quality.measure(self.model)
