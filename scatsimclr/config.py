"""Settings: what can be set, how files and `key=value` overrides are read, and what is refused.

The original code's `config.yaml` and `config_pretext.yaml` are valid files. Defaults of single settings are the
original's recipe; a data set's own recipe is the file `configs/<data set>.yaml`.

More than 400 lines: most are the settings themselves, which are looked up in one place.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    WrapValidator,
    model_validator,
)

from scatsimclr.errors import UserError

Probability = Annotated[float, Field(ge=0, le=1)]


def _literal_tuple(value: Any) -> Any:
    """The original writes shapes as the string "(96, 96, 3)" and evaluates it; only a literal is read here."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def _optional(value: Any) -> Any:
    """YAML reads None as the string "None"."""
    return None if value == "None" else value


def _word(value: Any) -> Any:
    """YAML reads off as false."""
    return "off" if value is False else value


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself (AVX-512 BF16, AMX)."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _shape(value: Any, check: Callable[[Any], tuple[int, int, int]]) -> tuple[int, int, int] | str:
    """By hand instead of as a union, whose errors name the branches."""
    return value if value == "auto" else check(_literal_tuple(value))


Shape = Annotated[
    tuple[PositiveInt, PositiveInt, Literal[1, 3]],
    WrapValidator(_shape),
    PlainSerializer(lambda value: value),
]
Range = Annotated[tuple[float, float], BeforeValidator(_literal_tuple)]


def _two_images(value: int) -> int:
    if value < 2:
        raise ValueError("must be 2 or more: the loss of one image, without another as negative, is always 0")
    return value


def _grey_scale(value: Any) -> Any:
    """A word of `scatsimclr.data.levels.Scale`, or LOW:HIGH as two numbers."""
    if value in ("auto", "dtype", "image"):
        return value
    try:
        low, high = map(float, value.split(":") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"must be auto, dtype, image or LOW:HIGH, such as 0:4095, got {value!r}")
    return low, high


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)


