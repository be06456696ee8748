"""The pictures of a run folder: loss curve, augmented pairs, projection of the embeddings, filter bank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from scatsimclr.data.augment import AugmentSpec, to_uint8
from scatsimclr.evaluation.features import extract

if TYPE_CHECKING:
    from scatsimclr.training.loop import Trainer

PROJECTED = 2000  # points in the projection: t-SNE takes seconds for them, minutes for ten times as many


def write_all(trainer: Trainer) -> None:
    """Writes every plot of a finished run to its folder's plots/."""
    folder = trainer.folder / "plots"
    folder.mkdir(exist_ok=True)
    loss_curve(trainer.records(), folder / "loss.png")
    first, second = trainer.loader.batch(trainer.loader.order(0)[:8], 0).views
    augmented_pairs(first, second, trainer.data.spec, folder / "pairs.png")
    shown = trainer.data.test or trainer.data.pretrain
    shown = shown.subset(torch.arange(min(PROJECTED, len(shown))))
    features = extract(trainer.model, shown.images, trainer.data.spec)
    projection(features.cpu().numpy(), shown.labels.numpy(), shown.classes, folder / "embeddings.png")
    if trainer.config.model.scattering:
        filter_bank(trainer.model._scatnet, folder / "filters.png")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, bbox_inches="tight")


def loss_curve(records: list[dict], path: Path) -> None:
    """Training and validation loss by epoch; with a pretext task also its two parts."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    names = {"loss": "", "contrastive_loss": ", NT-Xent", "pretext_loss": ", pretext"}
    for event, label, style in (("epoch", "training", "-"), ("validation", "validation", "--")):
        for colour, (name, suffix) in enumerate(names.items()):
            points = [(r["epoch"], r[name]) for r in records if r["event"] == event and name in r]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=f"C{colour}",
                    marker="o",
                    markersize=3,
                    label=label + suffix,
                )
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def augmented_pairs(first: torch.Tensor, second: torch.Tensor, spec: AugmentSpec, path: Path) -> None:
    """Two rows of views as the model sees them; each column is one image."""
    figure = Figure(figsize=(1.3 * len(first), 2.8))
    axes = figure.subplots(2, len(first), squeeze=False)
    for row, views in zip(axes, (first, second), strict=True):
        for cell, picture in zip(row, to_uint8(views.cpu(), spec), strict=True):
            cell.imshow(picture.numpy(), interpolation="nearest")
            cell.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("view 1")
    axes[1, 0].set_ylabel("view 2")
    figure.suptitle("Augmented pairs")
    _save(figure, path)


def projection(features: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    """t-SNE of h (n, F), coloured by class; PCA where there are too few points for t-SNE."""
    standard = (features - features.mean(0)) / (features.std(0) + 1e-6)
    reduced = PCA(min(50, *standard.shape), random_state=0).fit_transform(standard)
    name = "PCA"
    if len(reduced) >= 10:
        name = "t-SNE"
        reduced = TSNE(perplexity=min(30, len(reduced) / 4), random_state=0).fit_transform(reduced)
    figure = Figure(figsize=(7, 6))
    axes = figure.subplots()
    groups = [(index, text) for index, text in enumerate(classes) if (labels == index).any()]
    for index, text in groups or [(-1, "unlabelled")]:
        # tab20's even entries are ten distinct hues, its odd ones their light twins.
        colour = f"C{index % 10}" if index >= 0 else "C0"
        points = reduced[labels == index]
        axes.scatter(
            points[:, 0], points[:, 1], s=8, color=colour, marker="o^sv"[index // 10 % 4], label=text
        )
    if 1 < len(groups) <= 20:
        axes.legend(markerscale=2, bbox_to_anchor=(1, 1), loc="upper left", frameon=False)
    axes.set(xticks=[], yticks=[], title=f"{name} of h, {len(features)} images")
    _save(figure, path)


def filter_bank(scattering, path: Path) -> None:
    """Real part of every wavelet in space (a row for each scale), and the low-pass filter."""
    J, L = scattering.J, scattering.L
    figure = Figure(figsize=(0.9 * (L + 1), 1.1 * J + 0.4))
    axes = figure.subplots(J, L + 1, squeeze=False)
    spectra = [psi["levels"][0] for psi in scattering.psi]
    for j in range(J):
        # Each scale is shown in a window of its own size, so that the shapes can be compared.
        half = min(5 * 2**j, *(size // 2 for size in spectra[0].shape))
        row = [*spectra[j * L : (j + 1) * L], scattering.phi["levels"][0] if j == J - 1 else None]
        for cell, spectrum in zip(axes[j], row, strict=True):
            cell.set(xticks=[], yticks=[])
            if spectrum is None:
                cell.axis("off")
                continue
            space = np.fft.fftshift(np.fft.ifft2(spectrum).real)
            middle = [size // 2 for size in space.shape]
            window = space[tuple(slice(m - half, m + half + 1) for m in middle)]
            limit = np.abs(window).max()
            cell.imshow(window, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes[j, 0].set_ylabel(f"j = {j}")
    for theta in range(L):
        axes[0, theta].set_title(f"θ{theta}", fontsize=8)
    axes[J - 1, L].set_title("φ", fontsize=8)
    _save(figure, path)


def confusion(counts: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    """Confusion matrix: counts (classes, classes), rows true, columns predicted, shaded by the share of the row."""
    n = len(classes)
    side = min(3 + 0.35 * n, 16)
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    if n <= 30:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = count > counts[row].sum() / 2
                axes.text(
                    column, row, str(count), ha="center", va="center", fontsize=7, color="w" if dark else "k"
                )
    axes.set(xticks=range(n), yticks=range(n), xlabel="predicted", ylabel="true")
    axes.set_xticklabels(classes, rotation=90)
    axes.set_yticklabels(classes)
    _save(figure, path)
