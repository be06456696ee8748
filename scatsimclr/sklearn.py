"""scikit-learn's interface: the scattering transform and the trained encoder as transformers.

    make_pipeline(ScatteringTransformer(J=2, L=8), StandardScaler(), LogisticRegression())

Images are rows of numbers, as scikit-learn has them, or arrays (n, H, W) or (n, H, W, C).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scatsimclr.extras import TRAIN, require
from scatsimclr.filters import padded_shape
from scatsimclr.scattering import Scattering2D as _Scattering2D

require(__name__, "sklearn", "sklearn")

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["ScatSimCLREncoder", "Scattering2D", "ScatteringTransformer"]

Array = npt.NDArray[Any]


class _Images(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # no types
    """What takes images: as rows, of `shape`, or as arrays."""

    shape: Any

    def _images(self, X: Any, *, reset: bool) -> Array:
        """X as images (n, H, W, C), of any real numbers.

        Raises:
            ValueError: It is no such thing, or of another shape than in `fit`.
        """
        array: Array = validate_data(
            self, X, reset=reset, allow_nd=True, dtype="numeric", ensure_min_samples=1
        )
        if array.ndim == 2:
            array = self._unfolded(array)
        elif array.ndim == 3:
            array = array[..., None]
        if array.ndim != 4:
            raise ValueError(f"X must be (n, columns), (n, H, W) or (n, H, W, C), got {array.ndim} axes")
        if reset:
            self.image_shape_ = array.shape[1:]
        elif array.shape[1:] != self.image_shape_:
            raise ValueError(f"X must have images of {self.image_shape_}, as in fit, got {array.shape[1:]}")
        return array

    def _unfolded(self, rows: Array) -> Array:
        """Rows (n, columns) as images (n, H, W, C)."""
        columns = rows.shape[1]
        if self.shape is None:
            side = math.isqrt(columns)
            if side * side != columns:
                raise ValueError(
                    f"shape must be given, (H, W) or (H, W, C), for X of {columns} columns, which are no square"
                )
            return rows.reshape(-1, side, side, 1)
        height, width, *channels = self._plane()
        if channels and columns == height * width * channels[0]:
            return rows.reshape(-1, height, width, channels[0])
        if channels or columns % (height * width):
            raise ValueError(
                f"X must have as many columns as shape={tuple(self.shape)} has numbers, got {columns}"
            )
        # Several planes of a row are channels, one after the other, as in kymatio.
        return np.moveaxis(rows.reshape(len(rows), -1, height, width), 1, -1)

    def _plane(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C) of the images that rows are."""
        return tuple(self.shape)


class ScatteringTransformer(_Images):
    """Scattering coefficients of images; `scatsimclr.Scattering2D` for scikit-learn, and for kymatio.sklearn's users.

    Rows of `transform` are the coefficients (C, K, H/2^J, W/2^J) of an image, one after the other. float32 images give
    float32, float64 ones float64; integers are taken as float32.

    Args:
        J: log2 of the scale.
        shape: (H, W) of the images that rows are, or (H, W, C), channels last. None: square and grey, or what arrays
            have.
        L: Number of angles.
        max_order: 1 or 2.
        pre_pad: Whether images come already padded.
        backend: Of the operator; kymatio's "numpy" and "torch" mean "auto".
        out_type: "array"; here for the sake of kymatio's calls.
        device: Where to compute, such as "cuda".
        batch_size: Images at a time.

    Attributes:
        image_shape_: (H, W, C) of the images.
        scattering_: The transform.
    """

    def __init__(
        self,
        J: int = 2,
        shape: tuple[int, ...] | None = None,
        L: int = 8,
        max_order: int = 2,
        pre_pad: bool = False,
        backend: str = "auto",
        out_type: str = "array",
        *,
        device: str = "cpu",
        batch_size: int = 256,
    ):
        self.J = J
        self.shape = shape
        self.L = L
        self.max_order = max_order
        self.pre_pad = pre_pad
        self.backend = backend
        self.out_type = out_type
        self.device = device
        self.batch_size = batch_size

    def fit(self, X: Any = None, y: Any = None) -> ScatteringTransformer:
        """Notes the size of the images; without X, that of `shape`. Nothing is learnt."""
        if X is not None:
            self._images(X, reset=True)
        elif self.shape is None:
            raise ValueError("shape must be given where X is not, got None for both")
        else:
            self.image_shape_ = (*self._plane(), 1)[:3]
            self.n_features_in_ = math.prod(self._plane())
        if self.out_type != "array":
            raise ValueError(f"out_type must be 'array', got {self.out_type!r}")
        height, width, channels = self.image_shape_
        size = tuple(self.shape[:2]) if self.pre_pad and self.shape is not None else (height, width)
        backend = "auto" if self.backend in ("numpy", "torch") else self.backend
        self.scattering_ = _Scattering2D(
            self.J, size, L=self.L, max_order=self.max_order, pre_pad=self.pre_pad, backend=backend
        ).to(self.device)
        places = (size[0] >> self.J) * (size[1] >> self.J)
        self._n_features_out = channels * self.scattering_.channels * places
        return self

    def _plane(self) -> tuple[int, ...]:
        if not self.pre_pad:
            return super()._plane()
        return (*padded_shape((self.shape[0], self.shape[1]), self.J), *self.shape[2:])

    @torch.no_grad()
    def transform(self, X: Any) -> Array:
        """The coefficients of images, (n, C·K·H/2^J·W/2^J)."""
        if self.shape is not None and not hasattr(self, "scattering_"):
            self.fit()  # as in kymatio, whose transform needs no fit
        check_is_fitted(self)
        images = self._images(X, reset=False)
        if images.dtype not in (np.float32, np.float64):
            images = images.astype(np.float32)
        double = images.dtype == np.float64
        transform = self.scattering_.double() if double else self.scattering_.float()
        planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
        parts = [
            transform(batch.to(self.device)).flatten(1).cpu()
            for batch in torch.split(planes, self.batch_size)
        ]
        found: Array = torch.cat(parts).numpy()
        return found

    def predict(self, X: Any) -> Array:
        """`transform`, by kymatio's name for it."""
        return self.transform(X)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.requires_fit = self.shape is None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


