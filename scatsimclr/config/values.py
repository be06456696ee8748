"""The types of single settings: which values they take, and how YAML and the original's files write them."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WrapValidator,
)

# Which grey values of more than 8 bits become 0 and 255: (low, high); "dtype", 0 and 65535, the range of 16 bits;
# "image", the image's own least and greatest; "auto", see `scatsimclr.data.levels`.
Scale = Literal["auto", "dtype", "image"] | tuple[float, float]
OWN = ("folder", "shards")  # data sets of a user's own images; the first one's recipe is that of all
SCALES = ("auto", "dtype", "image")
LONGEST_TUPLE = 200  # characters of a tuple written as text


# Bounds of what would be allocated, drawn or waited for: far beyond any use, and within any machine's patience.
Count = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=2**16)]
Side = Annotated[int, Field(ge=1, le=2**12)]
Ahead = Annotated[int, Field(ge=0, le=2**10)]
Factor = Annotated[float, Field(ge=0, le=100)]


def _literal_tuple(value: Any) -> Any:
    """The original writes shapes as the string "(96, 96, 3)" and evaluates it; only a literal is read here."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value) if len(value) <= LONGEST_TUPLE else value
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    return value


def _optional(value: Any) -> Any:
    """YAML reads None as the string "None"."""
    return None if value == "None" else value


def _off(value: Any) -> Any:
    """YAML reads off as false."""
    return "off" if value is False else value


def _shape(value: Any, check: Callable[[Any], tuple[int, int, int]]) -> tuple[int, int, int]:
    """Instead of a union, whose errors name its branches; the word is typed as the shape that will replace it."""
    return cast(tuple[int, int, int], value) if value == "auto" else check(_literal_tuple(value))


def _two_images(value: int) -> int:
    if value < 2:
        raise ValueError(
            "must be 2 or more (the loss of one image, without another one as a negative, is always 0)"
        )
    return value


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("must be (low, high), low not above high")
    return value


def _scale(value: Any) -> Scale:
    """A word of `Scale`, or LOW:HIGH as two numbers."""
    if value in SCALES:
        return cast(Scale, value)
    try:
        low, high = map(float, value.split(":") if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise ValueError("must be auto, dtype, image or LOW:HIGH, such as 0:4095")
    return low, high


def _normalization(value: Any) -> Any:
    """A word, or means and deviations of the channels."""
    if value in ("usual", "images"):
        return value
    try:
        mean, std = (tuple(map(float, numbers)) for numbers in _literal_tuple(value))
    except (TypeError, ValueError, OverflowError):
        mean, std = (), ()
    finite = all(map(math.isfinite, (*mean, *std)))
    if not mean or len(mean) != len(std) or not finite or min(std) <= 0 or len(mean) > 256:
        raise ValueError(
            "must be usual, images or [[means], [standard deviations]] of the channels, for levels from 0 to 1"
        )
    return mean, std


OptionalText = Annotated[str | None, BeforeValidator(_optional)]
Amp = Annotated[Literal["auto", "off", "bf16", "fp16"], BeforeValidator(_off)]
BatchSize = Annotated[int, Field(le=2**20), AfterValidator(_two_images)]
GreyScale = Annotated[Scale, PlainValidator(_scale), PlainSerializer(lambda value: value)]
# (H, W, C), or "auto" until `Config.with_input_shape`.
Shape = Annotated[
    tuple[Side, Side, Annotated[int, Field(ge=1, le=256)]],
    WrapValidator(_shape),
    PlainSerializer(lambda value: value),
]
# Means and standard deviations of the channels; or "usual", those of the data set, or "images", to be measured.
Normalization = Annotated[
    Literal["usual", "images"] | tuple[tuple[float, ...], tuple[float, ...]],
    PlainValidator(_normalization),
    PlainSerializer(lambda value: value),
]
Probability = Annotated[float, Field(ge=0, le=1)]
_Share = Annotated[float, Field(gt=0, le=1)]
# (low, high)
ShareRange = Annotated[tuple[_Share, _Share], BeforeValidator(_literal_tuple), AfterValidator(_ascending)]
_Magnification = Annotated[float, Field(ge=0.01, le=100)]
PositiveRange = Annotated[
    tuple[_Magnification, _Magnification], BeforeValidator(_literal_tuple), AfterValidator(_ascending)
]
# (x, y)
Shares = Annotated[tuple[Probability, Probability], BeforeValidator(_literal_tuple)]
