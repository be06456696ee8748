"""The augmentation recipe: what may happen to a view, and the random draw of what does happen.

`AugmentSpec` is the one specification of the two-view augmentation (SimCLR's, as ScatSimCLR uses it);
`draw_params` turns it into the numbers of a batch. Whatever applies them shares both.
"""

import itertools
import math
from dataclasses import dataclass, fields

import numpy as np
import torch

from .randomness import uniforms

_ORDERS = np.array(list(itertools.permutations(range(4))), np.int64)
_CROP_TRIES = 10
# Which uniform number of a sample decides what. Fixed, so that switching one step off leaves the
# draws of the others as they were.
_FLIP, _JITTER, _ORDER, _FACTORS, _GRAYSCALE, _BLUR, _SIGMA, _TOP, _LEFT = 0, 1, 2, 3, 7, 8, 9, 10, 11
_AREAS, _RATIOS, _AFFINE, _COUNT = 12, 22, 32, 38


@dataclass(frozen=True)
class AugmentSpec:
    """Every setting of the augmentation. Each step can be switched off by itself.

    Attributes:
        size: (height, width) in pixels, of the images that come in and of the views.
        crop: random resized crop; `crop_scale` is its area as a part of the image, `crop_ratio` its
            width over height, drawn uniformly in the logarithm.
        flip: probability of a horizontal flip.
        jitter: probability of the colour jitter: brightness, contrast and saturation factors from
            [max(0, 1 - s), 1 + s], hue from [-hue, hue] turns (at most 0.5), in random order.
        grayscale: probability of turning grey.
        blur: probability of a Gaussian blur, standard deviation drawn from `blur_sigma` (pixels),
            `blur_kernel` taps per axis. None: 2 * int(0.05 * height) + 1 as the published code has
            it; below 20 pixels of height that is 1, which blurs nothing.
        affine: random affine map after crop and flip (the paper's baseline; dropping it gained two
            points, hence off): rotation of up to `degrees`, shift of up to `translate` (x, y) parts
            of the image, zoom by `scale`, `shear` of up to as many degrees in x and y; nearest
            neighbour and black outside, torchvision's defaults. The ranges are ours: the paper
            gives none.
        mean, std: normalisation per channel of levels in [0, 1] (default: ImageNet's). As many as the images have
            channels: three, RGB, or one, grey, on which saturation, hue and turning grey do nothing.

    Raises:
        ValueError, TypeError: a setting is out of its range or not a number, by name.
    """

    size: tuple[int, int]
    crop: bool = True
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grayscale: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int | None = None
    affine: bool = False
    degrees: float = 10.0
    translate: tuple[float, float] = (0.1, 0.1)
    scale: tuple[float, float] = (0.9, 1.1)
    shear: float = 5.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        channels = 1 if isinstance(self.mean, (tuple, list)) and len(self.mean) == 1 else 3
        for name, length in (("size", 2), ("crop_scale", 2), ("crop_ratio", 2), ("blur_sigma", 2), ("translate", 2),
                             ("scale", 2), ("mean", channels), ("std", channels)):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or len(value) != length:
                raise TypeError(f"{name}: expected {length} numbers, got {value!r}")
            object.__setattr__(self, name, tuple(_number(name, part) for part in value))
        for name in ("crop", "affine"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if any(part != int(part) or part < 1 for part in self.size):
            raise ValueError(f"size: expected two whole numbers of pixels >= 1, got {self.size}")
        object.__setattr__(self, "size", tuple(int(part) for part in self.size))
        for name in ("flip", "jitter", "grayscale", "blur"):
            _within(name, getattr(self, name), 0.0, 1.0)
        for name, most in (("brightness", math.inf), ("contrast", math.inf), ("saturation", math.inf),
                           ("hue", 0.5), ("degrees", 180.0), ("shear", 89.0)):  # fmt: skip
            _within(name, getattr(self, name), 0.0, most)
        for name, most in (("crop_scale", 1.0), ("crop_ratio", math.inf), ("blur_sigma", math.inf),
                           ("scale", math.inf)):  # fmt: skip
            low, high = getattr(self, name)
            if not 0.0 < low <= high <= most:
                raise ValueError(f"{name}: expected 0 < low <= high <= {most}, got {(low, high)}")
        for part in self.translate:
            _within("translate", part, 0.0, 1.0)
        if min(self.std) <= 0.0:
            raise ValueError(f"std: expected positive numbers, got {self.std}")
        taps = self.blur_kernel
        if taps is not None and (isinstance(taps, bool) or not isinstance(taps, int)):
            raise TypeError(f"blur_kernel: expected an odd integer or None, got {taps!r}")
        if taps is not None and (taps < 1 or taps % 2 == 0):
            raise ValueError(f"blur_kernel: expected an odd integer >= 1 or None, got {taps}")

    @property
    def channels(self) -> int:
        """Of the images, 3 or 1."""
        return len(self.mean)

    @property
    def blur_taps(self) -> int:
        """Taps of the blur along each axis, odd."""
        return 2 * int(0.05 * self.size[0]) + 1 if self.blur_kernel is None else self.blur_kernel


def _number(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    return value


def _within(name: str, value, low: float, high: float) -> None:
    if not low <= _number(name, value) <= high:
        raise ValueError(f"{name}: expected {low} <= {name} <= {high}, got {value}")


@dataclass(frozen=True, eq=False)
class Params:
    """What happens to each of B samples; every field has B rows. `params[rows]` picks samples.

    Attributes:
        box: int64 (B, 4), the crop: top, left, height, width in pixels.
        flip, jitter, grayscale, blur: bool (B,), which samples take the step.
        order: int64 (B, 4), the colour steps in order: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        factors: float32 (B, 4), brightness, contrast and saturation factor, and the hue in turns.
        sigma: float32 (B,), standard deviation of the blur in pixels.
        affine: float64 (B, 6), the affine map from result to source, as Pillow takes it; the
            identity where the recipe has none.
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

    def __getitem__(self, rows) -> "Params":
        return Params(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device) -> "Params":
        """The same numbers on `device`."""
        return Params(*(getattr(self, field.name).to(device) for field in fields(self)))


def still(box: torch.Tensor) -> Params:
    """Only the crops of `box` (B, 4), nothing else."""
    off, zeros = torch.zeros(len(box), dtype=torch.bool), torch.zeros(len(box), 4)
    identity = torch.tensor((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), dtype=torch.float64)
    order = torch.arange(4).expand(len(box), 4)
    return Params(box, off, off, order, zeros, off, off, torch.ones(len(box)), identity.expand(len(box), 6))


def draw_params(spec: AugmentSpec, seed: int, indices, epoch: int, view) -> Params:
    """Draw the parameters of a batch; sample by sample a function of (seed, epoch, index, view) alone.

    Args:
        spec: the recipe.
        seed: integer in [0, 2**64). epoch, view: integers in [0, 2**32); `view` numbers independent
            draws of a sample, of which the two contrastive views are 0 and 1; one for all, or (B,).
        indices: (B,) integers in [0, 2**32), the samples' places in the data set.

    Returns:
        Params of B rows, on the CPU.

    Raises:
        TypeError, ValueError: an argument of the wrong type, shape or range, by name.
    """
    if isinstance(indices, torch.Tensor):
        indices = indices.cpu().numpy()
    if isinstance(view, torch.Tensor):
        view = view.cpu().numpy()
    drawn = uniforms(seed, indices, epoch, view, _COUNT if spec.affine else _AFFINE)
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


def _draw_boxes(spec: AugmentSpec, drawn: np.ndarray) -> np.ndarray:
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


def _draw_affine(spec: AugmentSpec, drawn: np.ndarray) -> np.ndarray:
    """torchvision's RandomAffine about the image's centre, as the inverse map Pillow takes."""
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
