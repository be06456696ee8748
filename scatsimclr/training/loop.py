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
from tqdm import tqdm

from scatsimclr import plots
from scatsimclr.config import Config
from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.datasets import ImageSet, load, normalization
from scatsimclr.data.loader import Batch, PairLoader
from scatsimclr.errors import UserError
from scatsimclr.evaluation.evaluate import evaluate_encoder
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.knn import knn_accuracy
from scatsimclr.loss import NTXentLoss
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.training import checkpoint
from scatsimclr.training.metrics import Metrics, read_metrics


@dataclass(frozen=True)
class Data:
    """The images of a run. train and test are None where there are no labels."""

    pretrain: ImageSet
    validation: ImageSet
    train: ImageSet | None
    test: ImageSet | None
    spec: AugmentSpec


def load_labelled(
    config: Config, pretrain: ImageSet | None = None
) -> tuple[ImageSet | None, ImageSet | None]:
    """The labelled train and test images, or (None, None) where the data set has no labels."""
    if pretrain is not None and not pretrain.classes:
        return None, None
    return tuple(_load(config, split) for split in ("train", "test"))


def _load(config: Config, split: str) -> ImageSet:
    settings = config.dataset
    return load(
        settings.dataset,
        split,
        size=settings.input_shape[:2],
        data_dir=config.data_dir,
        download=settings.download,
    )


def load_data(config: Config) -> Data:
    """All images of a run; the validation images are a seeded random part of the pre-training images."""
    images = _load(config, "pretrain")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
    held_out = round(config.dataset.valid_size * len(images))
    train, test = load_labelled(config, images)
    return Data(
        images.subset(order[held_out:].sort().values),
        images.subset(order[:held_out].sort().values),
        train,
        test,
        augment_spec(config),
    )


def augment_spec(config: Config) -> AugmentSpec:
    """The augmentation and normalisation of the settings."""
    mean, std = normalization(config.dataset.dataset)
    return AugmentSpec(config.dataset.input_shape[:2], mean=mean, std=std, **config.augment.model_dump())


def build_model(config: Config) -> ScatSimCLR:
    """The encoder of the settings, with freshly drawn weights (from torch's global generator)."""
    settings = config.model
    return ScatSimCLR(
        settings.J,
        settings.L,
        config.dataset.input_shape,
        settings.res_blocks,
        settings.out_dim,
        stem=settings.stem,
        backend="auto" if config.fused else "reference",
    )


def pick_device(config: Config) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda was asked for, but torch sees no CUDA device")
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def learning_rate_factor(epoch: int, flat_epochs: int, epochs: int) -> float:
    """Share of the base learning rate in an epoch: 1 for `flat_epochs`, then half a cosine down to 0."""
    if epoch < flat_epochs:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (epoch - flat_epochs) / max(1, epochs - flat_epochs)))