class ModelSettings(_Settings):
    """The encoder. base_model: auto, scatsimclr4 for grey images and scatsimclr12 for others: a run's own settings hold
    what came of it. J, L, stem (width of the first convolution) and front are ScatSimCLR's, cifar_stem is ResNet's.

    front: what the adapter sees of the coefficients: paper, as they are; log, their standardised logarithms, with
    whitened features beside h (scatsimclr.models.front). head: of z; normalised, with a BatchNorm after each layer.
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
    out_dim: PositiveInt = 128
    J: PositiveInt = 2
    L: PositiveInt = 16
    stem: PositiveInt | None = None
    cifar_stem: bool = False
    front: Literal["paper", "log"] = "paper"
    head: Literal["paper", "normalised"] = "paper"

    @property
    def scattering(self) -> bool:
        return not self.base_model.startswith("resnet")

    @property
    def res_blocks(self) -> int:
        return int(self.base_model.removeprefix("scatsimclr"))


class DatasetSettings(_Settings):
    """The images. `labels_per_class` of the few-label probes stand in `evaluation`.

    input_shape: (H, W, C), C = 1 for grey; or auto, what suits the images (see scatsimclr.data.shape): a run's own
    settings hold what came of it.
    limit: only the first so many images of a seeded shuffle of the pre-training split; a quick look at a large set.
    """

    dataset: str = "digits"
    input_shape: Shape = (32, 32, 3)
    valid_size: Annotated[float, Field(ge=0, lt=1)] = 0.05
    limit: PositiveInt | None = None
    download: bool = True


class DataSettings(_Settings):
    """How batches are made.

    pipeline: dali, torch, or auto: dali with `fused` where it is installed, else torch. prefetch: batches made ahead
    in threads, 0 for none. threads: in all that make them; none given: one per core, or one for eight where the CPU
    trains, at most 4. dtype: of the views. scale: of grey files of more than 8 bits, auto, dtype, image or LOW:HIGH,
    see `scatsimclr.data.levels.Scale`; what a run was trained with holds for what it is given later.
    """

    pipeline: Literal["auto", "dali", "torch"] = "auto"
    prefetch: NonNegativeInt = 4
    threads: PositiveInt | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    scale: Annotated[Any, PlainValidator(_grey_scale)] = "auto"


class AugmentSettings(_Settings):
    """Random transformations of a view; 0 or false switches one off. See scatsimclr.data.augment.AugmentSpec."""

    crop: bool = True
    crop_scale: Range = (0.08, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    jitter: Probability = 0.8
    brightness: NonNegativeFloat = 0.8
    contrast: NonNegativeFloat = 0.8
    saturation: NonNegativeFloat = 0.8
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    blur_sigma: Range = (0.1, 2.0)
    affine: bool = False
    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    translate: Range = (0.1, 0.1)
    scale: Range = (0.9, 1.1)
    shear: Annotated[float, Field(ge=0, le=89)] = 5.0


class LossSettings(_Settings):
    """NT-Xent."""

    temperature: PositiveFloat = 0.5
    use_cosine_similarity: bool = True


class PretextSettings(_Settings):
    """The pretext task of `--mode pretext`: loss = contrastive + lambda · pretext, from `start_epoch` on.

    start_epoch: 0 in the original code, 40 in the paper. fine_tune_from: weights of the head.
    """

    rotation: bool = False
    jigsaw: bool = False
    num_jigsaw: Literal[35] = 35
    lambda_: NonNegativeFloat = Field(default=0.3, alias="lambda")
    start_epoch: NonNegativeInt = 0
    fine_tune_from: Annotated[str | None, BeforeValidator(_optional)] = None


class EvaluationSettings(_Settings):
    """The probes of the test images; see scatsimclr.evaluation.evaluate.

    probes: knn; linear, the original's layer on all labels; few, logistic regression with `labels_per_class`, mean and
    standard deviation over `seeds` draws; logistic, that with all labels; folds, linear by STL-10's ten folds;
    fine_tune, the whole encoder trained with the labels. Logistic regression is L2-regularised, its strength chosen by
    cross-validation of the labels that it gets.
    features: what the probes see: h; z; scattering, all coefficients of the front end; pooled, their means over 4×4
    parts of the image; texture, functions of their means over the whole image; both, h and scattering side by side;
    both_pooled; whitened and h_whitened, with model.front=log; auto, h and beside it what is recommended.
    """

    probes: tuple[Literal["knn", "linear", "few", "logistic", "folds", "fine_tune"], ...] = (
        "knn",
        "linear",
        "few",
    )
    features: Literal[
        "auto", "h", "z", "scattering", "pooled", "texture", "both", "both_pooled", "whitened", "h_whitened"
    ] = "auto"
    probe_epochs: PositiveInt = 100
    fine_tune_epochs: PositiveInt = 20
    knn_k: PositiveInt = 200
    labels_per_class: tuple[PositiveInt, ...] = (10,)
    seeds: PositiveInt = 5
    batch_size: PositiveInt = 256


class Config(_Settings):
    """Everything that decides a run.

    neighbours: of an image, by whitened scattering, whose views are positives too (scatsimclr.training.neighbours).
    minutes: instead of epochs, about how long to train: the epochs that fit by the speed of the first steps, of which
    no more than a quarter keep the rate flat. checkpoint_every_n_steps: besides those at the end of an epoch; a run
    goes on from any of them as if it had not been stopped.
    """

    mode: Literal["unsupervised", "pretext"] = "unsupervised"
    fused: bool = False
    amp: Annotated[Literal["auto", "off", "bf16", "fp16"], BeforeValidator(_word)] = "auto"
    graphs: Literal["auto"] | bool = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: NonNegativeInt = 0
    epochs: PositiveInt = 100
    minutes: PositiveFloat | None = None
    batch_size: Annotated[int, AfterValidator(_two_images)] = 64
    accumulate: PositiveInt = 1
    neighbours: NonNegativeInt = 0
    activation_checkpointing: bool = False
    views: Literal["concatenated", "separate"] = "concatenated"
    lr: PositiveFloat = 3e-4
    flat_epochs: NonNegativeInt = 10
    weight_decay: NonNegativeFloat = 1e-5
    validate_every_n_epochs: PositiveInt = 1
    eval_every_n_epochs: PositiveInt = 10
    log_every_n_steps: PositiveInt = 100
    checkpoint_every_n_steps: PositiveInt | None = None
    best_by: Literal["validation_loss", "knn"] = "validation_loss"
    fine_tune_from: Annotated[str | None, BeforeValidator(_optional)] = None
    data_dir: Annotated[str | None, BeforeValidator(_optional)] = None
    model: ModelSettings = ModelSettings()
    dataset: DatasetSettings = DatasetSettings()
    data: DataSettings = DataSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: LossSettings = LossSettings()
    pretext: PretextSettings | None = None
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _image_holds_the_scale(self) -> Config:
        if self.dataset.input_shape == "auto":
            return self
        height, width, _ = self.dataset.input_shape
        if self.model.scattering and min(height, width) < 2**self.model.J:
            raise ValueError(
                f"model.J={self.model.J} is too large for {height}×{width} images: 2^J may not exceed the image"
            )
        return self

    @model_validator(mode="after")
    def _whitened_by_the_log_front(self) -> Config:
        features = self.evaluation.features
        # neighbours are ScatSimCLR's, as J and L: of a ResNet they say nothing.
        needs = [f"neighbours={self.neighbours}"] if self.neighbours and self.model.scattering else []
        needs += [f"evaluation.features={features}"] if "whitened" in features else []
        if needs and not (self.model.scattering and self.model.front == "log"):
            raise ValueError(f"{needs[0]} needs a ScatSimCLR with model.front=log")
        return self

    @model_validator(mode="after")
    def _one_pretext_task(self) -> Config:
        if self.mode == "pretext" and (self.pretext is None or self.pretext.rotation == self.pretext.jigsaw):
            raise ValueError(
                "mode=pretext needs exactly one of pretext.rotation=true and pretext.jigsaw=true"
            )
        if self.dataset.input_shape == "auto":
            return self
        height, width, _ = self.dataset.input_shape
        if self.mode == "pretext" and self.pretext.rotation and height != width:
            raise ValueError(
                f"pretext.rotation turns images by 90°: they must be square, got {height}×{width}"
            )
        if self.mode == "pretext" and self.pretext.jigsaw and min(height, width) < 6:
            raise ValueError(f"pretext.jigsaw cuts 3×3 tiles: images of 6×6 at least, got {height}×{width}")
        return self

    @model_validator(mode="after")
    def _folds_of_stl10(self) -> Config:
        if "folds" in self.evaluation.probes and self.dataset.dataset != "stl10":
            raise ValueError(
                f"evaluation.probes: only stl10 has predefined folds, {self.dataset.dataset} has none"
            )
        return self

    @property
    def task(self) -> str | None:
        """The pretext task of the run: "rotation", "jigsaw" or None."""
        if self.mode != "pretext":
            return None
        return "rotation" if self.pretext.rotation else "jigsaw"

    def resolved_amp(self, device_type: str) -> torch.dtype | None:
        """The dtype of autocast, None for float32.

        "auto" is bfloat16 with `fused`, on CUDA and on a CPU that has it: there a step in float32 takes 1.6 to 1.8
        times as long (benchmarks/bench_step.py).
        """
        amp = self.amp
        if amp == "auto":
            amp = "bf16" if self.fused and (device_type == "cuda" or native_bfloat16()) else "off"
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]

    def resolved_graphs(self, device_type: str) -> bool:
        """Whether whole updates are recorded as CUDA graphs; "auto" is wherever it can be with `fused`.

        Raises UserError where they were asked for and cannot be.
        """
        reason = None
        if device_type != "cuda":
            reason = "they need a CUDA device"
        elif self.resolved_amp(device_type) == torch.float16:
            reason = "float16's loss scaling decides on the host; amp=bf16 works"
        elif self.accumulate > 1:
            reason = "accumulate=1 is needed"
        if self.graphs is True and reason:
            raise UserError(f"graphs=true: {reason}")
        return reason is None and (self.fused if self.graphs == "auto" else self.graphs)

    def with_input_shape(self, shape: tuple[int, int, int]) -> Config:
        """The same settings for images of this shape, and the encoder that suits them where it is `auto`.

        UserError where they do not go together.
        """
        settings = self.model_dump(mode="json", by_alias=True)
        settings["dataset"]["input_shape"] = shape
        if self.model.base_model == "auto":
            settings["model"]["base_model"] = "scatsimclr4" if shape[2] == 1 else "scatsimclr12"
        return parse_config(settings)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False)


def shipped(name: str) -> str | None:
    """Text of the shipped settings file `configs/<name>.yaml`, or None."""
    file = resources.files("scatsimclr") / "configs" / f"{name}.yaml"
    return file.read_text() if file.is_file() else None


def _recipe(name: str) -> dict | None:
    """The shipped settings of a data set, or None. A family, such as emnist_letters and the like, shares a file."""
    for file in (name, name.partition("_")[0]):
        if (text := shipped(file)) is not None:
            settings = yaml.safe_load(text)
            if file != name:
                settings["dataset"]["dataset"] = name
            return settings
    return None


def load_config(
    file: str | None = None, overrides: list[str] | tuple[str, ...] = (), base: dict | None = None
) -> Config:
    """Settings from a file (a path, or the name of a shipped one), then `key=value` overrides.

    Without a file the shipped one of the data set that `overrides` name is taken ("digits" if none), or `base`,
    a dict of settings. Raises UserError that names the setting and, for an unknown one, its nearest valid name.
    """
    changes = [_split(override) for override in overrides]
    if base is not None:
        settings = base
    elif file is not None:
        settings = _read(file)
    else:
        dataset = dict(changes).get("dataset.dataset", "digits")
        settings = _recipe(str(dataset)) or {}
    for key, value in changes:
        _set(settings, key, value)
    if {"epochs", "minutes"} <= dict(changes).keys() and settings["minutes"] is not None:
        raise UserError("epochs and minutes both say how long to train: give one of them")
    return parse_config(settings)


def parse_config(settings: dict) -> Config:
    """Config of a dict of settings; UserError for the first that is unknown or ill-typed."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise UserError(_describe(error.errors(include_url=False)[0])) from None


