"""What a run's records say: accuracies before and after training, curves, rates. It takes no images and no model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from scatsimclr.config import Config
from scatsimclr.evaluation.features import WORDS
from scatsimclr.evaluation.table import titles
from scatsimclr.reporting.charts import Line

# A line of metrics.jsonl: "event", "epoch", "step", and the event's figures.
Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """Accuracies of one probe, in [0, 1], and their standard deviations; None where they were not measured.

    Attributes:
        key: The probe's key in the records.
        title: The probe's name for a reader.
        before: Of the untrained network.
        after: Of the trained network.
        scattering: Of the scattering transform alone.
        whitened: Of the log front's whitened scattering.
        recommended: Of the trained network's recommended features.
        draws: Number of draws of labels that the deviations are over.
    """

    key: str
    title: str
    before: float | None
    after: float | None
    before_sd: float | None = None
    after_sd: float | None = None
    scattering: float | None = None
    scattering_sd: float | None = None
    whitened: float | None = None
    whitened_sd: float | None = None
    recommended: float | None = None
    recommended_sd: float | None = None
    draws: int = 1

    @property
    def reached(self) -> float | None:
        """Accuracy of the trained network's recommended features, or of its own where there are none."""
        return self.after if self.recommended is None else self.recommended

    @property
    def reached_sd(self) -> float | None:
        """Standard deviation of `reached`."""
        return self.after_sd if self.recommended is None else self.recommended_sd

    @property
    def gain(self) -> float | None:
        """By how much, in [−1, 1], `reached` exceeds the best of what needs no training."""
        if self.reached is None or self.enough is None:
            return None
        return self.reached - self.free[self.enough][0]

    @property
    def free(self) -> dict[str, tuple[float, float]]:
        """Accuracies of what needs no training, with their deviations, by name."""
        found = {
            "scattering alone": (self.scattering, self.scattering_sd),
            "whitened scattering": (self.whitened, self.whitened_sd),
            "the untrained network": (self.before, self.before_sd),
        }
        return {name: (value, sd or 0.0) for name, (value, sd) in found.items() if value is not None}

    @property
    def enough(self) -> str | None:
        """The best of what needs no training; None where none of it was measured."""
        return max(self.free, key=lambda name: self.free[name][0], default=None)

    @property
    def error(self) -> float:
        """Standard error of the gain; 0 where one draw was made."""
        ahead_of = self.free[self.enough][1] if self.enough else 0.0
        return math.hypot(self.reached_sd or 0.0, ahead_of) / math.sqrt(self.draws)

    @property
    def better(self) -> bool:
        """Whether the gain exceeds its standard error."""
        return self.gain is not None and self.gain > self.error


@dataclass(frozen=True)
class Measure:
    """A figure that needs no labels: its name, its values before and after training, and how to read them."""

    title: str
    before: str
    after: str
    reading: str


def of_event(records: Sequence[Record], event: str) -> list[Record]:
    """The records of one event that hold figures."""
    return [record for record in records if record["event"] == event and len(record) > 3]


def scores(config: Config, records: Sequence[Record]) -> list[Score]:
    """The scores of the settings' probes that were measured, in the settings' order."""
    evaluations = of_event(records, "evaluation")
    first: Record = next((record for record in evaluations if record["epoch"] == 0), {})
    last: Record = evaluations[-1] if evaluations and evaluations[-1]["epoch"] else {}
    found = []
    for key, text in _titles(config).items():
        # The transform is the same before and after; a run that has not ended measured it at its beginning.
        base, white = (last if f"{name}_{key}" in last else first for name in ("scattering", "whitened"))
        values = {
            name: record.get(prefix + key + suffix)
            for name, record, prefix in (
                ("before", first, ""), ("after", last, ""), ("scattering", base, "scattering_"),
                ("whitened", white, "whitened_"), ("recommended", last, "recommended_"),
            )
            for name, suffix in ((name, ""), (name + "_sd", "_sd"))
        }  # fmt: skip
        found.append(Score(key, text, draws=config.evaluation.seeds, **values))
    return [s for s in found if not (s.before is s.after is s.scattering is s.recommended is None)]


