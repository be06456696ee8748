"""`Encoder`: a trained encoder with all that its images and features need, so that the same image has the same features
everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from scatsimclr.config import Config
from scatsimclr.data.augment import center_view
from scatsimclr.data.imageset import DataError
from scatsimclr.data.inputs import Inputs, Rows
from scatsimclr.errors import UserError
from scatsimclr.evaluation.classifier import Classifier
from scatsimclr.evaluation.features import FEATURES, batch_features
from scatsimclr.evaluation.recommendation import Recommendation
from scatsimclr.evaluation.standard import Standard
from scatsimclr.labelling.assigned import Assigned, assign
from scatsimclr.labelling.images import Images
from scatsimclr.models.encoder import Encoder as Network
from scatsimclr.models.folding import folded
from scatsimclr.scattering import Scattering2D
from scatsimclr.training import checkpoint
from scatsimclr.training.setup import augment_spec, front_end, restore, shared_settings

Array = npt.NDArray[np.float32]


class Encoder:
    """A trained encoder, its preprocessing, the features that its run recommends and, with labels, a classifier.

    Images are a folder, an image file, a list of files, an array (N, H, W) or (N, H, W, C), a tensor (N, C, H, W), a
    list of arrays, tensors or Pillow images, or a data set whose items are such images. They are read, resized and
    normalised as in training.

    Attributes:
        config: The settings of the run.
        network: The network, in evaluation mode.
        recommendation: The recommended features and how they are standardised; None where there is no run.
        classifier: Tells classes; None where there were no labels.
        origin: A few words on what this is.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        *,
        recommendation: Recommendation | None = None,
        classifier: Classifier | None = None,
        origin: str = "",
    ):
        self.config, self.network, self.origin = config, network, origin
        self.recommendation, self.classifier = recommendation, classifier

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, config: str | None = None, changes: Any = ()) -> Encoder:
        """Loads an encoder.

        Args:
            path: A run folder, finished or stopped, whose last checkpoint is used; a checkpoint; a folder written by
                `save_pretrained` or `export`; or, with `config`, mere weights.
            config: A file with the settings of mere weights.
            changes: Settings to change, as for `load_config`.

        Raises:
            UserError: A file is missing, or cannot be read.
        """
        settings, network, origin = restore(os.fspath(path), config, changes)
        device = next(network.parameters()).device
        place = Path(path)
        folder = place if place.is_dir() else place.parent.parent
        return cls(
            settings,
            network,
            recommendation=Recommendation.load(place, device),
            classifier=Classifier.load(folder, device),
            origin=origin,
        )

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Encoder:
        """Loads an encoder from a folder or, where there is none of that name, from the Hugging Face Hub.

        Args:
            name: A folder, as for `scatsimclr.load`, or USER/REPOSITORY.
            options: Of `huggingface_hub.ModelHubMixin.from_pretrained`, such as `revision`.
        """
        if Path(name).is_dir() and not options:
            return cls.load(name, changes=("fused=true",))
        from scatsimclr.hub import from_hub

        return from_hub(os.fspath(name), **options)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes weights, settings, preprocessing, statistics and classifier to a folder, which `load` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save_pretrained(folder, self.network, shared_settings(self.config))
        if self.recommendation is not None:
            self.recommendation.save(folder)
        if self.classifier is not None:
            self.classifier.save(folder)
        return folder

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Uploads the encoder to the Hugging Face Hub.

        Args:
            name: USER/REPOSITORY.
            options: Of `huggingface_hub.ModelHubMixin.push_to_hub`, such as `private` and `token`.

        Returns:
            The address of the commit.
        """
        from scatsimclr.hub import push

        return push(self, name, **options)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) that images are brought to."""
        return self.config.dataset.input_shape

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def features(self) -> str:
        """The features that `embed` gives: those that the run recommends, else h."""
        return self.recommendation.features if self.recommendation else "h"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that `predict` tells apart; () without a classifier."""
        return self.classifier.classes if self.classifier else ()

    @cached_property
    def _folded(self) -> Network:
        return folded(self.network)

    @cached_property
    def transform(self) -> Scattering2D:
        """The scattering transform of the network, or the one that a ResNet is compared with."""
        return front_end(self.config, self.network)

    def preprocess(self, images: object) -> Tensor:
        """Images as the network takes them: float32 (N, C, H, W), normalised, on its device."""
        return torch.cat([self._view(rows.images) for rows in self._read(Inputs.of(images), 256)])

    def _view(self, pixels: Tensor) -> Tensor:
        return center_view(pixels.to(self.device), augment_spec(self.config))

    def _read(self, inputs: Inputs, batch_size: int) -> Iterator[Rows]:
        """The batches of images all of which must be readable."""
        for rows in inputs.batches(self.input_shape, self.config.data.scale, batch_size):
            if rows.failed:
                index, why = next(iter(rows.failed.items()))
                raise DataError(f"{inputs.names[index]} cannot be read: {why}")
            yield rows

    @torch.inference_mode()
    def rows(self, pixels: Tensor, features: str) -> Tensor:
        """Features (n, F) of pixels uint8 (n, H, W, C), parts side by side as they are, on the network's device."""
        amp = self.config.resolved_amp(self.device.type)
        return batch_features(self._folded, self._view(pixels), features, amp, self.transform)

    def standard(self, features: str | None = None) -> Standard | None:
        """How features whose parts stand side by side are standardised; None for others, which stay as they are.

        Raises:
            UserError: There are no statistics.
        """
        features = features or self.features
        if features not in FEATURES:
            raise UserError(f"features must be one of {', '.join(FEATURES)}, got {features!r}")
        if len(FEATURES[features]) == 1:
            return None
        if self.recommendation is None:
            raise UserError(
                f"features {features} need the statistics of a run, and there are none {self.origin}"
            )
        return self.recommendation.standard(features)

    def batches(
        self, inputs: Inputs, *, features: str | None = None, batch_size: int = 64
    ) -> Iterator[tuple[Rows, Array]]:
        """Batches of images, and their features float32 (k, F); images that cannot be read are in `Rows.failed`."""
        features = features or self.features
        standard = self.standard(features)
        for rows in inputs.batches(self.input_shape, self.config.data.scale, batch_size):
            yield rows, self._features(rows.images, features, standard)

    def _features(self, pixels: Tensor, features: str, standard: Standard | None) -> Array:
        if not len(pixels):
            return np.empty((0, 0), np.float32)
        found = self.rows(pixels, features)
        result: Array = (found if standard is None else standard(found)).cpu().numpy()
        return result

    def embed(
        self,
        images: object,
        *,
        features: str | None = None,
        batch_size: int = 64,
        on_error: str = "raise",
        progress: bool = False,
    ) -> Array:
        """Features of images, in their order.

        Args:
            images: See the class; those of a folder in natural order.
            features: "h", "z", "scattering" …: a name of `scatsimclr.evaluation.features.FEATURES`. None: what the run
                recommends.
            batch_size: Images at a time.
            on_error: What an image that cannot be read means: "raise", an error that names it; or "nan", a row of NaN.
            progress: Whether to show a progress bar, on a terminal only.

        Returns:
            float32 (N, F).

        Raises:
            UserError: An image cannot be read, or the features cannot be made.
        """
        if on_error not in ("raise", "nan"):
            raise UserError(f"on_error must be 'raise' or 'nan', got {on_error!r}")
        if batch_size < 1:
            raise UserError(f"batch_size must be 1 or more, got {batch_size}")
        inputs = Inputs.of(images)
        found: Array | None = None
        with tqdm(
            total=len(inputs), unit="image", desc="embedding", disable=None if progress else True
        ) as bar:
            for rows, values in self.batches(inputs, features=features, batch_size=batch_size):
                if rows.failed and on_error == "raise":
                    index, why = next(iter(rows.failed.items()))
                    raise DataError(
                        f"{inputs.names[index]} cannot be read: {why} (on_error='nan' gives a row of NaN)"
                    )
                if rows.index:
                    if found is None:
                        found = np.full((len(inputs), values.shape[1]), np.nan, np.float32)
                    found[rows.index] = values
                bar.update(len(rows.index) + len(rows.failed))
        if found is None:
            raise DataError(f"none of {len(inputs)} images can be read")
        return found

    def predict_proba(self, images: object, *, batch_size: int = 64) -> Array:
        """Probabilities of the classes, float32 (N, k), by the classifier that a run with labels has.

        Raises:
            UserError: There is no classifier, or an image cannot be read.
        """
        if self.classifier is None:
            raise UserError("predict needs labels: train with labels, or call learn(images, labels) first")
        parts = [
            self.classifier.probabilities(self.rows(rows.images, self.classifier.features)).cpu().numpy()
            for rows in self._read(Inputs.of(images), batch_size)
        ]
        found: Array = np.concatenate(parts)
        return found

    def predict(self, images: object, *, batch_size: int = 64) -> npt.NDArray[np.str_]:
        """The most probable class of each image, (N,): see `predict_proba`."""
        found: npt.NDArray[np.str_] = np.array(self.classes)[
            self.predict_proba(images, batch_size=batch_size).argmax(1)
        ]
        return found

    def learn(self, images: object, labels: object = None, *, batch_size: int = 64) -> Encoder:
        """Fits the classifier to labelled images; the network stays as it is.

        Args:
            images: See the class; those without a label only help to standardise the features.
            labels: One per image, None where there is none; for files also a dict by path or a CSV file. None: class
                folders, or the labels that items come with.
            batch_size: Images at a time.

        Returns:
            The encoder itself.

        Raises:
            UserError: There are labels of fewer than two classes, or an image cannot be read.
        """
        inputs = Inputs.of(images, labels)
        if len(inputs.classes) < 2:
            raise UserError("labels must be of two classes or more")
        features = self.features
        rows = torch.cat([self.rows(batch.images, features) for batch in self._read(inputs, batch_size)])
        given = torch.tensor(inputs.labels, device=rows.device)
        standard, start = {}, 0
        for part, width in self._widths(features).items():
            standard[part] = Standard.of_part(part, rows[:, start : start + width])
            start += width
        known = given >= 0
        whole = Standard.side_by_side(standard)
        self.classifier = Classifier.of(inputs.classes, features, rows[known], given[known], whole)
        return self

    def width(self, features: str | None = None) -> int:
        """The number of features, by default of those that `embed` gives."""
        return sum(self._widths(features or self.features).values())

    def _widths(self, features: str) -> Mapping[str, int]:
        """The number of features of each part."""
        pixels = torch.zeros(1, *self.input_shape, dtype=torch.uint8)
        return {part: self.rows(pixels, part).shape[1] for part in FEATURES[features]}

    def label(
        self, images: object, labels: object = None, *, suggest: int = 0, seed: int = 0, batch_size: int = 64
    ) -> Assigned:
        """Labels for all images from labels for a few of them, each with a calibrated confidence.

        Args:
            images: See the class.
            labels: As for `learn`.
            suggest: How many images to name that should be labelled next.
            seed: Of all random choices.
            batch_size: Images at a time.

        Returns:
            The labels, with their confidences and the accuracy to expect.

        Raises:
            UserError: There are labels of fewer than two images or classes, or fewer than two images can be read.
        """
        inputs = Inputs.of(images, labels)
        parts: list[Tensor] = []
        kept: list[int] = []
        skipped = list(inputs.skipped)
        for rows in inputs.batches(self.input_shape, self.config.data.scale, batch_size):
            parts.append(rows.images)
            kept += rows.index
            skipped += ((inputs.names[index], why) for index, why in rows.failed.items())
        if len(kept) < 2:
            raise DataError(f"{len(kept)} of {len(inputs)} images can be read, two are needed")
        found = Images(Path(), tuple(inputs.names[i] for i in kept), torch.cat(parts), tuple(skipped))
        known = {
            place: inputs.classes[inputs.labels[index]]
            for place, index in enumerate(kept)
            if inputs.labels[index] >= 0
        }
        return assign(found, known, self.label_features(found.pixels, batch_size), count=suggest, seed=seed)

    def label_features(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        """The features that labels spread over, float32 (n, F), of pixels uint8 (n, H, W, C).

        Those that the run recommends, h and scattering where it recommends none, each part with its share of the
        variance over these images.
        """
        chosen = self.features if self.recommendation else ("both" if self.config.model.scattering else "h")
        parts = {
            part: torch.cat([self.rows(batch, part).cpu() for batch in torch.split(pixels, batch_size)])
            for part in FEATURES[chosen]
        }
        standard = Standard.side_by_side({part: Standard.of_part(part, rows) for part, rows in parts.items()})
        return standard(torch.cat(list(parts.values()), 1))

    def __repr__(self) -> str:
        height, width, channels = self.input_shape
        return (
            f"Encoder({self.config.model.base_model}, {self.origin}: images of {height}×{width}×{channels}, "
            f"features {self.features}{f', {len(self.classes)} classes' if self.classes else ''})"
        )
