"""What `dataset.input_shape: auto` means: the size and the channels that suit the images of a data set."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from scatsimclr.config import Config
from scatsimclr.data import datasets, own, shards
from scatsimclr.data.given import Given
from scatsimclr.files import expanded

STEP, LEAST, MOST = 16, 32, 64  # pixels


def with_shape(config: Config, given: Given | None = None) -> Config:
    """Chooses what the settings leave open: the shape of the images, and the encoder for this shape.

    Args:
        config: The settings.
        given: Images that are passed instead of `data_dir`.

    Returns:
        The settings without `dataset.input_shape=auto` and `model.base_model=auto`.

    Raises:
        UserError: The images are not there, or the shape does not go with the other settings.
    """
    settings = config.dataset
    if not settings.shape_is_open:
        return config if config.model.base_model != "auto" else config.with_input_shape(settings.input_shape)
    return config.with_input_shape(
        natural_shape(settings.dataset, data_dir=config.data_dir, seed=config.seed, given=given)
    )


def natural_shape(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, seed: int = 0, given: Given | None = None
) -> tuple[int, int, int]:
    """The shape for training on a data set, square.

    The side is the median of the images' shorter sides, rounded up to a multiple of 16, between 32 and 64: 28×28
    becomes 32×32, 640×427 becomes 64×64. There is one channel where every image is grey (by its mode, or with three
    equal channels), else three; or as many as the images stack, see `scatsimclr.data.own.survey`. Shards have a shape.

    Args:
        name: The data set. For a folder, the headers of up to 512 images are read for the size, and images are
            searched for colour until one is found; for other data sets both are known.
        data_dir: The folder.
        seed: Draws the 512 images.
        given: Images that are passed instead.

    Returns:
        (H, W, C).

    Raises:
        DataError: The name is unknown, or the folder has no images.
    """
    if name == "shards":
        return shards.Manifest.read(None if data_dir is None else expanded(data_dir)).shape
    known = datasets.natural(name)
    if known is not None:
        return (*_square([min(known[0], known[1])]), known[2])
    sides, channels = own.survey(datasets.request(name, "pretrain", data_dir=data_dir, given=given), seed)
    return (*_square(sides), channels)


def _square(sides: Sequence[int]) -> tuple[int, int]:
    # If none can be read, any size will do: reading the images will say so.
    median = statistics.median_low(sides) if sides else LEAST
    side = min(MOST, max(LEAST, -(-median // STEP) * STEP))
    return side, side
