"""The augmentation recipe: what may happen to a view, and the random draw of what does happen.

`AugmentSpec` is the one specification of the two-view augmentation (SimCLR's, as ScatSimCLR uses it); `draw_params`
turns it into the numbers of a batch. Everything that applies them shares both.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, ConfigDict, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from scatsimclr.config.augmentation import AugmentSettings
from scatsimclr.config.messages import must
from scatsimclr.data.randomness import Integers, as_array, uniforms

_ORDERS = np.array(list(itertools.permutations(range(4))), np.int64)
_CROP_TRIES = 10
# Which uniform number of a sample decides what. Fixed, so that switching one step off leaves the draws of the others
# as they were.
_FLIP, _JITTER, _ORDER, _FACTORS, _GRAYSCALE, _BLUR, _SIGMA, _TOP, _LEFT = 0, 1, 2, 3, 7, 8, 9, 10, 11
_AREAS, _RATIOS, _AFFINE, _COUNT = 12, 22, 32, 38

Floats = npt.NDArray[np.float64]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


@dataclass(frozen=True)
class AugmentSpec(AugmentSettings):
    """Every setting of the augmentation: the steps, each of which can be switched off by itself, and the images.

    Attributes:
        size: (height, width) in pixels, of the images that come in and of the views.
        blur_kernel: Taps of the blur along each axis. None: 2 * int(0.05 * height) + 1 as in the published code; below
            20 pixels of height that is 1, which blurs nothing.
        mean: Per channel of levels in [0, 1], for normalisation (default: ImageNet's). As many numbers as the images
            have channels: three, RGB; or any other number of channels, for each of which a grey image is what it is
            for: saturation, hue and turning grey do nothing, and contrast is its own.
        std: Likewise.

    Raises:
        ValueError: A setting is out of range.
        TypeError: A setting is not a number, or not as many as it must be.
    """

    size: tuple[PositiveInt, PositiveInt]
    blur_kernel: Annotated[PositiveInt, AfterValidator(_odd)] | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name, adapter in _adapters().items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, adapter.validate_python(value))
            except ValidationError as error:
                found = error.errors(include_url=False)[0]
                kind = found["type"]
                mistyped = kind.endswith("_type") or kind in ("missing", "too_long")
                raise (TypeError if mistyped else ValueError)(
                    f"{name} {must(found)}, got {value!r}"
                ) from None
        if not self.mean:
            raise TypeError("mean must have a number for each channel, got none")
        if len(self.std) != len(self.mean):
            raise TypeError(f"std must be as many numbers as mean, {len(self.mean)}, got {self.std!r}")

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)

    @property
    def blur_taps(self) -> int:
        """Taps of the blur along each axis, odd."""
        return 2 * int(0.05 * self.size[0]) + 1 if self.blur_kernel is None else self.blur_kernel


@functools.cache
def _adapters() -> Mapping[str, TypeAdapter[Any]]:
    """What checks each field of a specification, by its annotation; strictly: no string or bool becomes a number."""
    hints = get_type_hints(AugmentSpec, include_extras=True)
    config = ConfigDict(strict=True, allow_inf_nan=False)
    return {field.name: TypeAdapter(hints[field.name], config=config) for field in fields(AugmentSpec)}


@dataclass(frozen=True, eq=False)
class Params:
    """What happens to each of B samples; every field has B rows. `params[rows]` picks samples.

    Attributes:
        box: int64 (B, 4), the crop: top, left, height, width in pixels.
        flip: bool (B,), which samples are flipped.
        jitter: bool (B,), likewise.
        order: int64 (B, 4), the colour steps in order: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        factors: float32 (B, 4), brightness, contrast and saturation factor, and the hue in turns.
        grayscale: bool (B,), likewise.
        blur: bool (B,), likewise.
        sigma: float32 (B,), standard deviation of the blur in pixels.
        affine: float64 (B, 6), the affine map from result to source, as Pillow takes it; the identity where the
            recipe has none.
    """

    box: torch.Tensor
    flip: torch.Tensor
    jitter: torch.Tensor
    order: torch.Tensor
    factors: torch.Tensor
    grayscale: torch.Tensor
    blur: torch.Tensor
    sigma: torch.Tensor
    affine: torch.Tensor

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: torch.Tensor) -> Params:
        return Params(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device) -> Params:
        """The same numbers on `device`."""
        return Params(*(getattr(self, field.name).to(device) for field in fields(self)))


def still(box: torch.Tensor) -> Params:
    """Parameters of crops to `box`, int64 (B, 4), and nothing else."""
    off, zeros = torch.zeros(len(box), dtype=torch.bool), torch.zeros(len(box), 4)
    identity = torch.tensor((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), dtype=torch.float64)
    order = torch.arange(4).expand(len(box), 4)
    return Params(box, off, off, order, zeros, off, off, torch.ones(len(box)), identity.expand(len(box), 6))


def draw_params(spec: AugmentSpec, seed: int, indices: Integers, epoch: int, view: Integers) -> Params:
    """Draws the parameters of a batch; for each sample a function of (seed, epoch, index, view) alone.

    Args:
        spec: The recipe.
        seed: Integer in [0, 2**64).
        indices: (B,) integers in [0, 2**32), the samples' positions in the data set.
        epoch: Integer in [0, 2**32).
        view: Integers in [0, 2**32) that number independent draws of a sample; the two contrastive views are 0
            and 1. One for all samples, or (B,).

    Returns:
        Params of B rows, on the CPU.

    Raises:
        TypeError: An argument is not an integer.
        ValueError: An argument is out of range or of the wrong shape.
    """
    count = _COUNT if spec.affine else _AFFINE
    drawn = uniforms(seed, as_array(indices), epoch, as_array(view), count)
    strengths = np.array((spec.brightness, spec.contrast, spec.saturation, spec.hue))
    low = np.array((*np.maximum(0.0, 1.0 - strengths[:3]), -spec.hue))
    high = np.array((*(1.0 + strengths[:3]), spec.hue))
    factors = low + (high - low) * drawn[:, _FACTORS : _FACTORS + 4]
    sigma = spec.blur_sigma[0] + (spec.blur_sigma[1] - spec.blur_sigma[0]) * drawn[:, _SIGMA]
    numbers = {
        "box": _draw_boxes(spec, drawn),
        "flip": drawn[:, _FLIP] < spec.flip,
        "jitter": drawn[:, _JITTER] < spec.jitter,
        "order": _ORDERS[(drawn[:, _ORDER] * len(_ORDERS)).astype(np.int64)],
        "factors": factors.astype(np.float32),
        "grayscale": drawn[:, _GRAYSCALE] < spec.grayscale,
        "blur": drawn[:, _BLUR] < spec.blur,
        "sigma": sigma.astype(np.float32),
        "affine": _draw_affine(spec, drawn),
    }
    return Params(**{name: torch.from_numpy(value) for name, value in numbers.items()})


def _draw_boxes(spec: AugmentSpec, drawn: Floats) -> npt.NDArray[np.int64]:
    """torchvision's RandomResizedCrop.get_params: ten tries, then the largest allowed centre crop."""
    height, width = spec.size
    if not spec.crop:
        return np.tile(np.array((0, 0, height, width), np.int64), (len(drawn), 1))
    low, high = spec.crop_scale
    area = height * width * (low + (high - low) * drawn[:, _AREAS : _AREAS + _CROP_TRIES])
    low, high = np.log(spec.crop_ratio)
    ratio = np.exp(low + (high - low) * drawn[:, _RATIOS : _RATIOS + _CROP_TRIES])
    wide = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    tall = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    found, pick = fits.any(1), (np.arange(len(drawn)), fits.argmax(1))
    wide, tall = wide[pick], tall[pick]
    top = np.floor(drawn[:, _TOP] * (height - tall + 1)).astype(np.int64)
    left = np.floor(drawn[:, _LEFT] * (width - wide + 1)).astype(np.int64)
    last_wide, last_tall = width, height
    if width / height < spec.crop_ratio[0]:
        last_tall = round(width / spec.crop_ratio[0])
    elif width / height > spec.crop_ratio[1]:
        last_wide = round(height * spec.crop_ratio[1])
    centre = ((height - last_tall) // 2, (width - last_wide) // 2, last_tall, last_wide)
    return np.where(found[:, None], np.stack((top, left, tall, wide), 1), np.array(centre, np.int64))


def _draw_affine(spec: AugmentSpec, drawn: Floats) -> Floats:
    """torchvision's RandomAffine about the image's centre, as the inverse map that Pillow takes."""
    if not spec.affine:
        return np.tile(np.array((1.0, 0.0, 0.0, 0.0, 1.0, 0.0)), (len(drawn), 1))
    height, width = spec.size
    symmetric = 2.0 * drawn[:, _AFFINE:_COUNT].T - 1.0
    turn = np.radians(spec.degrees * symmetric[0])
    shift_x = np.rint(spec.translate[0] * width * symmetric[1])
    shift_y = np.rint(spec.translate[1] * height * symmetric[2])
    zoom = spec.scale[0] + (spec.scale[1] - spec.scale[0]) * drawn[:, _AFFINE + 3]
    shear_x, shear_y = np.radians(spec.shear * symmetric[4]), np.radians(spec.shear * symmetric[5])
    # Rotation after shear, [[a, b], [c, d]], has determinant 1, so that its inverse is [[d, -b], [-c, a]].
    a = np.cos(turn - shear_y) / np.cos(shear_y)
    b = -a * np.tan(shear_x) - np.sin(turn)
    c = np.sin(turn - shear_y) / np.cos(shear_y)
    d = -c * np.tan(shear_x) + np.cos(turn)
    centre_x, centre_y = width * 0.5, height * 0.5
    rows = []
    for first, second, centre in ((d, -b, centre_x), (-c, a, centre_y)):
        first, second = first / zoom, second / zoom
        rows += [first, second, centre - first * (centre_x + shift_x) - second * (centre_y + shift_y)]
    return np.stack(rows, 1)
