"""From settings to the parts of a run: device, images, augmentation, encoder, pretext head."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from scatsimclr.config import Config, load_config
from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.dali import DaliAugment, dali_missing
from scatsimclr.data.datasets import ImageSet, folds, load, normalization
from scatsimclr.data.loader import PairLoader
from scatsimclr.data.pretext import TASKS
from scatsimclr.data.shape import with_shape
from scatsimclr.errors import UserError
from scatsimclr.evaluation.evaluate import Evaluation
from scatsimclr.evaluation.recommendation import Recommendation, without_labels
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.scattering import Scattering2D
from scatsimclr.training import checkpoint


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
    return tuple(load_split(config, split) for split in ("train", "test"))


def load_split(config: Config, split: str) -> ImageSet:
    """One split of the data set of the settings."""
    settings = config.dataset
    return load(
        settings.dataset,
        split,
        size=settings.input_shape[:2],
        channels=settings.input_shape[2],
        data_dir=config.data_dir,
        download=settings.download,
        scale=config.data.scale,
    )


def load_data(config: Config) -> Data:
    """All images of a run; the validation images are a seeded random part of the pre-training images."""
    images = load_split(config, "pretrain")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
    order = order[: config.dataset.limit]
    held_out = round(config.dataset.valid_size * len(order))
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
    *size, channels = config.dataset.input_shape
    mean, std = normalization(config.dataset.dataset, channels)
    return AugmentSpec(tuple(size), mean=mean, std=std, **config.augment.model_dump())


def build_augment(config: Config, seed: int) -> Augment:
    """The augmentation that `data.pipeline` asks for."""
    settings = config.data
    missing = dali_missing()
    if settings.pipeline == "dali" and missing:
        raise UserError(f"data.pipeline=dali: {missing}")
    options = {
        "backend": "auto" if config.fused else "reference",
        "dtype": getattr(torch, settings.dtype),
    }
    if settings.pipeline == "dali" or (settings.pipeline == "auto" and config.fused and not missing):
        return DaliAugment(augment_spec(config), seed, **options)
    return Augment(augment_spec(config), seed, **options)


def data_threads(config: Config, device: torch.device) -> int:
    """Threads that make batches. Where the CPU trains, its cores are the model's, whose threads wait for each other: on
    two cores one data thread gives 304 images/s of 32², two 281 (EPYC Zen 4, bfloat16, 2026-11-25)."""
    cores = os.cpu_count() or 1
    return config.data.threads or (min(4, cores) if device.type == "cuda" else min(4, max(1, cores // 8)))


def build_loader(
    config: Config, images: ImageSet, batch_size: int, seed: int, device: torch.device
) -> PairLoader:
    """Batches of `images`, resident on the device; `seed` is the augmentation's, the order's is the run's."""
    augment = build_augment(config, seed)
    pretext = TASKS[config.task](augment) if config.task else None
    return PairLoader(
        images.images.to(device),
        augment,
        batch_size,
        config.seed,
        pretext,
        prefetch=config.data.prefetch,
        threads=data_threads(config, device),
    )


def build_model(config: Config) -> Encoder:
    """The encoder of the settings, with freshly drawn weights (from torch's global generator)."""
    settings = config.model
    backend = "auto" if config.fused else "reference"
    if not settings.scattering:
        return ResNetSimCLR(
            settings.base_model,
            settings.out_dim,
            cifar_stem=settings.cifar_stem,
            in_channels=config.dataset.input_shape[2],
            backend=backend,
        )
    return ScatSimCLR(
        settings.J,
        settings.L,
        config.dataset.input_shape,
        settings.res_blocks,
        settings.out_dim,
        stem=settings.stem,
        front=settings.front,
        head=settings.head,
        backend=backend,
    )


def restore(
    path: str, config_file: str | None = None, changes: list[str] | tuple[str, ...] = ()
) -> tuple[Config, Encoder, str]:
    """A trained encoder: settings, the model in evaluation mode on its device, and in words what it is.

    path: checkpoint, run folder, or with `config_file` mere weights. changes: `key=value` settings.
    """
    if config_file:
        config, origin = load_config(config_file, changes), f"weights of {path}"
    elif (state := checkpoint.load_if_whole(path)) is not None:
        config, origin = load_config(base=state["config"], overrides=changes), f"after epoch {state['epoch']}"
    else:
        raise UserError(f"{path} holds weights without their settings: give them with --config")
    config = with_shape(config)
    model = build_model(config)
    checkpoint.load_weights(path, model)
    return config, model.to(pick_device(config), memory_format=torch.channels_last).eval(), origin


def build_evaluation(config: Config, model: Encoder, train: ImageSet, test: ImageSet) -> Evaluation:
    """The probes of the settings, ready to run."""
    subsets = ()
    if "folds" in config.evaluation.probes:
        subsets = folds(config.dataset.dataset, data_dir=config.data_dir, download=config.dataset.download)
    amp = config.resolved_amp(next(model.parameters()).device.type)
    return Evaluation(
        model,
        train,
        test,
        augment_spec(config),
        config.evaluation,
        subsets,
        amp,
        scattering=front_end(config, model),
        joint=config.model.scattering,
    )


def front_end(config: Config, model: Encoder) -> Scattering2D:
    """The scattering transform that an encoder has, or a ResNet is compared with, on the encoder's device."""
    if config.model.scattering:
        return model._scatnet
    size = config.dataset.input_shape[:2]
    J = min(config.model.J, min(size).bit_length() - 1)
    transform = Scattering2D(J, size, L=config.model.L, backend="auto" if config.fused else "reference")
    return transform.to(next(model.parameters()).device)


def recommendation(
    config: Config, model: Encoder, images: ImageSet, evaluation: Evaluation | None
) -> Recommendation:
    """The features of a trained encoder to use: chosen by `evaluation`, by rule where there is none."""
    if evaluation is not None:
        return evaluation.recommendation()
    return without_labels(
        model,
        images.images,
        augment_spec(config),
        front_end(config, model),
        joint=config.model.scattering,
        batch_size=config.evaluation.batch_size,
        amp=config.resolved_amp(next(model.parameters()).device.type),
    )


def pick_device(config: Config) -> torch.device:
    """The device of the settings; UserError where there is no such device."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda was asked for, but torch sees no CUDA device")
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)