Scattering2D = ScatteringTransformer  # the call of kymatio.sklearn


class ScatSimCLREncoder(_Images):
    """An encoder that `fit` trains on images, without labels, and whose features `transform` gives.

    Args:
        J: Scale of the scattering transform.
        L: Its number of angles.
        epochs: How long to train.
        base_model: The network; auto: 4 residual blocks for grey images, 12 for others.
        features: Which features, a name of `scatsimclr.evaluation.features.FEATURES`. None: what the run recommends.
        shape: (H, W) or (H, W, C) of the images that rows are. None: square and grey, or what arrays have.
        random_state: Seed of everything random, an integer.
        settings: Any other settings, nested or by their dotted names, as for `scatsimclr.fit`.
        run_dir: Where to keep the run; by default nowhere.
        verbose: Whether to tell on the terminal how it goes.

    Attributes:
        encoder_: The trained `scatsimclr.Encoder`.
        image_shape_: (H, W, C) of the images.
    """

    def __init__(
        self,
        J: int = 2,
        L: int = 8,
        epochs: int = 20,
        base_model: str = "auto",
        features: str | None = None,
        shape: tuple[int, ...] | None = None,
        random_state: int = 0,
        settings: Mapping[str, Any] | None = None,
        run_dir: str | Path | None = None,
        verbose: bool = False,
    ):
        self.J = J
        self.L = L
        self.epochs = epochs
        self.base_model = base_model
        self.features = features
        self.shape = shape
        self.random_state = random_state
        self.settings = settings
        self.run_dir = run_dir
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> ScatSimCLREncoder:
        """Trains on images; y is not looked at."""
        require("ScatSimCLREncoder", "train", *TRAIN)
        from scatsimclr.config.flat import flattened
        from scatsimclr.runs import fit

        images = self._images(X, reset=True)
        if len(images) < 2:
            raise ValueError(f"X must have two images or more, got {len(images)} sample")
        chosen = {
            "epochs": self.epochs, "seed": self.random_state, "model.J": self.J, "model.L": self.L,
            "model.base_model": self.base_model, **flattened(self.settings or {}),
        }  # fmt: skip
        if images.dtype != np.uint8 and images.min() < images.max():
            chosen.setdefault("data.scale", (float(images.min()), float(images.max())))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run" if self.run_dir is None else Path(self.run_dir)
            run = fit(
                images, run_dir=folder, verbose=self.verbose, report=self.run_dir is not None, settings=chosen
            )
            self.encoder_ = run.encoder
        self._n_features_out = self.encoder_.width(self.features)
        return self

    def transform(self, X: Any) -> Array:
        """The features of images, float32 (n, F)."""
        check_is_fitted(self)
        return self.encoder_.embed(self._images(X, reset=False), features=self.features)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