def _titles(config: Config) -> dict[str, str]:
    """The titles of today's probes, and of the few-label probe of earlier versions."""
    earlier = {
        f"linear_{n}": f"linear probe, {n} labels per class" for n in config.evaluation.labels_per_class
    }
    return {**earlier, **titles(config.evaluation)}


def headline(found: Sequence[Score]) -> list[Score]:
    """The probe with the fewest labels and one with all.

    Probes that were also made of the scattering alone come first, as a gain is only claimed beyond something.
    """
    compared = [score for score in found if score.scattering is not None] or found
    few = [score for score in compared if score.key.startswith(("logistic_", "linear_"))]
    names = ("logistic", "knn") if compared is not found else ("linear", "logistic", "knn", "fine_tune")
    whole = [score for name in names for score in compared if score.key == name]
    return few[:1] + whole[:1]


def verdict(found: Sequence[Score]) -> str:
    """What training gained by the first probe of the headline, in words; "" where there is nothing to compare with."""
    score = next((score for score in headline(found) if score.scattering is not None), None)
    if score is None or score.gain is None:
        return ""
    ahead = f"{100 * score.gain:+.1f} points".replace("-", "−")
    if score.better:
        names = list(score.free)
        beyond = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        return f"training gained {ahead} beyond {beyond}\n({score.title})"
    return (
        f"training is not better than what needs no training ({ahead}): use {score.enough}\n({score.title})"
    )


def features_in_words(records: Sequence[Record]) -> dict[str, str | None]:
    """What the "scattering", "whitened" and "recommended" features of the last evaluations are; None for none."""
    found: dict[str, str | None] = {"scattering": None, "whitened": None, "recommended": None}
    for record in of_event(records, "evaluation"):
        for name in found:
            if f"{name}_features" in record:
                found[name] = WORDS.get(record[f"{name}_features"], record[f"{name}_features"])
    return found


def measures(records: Sequence[Record]) -> list[Measure]:
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
        return Measure(title, texts[0], texts[1], reading)

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
        row("Effective rank of h", "rankme_h", "{:.1f}", "the same of h, the network's features",
            "rank_limit_h"),
    ]  # fmt: skip


def curves(config: Config, records: Sequence[Record]) -> list[tuple[str, list[Line], bool]]:
    """(title, lines, whether they are shares) of everything that was measured during training."""
    epochs, held_out = of_event(records, "epoch"), of_event(records, "validation")
    evaluations, quality = of_event(records, "evaluation"), of_event(records, "quality")
    losses = [
        Line("training", _series(epochs, "loss")),
        Line("held out", _series(held_out, "loss"), dashed=True),
    ]
    parts = [
        Line("NT-Xent", _series(epochs, "contrastive_loss")), Line("pretext", _series(epochs, "pretext_loss")),
    ]  # fmt: skip
    accuracy = [Line(text, _series(evaluations, key)) for key, text in _titles(config).items()]
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


def _series(records: Sequence[Record], key: str) -> list[tuple[float, float]]:
    return [(record["epoch"], record[key]) for record in records if key in record]


def throughput(config: Config, records: Sequence[Record]) -> dict[str, float] | None:
    """Totals: "epochs", "seconds", "images" and "images_per_second" (two views each); None without an epoch."""
    epochs = of_event(records, "epoch")
    if not epochs:
        return None
    per_epoch = epochs[-1]["step"] / epochs[-1]["epoch"] * config.batch_size
    seconds = sum(per_epoch / record["images_per_second"] for record in epochs)
    images = per_epoch * len(epochs)
    return {
        "epochs": len(epochs), "seconds": seconds, "images": images, "images_per_second": images / seconds
    }  # fmt: skip


def warnings(records: Sequence[Record]) -> list[str]:
    """The run's warnings, a sentence each."""
    return [f"After epoch {r['epoch']}: {r['text']}." for r in of_event(records, "warning")]
