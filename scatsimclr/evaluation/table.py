"""Accuracies as a table: features that need no network beside the untrained and the trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from scatsimclr.config import EvaluationSettings
from scatsimclr.evaluation.features import WORDS

# Accuracies in [0, 1] by key, and under "…_features" the names of the features that they are of.
Figures: TypeAlias = dict[str, float | str]
FREE = ("scattering", "whitened")  # headings of what needs no network
WIDTH = 80  # characters per line


def titles(settings: EvaluationSettings) -> dict[str, str]:
    """The name of each accuracy of `Evaluation.figures` for a reader, in the settings' order."""
    return {key: text for probe in settings.probes for key, text in titles_of(probe, settings).items()}


def titles_of(probe: str, settings: EvaluationSettings) -> dict[str, str]:
    """The same of one probe."""
    texts: dict[str, dict[str, str]] = {
        "knn": {"knn": "kNN, all labels"},
        "linear": {"linear": "linear probe, all labels"},
        "few": {
            f"logistic_{n}": f"logistic, {n} label{'s' * (n > 1)} per class"
            for n in settings.labels_per_class
        },
        "logistic": {"logistic": "logistic, all labels"},
        "folds": {"folds": "linear probe, folds"},
        "fine_tune": {"fine_tune": "fine-tuned, all labels"},
    }
    return texts[probe]


def columns(figures: Sequence[Figures], settings: EvaluationSettings) -> list[tuple[str, str]]:
    """The columns of a table: scattering, whitened scattering, untrained, trained, and recommended features.

    Args:
        figures: Before and after training, or only after.
        settings: The probes.

    Returns:
        (heading, features) of the columns for which there are figures.
    """
    shown = "h" if settings.features == "auto" else settings.features
    last = figures[-1]
    found = [(name, str(last[f"{name}_features"])) for name in FREE if f"{name}_features" in last]
    found += [("untrained", shown)] if len(figures) > 1 else []
    found += [("trained", shown)]
    if "recommended_features" in last:
        found.append(("recommended", str(last["recommended_features"])))
    return found


def entries(figures: Sequence[Figures], key: str) -> list[tuple[float | None, float | None]]:
    """(accuracy, standard deviation) in each of `columns`, None where it was not measured."""
    last = figures[-1]
    sources = [(last, f"{name}_{key}") for name in FREE if f"{name}_features" in last]
    sources += [(record, key) for record in figures]
    sources += [(last, f"recommended_{key}")] if "recommended_features" in last else []
    return [(_number(record, name), _number(record, name + "_sd")) for record, name in sources]


def accuracy_table(figures: Sequence[Figures], settings: EvaluationSettings) -> str:
    """The figures in %, with the columns of `columns` and a line for each probe, of up to WIDTH characters."""
    heads = columns(figures, settings)
    rows = [[heading for heading, _ in heads], [features for _, features in heads]]
    names = ["", "test accuracy in %"]
    for key, text in titles(settings).items():
        found = entries(figures, key)
        if any(value is not None for value, _ in found):
            names.append(text)
            rows.append([_cell(value, spread) for value, spread in found])
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    if max(map(len, names)) + sum(size + 2 for size in widths) > WIDTH:
        names = [_short(name) for name in names]
    width = max(map(len, names))
    lines = [
        f"{name:{width}}" + "".join(f"  {text:>{size}}" for text, size in zip(row, widths, strict=True))
        for name, row in zip(names, rows, strict=True)
    ]
    if heads[0][0] == "scattering":
        lines.append(f"scattering: {WORDS[heads[0][1]]} alone, without a network")
    if any(heading == "whitened" for heading, _ in heads):
        lines.append("whitened: scattering without the directions of augmentation, without a network")
    if heads[-1][0] == "recommended":
        lines.append(
            f"recommended: {WORDS[heads[-1][1]]} of the trained network, by held-out training labels"
        )
    return "\n".join(lines)


def _short(name: str) -> str:
    """The short title of a probe, for a wide table."""
    for whole, part in ((" labels per class", "/class"), (" label per class", "/class"), (" probe", "")):
        name = name.replace(whole, part)
    return name.removesuffix(" in %")


def _number(record: Figures, key: str) -> float | None:
    value = record.get(key)
    return None if value is None else float(value)


def _cell(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")
