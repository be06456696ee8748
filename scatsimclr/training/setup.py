"""From settings to the parts of a run: device, images, augmentation, encoder, pretext head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scatsimclr.config import Config, load_config
from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.dali import DaliAugment, dali_missing
from scatsimclr.data.datasets import ImageSet, folds, load, normalization
from scatsimclr.data.given import Given
from scatsimclr.data.loader import PairLoader
from scatsimclr.data.mapped import AnyImages
from scatsimclr.data.pretext import TASKS
from scatsimclr.data.shape import with_shape
from scatsimclr.errors import UserError
from scatsimclr.evaluation.evaluate import Evaluation
from scatsimclr.evaluation.features import Extract, extract
from scatsimclr.evaluation.recommendation import Recommendation, without_labels
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.pretext import HEADS
from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.scattering import Scattering2D
from scatsimclr.training import checkpoint
from scatsimclr.training.distributed import World

COUNTED = 4096  # images whose levels are counted at a time


@dataclass(frozen=True)
class Data:
    """The images of a run.

    Attributes:
        pretrain: What the encoder is trained on.
        validation: Images held out from it.
        train: Labelled images for the probes; None where there are no labels.
        test: Likewise.
        spec: The augmentation and normalisation.
    """

    pretrain: ImageSet
    validation: ImageSet
    train: ImageSet | None
    test: ImageSet | None
    spec: AugmentSpec


def load_labelled(
    config: Config, pretrain: ImageSet | None = None, given: Given | None = None
) -> tuple[ImageSet, ImageSet] | tuple[None, None]:
    """The labelled train and test images, or (None, None) where the pre-training images have no labels."""
    if pretrain is not None and not pretrain.classes:
        return None, None
    return load_split(config, "train", given), load_split(config, "test", given)


def load_split(config: Config, split: str, given: Given | None = None) -> ImageSet:
    """One split of the data set of the settings, or of images that are passed."""
    settings = config.dataset
    height, width, channels = settings.input_shape
    return load(
        settings.dataset,
        split,
        size=(height, width),
        channels=channels,
        data_dir=config.data_dir,
        download=settings.download,
        scale=config.data.scale,
        given=given,
    )


def load_data(config: Config, given: Given | None = None, *, labelled: bool = True) -> Data:
    """All images of a run; the validation images are a seeded random part of the pre-training images.

    Args:
        config: The settings, with a normalisation that may be to be measured: that of `spec` then is.
        given: Images that are passed instead of the data set of the settings.
        labelled: Whether the images for the probes are read too.
    """
    images = load_split(config, "pretrain", given)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
    order = order[: config.dataset.limit]
    # Two images remain to be trained on, however few there are.
    held_out = max(0, min(round(config.dataset.valid_size * len(order)), len(order) - 2))
    train, test = load_labelled(config, images, given) if labelled else (None, None)
    pretrain = images.subset(order[held_out:].sort().values)
    if config.dataset.normalization == "images":
        config = config.with_normalization(*channel_statistics(pretrain.images))
    return Data(pretrain, images.subset(order[:held_out].sort().values), train, test, augment_spec(config))


def channel_statistics(images: AnyImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations of the channels of images uint8 (n, H, W, C), for levels from 0 to 1.

    A channel that is the same everywhere has a deviation of one level.
    """
    found = torch.zeros(images.shape[3], 256, dtype=torch.int64)
    for start in range(0, len(images), COUNTED):
        for channel, levels in zip(found, images[start : start + COUNTED].unbind(3), strict=True):
            channel += torch.bincount(levels.flatten().int(), minlength=256)
    counts = found.double()
    share, level = counts / counts.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
    mean = share @ level
    deviation = (share @ level.square() - mean.square()).clamp_min(0).sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(deviation.tolist())


def with_batch(config: Config, images: int) -> Config:
    """The settings with a batch that is no larger than the images to train on.

    Raises:
        UserError: There are fewer than two images.
    """
    if images < 2:
        raise UserError(
            f"{images or 'no'} image{'' if images == 1 else 's'} to train on: two or more are needed"
        )
    return config if config.batch_size <= images else config.model_copy(update={"batch_size": images})


def shared_settings(config: Config) -> dict[str, Any]:
    """The settings that are shared with weights: all, with the normalisation in numbers."""
    spec = augment_spec(config)
    return config.with_normalization(spec.mean, spec.std).as_json()


def augment_spec(config: Config) -> AugmentSpec:
    """The augmentation and normalisation of the settings."""
    height, width, channels = config.dataset.input_shape
    chosen = config.dataset.normalization
    mean, std = normalization(config.dataset.dataset, channels) if isinstance(chosen, str) else chosen
    return AugmentSpec((height, width), mean=mean, std=std, **asdict(config.augment))


def build_augment(config: Config, seed: int) -> Augment:
    """The augmentation by the pipeline of `data.pipeline`; UserError where DALI is named and not installed."""
    settings = config.data
    missing = dali_missing()
    if settings.pipeline == "dali" and missing:
        raise UserError(missing)
    dali = settings.pipeline == "dali" or (settings.pipeline == "auto" and config.fused and not missing)
    return (DaliAugment if dali else Augment)(
        augment_spec(config),
        seed,
        backend="auto" if config.fused else "reference",
        dtype=getattr(torch, settings.dtype),
    )


