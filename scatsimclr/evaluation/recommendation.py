"""Which features of a run are recommended, and how they are standardised: chosen without the test images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.mapped import AnyImages
from scatsimclr.errors import UserError
from scatsimclr.evaluation.features import FEATURES, WORDS, Extract, extract
from scatsimclr.evaluation.logistic import LogisticFit
from scatsimclr.evaluation.standard import Standard
from scatsimclr.files import replacing, write_text
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.models.stored import MALFORMED
from scatsimclr.scattering import Scattering2D

# Bytes that all coefficients of all images may take. Beyond that, only pooled coefficients are considered.
LARGEST = 2**31
POOL = 10_000  # Without labels, features are standardised by at most so many images.
CHOICE, STATISTICS = "recommendation.json", "features.safetensors"


@dataclass(frozen=True, eq=False)
class Recommendation:
    """The features of a run to use.

    Attributes:
        features: A name of FEATURES.
        reason: Why, in words.
        standards: How parts of features are standardised, by their names.
    """

    features: str
    reason: str
    standards: Mapping[str, Standard]

    def standard(self, features: str) -> Standard:
        """The standard of features whose parts stand side by side.

        Raises:
            UserError: Where the run has not measured one of the parts.
        """
        missing = [part for part in FEATURES[features] if part not in self.standards]
        if missing:
            raise UserError(f"the run has no statistics of {WORDS[missing[0]]}, which {features} needs")
        return Standard.side_by_side({part: self.standards[part] for part in FEATURES[features]})

    def save(self, folder: Path) -> None:
        """Writes recommendation.json and features.safetensors (mean and scale of each part) to a run folder."""
        tensors = {}
        for part, standard in self.standards.items():
            tensors[f"{part}.mean"], tensors[f"{part}.scale"] = standard.mean.cpu(), standard.scale.cpu()
        with replacing(folder / STATISTICS) as partial:
            save_file(tensors, partial)
        text = json.dumps({"features": self.features, "reason": self.reason}, indent=1) + "\n"
        write_text(folder / CHOICE, text)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device) -> Recommendation | None:
        """Reads the recommendation of a run folder, or of a checkpoint's run folder; None where it has none.

        Raises:
            UserError: For one that cannot be read.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent.parent
        if not (folder / CHOICE).is_file() or not (folder / STATISTICS).is_file():
            return None
        try:
            choice, tensors = json.loads((folder / CHOICE).read_text()), load_file(folder / STATISTICS)
            features, reason = choice["features"], choice["reason"]
            if features not in FEATURES:
                raise ValueError(f"features must be one of {', '.join(FEATURES)}, got {features!r}")
            if not isinstance(reason, str):
                raise ValueError(f"reason must be a text, got {reason!r}")
            standards = {}
            for part in sorted({name.rpartition(".")[0] for name in tensors}):
                mean, scale = (tensors[f"{part}.{name}"].to(device) for name in ("mean", "scale"))
                if mean.ndim != 1 or mean.shape != scale.shape:
                    raise ValueError(f"mean and scale of {part} must have one shape (features,)")
                standards[part] = Standard(mean, scale)
        except MALFORMED as error:
            raise UserError(f"{folder / CHOICE} cannot be read: {type(error).__name__}: {error}") from None
        return cls(features, reason, standards)


def likelihoods(fits: Sequence[LogisticFit], labels: Sequence[Tensor]) -> Tensor:
    """log p of the true class of every held-out example, by fits that had not seen it; (n,) over all draws."""
    found = []
    for fit, truth in zip(fits, labels, strict=True):
        if fit.held_out is not None:
            own = fit.held_out.gather(1, truth[:, None])[:, 0]
            found.append(own[~own.isnan()])
    return torch.cat(found) if found else torch.empty(0)


def simplest_of_the_best(measured: Mapping[str, Tensor]) -> str | None:
    """The features with the highest held-out likelihood, or simpler ones that are not significantly worse.

    Features replace simpler ones where the mean difference is more than twice its standard error.

    Args:
        measured: log p (n,) of the same examples, by features, the simplest first.

    Returns:
        The name of the features; None where nothing was held out.
    """
    names = list(measured)
    if not len(measured[names[0]]):
        return None
    best = names[0]
    for name in names[1:]:
        difference = (measured[name] - measured[best]).double()
        error = difference.std(correction=0) / len(difference) ** 0.5
        if difference.mean() > 2 * error:
            best = name
    return best


def without_labels(
    model: Encoder,
    images: AnyImages,
    spec: AugmentSpec,
    scattering: Scattering2D | None,
    *,
    joint: bool,
    batch_size: int = 256,
    amp: torch.dtype | None = None,
    extract: Extract = extract,
) -> Recommendation:
    """The recommendation where there are no labels to compare features with.

    Args:
        model: The encoder.
        images: uint8 (n, H, W, C).
        spec: Their normalisation.
        scattering: The transform, for features that need it.
        joint: Whether to recommend h and scattering side by side, whitened where the network has the log front; h
            alone suits a network without a scattering front end.
        batch_size: Images at a time.
        amp: Precision of the network, see `extract`.
        extract: Makes the features.
    """
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:POOL].sort().values
    images = images[chosen]

    def measure(part: str) -> Standard:
        found = extract(
            model, images, spec, batch_size=batch_size, features=part, amp=amp, scattering=scattering
        )
        return Standard.of_part(part, found)

    parts = ["h"]
    if joint:
        parts += (
            ["pooled", "scattering"]
            if fits_memory(len(images), images.shape[3], spec, scattering)
            else ["pooled"]
        )
    features = {1: "h", 2: "both_pooled", 3: "both"}[len(parts)]
    if joint and isinstance(model, ScatSimCLR) and model.front is not None:
        parts.append("whitened")
        features = "h_whitened"
    reason = "by rule: there are no labels to compare features with"
    return Recommendation(features, reason, {part: measure(part) for part in parts})


def fits_memory(count: int, channels: int, spec: AugmentSpec, scattering: Scattering2D | None) -> bool:
    """Whether all coefficients of `count` images take at most LARGEST bytes.

    Raises:
        ValueError: Without a transform.
    """
    if scattering is None:
        raise ValueError("scattering must be a transform, got None")
    image = torch.zeros(1, channels, *spec.size, device=next(scattering.buffers()).device)
    return 4 * count * scattering.features(image).numel() <= LARGEST
