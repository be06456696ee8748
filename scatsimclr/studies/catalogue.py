"""The sweeps as data: what each cell changes, and what was published for it.

Published figures are top-1 accuracies of the linear probe, in %, from Kinakh, Taran, Voloshynovskiy, "ScatSimCLR",
ICCV-W 2021, arXiv 2108.13939. Settings are `key=value` overrides of the data set's own recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

PAPER = "arXiv 2108.13939"

# A cell's result is that of its last epoch: evaluations before it would be wasted.
_ALWAYS = ("fused=true", "eval_every_n_epochs=1000000")
_PAPER = (*_ALWAYS, "batch_size=256", "evaluation.features=h")
_J2_L16 = ("model.J=2", "model.L=16")

_TASKS = {
    "none": ("mode=unsupervised",),
    "rotation": ("mode=pretext", "pretext.rotation=true"),
    "jigsaw": ("mode=pretext", "pretext.jigsaw=true"),
}
_TASK_LABELS = {"none": "no pretext task", "rotation": "rotation", "jigsaw": "jigsaw"}


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        name: The name of its folder.
        row: The heading of its row.
        column: The heading of its column.
        settings: What sets it apart from the other cells.
        published: Published accuracy by data set, in %.
    """

    name: str
    row: str
    column: str
    settings: tuple[str, ...]
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One sweep.

    Attributes:
        name: What the command calls it.
        title: The heading of its table.
        source: Where the published figures are from; "" where there are none.
        dataset: The default data set.
        cells: The entries of the table.
        settings: Settings of all cells.
        corner: What the rows are.
        metric: The key of the evaluation's figure that the table shows.
        adapted: Further settings of all cells, by data set.
        seeds: Default number of runs per cell.
        decimals: Decimals of the published figures.
        baselines: Whether the table shows all of `scatsimclr.studies.sweep.SERIES` rather than the trained networks
            alone.
        notes: Remarks below the table.
    """

    name: str
    title: str
    source: str
    dataset: str
    cells: tuple[Cell, ...]
    settings: tuple[str, ...]
    corner: str
    metric: str = "linear"
    adapted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: int = 1
    decimals: int = 2
    baselines: bool = False
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """Headings of the rows."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the columns."""
        return tuple(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def varied(self) -> tuple[str, ...]:
        """Names of the settings in which the cells differ."""
        return tuple(
            dict.fromkeys(setting.partition("=")[0] for cell in self.cells for setting in cell.settings)
        )

    def published(self, dataset: str) -> bool:
        """Whether there are published figures for this data set."""
        return any(dataset in cell.published for cell in self.cells)


def _model(name: str) -> str:
    """A label: "12 blocks", or "ResNet-18"."""
    return "ResNet-18" if name == "resnet18" else f"{name.removeprefix('scatsimclr')} blocks"


def _by_blocks(dataset: str, published: dict[int, float]) -> tuple[Cell, ...]:
    """A row for each number of blocks."""
    return tuple(
        Cell(
            f"blocks{blocks}",
            str(blocks),
            "accuracy",
            (f"model.base_model=scatsimclr{blocks}",),
            {dataset: value},
        )
        for blocks, value in published.items()
    )


def _table1() -> Study:
    angles = (4, 8, 12, 16)
    stl10 = {
        1: (61.90, 62.75, 63.00, 63.70),
        2: (63.12, 63.71, 63.34, 64.03),
        3: (60.10, 60.80, 60.90, 61.20),
        4: (45.12, 46.58, 48.10, 49.91),
    }
    cifar20 = {
        1: (36.88, 39.43, 40.56, 41.72),
        2: (44.52, 46.09, 46.25, 46.73),
        3: (42.50, 43.85, 44.01, 44.59),
        4: (34.39, 35.00, 35.96, 36.74),
    }
    return Study(
        "table1",
        "Table 1: scale J and number of angles L of the scattering transform",
        f"{PAPER}, Table 1",
        "stl10",
        tuple(
            Cell(
                f"J{J}-L{L}",
                f"J={J}",
                f"L={L}",
                (f"model.J={J}", f"model.L={L}"),
                {"stl10": stl10[J][index], "cifar20": cifar20[J][index]},
            )
            for J in stl10
            for index, L in enumerate(angles)
        ),
        (*_PAPER, "epochs=5", "model.base_model=scatsimclr12"),
        corner="scale",
        # Upsampled as in the paper: J=4 would leave 2 of 32 pixels.
        adapted={"cifar20": ("dataset.input_shape=(96, 96, 3)",)},
    )


def _table2() -> Study:
    return Study(
        "table2",
        "Table 2: depth of the adapter network",
        f"{PAPER}, Table 2",
        "stl10",
        _by_blocks("stl10", {8: 76.47, 12: 83.53, 16: 84.01, 30: 84.76}),
        (*_PAPER, "epochs=1000", *_J2_L16),
        corner="blocks",
        notes=("For 30 blocks the authors' repository reports 85.11.",),
    )


def _table3() -> Study:
    published = {
        "scatsimclr8": (74.78, 77.86, 76.36),
        "scatsimclr12": (76.57, 78.43, 77.78),
        "scatsimclr16": (77.03, 78.5, 77.91),
        "scatsimclr30": (77.86, 79.11, 78.4),
        "resnet18": (71.90, 76.36, 75.22),
    }
    weight = ("pretext.lambda=0.3", "pretext.start_epoch=40")
    return Study(
        "table3",
        "Table 3: pretext tasks",
        f"{PAPER}, Table 3",
        "stl10",
        tuple(
            Cell(
                f"{model}-{task}",
                _model(model),
                _TASK_LABELS[task],
                (f"model.base_model={model}", *settings, *(weight if task != "none" else ())),
                {"stl10": figures[index]},
            )
            for model, figures in published.items()
            for index, (task, settings) in enumerate(_TASKS.items())
        ),
        (*_PAPER, "epochs=100", *_J2_L16),
        corner="model",
        notes=("The pretext loss has weight 0.3 after the first 40 % of the epochs, as in the paper.",),
    )


# step -> the settings for on and off
_STEPS = {
    "crop": ("augment.crop=true", "augment.crop=false"),
    "flip": ("augment.flip=0.5", "augment.flip=0"),
    "colour": ("augment.jitter=0.8", "augment.jitter=0"),
    "grey": ("augment.grayscale=0.2", "augment.grayscale=0"),
    "blur": ("augment.blur=0.5", "augment.blur=0"),
    "affine": ("augment.affine=true", "augment.affine=false"),
}
_FIGURE7 = {
    "baseline": 60.5,
    "without affine": 63.0,
    "only crop, colour": 61.0,
    "without flip": 60.9,
    "without blur": 60.1,
    "without crop, blur": 57.7,
    "without colour, blur": 57.4,
    "without grey, blur": 56.5,
    "without crop, grey": 55.3,
    "without colour": 55.1,
    "without crop": 54.7,
    "without grey": 54.5,
    "only crop": 52.5,
    "without colour, grey": 50.6,
    "only colour": 49.6,
    "without crop, colour": 43.7,
    "none": 36.8,
}


def _steps_on(label: str) -> set[str]:
    """The augmentation steps of a row of Figure 7."""
    kind, _, rest = label.partition(" ")
    named = set(rest.split(", ")) if rest else set()
    if kind in ("only", "none"):
        return named
    return set(_STEPS) - named - (set() if kind == "baseline" else {"affine"})


def _figure7() -> Study:
    cells = []
    for label, value in _FIGURE7.items():
        on = _steps_on(label)
        settings = tuple(states[0 if step in on else 1] for step, states in _STEPS.items())
        name = label.replace(", ", "+").replace(" ", "-")
        cells.append(Cell(name, label, "accuracy", settings, {"stl10": value}))
    return Study(
        "figure7",
        "Figure 7: steps of the augmentation",
        f"{PAPER}, Figure 7 (read off the plot)",
        "stl10",
        tuple(cells),
        (*_PAPER, "epochs=100", "model.base_model=scatsimclr12", *_J2_L16),
        corner="augmentation",
        decimals=1,
        notes=(
            "12 blocks and 100 epochs are our choice: the paper only states J=2, L=16 and batches of 256.",
            "Only the baseline has the random affine transformation.",
        ),
    )


def _figure8() -> Study:
    return Study(
        "figure8",
        "Figure 8: depth of the adapter network on CIFAR-20",
        f"{PAPER}, Figure 8",
        "cifar20",
        _by_blocks("cifar20", {12: 58.0, 16: 59.4, 30: 63.8}),
        (*_PAPER, "epochs=1000", *_J2_L16),
        corner="blocks",
        decimals=1,
        notes=("For 30 blocks the authors' repository reports 63.86, at 32×32 pixels.",),
    )


def _few_labels(
    name: str, title: str, cells: tuple[Cell, ...], *, corner: str, notes: tuple[str, ...]
) -> Study:
    """A study of our own: logistic regression with 10 labels per class, with all baselines, over five seeds."""
    return Study(
        name,
        title,
        "",
        "digits",
        cells,
        (*_ALWAYS, "evaluation.labels_per_class=[10]"),
        corner=corner,
        metric="logistic_10",
        seeds=5,
        baselines=True,
        notes=notes,
    )


def _study() -> Study:
    # The recipe's own encoder, and SimCLR's with the same augmentation, temperature, batch and rate.
    models = {
        "scatsimclr": ("ScatSimCLR", ()),
        "resnet18": (
            "ResNet-18",
            ("model.base_model=resnet18", "model.front=paper", "model.head=paper", "neighbours=0"),
        ),
    }
    return _few_labels(
        "study",
        "Few labels: scattering front end and pretext task",
        tuple(
            Cell(
                f"{model}-{task}",
                label if task == "none" else f"{label}, {_TASK_LABELS[task]}",
                "accuracy",
                (*settings, *_TASKS[task]),
            )
            for model, (label, settings) in models.items()
            for task in ("none", "rotation")
        ),
        corner="model",
        notes=(
            "ResNet-18 has its usual stem, which like the scattering transform reduces 32×32 pixels to 8×8; "
            "model.cifar_stem=true keeps 32×32, at ten times the cost.",
        ),
    )


def _precision() -> Study:
    variants = {
        "reference": ("plain PyTorch, float32", ("fused=false", "amp=off")),
        "float32": ("fused, float32", ("amp=off",)),
        "bfloat16": ("fused, bfloat16", ("amp=bf16",)),
        "float16": ("fused, float16", ("amp=fp16",)),
    }
    return _few_labels(
        "precision",
        "Fused kernels and mixed precision against the plain reference",
        tuple(Cell(name, label, "accuracy", settings) for name, (label, settings) in variants.items()),
        corner="path",
        notes=(
            "Few CPUs multiply float16 matrices in hardware; on others those cells take fifty times as long.",
        ),
    )


STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        study.name: study
        for study in (_table1(), _table2(), _table3(), _figure7(), _figure8(), _study(), _precision())
    }
)