def data_threads(config: Config, device: torch.device, processes: int = 1) -> int:
    """Threads that make batches, of each of so many processes of this machine.

    Where the CPU trains, its cores are needed for the model, whose threads wait for each other: on two cores, one data
    thread gives 304 images/s of 32×32, two give 281 (EPYC Zen 4, bfloat16, 2026-11-25).
    """
    cores = max(1, (os.cpu_count() or 1) // processes)
    return config.data.threads or (min(4, cores) if device.type == "cuda" else min(4, max(1, cores // 8)))


def build_loader(
    config: Config,
    images: ImageSet,
    batch_size: int,
    seed: int,
    device: torch.device,
    world: World | None = None,
) -> PairLoader:
    """Batches of `images`, resident on the device; `seed` is the augmentation's, the order has the run's.

    The processes of `world` share each batch; without it, this one has them whole.
    """
    world = world or World()
    augment = build_augment(config, seed)
    return PairLoader(
        images.images.to(device),
        augment,
        batch_size,
        config.seed,
        TASKS[config.task](augment) if config.task else None,
        prefetch=config.data.prefetch,
        threads=data_threads(config, device, world.local_size),
        rank=world.rank,
        world_size=world.size,
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


def build_head(config: Config, h_dim: int) -> nn.Module | None:
    """The head of the pretext task, with the weights that the settings name; None without a task."""
    if config.task is None or config.pretext is None:
        return None
    head: nn.Module = HEADS[config.task](h_dim)
    if config.pretext.fine_tune_from:
        checkpoint.load_head(config.pretext.fine_tune_from, head)
    return head


def placed(model: Encoder, device: torch.device) -> Encoder:
    """An encoder moved to a device, with channels-last convolutions."""
    # PyTorch's annotations of `to` leave out the memory format.
    moved: Encoder = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def restore(
    path: str, config_file: str | None = None, changes: Sequence[str] = ()
) -> tuple[Config, Encoder, str]:
    """Loads a trained encoder.

    Args:
        path: A checkpoint, a run folder or an export; or, with `config_file`, mere weights.
        config_file: The settings of mere weights.
        changes: `key=value` settings.

    Returns:
        The settings; the model in evaluation mode, on its device; and a few words on what it is.

    Raises:
        UserError: A file cannot be read, or its weights do not fit the settings.
    """
    if config_file:
        config, origin = load_config(config_file, changes), f"weights of {path}"
    elif (found := checkpoint.settings_of(path)) is not None:
        config, origin = load_config(base=found[0], overrides=changes), found[1]
    else:
        raise UserError(f"{path} holds weights without their settings: give them with --config")
    config = with_shape(config)
    model = build_model(config)
    checkpoint.load_weights(path, model)
    return config, placed(model, pick_device(config)).eval(), origin


def build_evaluation(
    config: Config, model: Encoder, train: ImageSet, test: ImageSet, extract: Extract = extract
) -> Evaluation:
    """The probes of the settings, ready to run on features that `extract` makes."""
    subsets: tuple[Tensor, ...] = ()
    if "folds" in config.evaluation.probes:
        subsets = folds(config.dataset.dataset, data_dir=config.data_dir, download=config.dataset.download)
    return Evaluation(
        model,
        train,
        test,
        augment_spec(config),
        config.evaluation,
        subsets,
        _amp(config, model),
        scattering=front_end(config, model),
        joint=config.model.scattering,
        extract=extract,
    )


def front_end(config: Config, model: Encoder) -> Scattering2D:
    """The scattering transform of an encoder, or the one a ResNet is compared with, on the encoder's device."""
    if isinstance(model, ScatSimCLR):
        return model._scatnet
    height, width, _ = config.dataset.input_shape
    J = min(config.model.J, min(height, width).bit_length() - 1)
    backend = "auto" if config.fused else "reference"
    transform = Scattering2D(J, (height, width), L=config.model.L, backend=backend)
    return transform.to(next(model.parameters()).device)


def recommendation(
    config: Config,
    model: Encoder,
    images: ImageSet,
    evaluation: Evaluation | None,
    extract: Extract = extract,
) -> Recommendation:
    """Which features of a trained encoder to use: chosen by `evaluation`, or by rule where there is none."""
    if evaluation is not None:
        return evaluation.recommendation()
    return without_labels(
        model,
        images.images,
        augment_spec(config),
        front_end(config, model),
        joint=config.model.scattering,
        batch_size=config.evaluation.batch_size,
        amp=_amp(config, model),
        extract=extract,
    )


def _amp(config: Config, model: Encoder) -> torch.dtype | None:
    return config.resolved_amp(next(model.parameters()).device.type)


def pick_device(config: Config, local_rank: int = 0, processes: int = 1) -> torch.device:
    """The device of the settings, of each of the processes of this machine its own.

    Args:
        config: The settings.
        local_rank: Of this process among those of its machine.
        processes: That train together.

    Raises:
        UserError: There is no such device.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda was requested, but torch sees no CUDA device")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if processes == 1:
        return torch.device("cuda")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"a process needs a CUDA device of its own: {torch.cuda.device_count()} are here, and this is process "
            f"{local_rank + 1} of this machine; device=cpu trains without"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
