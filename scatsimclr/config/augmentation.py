"""The settings of the augmentation: the one list of its steps, with their defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from scatsimclr.config.values import Factor, PositiveRange, Probability, ShareRange, Shares


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Random transformations of a view; 0 or False switches one off.

    `scatsimclr.data.augment.AugmentSpec` is these settings together with what the images decide.

    Attributes:
        crop: Random resized crop.
        crop_scale: Its area as a share of the image.
        crop_ratio: Its width over its height, drawn uniformly in the logarithm.
        flip: Probability of a horizontal flip.
        jitter: Probability of the colour jitter: brightness, contrast and saturation factors from
            [max(0, 1 - s), 1 + s], hue from [-hue, hue] turns, in random order.
        brightness: Strength s of the factor.
        contrast: Likewise.
        saturation: Likewise.
        hue: In turns.
        grayscale: Probability of turning grey.
        blur: Probability of a Gaussian blur.
        blur_sigma: Its standard deviation in pixels.
        affine: Random affine map after crop and flip (the paper's baseline; dropping it gained two points, hence
            off): nearest neighbour and black outside, torchvision's defaults. The paper gives no ranges; those here
            are this project's own.
        degrees: Rotation by up to that many.
        translate: Shift by up to these shares of the image, (x, y).
        scale: Zoom.
        shear: By up to that many degrees in x and y.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    crop: bool = True
    crop_scale: ShareRange = (0.08, 1.0)
    crop_ratio: PositiveRange = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    jitter: Probability = 0.8
    brightness: Factor = 0.8
    contrast: Factor = 0.8
    saturation: Factor = 0.8
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    blur_sigma: PositiveRange = (0.1, 2.0)
    affine: bool = False
    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    translate: Shares = (0.1, 0.1)
    scale: PositiveRange = (0.9, 1.1)
    shear: Annotated[float, Field(ge=0, le=89)] = 5.0
