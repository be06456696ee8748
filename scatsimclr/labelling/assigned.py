"""Labels for all of some images from labels for a few: what a person gave, what was found, and what to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from scatsimclr.labelling.classifier import Labelling, Space, label
from scatsimclr.labelling.images import Images, as_indices, same_pixels
from scatsimclr.labelling.suggest import Suggestion, suggest


@dataclass(frozen=True, eq=False)
class Assigned:
    """Labels for all images.

    Attributes:
        images: The images.
        classes: Names of the classes.
        given: Labels that a person gave, int64 (n,), −1 where there is none.
        found: The labels of all.
        suggestions: Images to label next, the most helpful first.
        notes: Remarks for the person, a line each.
    """

    images: Images
    classes: tuple[str, ...]
    given: Tensor
    found: Labelling
    suggestions: tuple[Suggestion, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the images are called: their paths, or numbers."""
        return self.images.files

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """The class of each image, (n,)."""
        return np.array([self.classes[index] for index in self.found.labels.tolist()])

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """How probable each label is, (n,); 1 where it was given."""
        found: npt.NDArray[np.float32] = self.found.confidence.numpy()
        return found

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Of each class, (n, k)."""
        found: npt.NDArray[np.float32] = self.found.probabilities.numpy()
        return found

    @property
    def accuracy(self) -> float | None:
        """The accuracy to expect, measured on held-out labels; None where none could be held out."""
        return self.found.accuracy


def assign(
    images: Images, labels: dict[int, str], features: Tensor, *, count: int = 0, seed: int = 0
) -> Assigned:
    """Gives all images labels. Deterministic for a seed.

    Args:
        images: The images.
        labels: Class names by index.
        features: (n, F) of the images.
        count: How many images to suggest to be labelled next.
        seed: Of all random choices.

    Raises:
        UserError: There are labels of fewer than two images or classes.
    """
    labels, remarks = same_pixels(images, labels)
    given, classes, more = as_indices(labels, len(images.files))
    space = Space(features, seed)
    found = label(space, given, seed=seed)
    suggestions: list[Suggestion] = []
    if count:
        suggestions = suggest(space, given, count, probabilities=found.probabilities, seed=seed)
    return Assigned(images, classes, given, found, tuple(suggestions), (*remarks, *more))
