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

import torch
from torch import Tensor, nn
from tqdm import tqdm

from scatsimclr.config import Config
from scatsimclr.data.augment import Augment
from scatsimclr.data.datasets import ImageSet
from scatsimclr.data.loader import Batch
from scatsimclr.data.shape import with_shape
from scatsimclr.environment import environment
from scatsimclr.errors import UserError
from scatsimclr.evaluation.evaluate import Evaluation
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.front import fit_front
from scatsimclr.evaluation.knn import knn_accuracy
from scatsimclr.evaluation.quality import SETTLED, Probe, collapse
from scatsimclr.evaluation.standard import Standard
from scatsimclr.models.pretext import HEADS
from scatsimclr.reporting.page import write_report
from scatsimclr.reporting.subject import Subject
from scatsimclr.training import checkpoint
from scatsimclr.training.duration import timed
from scatsimclr.training.metrics import Metrics, Sums, read_metrics
from scatsimclr.training.neighbours import nearest_images
from scatsimclr.training.profile import WARM_UP, StepProfiler
from scatsimclr.training.setup import (
    build_augment,
    build_evaluation,
    build_loader,
    build_model,
    load_data,
    pick_device,
    recommendation,
)
from scatsimclr.training.update import Update

# First epochs after which quality is measured, whatever `eval_every_n_epochs`: a collapse comes early.
WATCHED = 3


def learning_rate_factor(epoch: int, flat_epochs: int, epochs: int) -> float:
    """Share of the base learning rate in an epoch: 1 for `flat_epochs`, then half a cosine down to 0."""
    if epoch < flat_epochs:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (epoch - flat_epochs) / max(1, epochs - flat_epochs)))


