"""The training loop: contrastive pre-training of one encoder, from settings to a run folder.

A run folder holds config.yaml (resolved), metrics.jsonl, tensorboard/, checkpoints/last.pt and best.pt, and plots/.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from scatsimclr import plots
from scatsimclr.config import Config
from scatsimclr.data.augment import Augment
from scatsimclr.data.datasets import ImageSet
from scatsimclr.data.loader import Batch, PairLoader
from scatsimclr.data.pretext import TASKS
from scatsimclr.errors import UserError
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.knn import knn_accuracy
from scatsimclr.loss import NTXentLoss
from scatsimclr.models.pretext import HEADS
from scatsimclr.training import checkpoint
from scatsimclr.training.metrics import Metrics, read_metrics
from scatsimclr.training.setup import build_evaluation, build_model, load_data, pick_device


@dataclass(frozen=True)
class Losses:
    """One batch's figures, still on the device. total: what is minimised, contrastive + λ · pretext."""

    total: Tensor
    parts: dict[str, Tensor]  # with a pretext task: contrastive_loss, pretext_loss, pretext_accuracy


def learning_rate_factor(epoch: int, flat_epochs: int, epochs: int) -> float:
    """Share of the base learning rate in an epoch: 1 for `flat_epochs`, then half a cosine down to 0."""
    if epoch < flat_epochs:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (epoch - flat_epochs) / max(1, epochs - flat_epochs)))


class _Sums:
    """Sums of the figures of steps, on their device, so that no step waits for it."""

    def __init__(self):
        self.sums, self.count = {}, 0

    def add(self, losses: Losses) -> None:
        self.count += 1
        for name, value in {"loss": losses.total.detach(), **losses.parts}.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()

    def means(self) -> dict[str, float]:
        return {name: (value / self.count).item() for name, value in self.sums.items()}


