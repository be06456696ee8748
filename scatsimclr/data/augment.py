"""The two-view augmentation on batches in plain PyTorch, with torchvision's semantics on Pillow images.

    augment = Augment(AugmentSpec(size=(32, 32)), seed=0)
    first, second = (augment(images, indices, epoch, view) for view in (0, 1))

Steps: Lanczos random resized crop, flip, (affine), and, as the one operator `photometric`, colour jitter, grey,
Gaussian blur, [0, 1], normalisation. Images have three channels, RGB, or another number, each of which is a grey image
with the same draws. Between steps a picture is 8-bit levels, as in Pillow. All sums whose order a library may choose
are exact, and everything else is one rounding per call, so a view has the same bits in whatever batch and by however
many threads it is made; and the view of an image with one channel is the first channel of the view of three equal ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scatsimclr.data.randomness import Integers
from scatsimclr.data.recipe import AugmentSpec, Params, draw_params, still
from scatsimclr.data.resample import affine_nearest, crop_taps, resample
from scatsimclr.ops.photometric import photometric
from scatsimclr.reference.blur import gaussian_weights
from scatsimclr.reference.color import HUE, SATURATION
from scatsimclr.reference.photometric import SLICE_PIXELS

__all__ = ["Augment", "AugmentSpec", "Params", "center_view", "normalize", "to_uint8"]

_NO_BLUR = 256  # the weight of the only tap that counts


class Augment:
    """Draws and applies the augmentation. Has no state besides its settings.

    Args:
        spec: The recipe.
        seed: Integer in [0, 2**64).
        backend: Of the operator `photometric`; all give the same bits.
        dtype: Of normalised views.

    Raises:
        TypeError: `spec` is not a recipe, or `seed` not an integer.
        ValueError: `seed` is out of range.
    """

    name = "torch"

    def __init__(
        self, spec: AugmentSpec, seed: int, *, backend: str = "auto", dtype: torch.dtype = torch.float32
    ):
        if not isinstance(spec, AugmentSpec):
            raise TypeError(f"spec must be an AugmentSpec, got {type(spec).__name__}")
        self.spec, self.seed, self.backend, self.dtype = spec, seed, backend, dtype
        self.draw([0], 0, 0)  # refuses a bad seed here rather than in the first step of training

    def draw(self, indices: Integers, epoch: int, view: Integers) -> Params:
        """Draws all random parameters of a batch: see `recipe.draw_params`."""
        return draw_params(self.spec, self.seed, indices, epoch, view)

    def apply(self, images: torch.Tensor, params: Params, normalize: bool = True) -> torch.Tensor:
        """Applies drawn parameters.

        Args:
            images: uint8 (B, H, W, C), (H, W, C) = (*spec.size, spec.channels).
            params: B rows, on the CPU.
            normalize: Whether to subtract the mean and divide by the standard deviation.

        Returns:
            (B, C, H, W), channels-last: normalised, in the augmentation's dtype; without `normalize`, float32 k / 255
            for levels k.

        Raises:
            TypeError: `images` is not a uint8 tensor.
            ValueError: A shape is wrong.
        """
        _check_images(images, self.spec)
        if len(params) != len(images):
            raise ValueError(f"params must have one row per image, {len(images)}, got {len(params)}")
        return self._view(images, params, normalize, crop=self.spec.crop, affine=self.spec.affine)

    def resident(self, images: torch.Tensor) -> torch.Tensor:
        """`images`, uint8 (n, H, W, C), in the memory layout from which batches are made fastest."""
        return images

    def tiles(self, images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Stretches a part of each image to full size, and does nothing else.

        Args:
            images: uint8 (B, H, W, C).
            boxes: int64 (B, 4): top, left, height, width in pixels.

        Returns:
            (B, C, H, W), channels-last, normalised.
        """
        _check_images(images, self.spec)
        return self._view(images, still(boxes), True, crop=True, affine=False)

    def _view(
        self, images: torch.Tensor, params: Params, normalize: bool, *, crop: bool, affine: bool
    ) -> torch.Tensor:
        table = _table(self.spec, normalize).to(self.dtype if normalize else torch.float32)
        with self._geometry(images, params, crop, affine) as (levels, mirror):
            arguments = (mirror, *photometric_arguments(self.spec, params), table)
            mirror, *drawn, table = (a.to(levels.device) for a in arguments)
            order, factors, grayscale, weights = drawn

            def pixels(levels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
                given = (mirror, order, factors, grayscale, weights)
                return photometric(levels, *given, table, backend=self.backend)

            if self.spec.channels in (1, 3):
                return pixels(levels, table)
            planes = [
                pixels(plane.contiguous(), row)
                for plane, row in zip(levels.split(1, 3), table.split(1), strict=True)
            ]
            return torch.cat(planes, 1).contiguous(memory_format=torch.channels_last)

    def __call__(self, images: torch.Tensor, indices: Integers, epoch: int, view: Integers) -> torch.Tensor:
        """Draws and applies: `apply(images, draw(indices, epoch, view))`."""
        return self.apply(images, self.draw(indices, epoch, view))

    @contextmanager
    def _geometry(
        self, images: torch.Tensor, params: Params, crop: bool, affine: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Crops, flips and maps; yields uint8 (B, H, W, C) and which samples are still to be mirrored, bool (B,)."""
        height, width = self.spec.size
        params = params.to(images.device)
        rows = torch.arange(len(images), device=images.device)
        parts = [
            _planes(images[part], params[part], crop, affine).permute(1, 2, 3, 0).to(torch.uint8)
            for part in torch.split(rows, max(1, SLICE_PIXELS // (height * width)))
        ]
        done = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        yield torch.cat(parts).contiguous(), done


def photometric_arguments(spec: AugmentSpec, params: Params) -> tuple[torch.Tensor, ...]:
    """The arguments order, factors, grayscale and weights of `photometric`."""
    step = params.jitter[:, None] & ((params.order != HUE) | (spec.hue > 0))
    grayscale = params.grayscale
    if spec.channels != 3:
        step, grayscale = step & (params.order < SATURATION), torch.zeros_like(grayscale)
    factors = params.factors.clone()
    factors[:, HUE] = torch.trunc(params.factors[:, HUE].to(torch.float64) * 255.0).to(torch.float32)
    taps = spec.blur_taps
    weights = torch.zeros((len(params), taps // 2 + 1), dtype=torch.int32)
    weights[:, -1] = _NO_BLUR
    soft = params.blur.nonzero()[:, 0]
    if taps > 1 and len(soft):
        weights[soft] = torch.from_numpy(gaussian_weights(params.sigma[soft].numpy(), taps)).to(torch.int32)
    return torch.where(step, params.order, -1), factors, grayscale, weights


def _planes(images: torch.Tensor, params: Params, crop: bool, affine: bool) -> torch.Tensor:
    """Crops, flips and maps: uint8 (B, H, W, C) -> float32 (C, B, H, W), whole numbers 0..255."""
    height, width, channels = images.shape[1:]
    planes = torch.empty((channels, len(images), height, width), dtype=torch.float32, device=images.device)
    if crop:
        top, left, tall, wide = params.box.unbind(1)
        across = crop_taps(left, wide, width, params.flip)
        down = crop_taps(top, tall, height)
        planes.copy_(resample(images, across, down).permute(2, 0, 1, 3))
    else:
        planes.copy_(images.permute(3, 0, 1, 2))
        turned = params.flip.nonzero()[:, 0]
        if len(turned):
            planes.index_copy_(1, turned, planes.index_select(1, turned).flip(3))
    return affine_nearest(planes, params.affine) if affine else planes


def _table(spec: AugmentSpec, normalised: bool) -> torch.Tensor:
    """What every level of every channel becomes: float32 (C, 256)."""
    levels = torch.arange(256, dtype=torch.float32).expand(spec.channels, 1, 1, 256)
    return _scaled(levels.clone(), spec, normalised).view(-1, 256)


def _check_images(images: torch.Tensor, spec: AugmentSpec) -> None:
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images must be a uint8 tensor, got {getattr(images, 'dtype', type(images))}")
    expected = (*spec.size, spec.channels)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        wanted = ", ".join(map(str, expected))
        raise ValueError(f"images must have shape (B, {wanted}), got {tuple(images.shape)}")


def _scaled(levels: torch.Tensor, spec: AugmentSpec, normalised: bool) -> torch.Tensor:
    """Scales levels of (C, ...) planes to [0, 1] and normalises, in place, in torchvision's order of rounding."""
    levels.div_(255.0)
    if not normalised:
        return levels
    mean, std = (torch.tensor(v, device=levels.device).view(-1, 1, 1, 1) for v in (spec.mean, spec.std))
    return levels.sub_(mean).div_(std)


def center_view(images: torch.Tensor, spec: AugmentSpec, normalize: bool = True) -> torch.Tensor:
    """The view for evaluation: the whole image, no augmentation.

    Args:
        images: uint8 (B, H, W, C), (H, W, C) = (*spec.size, spec.channels).
        spec: The recipe.
        normalize: Whether to subtract the mean and divide by the standard deviation.

    Returns:
        float32 (B, C, H, W), channels-last.

    Raises:
        TypeError: `images` is not a uint8 tensor.
        ValueError: A shape is wrong.
    """
    _check_images(images, spec)
    planes = _scaled(images.permute(3, 0, 1, 2).to(torch.float32), spec, normalize)
    return planes.permute(1, 2, 3, 0).contiguous().permute(0, 3, 1, 2)


def _constants(images: torch.Tensor, spec: AugmentSpec) -> tuple[torch.Tensor, torch.Tensor]:
    if images.ndim != 4 or images.shape[1] != spec.channels or not images.is_floating_point():
        raise ValueError(f"images must be floating point (B, {spec.channels}, H, W), got {images.dtype} "
                         f"{tuple(images.shape)}")  # fmt: skip
    mean, std = (images.new_tensor(value).view(1, -1, 1, 1) for value in (spec.mean, spec.std))
    return mean, std


def normalize(images: torch.Tensor, spec: AugmentSpec) -> torch.Tensor:
    """(x - mean) / std of floating-point images (B, C, H, W) in [0, 1]; a new tensor of their dtype."""
    mean, std = _constants(images, spec)
    return (images - mean) / std


def to_uint8(images: torch.Tensor, spec: AugmentSpec) -> torch.Tensor:
    """Undoes the normalisation, for display: floating point (B, C, H, W) -> uint8 (B, H, W, C).

    Exact for float32 views: the levels that went in come out.
    """
    mean, std = _constants(images, spec)
    levels = (images * std + mean).mul_(255.0).round_().clamp_(0.0, 255.0)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
