"""`Config`: everything that decides a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    model_validator,
)

import scatsimclr.config.sections as sections
from scatsimclr.config.augmentation import AugmentSettings
from scatsimclr.config.messages import describe, dotted_names
from scatsimclr.config.values import OWN, Ahead, Amp, BatchSize, Count, OptionalText, Width
from scatsimclr.cpu import native_bfloat16
from scatsimclr.errors import UserError


class Config(sections.Settings):
    """Everything that decides a run.

    Attributes:
        mode: Whether there is a pretext task beside the contrastive one.
        fused: Fused kernels, DALI and mixed precision, instead of plain PyTorch.
        amp: Precision of autocast, see `resolved_amp`.
        graphs: Whether updates are recorded as CUDA graphs, see `resolved_graphs`.
        device: Where to train.
        seed: Of everything random.
        epochs: How long to train.
        minutes: Instead of epochs, about how long to train: the epochs that fit by the speed of the first steps, of
            which no more than a quarter keep the rate flat.
        batch_size: Images per step, in all processes together.
        accumulate: Steps per update of the weights.
        neighbours: How many images nearest to each image by whitened scattering have views that are positives too
            (`scatsimclr.training.neighbours`).
        activation_checkpointing: Trades a third more time for less memory.
        views: Whether both views go through the encoder in one batch or in two, which decides the batch statistics.
        lr: Base learning rate.
        flat_epochs: Epochs before it falls.
        weight_decay: Of Adam.
        validate_every_n_epochs: How often the held-out images' loss is measured.
        eval_every_n_epochs: How often the probes run.
        log_every_n_steps: How often a step's figures are logged.
        checkpoint_every_n_steps: Besides the checkpoints at the end of each epoch; from any of them a run continues
            as if it had not been stopped.
        checkpoint_every_minutes: Likewise, by the clock.
        best_by: What the best checkpoint is best at.
        fine_tune_from: A file with weights to start from.
        data_dir: Where the images are, or are downloaded to.
        model: The encoder.
        dataset: The images.
        data: How batches are made.
        augment: The augmentation.
        loss: NT-Xent.
        pretext: The pretext task.
        evaluation: The probes.
    """

    mode: Literal["unsupervised", "pretext"] = "unsupervised"
    fused: bool = False
    amp: Amp = "auto"
    graphs: Literal["auto"] | bool = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    epochs: Count = 100
    minutes: PositiveFloat | None = None
    batch_size: BatchSize = 64
    accumulate: Width = 1
    neighbours: Ahead = 0
    activation_checkpointing: bool = False
    views: Literal["concatenated", "separate"] = "concatenated"
    lr: PositiveFloat = 3e-4
    flat_epochs: Annotated[int, Field(ge=0, le=10**9)] = 10
    weight_decay: NonNegativeFloat = 1e-5
    validate_every_n_epochs: Count = 1
    eval_every_n_epochs: Count = 10
    log_every_n_steps: Count = 100
    checkpoint_every_n_steps: Count | None = None
    checkpoint_every_minutes: PositiveFloat | None = None
    best_by: Literal["validation_loss", "knn"] = "validation_loss"
    fine_tune_from: OptionalText = None
    data_dir: OptionalText = None
    model: sections.ModelSettings = sections.ModelSettings()
    dataset: sections.DatasetSettings = sections.DatasetSettings()
    data: sections.DataSettings = sections.DataSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: sections.LossSettings = sections.LossSettings()
    pretext: sections.PretextSettings | None = None
    evaluation: sections.EvaluationSettings = sections.EvaluationSettings()

    @model_validator(mode="after")
    def _image_holds_the_scale(self) -> Config:
        if self.dataset.shape_is_open:
            return self
        height, width, _ = self.dataset.input_shape
        if self.model.scattering and min(height, width) < 2**self.model.J:
            raise ValueError(
                f"model.J must be such that 2^J does not exceed the image, got {self.model.J} for images of "
                f"{height}×{width}"
            )
        return self

    @model_validator(mode="after")
    def _channels_of_the_images(self) -> Config:
        if self.dataset.shape_is_open:
            return self
        channels, normalization = self.dataset.input_shape[2], self.dataset.normalization
        if channels not in (1, 3) and self.dataset.dataset not in OWN:
            raise ValueError(
                f"dataset.input_shape must have 1 or 3 channels for {self.dataset.dataset}, got {channels}"
            )
        if not isinstance(normalization, str) and len(normalization[0]) != channels:
            raise ValueError(
                f"dataset.normalization must have a mean for each channel, {channels}, got {len(normalization[0])}"
            )
        return self

    @model_validator(mode="after")
    def _whitened_by_the_log_front(self) -> Config:
        features = self.evaluation.features
        # Neighbours are a setting of ScatSimCLR, as J and L are, and ignored for a ResNet.
        needs = [f"neighbours={self.neighbours}"] if self.neighbours and self.model.scattering else []
        needs += [f"evaluation.features={features}"] if "whitened" in features else []
        if needs and not (self.model.scattering and self.model.front == "log"):
            raise ValueError(f"{needs[0]} needs a ScatSimCLR with model.front=log")
        return self

    @model_validator(mode="after")
    def _one_pretext_task(self) -> Config:
        if self.mode != "pretext":
            return self
        if self.pretext is None or self.pretext.rotation == self.pretext.jigsaw:
            raise ValueError(
                "mode=pretext needs exactly one of pretext.rotation=true and pretext.jigsaw=true"
            )
        if self.dataset.shape_is_open:
            return self
        height, width, _ = self.dataset.input_shape
        if self.pretext.rotation and height != width:
            raise ValueError(
                f"pretext.rotation turns images by 90°: they must be square, got {height}×{width}"
            )
        if self.pretext.jigsaw and min(height, width) < 6:
            raise ValueError(
                f"pretext.jigsaw cuts images into 3×3 tiles: they must be at least 6×6, got {height}×{width}"
            )
        return self

    @model_validator(mode="after")
    def _folds_of_stl10(self) -> Config:
        if "folds" in self.evaluation.probes and self.dataset.dataset != "stl10":
            raise ValueError(
                f"evaluation.probes: only stl10 has predefined folds, {self.dataset.dataset} has none"
            )
        return self

    @property
    def task(self) -> str | None:
        """The pretext task of the run: "rotation", "jigsaw" or None."""
        if self.mode != "pretext" or self.pretext is None:
            return None
        return "rotation" if self.pretext.rotation else "jigsaw"

    def resolved_amp(self, device_type: str) -> torch.dtype | None:
        """The dtype of autocast, None for float32.

        "auto" is bfloat16 with `fused`, on CUDA and on a CPU with instructions for it: there a step in float32 takes
        1.6 to 1.8 times as long (benchmarks/bench_step.py).
        """
        amp = self.amp
        if amp == "auto":
            amp = "bf16" if self.fused and (device_type == "cuda" or native_bfloat16()) else "off"
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]

    def resolved_graphs(self, device_type: str, *, distributed: bool = False) -> bool:
        """Whether whole updates are recorded as CUDA graphs; "auto" is yes with `fused`, wherever it is possible.

        Args:
            device_type: "cuda" or "cpu".
            distributed: Whether torchrun has started the process.

        Raises:
            UserError: The settings require them and they cannot be recorded.
        """
        reason = None
        if device_type != "cuda":
            reason = "they need a CUDA device"
        elif self.resolved_amp(device_type) == torch.float16:
            reason = "float16's loss scaling decides on the host; amp=bf16 works"
        elif self.accumulate > 1:
            reason = "accumulate=1 is needed"
        elif distributed:
            reason = "they cannot be recorded in processes of torchrun"
        if self.graphs is True and reason:
            raise UserError(f"graphs=true: {reason}")
        return reason is None and (self.fused if self.graphs == "auto" else self.graphs)

    def with_input_shape(self, shape: tuple[int, int, int]) -> Config:
        """The same settings for images of this shape, and the encoder that suits them where it is `auto`.

        Raises:
            UserError: They do not go together.
        """
        settings = self.as_json()
        settings["dataset"]["input_shape"] = shape
        if self.model.base_model == "auto":
            settings["model"]["base_model"] = "scatsimclr4" if shape[2] == 1 else "scatsimclr12"
        return parse_config(settings)

    def with_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Config:
        """The settings with means and standard deviations of the channels."""
        settings = self.as_json()
        settings["dataset"]["normalization"] = (mean, std)
        return parse_config(settings)

    def as_json(self) -> dict[str, Any]:
        """All settings in JSON's types, under the names that files have; `parse_config` reads them back."""
        return self.model_dump(mode="json", by_alias=True)

    def to_yaml(self) -> str:
        """All settings as a settings file."""
        return yaml.safe_dump(self.as_json(), sort_keys=False)


def parse_config(settings: dict[str, Any]) -> Config:
    """Validates settings.

    Raises:
        UserError: For the first setting that is unknown or ill-typed.
    """
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise UserError(describe(error.errors(include_url=False)[0], setting_names())) from None


def setting_names() -> list[str]:
    """Dotted names of all settings."""
    return dotted_names(Config)