class Trainer:
    """One run: builds everything from the settings, then `fit()`."""

    def __init__(self, config: Config, folder: Path, state: dict | None = None):
        """folder: the run folder, made here. state: of the checkpoint to go on from."""
        self.config, self.folder = config, folder
        self.device = pick_device(config)
        self.data = load_data(config)
        spec = self.data.spec
        self.loader = PairLoader(
            self.data.pretrain.images.to(self.device),
            Augment(spec, config.seed),
            config.batch_size,
            config.seed,
        )
        # Validation draws its views once and for all, so that its losses compare across epochs.
        self.validation = None
        if len(self.data.validation) > 1:
            images = self.data.validation.images.to(self.device)
            batch = min(config.batch_size, len(images))
            self.validation = PairLoader(images, Augment(spec, config.seed + 1), batch, config.seed)

        torch.manual_seed(config.seed)
        self.model = build_model(config)
        if config.fine_tune_from:
            checkpoint.load_weights(config.fine_tune_from, self.model)
        self.model.to(self.device, memory_format=torch.channels_last)
        backend = "auto" if config.fused else "reference"
        self.criterion = NTXentLoss(
            temperature=config.loss.temperature,
            use_cosine_similarity=config.loss.use_cosine_similarity,
            backend=backend,
        )
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
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

    def fit(self) -> dict[str, dict[str, float]]:
        """Trains to the last epoch.

        Returns {"before": …, "after": …}, each as from `evaluate_encoder` or empty without labels.
        """
        if self.before is None:
            self.before = self._evaluate()
            self.metrics.write("evaluation", self.epoch, self.step, **self.before)
        after = None
        while self.epoch < self.config.epochs:
            loss, seconds = self._train_epoch()
            self.epoch += 1
            self.seconds += seconds
            validation, evaluation = self._validate(), {}
            last = self.epoch == self.config.epochs
            if last or self.epoch % self.config.eval_every_n_epochs == 0:
                evaluation = after = self._evaluate(few=last)
                self.metrics.write("evaluation", self.epoch, self.step, **evaluation)
            self._report(loss, seconds, validation, evaluation)
            self._save(validation)
        if after is None:  # a finished run was resumed for its result
            after = self._evaluate()
        self.metrics.close()
        plots.write_all(self)
        return {"before": self.before, "after": after}

    def _train_epoch(self) -> tuple[float, float]:
        """One pass over the images. Returns the mean loss and the seconds it took."""
        config, start = self.config, time.perf_counter()
        factor = learning_rate_factor(self.epoch, config.flat_epochs, config.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * factor
        self.model.train()
        steps, total = len(self.loader), torch.zeros((), dtype=torch.float64, device=self.device)
        bar = tqdm(
            total=steps * config.batch_size,
            desc=f"epoch {self.epoch + 1}/{config.epochs}",
            unit="img",
            disable=None,  # silent where the output is no terminal; the epoch's line is printed all the same
            leave=False,
        )
        for index, batch in enumerate(self.loader.epoch(self.epoch)):
            first = index - index % config.accumulate
            loss = self._loss(batch)
            self.scaler.scale(loss / min(config.accumulate, steps - first)).backward()
            total += loss.detach()
            if (index + 1) % config.accumulate == 0 or index + 1 == steps:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
            self.step += 1
            bar.update(config.batch_size)
            if self.step % config.log_every_n_steps == 0:
                value = self._finite(loss)
                bar.set_postfix(loss=f"{value:.4f}")
                self.metrics.write("train", self.epoch, self.step, loss=value)
        bar.close()
        return self._finite(total / steps), time.perf_counter() - start

    def _loss(self, batch: Batch) -> Tensor:
        with self._autocast():
            if self.config.views == "concatenated":
                z_i, z_j = self.model(torch.cat(batch.views))[1].chunk(2)
            else:
                z_i, z_j = (self.model(view)[1] for view in batch.views)
        return self.criterion(z_i.float(), z_j.float())

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, self.amp) if self.amp else contextlib.nullcontext()

    def _finite(self, loss: Tensor) -> float:
        value = loss.item()
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
        self.model.eval()
        losses = [self._loss(batch).item() for batch in self.validation.epoch(0)]
        figures = {"loss": sum(losses) / len(losses)}
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

    def _evaluate(self, *, few: bool = True) -> dict[str, float]:
        if self.data.test is None:
            return {}
        data = self.data
        return evaluate_encoder(self.model, data.train, data.test, data.spec, self.config.evaluation, few=few)

    def _report(self, loss: float, seconds: float, validation: dict, evaluation: dict) -> None:
        images = len(self.loader) * self.config.batch_size
        rate = self.optimizer.param_groups[0]["lr"]
        self.metrics.write(
            "epoch", self.epoch, self.step, loss=loss, lr=rate, images_per_second=images / seconds
        )
        left = (self.config.epochs - self.epoch) * seconds
        parts = [f"epoch {self.epoch}/{self.config.epochs}", f"loss {loss:.4f}"]
        parts += [f"val {validation['loss']:.4f}"] if validation else []
        parts += [f"{name} {evaluation[name]:.1%}" for name in ("knn", "linear") if name in evaluation]
        parts += [f"{images / seconds:.0f} img/s", f"{left / 60:.1f} min left" if left else "done"]
        tqdm.write("  ".join(parts))

    def _score(self, validation: dict) -> float:
        """What the best checkpoint minimises."""
        if self.config.best_by == "knn":
            return -validation.get("knn", -math.inf)
        return validation.get("loss", math.inf)

    def _save(self, validation: dict) -> None:
        better = self._score(validation) < self.best
        self.best = min(self.best, self._score(validation))
        state = {
            "config": self.config.model_dump(mode="json", by_alias=True),
            "model": self.model.state_dict(),
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
