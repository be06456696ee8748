"""What a run's records say: accuracies before and after, curves, rates. No image and no model is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scatsimclr.config import Config
from scatsimclr.evaluation.evaluate import titles
from scatsimclr.reporting.charts import Line


@dataclass(frozen=True)
class Score:
    """Accuracies in [0, 1] of one probe before and after training, None where it was not measured."""

    key: str
    title: str
    before: float | None
    after: float | None
    before_sd: float | None = None
    after_sd: float | None = None

    @property
    def gain(self) -> float | None:
        """Points of accuracy, in [−1, 1]."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Measure:
    """A figure that needs no labels: what it is called, before and after, and in words how to read it."""

    title: str
    before: str
    after: str
    reading: str


def of_event(records: Sequence[dict], event: str) -> list[dict]:
    """The records of one event that hold figures."""
    return [record for record in records if record["event"] == event and len(record) > 3]


def scores(config: Config, records: Sequence[dict]) -> list[Score]:
    """One for each probe of the settings that was measured, in their order."""
    evaluations = of_event(records, "evaluation")
    first = next((record for record in evaluations if record["epoch"] == 0), {})
    last = evaluations[-1] if evaluations and evaluations[-1]["epoch"] else {}
    found = [
        Score(key, text, first.get(key), last.get(key), first.get(key + "_sd"), last.get(key + "_sd"))
        for key, text in titles(config.evaluation).items()
    ]
    return [score for score in found if score.before is not None or score.after is not None]


def headline(found: Sequence[Score]) -> list[Score]:
    """The claim: the probe with the fewest labels, and the one with all."""
    few = [score for score in found if score.key.startswith("linear_")]
    whole = [
        score for name in ("linear", "logistic", "knn", "fine_tune") for score in found if score.key == name
    ]
    return few[:1] + whole[:1]


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` images."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def measures(records: Sequence[dict]) -> list[Measure]:
    """The label-free figures, before and after training; [] where none were taken."""
    found = of_event(records, "quality")
    if not found:
        return []
    before = next((record for record in found if record["epoch"] == 0), None)
    after = found[-1] if found[-1]["epoch"] else None

    def row(title: str, key: str, form: str, reading: str, limit: str | None = None) -> Measure:
        texts = []
        for record in (before, after):
            text = "–" if record is None else form.format(record[key]).replace("-", "−").replace("%", " %")
            texts.append(f"{text} of {record[limit]}" if record is not None and limit else text)
        return Measure(title, *texts, reading)

    count = found[-1]["images"]
    return [
        row("Twin found", "found_again", "{:.1%}", "how often one augmented view finds the other view of the same "
            f"image among {count}; chance is {100 / count:.1g} %, and images that look alike make it harder"),
        row("Alignment", "alignment", "{:.3f}", "squared distance of the two views of an image (Wang & Isola); lower "
            "is better, but 0 for everything is a collapse"),
        row("Uniformity", "uniformity", "{:.2f}", "how evenly the images fill the sphere (Wang & Isola); lower is "
            "better, 0 is a collapse"),
        row("Spread", "spread", "{:.2f}", "standard deviation of z's coordinates; 1 is even, 0 is a collapse"),
        row("Effective rank of z", "rankme", "{:.1f}", "how many directions z uses (RankMe, Garrido et al.)",
            "rank_limit"),
        row("Effective rank of h", "rankme_h", "{:.1f}", "the same of h, the features that embed writes",
            "rank_limit_h"),
    ]  # fmt: skip


def curves(config: Config, records: Sequence[dict]) -> list[tuple[str, list[Line], bool]]:
    """(title, lines, whether they are shares) of everything that was measured along the training."""
    epochs, held_out = of_event(records, "epoch"), of_event(records, "validation")
    evaluations, quality = of_event(records, "evaluation"), of_event(records, "quality")
    losses = [
        Line("training", _series(epochs, "loss")),
        Line("held out", _series(held_out, "loss"), dashed=True),
    ]
    parts = [
        Line("NT-Xent", _series(epochs, "contrastive_loss")), Line("pretext", _series(epochs, "pretext_loss")),
    ]  # fmt: skip
    accuracy = [Line(text, _series(evaluations, key)) for key, text in titles(config.evaluation).items()]
    found = [
        ("Loss", losses, False),
        ("Parts of the loss", parts, False),
        ("Accuracy on the test images", [line for line in accuracy if len(line.points) > 1], True),
        ("Accuracy of the pretext task", [Line("", _series(epochs, "pretext_accuracy"))], True),
        ("Effective rank of z", [Line("", _series(quality, "rankme"))], False),
        ("Twin found", [Line("", _series(quality, "found_again"))], True),
        ("Learning rate", [Line("", _series(epochs, "lr"))], False),
        ("Images per second", [Line("", _series(epochs, "images_per_second"))], False),
    ]
    return [(title, lines, shares) for title, lines, shares in found if any(line.points for line in lines)]


def _series(records: Sequence[dict], key: str) -> list[tuple[float, float]]:
    return [(record["epoch"], record[key]) for record in records if key in record]


def throughput(config: Config, records: Sequence[dict]) -> dict[str, float] | None:
    """Of the epochs: "epochs", their "seconds", "images" and "images_per_second" (two views each); None without any."""
    epochs = of_event(records, "epoch")
    if not epochs:
        return None
    per_epoch = epochs[-1]["step"] / epochs[-1]["epoch"] * config.batch_size
    seconds = sum(per_epoch / record["images_per_second"] for record in epochs)
    images = per_epoch * len(epochs)
    return {
        "epochs": len(epochs), "seconds": seconds, "images": images, "images_per_second": images / seconds
    }  # fmt: skip


def warnings(records: Sequence[dict]) -> list[str]:
    """What the run warned of."""
    return [f"After epoch {r['epoch']}: {r['text']}." for r in of_event(records, "warning")]