class Trainer:
    """One run: builds everything from the settings, then `fit()`."""

    def __init__(self, config: Config, folder: Path, state: dict | None = None):
        """folder: the run folder, made here. state: of the checkpoint to go on from."""
        self.config, self.folder = config, folder
        self.device = pick_device(config)
        self.data = load_data(config)
        self.loader = self._loader(self.data.pretrain, config.batch_size, config.seed)
        # Validation draws its views once and for all, so that its losses compare across epochs.
        self.validation = None
        if len(self.data.validation) > 1:
            batch = min(config.batch_size, len(self.data.validation))
            self.validation = self._loader(self.data.validation, batch, config.seed + 1)

        torch.manual_seed(config.seed)
        self.model = build_model(config)
        if config.fine_tune_from:
            checkpoint.load_weights(config.fine_tune_from, self.model)
        self.model.to(self.device, memory_format=torch.channels_last)
        # After the encoder: its weights are those of a run without a pretext task.
        self.head = self._build_head()
        backend = "auto" if config.fused else "reference"
        self.criterion = NTXentLoss(
            temperature=config.loss.temperature,
            use_cosine_similarity=config.loss.use_cosine_similarity,
            backend=backend,
        )
        trained = [parameter for parameter in self._modules().parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, config.lr, weight_decay=config.weight_decay, fused=True)
        self.amp = config.resolved_amp(self.device.type)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        self.epoch = self.step = 0
        self.best = math.inf
        self.before: dict[str, float] | None = None
        self.seconds = 0.0
        if state is not None:
            self._restore(state)

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        self.metrics = Metrics(folder, resume_step=self.step if state is not None else None)

    def _loader(self, images: ImageSet, batch_size: int, seed: int) -> PairLoader:
        augment = Augment(self.data.spec, seed)
        pretext = TASKS[self.config.task](augment) if self.config.task else None
        resident = images.images.to(self.device)
        return PairLoader(resident, augment, batch_size, self.config.seed, pretext)

    def _build_head(self) -> nn.Module | None:
        if self.config.task is None:
            return None
        head = HEADS[self.config.task](self.model.h_dim)
        if self.config.pretext.fine_tune_from:
            checkpoint.load_head(self.config.pretext.fine_tune_from, head)
        return head.to(self.device)

    def _modules(self) -> nn.ModuleList:
        """Everything that is trained."""
        return nn.ModuleList([self.model] if self.head is None else [self.model, self.head])

    def pretext_in(self, epoch: int) -> bool:
        """Whether the pretext task takes part in an epoch."""
        settings = self.config.pretext
        return self.head is not None and settings.lambda_ > 0 and epoch >= settings.start_epoch

    def fit(self) -> dict[str, dict[str, float]]:
        """Trains to the last epoch.

        Returns {"before": …, "after": …}, each as from `Evaluation.figures` or empty without labels.
        """
        if self.before is None:
            self.before = self._evaluate()
            self.metrics.write("evaluation", self.epoch, self.step, **self.before)
        after = None
        while self.epoch < self.config.epochs:
            figures, seconds = self._train_epoch()
            self.epoch += 1
            self.seconds += seconds
            validation, evaluation = self._validate(), {}
            last = self.epoch == self.config.epochs
            if last or self.epoch % self.config.eval_every_n_epochs == 0:
                evaluation = after = self._evaluate(quick=not last)
                self.metrics.write("evaluation", self.epoch, self.step, **evaluation)
            self._report(figures, seconds, validation, evaluation)
            self._save(validation)
        if after is None:  # a finished run was resumed for its result
            after = self._evaluate()
        self.metrics.close()
        checkpoint.save_pretrained(
            self.folder, self.model, self.config.model_dump(mode="json", by_alias=True)
        )
        plots.write_all(self)
        return {"before": self.before, "after": after}

    def _train_epoch(self) -> tuple[dict[str, float], float]:
        """One pass over the images. Returns the mean figures of its steps and the seconds it took."""
        config, start = self.config, time.perf_counter()
        factor = learning_rate_factor(self.epoch, config.flat_epochs, config.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * factor
        self._modules().train()
        steps, sums = len(self.loader), _Sums()
        bar = tqdm(
            total=steps * config.batch_size,
            desc=f"epoch {self.epoch + 1}/{config.epochs}",
            unit="img",
            disable=None,  # silent where the output is no terminal; the epoch's line is printed all the same
            leave=False,
        )
        for index, batch in enumerate(self.loader.epoch(self.epoch, pretext=self.pretext_in(self.epoch))):
            first = index - index % config.accumulate
            losses = self._loss(batch)
            self.scaler.scale(losses.total / min(config.accumulate, steps - first)).backward()
            sums.add(losses)
            if (index + 1) % config.accumulate == 0 or index + 1 == steps:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
            self.step += 1
            bar.update(config.batch_size)
            if self.step % config.log_every_n_steps == 0:
                value = self._finite(losses.total.item())
                bar.set_postfix(loss=f"{value:.4f}")
                parts = {name: part.item() for name, part in losses.parts.items()}
                self.metrics.write("train", self.epoch, self.step, loss=value, **parts)
        bar.close()
        figures = sums.means()
        self._finite(figures["loss"])
        return figures, time.perf_counter() - start

    def _loss(self, batch: Batch) -> Losses:
        contrastive = self._contrastive(batch)
        if batch.pretext is None:
            return Losses(contrastive, {})
        pictures, labels = batch.pretext
        with self._autocast():
            logits = self.head(self.model.encode(pictures))
        pretext = F.cross_entropy(logits.float(), labels)
        parts = {
            "contrastive_loss": contrastive.detach(),
            "pretext_loss": pretext.detach(),
            "pretext_accuracy": (logits.argmax(1) == labels).double().mean(),
        }
        return Losses(contrastive + self.config.pretext.lambda_ * pretext, parts)

    def _contrastive(self, batch: Batch) -> Tensor:
        with self._autocast():
            if self.config.views == "concatenated":
                z_i, z_j = self.model(torch.cat(batch.views))[1].chunk(2)
            else:
                z_i, z_j = (self.model(view)[1] for view in batch.views)
        return self.criterion(z_i.float(), z_j.float())

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, self.amp) if self.amp else contextlib.nullcontext()

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            rate = self.optimizer.param_groups[0]["lr"]
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
        self._modules().eval()
        sums = _Sums()
        for batch in self.validation.epoch(0, pretext=self.pretext_in(self.epoch - 1)):
            sums.add(self._loss(batch))
        figures = sums.means()
        bank, queries = (
            images.subset(images.labels >= 0) for images in (self.data.pretrain, self.data.validation)
        )
        if self.config.best_by == "knn" and len(bank) and len(queries):
            figures["knn"] = knn_accuracy(
                self._features(bank),
                bank.labels.to(self.device),
                self._features(queries),
                queries.labels.to(self.device),
                k=self.config.evaluation.knn_k,
            )
        self.metrics.write("validation", self.epoch, self.step, **figures)
        return figures

    def _features(self, images: ImageSet) -> Tensor:
        return extract(
            self.model, images.images, self.data.spec, batch_size=self.config.evaluation.batch_size
        )

    def _evaluate(self, *, quick: bool = False) -> dict[str, float]:
        if self.data.test is None:
            return {}
        data = self.data
        return build_evaluation(self.config, self.model, data.train, data.test).figures(quick=quick)

    def _report(self, figures: dict, seconds: float, validation: dict, evaluation: dict) -> None:
        images = len(self.loader) * self.config.batch_size
        rate = self.optimizer.param_groups[0]["lr"]
        self.metrics.write(
            "epoch", self.epoch, self.step, **figures, lr=rate, images_per_second=images / seconds
        )
        left = (self.config.epochs - self.epoch) * seconds
        parts = [f"epoch {self.epoch}/{self.config.epochs}", f"loss {figures['loss']:.4f}"]
        if "pretext_accuracy" in figures:
            parts.append(f"{self.config.task} {figures['pretext_accuracy']:.1%}")
        parts += [f"val {validation['loss']:.4f}"] if validation else []
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
        state = {
            "config": self.config.model_dump(mode="json", by_alias=True),
            "model": self.model.state_dict(),
            "head": None if self.head is None else self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "before": self.before,
            "seconds": self.seconds,
        }
        checkpoint.save(self.folder / "checkpoints" / "last.pt", state)
        if better or self.validation is None:
            checkpoint.save(self.folder / "checkpoints" / "best.pt", state)

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        if self.head is not None:
            self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"].cpu())
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.before, self.seconds = state["before"], state["seconds"]

    def records(self) -> list[dict]:
        """Everything measured so far, as in metrics.jsonl."""
        return read_metrics(self.metrics.path)


def parameter_count(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
