"""The package's functions. Each imports what it needs when it is called, and says which extra is missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scatsimclr.extras import TRAIN, require

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from scatsimclr.encoder import Encoder
    from scatsimclr.runs import Run


def fit(
    images: object,
    labels: object = None,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    config: str | None = None,
    verbose: bool = True,
    report: bool = True,
    **settings: Any,
) -> Run:
    """Trains an encoder on images; labels only measure how good it is.

        run = scatsimclr.fit("my/images", minutes=15)
        features = run.encoder.embed("my/images")

    It is what the command `train` does, step by step: the same images and settings give the same run, bit for bit.

    Args:
        images: A folder, with or without class folders; a CSV file of path or path,label; a .npy file; a list of files;
            an array (N, H, W) or (N, H, W, C), best of uint8; a tensor (N, C, H, W); a list of arrays, tensors or
            Pillow images; or a data set whose items are images, (image, label) or {"image": …, "label": …}.
        labels: One per image, None or -1 where there is none; for files also a dict by path or a CSV file. None: those
            that the images come with. A fifth of the labelled images of each class is held out for testing.
        run_dir: Where to write; by default a new folder below runs/.
        resume: Whether to continue the run in `run_dir`, if there is one; with images in memory, they must be the same.
        config: A settings file, or the name of a recipe: digits, cifar10 …; by default that for folders.
        verbose: Whether to tell on the terminal how it goes.
        report: Whether to write the report in the end; clustering and mapping take some seconds.
        settings: Any settings, nested or by their dotted names: `epochs=20`, `model={"J": 2}`, `**{"model.J": 2}`.
            `fused` is True unless given.

    Returns:
        The run: its folder, its figures, and the encoder.

    Raises:
        UserError: Images or settings cannot work; the message names what.
    """
    require("scatsimclr.fit", "train", *TRAIN)
    from scatsimclr.runs import fit as make

    return make(
        images,
        labels,
        run_dir=run_dir,
        resume=resume,
        config=config,
        verbose=verbose,
        report=report,
        settings=settings,
    )


def load(path: str | os.PathLike[str], *, config: str | None = None, **settings: Any) -> Encoder:
    """Loads an encoder with its preprocessing, recommended features and classifier.

    Args:
        path: A run folder, finished or stopped, whose last checkpoint is used; a checkpoint; a folder written by
            `Encoder.save_pretrained` or the command `export`; or, with `config`, mere weights.
        config: A file with the settings of mere weights.
        settings: Settings to change, such as `device="cpu"` or `amp="off"`.

    Raises:
        UserError: A file is missing, or cannot be read.
    """
    require("scatsimclr.load", "train", *TRAIN)
    from scatsimclr.encoder import Encoder
    from scatsimclr.runs import as_changes

    return Encoder.load(path, config=config, changes=as_changes(settings))


def read_image(
    path: str | os.PathLike[str],
    size: tuple[int, int],
    channels: int = 3,
    scale: Any = "auto",
) -> npt.NDArray[np.uint8]:
    """Reads an image file as training, `embed` and `label` do.

    Upright by its EXIF orientation, transparency on white, more than 8 bits by their scale, and resized by Lanczos.

    Args:
        path: The file.
        size: (H, W) of the result.
        channels: 3, RGB; 1, grey; or another number, which the image must have.
        scale: Of more than 8 bits: "auto", "dtype", "image" or (low, high), see `scatsimclr.data.levels`.

    Returns:
        uint8 (H, W, channels).

    Raises:
        UserError: The file cannot be read.
    """
    require("scatsimclr.read_image", "train", *TRAIN)
    from scatsimclr.data.decode import read_one

    return read_one(path, size, channels, scale)
