"""The scattering front end in pictures: its wavelets, and the coefficients of an image on the frequency plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from scatsimclr.reporting.pictures import mask, png
from scatsimclr.scattering import Scattering2D

COLUMNS = 8  # wavelets in a row
TILE = 72  # pixels of one wavelet
DISK = 480  # pixels of a whole disk
SMALL_DISK = 64  # pixels of one of the disks in place
PLACES = 8  # disks in place, in each direction
OVERSAMPLING = 3  # of disks, in each direction, for smooth edges


@dataclass(frozen=True)
class Coefficients:
    """Scattering coefficients of one image, averaged over its colours (root mean square).

    Attributes:
        first: First order, float64 (J, L, H, W).
        second: Means of the second order over all places, float64 (J, L, J, L), by j1, θ1, j2, θ2; 0 where j2 ≤ j1.
    """

    first: np.ndarray
    second: np.ndarray


def wavelets(scattering: Scattering2D, j: int) -> bytes:
    """PNG of the complex wavelets of scale j in space, rows of 8 angles: hue is the phase, opacity the modulus.

    The window grows with the scale, so that the shapes can be compared.
    """
    L = scattering.L
    spectra = [psi["levels"][0] for psi in scattering.psi[j * L : (j + 1) * L]]
    return _tiles([_window(spectrum, 5 * 2**j) for spectrum in spectra])


def low_pass(scattering: Scattering2D) -> bytes:
    """PNG of φ in space."""
    return _tiles([_window(scattering.phi["levels"][0], 5 * 2 ** (scattering.J - 1))])


def _window(spectrum: np.ndarray, half: int) -> np.ndarray:
    """The centre of a filter in space, complex, (2·half + 1, 2·half + 1) or as large as the grid allows."""
    space = np.fft.fftshift(np.fft.ifft2(spectrum))
    rows, columns = (size // 2 for size in space.shape)
    half = min(half, rows - 1, columns - 1)
    return space[rows - half : rows + half + 1, columns - half : columns + half + 1]


def _tiles(windows: list[np.ndarray]) -> bytes:
    columns = min(COLUMNS, len(windows))
    result = Image.new("RGBA", (columns * TILE, -(-len(windows) // columns) * TILE))
    for index, window in enumerate(windows):
        modulus = np.abs(window) / np.abs(window).max()
        hue = np.angle(window) / (2 * np.pi) % 1
        hsv = np.stack([hue * 255, np.full_like(hue, 190), np.full_like(hue, 215)], -1)
        tile = Image.fromarray(np.rint(hsv).astype(np.uint8), "HSV").convert("RGB")
        tile.putalpha(Image.fromarray(np.rint(modulus**0.8 * 255).astype(np.uint8)))
        place = (index % columns * TILE, index // columns * TILE)
        result.paste(tile.resize((TILE, TILE), Image.Resampling.BICUBIC), place)
    return png(result)


def coefficients(scattering: Scattering2D, x: torch.Tensor) -> Coefficients:
    """The coefficients of one image x (C, M, N), normalised."""
    J, L = scattering.J, scattering.L
    transform = Scattering2D(J, scattering.shape, L, backend=scattering.backend, out_type="list").to(x.device)
    paths = transform(x)
    height, width = paths[0]["coef"].shape[-2:]
    first, second = np.zeros((J, L, height, width)), np.zeros((J, L, J, L))
    for path in paths:
        value = path["coef"].double().square().mean(0).sqrt().cpu().numpy()
        if len(path["j"]) == 1:
            first[path["j"][0], path["theta"][0]] = value
        elif len(path["j"]) == 2:
            (j1, j2), (t1, t2) = path["j"], path["theta"]
            second[j1, t1, j2, t2] = value.mean()
    return Coefficients(first, second)


def first_order_disk(found: Coefficients) -> bytes:
    """PNG of |x ⋆ ψ| in the frequency plane: radius is the scale (fine ones outside), angle the orientation."""
    means = found.first.mean((2, 3))
    return mask(_disk(means / _top(means), DISK))


def second_order_disk(found: Coefficients) -> bytes:
    """PNG of ||x ⋆ ψ1| ⋆ ψ2|: each sector (j1, θ1) is divided by j2 (outwards) and θ2 (around)."""
    J, L = found.second.shape[:2]
    rings = [(j1, j2) for j1 in range(J - 1) for j2 in range(J - 1, j1, -1)]
    radius, turn, smooth = _polar(DISK, L)
    ring = np.full(radius.shape, -1)
    for j1 in range(J - 1):
        inner, outer, count = 2.0 ** -(j1 + 1), 2.0**-j1, J - 1 - j1
        inside = (radius >= inner) & (radius < outer)
        step = np.minimum((radius - inner) / (outer - inner) * count, count - 1).astype(int)
        ring[inside] = (rings.index((j1, J - 1)) + step)[inside]
    table = np.stack([found.second[j1, :, j2] for j1, j2 in rings])  # (rings, θ1, θ2)
    theta1 = np.floor(turn + 0.5).astype(int) % L
    theta2 = np.clip(((turn + 0.5) % 1 * L).astype(int), 0, L - 1)
    return mask(smooth(np.where(ring >= 0, table[ring, theta1, theta2] / _top(table), 0)))


def disks_in_place(found: Coefficients) -> bytes:
    """PNG of a first-order disk for each place of the image, or for at most 8 × 8 means over neighbouring places."""
    J, L, height, width = found.first.shape
    maps = torch.from_numpy(found.first).reshape(J * L, height, width)
    size = (min(PLACES, height), min(PLACES, width))
    places = torch.nn.functional.adaptive_avg_pool2d(maps, size).reshape(J, L, *size).numpy()
    places = places / _top(places)
    rows = [
        np.concatenate([_disk(places[:, :, row, column], SMALL_DISK) for column in range(size[1])], 1)
        for row in range(size[0])
    ]
    return mask(np.concatenate(rows, 0))


def _disk(values: np.ndarray, size: int) -> np.ndarray:
    """Values (J, L) in [0, 1] as opacities (size, size)."""
    J, L = values.shape
    radius, turn, smooth = _polar(size, L)
    scale = np.floor(-np.log2(np.maximum(radius, 1e-9))).astype(int)
    inside = (radius < 1) & (scale < J)
    sector = np.floor(turn + 0.5).astype(int) % L
    return smooth(np.where(inside, values[np.clip(scale, 0, J - 1), sector], 0))


def _polar(size: int, L: int) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Polar coordinates of an oversampled disk.

    Returns:
        The radius in [0, √2), the angle in units of θ (in the filters' order), and a function that averages
        oversampled values.
    """
    fine = size * OVERSAMPLING
    axis = (np.arange(fine) + 0.5) / fine * 2 - 1
    # 4 % of the radius stays empty, so that neighbouring disks do not touch.
    rows, columns = np.meshgrid(axis * 1.04, axis * 1.04, indexing="ij")
    # Filter θ has its frequency at the angle (L − ⌈L/2⌉ − 1 − θ)·π/L from the first axis, see scatsimclr.filters.
    turn = (int(L - L / 2 - 1) - np.arctan2(columns, rows) * L / np.pi) % L

    def smooth(values: np.ndarray) -> np.ndarray:
        averaged: np.ndarray = values.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean((1, 3))
        return averaged

    return np.hypot(rows, columns), turn, smooth


def _top(values: np.ndarray) -> float:
    """The value that is drawn at full opacity: the largest one, or 1 where all are 0."""
    return float(values.max()) or 1.0