class Trainer:
    """One run: builds everything from the settings, then `fit()`."""

    def __init__(self, config: Config, folder: Path, state: dict | None = None, *, profile: bool = False):
        """folder: the run folder, made here. state: of the checkpoint to go on from. profile: measure some steps."""
        config = with_shape(config)
        self.config, self.folder = config, folder
        self.device = pick_device(config)
        self.data = load_data(config)
        self.loader = build_loader(config, self.data.pretrain, config.batch_size, config.seed, self.device)
        # Validation draws its views once and for all, so that its losses compare across epochs.
        self.validation = None
        if len(self.data.validation) > 1:
            batch = min(config.batch_size, len(self.data.validation))
            self.validation = build_loader(config, self.data.validation, batch, config.seed + 1, self.device)

        self.quality = Probe.of(
            Augment(self.data.spec, config.seed + 2), self.data.validation, self.data.pretrain
        )

        torch.manual_seed(config.seed)
        self.model = build_model(config)
        self.model.activation_checkpointing = config.activation_checkpointing
        if config.fine_tune_from:
            checkpoint.load_weights(config.fine_tune_from, self.model)
        self.model.to(self.device, memory_format=torch.channels_last)
        if config.model.scattering and state is None and not config.fine_tune_from:
            fit_front(self.model, self.data.pretrain.images, build_augment(config, config.seed + 3))
        # After the encoder: its weights are those of a run without a pretext task.
        self.head = self._build_head()
        self.update = Update(config, self.model, self.head, self.device)
        self.profiler = StepProfiler(folder, self.update.part) if profile else None
        self.epoch = self.step = 0
        self.partial: dict | None = None  # of the epoch that a checkpoint was made in the middle of
        self.best = math.inf
        self.before: dict[str, float] | None = None
        self.evaluation: Evaluation | None = None  # of the finished encoder
        self.seconds = 0.0
        if state is not None:
            self._restore(state)
        if config.neighbours and config.model.scattering and len(self.data.pretrain) > 1:
            pretrain = self.data.pretrain.images
            self.loader.neighbours = nearest_images(
                self.model, pretrain, self.data.spec, min(config.neighbours, len(pretrain) - 1)
            )
        if state is None and config.minutes is not None:
            held_out = len(self.data.validation) / len(self.data.pretrain)
            self.config = config = timed(config, self.model, self.head, self.loader, self.device, held_out)

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        (folder / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n")
        self.metrics = Metrics(folder, resume_step=self.step if state is not None else None)

    def _build_head(self) -> nn.Module | None:
        if self.config.task is None:
            return None
        head = HEADS[self.config.task](self.model.h_dim)
        if self.config.pretext.fine_tune_from:
            checkpoint.load_head(self.config.pretext.fine_tune_from, head)
        return head.to(self.device)

    def pretext_in(self, epoch: int) -> bool:
        """Whether the pretext task takes part in an epoch."""
        settings = self.config.pretext
        return self.head is not None and settings.lambda_ > 0 and epoch >= settings.start_epoch

    def fit(self) -> dict[str, dict[str, float | str]]:
        """Trains to the last epoch.

        Returns {"before": …, "after": …}, each as from `Evaluation.figures` or empty without labels.
        """
        if self.before is None:
            self.before = self._evaluate(recommend=False)
            self.metrics.write("evaluation", self.epoch, self.step, **self.before)
            self._watch()
        after = None
        while self.epoch < self.config.epochs:
            figures, seconds = self._train_epoch()
            self.epoch += 1
            self.seconds += seconds
            validation, evaluation = self._validate(), {}
            last = self.epoch == self.config.epochs
            due = last or self.epoch % self.config.eval_every_n_epochs == 0
            if due:
                evaluation = after = self._evaluate(quick=not last)
                self.metrics.write("evaluation", self.epoch, self.step, **evaluation)
            if due or self.epoch <= WATCHED:
                self._watch()
            self._report(figures, seconds, validation, evaluation)
            self._save(validation)
        if after is None:  # a finished run was resumed for its result
            after = self._evaluate()
        self.metrics.close()
        checkpoint.save_pretrained(
            self.folder, self.model, self.config.model_dump(mode="json", by_alias=True)
        )
        recommendation(self.config, self.model, self.data.pretrain, self.evaluation).save(self.folder)
        self._write_report()
        return {"before": self.before, "after": after}

    def _train_epoch(self) -> tuple[dict[str, float], float]:
        """One pass over the images. Returns the mean figures of its steps and the seconds it took."""
        config, start = self.config, time.perf_counter()
        partial, self.partial = self.partial, None
        self.update.rate = config.lr * learning_rate_factor(self.epoch, config.flat_epochs, config.epochs)
        self.update.modules().train()
        steps, sums, done = len(self.loader), Sums(), 0
        if partial:
            sums.restore(partial, self.device)
            done, start = sums.count, start - partial["seconds"]
        bar = tqdm(
            initial=done * config.batch_size,
            total=steps * config.batch_size,
            desc=f"epoch {self.epoch + 1}/{config.epochs}",
            unit="img",
            disable=None,  # silent where the output is no terminal; the epoch's line is printed all the same
            leave=False,
        )
        for index, batch in enumerate(self._batches(done), done):
            together = min(config.accumulate, steps - (index - index % config.accumulate))
            last = (index + 1) % config.accumulate == 0 or index + 1 == steps
            losses = self.update(batch, share=1 / together, last=last)
            sums.add(losses)
            self.step += 1
            if self.profiler and self.profiler.step():
                self._show_profile()
            bar.update(config.batch_size)
            if self.step % config.log_every_n_steps == 0:
                value = self._finite(losses.total.item())
                bar.set_postfix(loss=f"{value:.4f}")
                parts = {name: part.item() for name, part in losses.parts.items()}
                self.metrics.write("train", self.epoch, self.step, loss=value, **parts)
            every = config.checkpoint_every_n_steps
            # The checkpoint of the last step is the epoch's; gradients that are still added up are not saved.
            if every and self.step % every == 0 and last and index + 1 < steps:
                self._finite(losses.total.item())
                self._save_partial(sums, time.perf_counter() - start)
        bar.close()
        if self.profiler:  # the epoch was shorter than what is measured
            self.profiler.finish()
            self._show_profile()
        figures = sums.means()
        self._finite(figures["loss"])
        return figures, time.perf_counter() - start

    def _batches(self, done: int) -> Iterator[Batch]:
        """The batches of the epoch after the first `done`; the wait for them is the part "data" of a step."""
        pretext = self.pretext_in(self.epoch)
        batches = iter(self.loader.epoch(self.epoch, pretext=pretext, start=done))
        while True:
            with self.update.part("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _show_profile(self) -> None:
        if self.profiler.table:
            tqdm.write(f"{self.profiler.text()}\n{self.folder / 'trace.json'} is its trace")
        else:
            tqdm.write(
                f"no profile: too few steps in an epoch, {len(self.loader)}, of which {WARM_UP} warm up"
            )
        self.profiler = None

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            rate = self.update.rate
            raise UserError(
                f"the loss became {value} at step {self.step}, learning rate {rate:.3g}; the last good checkpoint is "
                f"{self.folder / 'checkpoints' / 'last.pt'}"
            )
        return value

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Loss on the held-out images, and where they have labels kNN from the other pre-training images."""
        if self.validation is None or self.epoch % self.config.validate_every_n_epochs:
            return {}
        self.update.modules().eval()
        sums = Sums()
        for batch in self.validation.epoch(0, pretext=self.pretext_in(self.epoch - 1)):
            sums.add(self.update.losses(batch))
        figures = sums.means()
        bank, queries = (
            images.subset(images.labels >= 0) for images in (self.data.pretrain, self.data.validation)
        )
        if self.config.best_by == "knn" and len(bank) and len(queries):
            known = self._features(bank)
            standard = Standard.of(known)
            figures["knn"] = knn_accuracy(
                standard(known),
                bank.labels.to(self.device),
                standard(self._features(queries)),
                queries.labels.to(self.device),
                k=self.config.evaluation.knn_k,
            )
        self.metrics.write("validation", self.epoch, self.step, **figures)
        return figures

    def _features(self, images: ImageSet) -> Tensor:
        return extract(
            self.model,
            images.images,
            self.data.spec,
            batch_size=self.config.evaluation.batch_size,
            amp=self.update.amp,
        )

    def _evaluate(self, *, quick: bool = False, recommend: bool = True) -> dict[str, float | str]:
        if self.data.test is None:
            return {}
        evaluation = build_evaluation(self.config, self.model, self.data.train, self.data.test)
        if self.epoch == self.config.epochs:
            self.evaluation = evaluation
        return evaluation.figures(quick=quick, recommend=recommend)

    def _watch(self) -> None:
        """Measures what needs no labels, and warns of a collapse."""
        figures = self.quality.measure(self.model)
        if not figures:
            return
        self.metrics.write("quality", self.epoch, self.step, **figures)
        if self.step >= SETTLED and (reason := collapse(figures)):
            self.metrics.write("warning", self.epoch, self.step, text=reason)
            tqdm.write(
                f"warning: after epoch {self.epoch} {reason}; a lower lr or stronger augmentation may help"
            )

    def _report(self, figures: dict, seconds: float, validation: dict, evaluation: dict) -> None:
        images = len(self.loader) * self.config.batch_size
        if self.update.amp == torch.float16:
            figures = {**figures, "skipped_updates": self.update.skipped}
        self.metrics.write(
            "epoch", self.epoch, self.step, **figures, lr=self.update.rate, images_per_second=images / seconds
        )
        left = (self.config.epochs - self.epoch) * seconds
        parts = [f"epoch {self.epoch}/{self.config.epochs}", f"loss {figures['loss']:.4f}"]
        if "pretext_accuracy" in figures:
            parts.append(f"{self.config.task} {figures['pretext_accuracy']:.1%}")
        parts += [f"val {validation['loss']:.4f}"] if validation else []
        if figures.get("skipped_updates"):
            parts.append(f"{figures['skipped_updates']} updates skipped (float16 overflow)")
        parts += [f"{name} {evaluation[name]:.1%}" for name in ("knn", "linear") if name in evaluation]
        parts += [f"{images / seconds:.0f} img/s", f"{left / 60:.1f} min left" if left else "done"]
        tqdm.write("  ".join(parts))

    def _score(self, validation: dict) -> float:
        """What the best checkpoint minimises: the contrastive loss alone compares before and after `start_epoch`."""
        if self.config.best_by == "knn":
            return -validation.get("knn", -math.inf)
        return validation.get("contrastive_loss", validation.get("loss", math.inf))

    def _save(self, validation: dict) -> None:
        better = self._score(validation) < self.best
        self.best = min(self.best, self._score(validation))
        state = self._state()
        checkpoint.save(self.folder / "checkpoints" / "last.pt", state)
        if better or self.validation is None:
            checkpoint.save(self.folder / "checkpoints" / "best.pt", state)

    def _save_partial(self, sums: Sums, seconds: float) -> None:
        """In the middle of an epoch. The views of a step depend on its number alone: nothing else is to be saved."""
        state = {**self._state(), "partial": {**sums.state(), "seconds": seconds}}
        checkpoint.save(self.folder / "checkpoints" / "last.pt", state)

    def _state(self) -> dict:
        return {
            "config": self.config.model_dump(mode="json", by_alias=True),
            "model": self.model.state_dict(),
            "head": None if self.head is None else self.head.state_dict(),
            "update": self.update.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "before": self.before,
            "seconds": self.seconds,
            "pipeline": self.loader.augment.name,
        }

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        if self.head is not None:
            self.head.load_state_dict(state["head"])
        self.update.load_state_dict(state["update"])
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.before, self.seconds = state["before"], state["seconds"]
        self.partial = state.get("partial")
        before = state.get("pipeline", self.loader.augment.name)
        if before != self.loader.augment.name:
            raise UserError(
                f"the run's views were made by {before}, here they would be by {self.loader.augment.name}, and differ "
                f"by rounding: data.pipeline={before} where it is installed, or a new run"
            )

    def _write_report(self) -> None:
        """report.html and plots/. The run is whole without them: whatever goes wrong here does not end it."""
        data = self.data
        try:
            write_report(
                Subject(
                    self.folder,
                    self.config,
                    self.model,
                    data.pretrain,
                    data.spec,
                    self.evaluation,
                    self.records(),
                )
            )
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            tqdm.write(
                f"warning: no report, {reason}; `python -m scatsimclr.report {self.folder}` tries again and tells where"
            )

    def records(self) -> list[dict]:
        """Everything measured so far, as in metrics.jsonl."""
        return read_metrics(self.metrics.path)
