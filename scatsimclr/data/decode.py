"""From any image to uint8 pixels of one size and number of channels, with Lanczos resampling: the one way for all uses.

Images are files that Pillow reads, files of NumPy arrays (.npy), or in memory already: see `scatsimclr.data.arrays`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from scatsimclr.data.arrays import Pixels, as_array, as_picture, levels, resized, stretched
from scatsimclr.data.imageset import DataError, allocate
from scatsimclr.data.levels import Scale, to_8_bits
from scatsimclr.data.metadata import opened, upright

T = TypeVar("T")


class WrongChannels(ValueError):
    """An image has another number of channels than what is asked for, and they do not convert."""


# HEIC is listed although Pillow cannot read it: a phone's photos are then reported as skipped, not ignored.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
        *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".jp2", ".j2k", ".jpx", ".avif", ".ico"),
        *(".pcx", ".sgi", ".heic", ".heif", ".npy"),
    )
)

# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where that is still at least this many times the requested size, as
# for Pillow's thumbnails. A photograph of 12 megapixels takes 20 to 45 ms instead of 400 and is off by 0.2 levels on
# average; one of 640×427, reduced to 96×96, takes 4 ms instead of 11 and is off by 1 to 2 (EPYC Zen 4, 2026-11-25).
_DRAFT = 2
_GLANCE = 256  # pixels per side, at least, of the image in which colours are looked for


def to_rgb(image: Image.Image, scale: Scale = "auto") -> Image.Image:
    """A Pillow image of any mode as mode RGB: upright by its EXIF orientation, transparency on white.

    Modes I;16, I and F have no agreed white level: see `scatsimclr.data.levels`.
    """
    image = upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        return to_8_bits(image, scale).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        white.alpha_composite(rgba)
        return white.convert("RGB")
    return image.convert("RGB")


def _in_channels(image: Image.Image, channels: int, scale: Scale) -> Image.Image:
    """`to_rgb`, and with one channel that as mode L."""
    if channels == 3:
        return to_rgb(image, scale)
    if image.mode == "L" and not image.has_transparency_data:
        return upright(image)  # the same bits as by way of RGB
    return to_rgb(image, scale).convert("L")


def pixels_of(image: object, size: tuple[int, int], channels: int = 3, scale: Scale = "auto") -> Pixels:
    """An image as pixels of one size.

    Args:
        image: A Pillow image, of several frames the first; or an array or tensor, see `scatsimclr.data.arrays`.
        size: (H, W) of the result.
        channels: 3, RGB (a grey image with three equal ones); 1, grey (a colour image as Pillow's mode L); or any other
            number, which the image must have, as bands, pages or the last axis.
        scale: Of images of more than 8 bits.

    Returns:
        uint8 (H, W, channels).

    Raises:
        WrongChannels: The image has others.
        ValueError: It has values that are no levels, or is no image.
    """
    if not isinstance(image, Image.Image):
        array = levels(as_array(image), scale)
        if channels in (1, 3) and array.shape[2] <= 4:
            image = as_picture(array)
        else:
            return stretched(_checked(array, channels), size)
    elif channels not in (1, 3):
        return stretched(levels(_checked(_planes(image, channels), channels), scale), size)
    return np.asarray(resized(_in_channels(image, channels, scale), size)).reshape(*size, channels)


def _planes(image: Image.Image, channels: int) -> npt.NDArray[Any]:
    """The bands of a Pillow image, or the pages of one that has as many, (H, W, C)."""
    if getattr(image, "n_frames", 1) != channels:
        return as_array(np.asarray(upright(image)))
    pages = []
    for page in range(channels):
        image.seek(page)
        pages.append(np.asarray(upright(image)))
    return np.stack(pages, -1) if pages[0].ndim == 2 else np.concatenate(pages, -1)


def _checked(array: npt.NDArray[Any], channels: int) -> npt.NDArray[Any]:
    if array.shape[2] != channels:
        raise WrongChannels(f"{array.shape[2]} channels, where {channels} are expected")
    return array


def read_image(path: Path, size: tuple[int, int], channels: int = 3, scale: Scale = "auto") -> Pixels | str:
    """Reads an image file: see `pixels_of`.

    Returns:
        uint8 (H, W, channels), or the reason why the file cannot be read.
    """

    def pixels(image: Image.Image) -> Pixels:
        image.draft(None, (_DRAFT * max(size), _DRAFT * max(size)))
        return pixels_of(image, size, channels, scale)

    try:
        if os.path.getsize(path) == 0:
            return "empty file"
        if path.suffix.lower() == ".npy":
            return pixels_of(_array(path), size, channels, scale)
        return opened(path, pixels)
    except UnidentifiedImageError:
        heic = path.suffix.lower() in {".heic", ".heif"}
        return "HEIC, which Pillow cannot read: convert it to JPEG or PNG" if heic else "not a readable image"
    except WrongChannels as error:
        return str(error)
    except Image.DecompressionBombError as error:
        return f"too large, it could be a decompression bomb: {error}"
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    except Exception as error:  # whatever a decoder raises concerns this file alone
        return f"damaged image: {type(error).__name__}: {error}"


def read_one(
    path: str | os.PathLike[str], size: tuple[int, int], channels: int = 3, scale: Scale = "auto"
) -> Pixels:
    """As `read_image`, with a DataError where the file cannot be read."""
    found = read_image(Path(path), size, channels, scale)
    if isinstance(found, str):
        raise DataError(f"{path} cannot be read: {found}")
    return found


def _array(path: Path) -> npt.NDArray[Any]:
    """The array (H, W, C) of a file, not yet read; (n, F) would also be a table of features, so grey has C = 1."""
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 3:
        raise ValueError(f"an image in .npy must have shape (H, W, C), got {array.shape}")
    return array


def shorter_side(path: Path) -> int:
    """The shorter side of an image file in pixels, by its header; 0 where it cannot be read."""
    try:
        if path.suffix.lower() == ".npy":
            return int(min(_array(path).shape[:2]))
        return opened(path, lambda image: min(image.size))
    except Exception:
        return 0


def stacked(path: Path) -> int:
    """Channels that a file stacks, beyond RGB and alpha: the last axis of .npy, the pages of a TIFF; 0 for others."""
    try:
        if path.suffix.lower() == ".npy":
            channels = _array(path).shape[2]
            return channels if channels > 4 else 0
        if path.suffix.lower() not in (".tif", ".tiff"):
            return 0
        count = opened(path, lambda image: int(getattr(image, "n_frames", 1)))
        return count if count > 1 else 0
    except Exception:
        return 0


def all_grey(files: Sequence[Path]) -> bool:
    """Whether no image has colours; files that cannot be read do not count. The first coloured one ends the search.

    A file of a mode without colours (1, L, LA, I, I;16, F) is not decoded. The others are grey if every pixel has three
    equal channels; a JPEG is decoded at an eighth of its size or more, as for training.
    """
    found = threading.Event()  # so that no file is decoded after the one with colours

    def look(path: Path) -> bool:
        if not found.is_set() and _colourful(path):
            found.set()
        return found.is_set()

    pool = ThreadPoolExecutor(_workers())
    try:
        return not any(pool.map(look, files))
    finally:
        pool.shutdown(cancel_futures=True)


def _colourful(path: Path) -> bool:
    def look(image: Image.Image) -> bool:
        if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;"):
            return False
        image.draft(None, (_GLANCE, _GLANCE))
        levels = np.asarray(to_rgb(image))
        return bool((levels != levels[..., :1]).any())

    try:
        return coloured(_array(path)) if path.suffix.lower() == ".npy" else opened(path, look)
    except Exception:
        return False


def coloured(array: npt.NDArray[Any]) -> bool:
    """Whether an array (H, W, C) of one, two (grey and alpha) or more channels has colours."""
    return array.shape[2] > 2 and bool((array[..., :3] != array[..., :1]).any())


def pack(
    chunks: Iterable[Pixels], count: int, size: tuple[int, int], channels: int, progress: bool
) -> torch.Tensor:
    """Packs chunks of images into one tensor.

    Images of another size are resized (Lanczos). Where one channel is requested, colours become Pillow's mode L; where
    three are, grey becomes three equal channels. The chunks are consumed one by one, so memory holds the result and
    one chunk.

    Args:
        chunks: uint8 (k, h, w, 1 or 3) of any strides.
        count: Images in all chunks.
        size: (H, W) of the result.
        channels: Of the result, 1 or 3.
        progress: Whether to show a progress bar, on a terminal only.

    Returns:
        uint8 (count, H, W, channels).
    """
    images = allocate(count, size, channels)
    out = images.numpy()
    start = 0
    with _bar(count, "reading", progress) as bar:
        for chunk in chunks:
            target = out[start : start + len(chunk)]
            found = _luma(chunk) if chunk.shape[3] > channels else chunk
            if found.shape[1:3] == size:
                target[...] = found
            else:
                _resize_into(target, found)
            start += len(chunk)
            bar.update(len(chunk))
    return images


def _luma(rgb: Pixels) -> Pixels:
    """Pillow's mode L: uint8 (k, h, w, 3) -> (k, h, w, 1)."""
    grey = (rgb @ np.array((19595, 38470, 7471), np.int32) + (1 << 15)) >> 16
    levels: Pixels = grey.astype(np.uint8)[..., None]
    return levels


def _resize_into(target: Pixels, source: Pixels) -> None:
    size = target.shape[1:3]
    shape = source.shape[1:] if source.shape[3] == 3 else source.shape[1:3]

    def run(indices: npt.NDArray[np.int64]) -> None:
        for i in indices:
            picture = Image.fromarray(np.ascontiguousarray(source[i]).reshape(shape))
            target[i] = np.asarray(resized(picture, size)).reshape(*size, -1)

    _in_threads(run, np.array_split(np.arange(len(source)), _workers()), lambda: None)


def read_files(
    files: list[Path], size: tuple[int, int], channels: int, progress: bool, scale: Scale = "auto"
) -> tuple[torch.Tensor, list[int], dict[int, str]]:
    """Decodes image files in threads (Pillow releases the GIL).

    Returns:
        The images that could be read, uint8 (k, H, W, channels); their k indices into `files`, ascending; and the
        reason for each index that could not be read.
    """
    images = allocate(len(files), size, channels)
    out = images.numpy()
    failed: dict[int, str] = {}

    def run(index: int) -> None:
        result = read_image(files[index], size, channels, scale)
        if isinstance(result, str):
            failed[index] = result
        else:
            out[index] = result

    with _bar(len(files), "decoding", progress) as bar:
        _in_threads(run, range(len(files)), bar.update)
    kept = [i for i in range(len(files)) if i not in failed]
    if failed:
        for to, origin in enumerate(kept):  # in place: a second copy of everything might not fit
            out[to] = out[origin]
    return images[: len(kept)], kept, dict(sorted(failed.items()))


def from_memory(
    images: Sequence[object], size: tuple[int, int], channels: int, progress: bool, scale: Scale = "auto"
) -> torch.Tensor:
    """Converts images that are in memory, by `pixels_of`, in threads.

    Returns:
        uint8 (n, H, W, channels).

    Raises:
        ValueError: The first image that cannot be converted, by its number.
    """
    result = allocate(len(images), size, channels)
    out = result.numpy()

    def run(index: int) -> None:
        try:
            out[index] = pixels_of(images[index], size, channels, scale)
        except ValueError as error:
            raise ValueError(f"image {index}: {error}") from None

    with _bar(len(images), "reading", progress) as bar:
        _in_threads(run, range(len(images)), bar.update)
    return result


def decode_batches(
    files: Sequence[Path], size: tuple[int, int], channels: int, batch_size: int, scale: Scale = "auto"
) -> Iterator[tuple[list[int], torch.Tensor, dict[int, str]]]:
    """Decodes files batch by batch, in order, while the caller works on the batch before.

    Yields:
        For every `batch_size` files, the indices of those that could be read; their images, uint8 (k, H, W, channels);
        and the reason for each index that could not be read.
    """
    pool = ThreadPoolExecutor(_workers())

    def submit(start: int) -> list[Future[Pixels | str]]:
        return [
            pool.submit(read_image, file, size, channels, scale) for file in files[start : start + batch_size]
        ]

    starts = range(0, len(files), batch_size)
    ahead = deque(submit(start) for start in starts[:2])
    try:
        for number, start in enumerate(starts):
            results = [future.result() for future in ahead.popleft()]
            ahead.extend(submit(later) for later in starts[number + 2 : number + 3])
            failed = {start + i: why for i, why in enumerate(results) if isinstance(why, str)}
            kept = [start + i for i in range(len(results)) if start + i not in failed]
            images = np.empty((len(kept), *size, channels), np.uint8)
            for row, index in enumerate(kept):
                images[row] = results[index - start]
            yield kept, torch.from_numpy(images), failed
    finally:
        pool.shutdown(cancel_futures=True)


def _in_threads(run: Callable[[T], object], items: Iterable[T], after_each: Callable[[], object]) -> None:
    pool = ThreadPoolExecutor(_workers())
    try:
        for _ in pool.map(run, items):
            after_each()
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for every image


def _workers() -> int:
    return min(16, os.cpu_count() or 1)


def _bar(total: int, what: str, progress: bool) -> tqdm[NoReturn]:
    # disable=None is tqdm's "unless stderr is a terminal"
    return tqdm(total=total, desc=what, unit="image", disable=None if progress else True, leave=False)
