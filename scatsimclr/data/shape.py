"""What `dataset.input_shape: auto` means: the size and the channels that suit the images of a data set."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scatsimclr.data import datasets, folder

if TYPE_CHECKING:
    from scatsimclr.config import Config

STEP, LEAST, MOST = 16, 32, 64  # pixels


def with_shape(config: Config) -> Config:
    """The settings with `dataset.input_shape=auto` replaced by the shape that suits the images, and
    `model.base_model=auto` by the encoder that suits this shape.

    UserError where the images are not there, or the shape does not suit the other settings.
    """
    settings = config.dataset
    if settings.input_shape != "auto":
        return config if config.model.base_model != "auto" else config.with_input_shape(settings.input_shape)
    return config.with_input_shape(
        natural_shape(settings.dataset, data_dir=config.data_dir, seed=config.seed)
    )


def natural_shape(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, seed: int = 0
) -> tuple[int, int, int]:
    """(H, W, C) for training on a data set, square.

    The side is the median of the images' shorter sides, rounded up to a multiple of 16, between 32 and 64: 28×28 become
    32×32, 640×427 become 64×64. One channel where every image is grey (by its mode, or with three equal channels), else
    three. Of a folder the headers of up to 512 images are read for the size, drawn by `seed`, and all images are looked
    at until one has colours; of other data sets both are known.
    DataError for an unknown name or a folder without images.
    """
    known = datasets.natural(name)
    if known is not None:
        return (*_square([min(known[:2])]), known[2])
    sides, grey = folder.survey(datasets.request(name, "pretrain", data_dir=data_dir), seed)
    return (*_square(sides), 1 if grey else 3)


def _square(sides: Sequence[int]) -> tuple[int, int]:
    # Without one that can be read any size will do: reading the images then says so.
    median = statistics.median_low(sides) if sides else LEAST
    side = min(MOST, max(LEAST, -(-median // STEP) * STEP))
    return side, side