def setting_names(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all settings."""
    names = []
    for name, field in model.model_fields.items():
        dotted = prefix + (field.alias or name)
        section = next(
            (a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_section(a)),
            None,
        )
        names += [dotted] if section is None else setting_names(section, dotted + ".")
    return names


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _read(file: str) -> dict:
    path = Path(file)
    if path.is_file():
        text = path.read_text()
    elif (settings := _recipe(file)) is not None:
        return settings
    else:
        raise UserError(f"settings file {file} does not exist")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"settings file {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise UserError(f"settings file {file} must hold `name: value` lines")
    return settings


def _split(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is neither an option nor key=value")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"the value of {override!r} is not valid YAML") from None


def _set(settings: dict, key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        if settings.get(section) is None:
            settings[section] = {}
        settings = settings[section]
        if not isinstance(settings, dict):
            raise UserError(_unknown(key))
    settings[name] = value


def _describe(error: dict) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    message = error["msg"].removeprefix("Value error, ")
    return f"setting {key}: {message}, got {error['input']!r}" if key else message


def _unknown(key: str) -> str:
    names = setting_names()
    by_leaf = {name.rpartition(".")[2]: name for name in names}
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    leaf = difflib.get_close_matches(key.rpartition(".")[2], list(by_leaf), n=1, cutoff=0.7)
    nearest = near[0] if near else by_leaf[leaf[0]] if leaf else None
    return f"unknown setting {key}" + (f"; did you mean {nearest}?" if nearest else "")
