"""The sections of the settings."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
)

from scatsimclr.config.values import Ahead, Count, GreyScale, Normalization, OptionalText, Shape, Width


class Settings(BaseModel):
    """A group of settings; unknown names and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)


class ModelSettings(Settings):
    """The encoder.

    Attributes:
        base_model: auto is scatsimclr4 for grey images and scatsimclr12 for others; the settings that a run saves
            hold the choice.
        out_dim: Width of z.
        J: ScatSimCLR's scale of the scattering transform.
        L: Its number of angles.
        stem: ScatSimCLR's width of the first convolution; None for the original's.
        cifar_stem: ResNet's stem for small images.
        front: What ScatSimCLR's adapter sees of the coefficients: paper, as they are; log, their standardised
            logarithms, with whitened features beside h (`scatsimclr.models.front`).
        head: The projection head: paper; or normalised, with a BatchNorm after each layer.
        sync_bn: Whether several processes normalise by the moments of the whole batch, as one process would.
    """

    base_model: Literal[
        "auto",
        "scatsimclr4",
        "scatsimclr8",
        "scatsimclr12",
        "scatsimclr16",
        "scatsimclr30",
        "scatsimclr45",
        "resnet18",
        "resnet50",
    ] = "scatsimclr8"
    out_dim: Width = 128
    J: Annotated[int, Field(ge=1, le=12)] = 2
    L: Annotated[int, Field(ge=1, le=64)] = 16
    stem: Width | None = None
    cifar_stem: bool = False
    front: Literal["paper", "log"] = "paper"
    head: Literal["paper", "normalised"] = "paper"
    sync_bn: bool = True

    @property
    def scattering(self) -> bool:
        """Whether the encoder is a ScatSimCLR."""
        return not self.base_model.startswith("resnet")

    @property
    def res_blocks(self) -> int:
        """Residual blocks of a ScatSimCLR's adapter."""
        return int(self.base_model.removeprefix("scatsimclr"))


class DatasetSettings(Settings):
    """The images. The few-label probes' `labels_per_class` is in `evaluation`.

    Attributes:
        dataset: One of `scatsimclr.data.datasets.names()`.
        input_shape: (H, W, C), C = 1 for grey and, for images of your own, also other numbers than 3; or auto, what
            suits the images (see `scatsimclr.data.shape`); the settings that a run saves hold the choice.
        normalization: usual, the means and standard deviations of the channels that are in common use for the data set;
            images, to measure the training images; or [[means], [standard deviations]], for levels from 0 to 1. The
            settings that a run saves hold what was measured.
        valid_size: Share of the pre-training images held out for validation.
        limit: Only this many images of a seeded shuffle of the pre-training split: a quick look at a large set.
        download: Whether archives that are not there may be downloaded.
    """

    dataset: str = "digits"
    input_shape: Shape = (32, 32, 3)
    normalization: Normalization = "usual"
    valid_size: Annotated[float, Field(ge=0, lt=1)] = 0.05
    limit: Count | None = None
    download: bool = True

    @property
    def shape_is_open(self) -> bool:
        """Whether `input_shape` is still auto."""
        return cast(object, self.input_shape) == "auto"


class DataSettings(Settings):
    """How batches are made.

    Attributes:
        pipeline: dali, torch, or auto: dali with `fused` where it is installed, else torch.
        prefetch: Batches made ahead in threads, 0 for none.
        threads: Threads that make batches, in total. None: one per core, or one per eight cores where the CPU trains,
            at most 4.
        dtype: Of the views.
        scale: Of grey files of more than 8 bits: auto, dtype, image or LOW:HIGH, see `scatsimclr.data.levels`. A
            trained encoder uses the scale it was trained with.
    """

    pipeline: Literal["auto", "dali", "torch"] = "auto"
    prefetch: Ahead = 4
    threads: Annotated[int, Field(ge=1, le=2**10)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    scale: GreyScale = "auto"


class LossSettings(Settings):
    """NT-Xent.

    Attributes:
        temperature: τ.
        use_cosine_similarity: Whether rows are normalised.
        gather: How several processes see each other's rows: all, each gets them all; or ring, none holds more than
            three times its own, and twice as much is sent.
    """

    temperature: PositiveFloat = 0.5
    use_cosine_similarity: bool = True
    gather: Literal["all", "ring"] = "all"


class PretextSettings(Settings):
    """The pretext task of `--mode pretext`: loss = contrastive + lambda · pretext.

    Attributes:
        rotation: Whether the task is rotation.
        jigsaw: Whether the task is jigsaw.
        num_jigsaw: Permutations.
        lambda_: The weight of the task, in files and on the command line `lambda`.
        start_epoch: The first epoch with the task: 0 in the original code, 40 in the paper.
        fine_tune_from: A file with weights of the head.
    """

    rotation: bool = False
    jigsaw: bool = False
    num_jigsaw: Literal[35] = 35
    lambda_: NonNegativeFloat = Field(default=0.3, alias="lambda")
    start_epoch: Annotated[int, Field(ge=0, le=10**9)] = 0
    fine_tune_from: OptionalText = None


class EvaluationSettings(Settings):
    """The probes of the test images; see `scatsimclr.evaluation.evaluate`.

    Attributes:
        probes: knn; linear, the original's layer on all labels; few, logistic regression with `labels_per_class`
            labels, mean and standard deviation over `seeds` draws; logistic, the same with all labels; folds, linear
            by STL-10's ten folds; fine_tune, the whole encoder trained with the labels. Logistic regression is
            L2-regularised, with the strength chosen by cross-validation of its training labels.
        features: What the probes see: h; z; scattering, all coefficients of the front end; pooled, their means over
            4×4 parts of the image; texture, functions of their means over the whole image; both, h and scattering side
            by side; both_pooled; whitened and h_whitened, with model.front=log; auto, h beside what is recommended.
        probe_epochs: Of the linear probe.
        fine_tune_epochs: Of fine_tune.
        knn_k: Neighbours of kNN.
        labels_per_class: Of few, one or several numbers.
        seeds: Draws of few.
        batch_size: Images per batch of features.
    """

    probes: Annotated[
        tuple[Literal["knn", "linear", "few", "logistic", "folds", "fine_tune"], ...], Field(max_length=100)
    ] = ("knn", "linear", "few")
    features: Literal[
        "auto", "h", "z", "scattering", "pooled", "texture", "both", "both_pooled", "whitened", "h_whitened"
    ] = "auto"
    probe_epochs: Count = 100
    fine_tune_epochs: Count = 20
    knn_k: Count = 200
    labels_per_class: Annotated[tuple[Count, ...], Field(max_length=100)] = (10,)
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    batch_size: Width = 256
