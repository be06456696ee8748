"""The page of one run: one HTML file, and its figures as files in plots/."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from markupsafe import Markup

from scatsimclr.config.values import OWN
from scatsimclr.data.augment import Augment, center_view, to_uint8
from scatsimclr.data.imageset import ImageSet
from scatsimclr.data.loader import PairLoader
from scatsimclr.environment import environment
from scatsimclr.evaluation.interval import wilson
from scatsimclr.evaluation.table import titles
from scatsimclr.files import expanded, printable, write_bytes, write_text
from scatsimclr.models import parameter_count
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.reporting import charts, pictures, results, wavelets
from scatsimclr.reporting.findings import Findings, find, group_names
from scatsimclr.reporting.subject import Subject
from scatsimclr.reporting.templates import json_text, render

SHOWN_PAIRS = 8
THUMBNAIL, SHOWN_TILE = 40, 96  # pixels of an image of the map: in the file, on the page
SKIPPED = 50  # skipped files that are named
COLUMNS = 40  # of the sheet of thumbnails

Context: TypeAlias = dict[str, object]  # what a template, or a part of it, reads
Files: TypeAlias = dict[str, bytes | str]  # contents of plots/, by name


def write_report(subject: Subject) -> Path:
    """Writes report.html and plots/ to the run folder, and returns the path of the page."""
    plots = subject.folder / "plots"
    plots.mkdir(exist_ok=True)
    context, figures = compose(subject)
    for name, content in figures.items():
        if isinstance(content, bytes):
            write_bytes(plots / name, content)
        else:
            write_text(plots / name, printable(content))
    path = subject.folder / "report.html"
    write_text(path, printable(render("report.html", context)))
    return path


def compose(subject: Subject) -> tuple[Context, Files]:
    """The context of the template, and the figures as files by name."""
    found = find(subject)
    groups, names = group_names(found, subject.pretrain.classes)
    files: Files = {}
    curves, single = _curves(subject, files)
    context = {
        "title": _title(subject),
        "run": subject.folder.resolve().name,
        "made": f"{datetime.now():%Y-%m-%d %H:%M}",
        "config": subject.config,
        "parameters": parameter_count(subject.model),
        "pretrain_count": len(subject.pretrain),
        "claim": _claim(subject),
        "measures": results.measures(subject.records),
        "warnings": results.warnings(subject.records),
        "left_out": _left_out(subject),
        "map": _map(found, groups, names, files),
        "legend": _legend(groups, names),
        "gallery": _gallery(found),
        "confused": _confused(subject, found),
        "probe": _shown_probe(subject),
        "confusion": _confusion(subject, found, files),
        "clusters": _clusters(found),
        "curves": curves,
        "single": single,
        "pairs": _pairs(subject, files),
        "front_end": _front_end(subject, found, files),
        "throughput": results.throughput(subject.config, subject.records),
        "profile": _profile(subject.folder),
        "shell_folder": shlex.quote(str(subject.folder)),
        "python_folder": repr(str(subject.folder)),
        "settings": subject.config.to_yaml(),
        "environment": _environment(subject.folder),
    }
    return context, files


def _title(subject: Subject) -> str:
    config = subject.config
    name = config.dataset.dataset
    if name in OWN and config.data_dir:
        name = expanded(config.data_dir).resolve().name
    return name


def _claim(subject: Subject) -> Context:
    """The headline probes, the scores of all, and how many images they rest on."""
    scores = results.scores(subject.config, subject.records)
    headline = results.headline(scores)
    claim: Context = {"scores": scores, "headline": headline, "tests": 0, "epoch": 0, "labels": 0}
    claim["epoch"] = max(
        (record["epoch"] for record in results.of_event(subject.records, "epoch")), default=0
    )
    claim["features"] = results.features_in_words(subject.records)
    if subject.evaluation is not None:
        labels = subject.evaluation.test.labels
        claim["tests"], claim["labels"] = len(labels), len(subject.evaluation.train)
        claim["majority"] = labels.bincount().max().item() / len(labels)
        last = headline[-1].reached if headline else None
        claim["interval"] = None if last is None else wilson(last, len(labels))
    return claim


def _left_out(subject: Subject) -> Context:
    sets = [subject.pretrain] + (
        [subject.evaluation.train, subject.evaluation.test] if subject.evaluation else []
    )
    skipped = list(dict.fromkeys(entry for images in sets for entry in images.skipped))
    notes = list(dict.fromkeys(note for images in sets for note in images.notes))
    return {"files": skipped[:SKIPPED], "more": max(0, len(skipped) - SKIPPED), "notes": notes}


def _curves(subject: Subject, files: Files) -> tuple[list[tuple[str, Markup]], list[tuple[str, str]]]:
    """(title, chart) of what was measured after several epochs, and (name, figure) of what was after one."""
    drawn, single = [], []
    for title, lines, shares in results.curves(subject.config, subject.records):
        if chart := charts.line_chart(lines, f"{title} by epoch", percent=shares):
            drawn.append((title, chart))
            if title == "Loss":
                files["loss.svg"] = charts.standalone(chart)
        else:
            for line in lines:
                for _, value in line.points:
                    name = ", ".join(filter(None, (title, line.name)))
                    single.append((name, f"{100 * value:.1f} %" if shares else f"{value:.4g}"))
    return drawn, single


def _map(found: Findings, groups: Sequence[int], names: Sequence[str], files: Files) -> Context:
    """The map's chart, its thumbnails, and what the script shows of each point."""
    title = f"{found.method} of the embeddings of {len(groups)} images"
    files["embeddings.svg"] = charts.standalone(charts.scatter(found.points, groups, title, names))
    pixels = found.images.images[:].numpy()
    sheet, (width, height) = pictures.sheet(pixels, COLUMNS, THUMBNAIL)
    scale = SHOWN_TILE / max(width, height)
    shown = round(width * scale), round(height * scale)
    data = {
        "points": np.rint(charts.placed(found.points)).astype(int).tolist(),
        "groups": list(groups),
        "names": list(names),
        "paths": list(found.images.paths or ()),
        "predicted": [] if found.predicted is None else found.predicted.tolist(),
        "near": found.near.tolist(),
        "columns": COLUMNS,
    }
    return {
        "chart": charts.scatter(found.points, groups, title), "method": found.method, "count": len(groups),
        "sheet": pictures.uri(pictures.jpeg(sheet, 72)), "data": json_text(data), "width": shown[0],
        "height": shown[1], "sheet_width": sheet.width // width * shown[0],
        "sheet_height": sheet.height // height * shown[1], "pixelated": max(pixels.shape[1:3]) <= 32,
    }  # fmt: skip


def _legend(groups: Sequence[int], names: Sequence[str]) -> Context:
    present = [
        (charts.marker(group), names[group], groups.count(group)) for group in sorted(set(groups) - {-1})
    ]
    return {"entries": present[: charts.NAMED], "more": max(0, len(present) - charts.NAMED)}


def _name(images: ImageSet, index: int) -> str:
    """The name of a picture: its class and file."""
    label = int(images.labels[index])
    parts = [images.classes[label]] if label >= 0 else []
    parts += [images.paths[index]] if images.paths else []
    return ", ".join(parts) or f"image {index}"


def _picture(images: ImageSet, index: int) -> Context:
    label = int(images.labels[index])
    height, width = images.images.shape[1:3]
    return {
        "uri": pictures.photo(images.images[index].numpy()), "name": _name(images, index), "width": width,
        "height": height, "label": images.classes[label] if label >= 0 else "",
    }  # fmt: skip


def _gallery(found: Findings) -> list[Context]:
    """Queries, each with its neighbours, their similarity, and whether they are of another class."""
    rows: list[Context] = []
    for query, neighbours, cosines in found.gallery:
        label = int(found.images.labels[query])
        near = [
            {**_picture(found.bank, index), "cosine": cosine, "other": int(found.bank.labels[index]) != label}
            for index, cosine in zip(neighbours, cosines, strict=True)
        ]
        rows.append({"query": _picture(found.images, query), "near": near})
    return rows


def _confused(subject: Subject, found: Findings) -> list[Context]:
    if subject.evaluation is None:
        return []
    test = subject.evaluation.test
    return [
        {
            "true": test.classes[pair.true], "predicted": test.classes[pair.predicted], "count": pair.count,
            "of": pair.of, "examples": [_picture(test, index) for index in pair.examples],
        }
        for pair in found.confused
    ]  # fmt: skip


def _confusion(subject: Subject, found: Findings, files: Files) -> Markup | None:
    if found.confusion is None or subject.evaluation is None:
        return None
    chart = charts.confusion(
        found.confusion, subject.evaluation.test.classes, f"Confusion matrix: {_shown_probe(subject)}"
    )
    files["confusion.svg"] = charts.standalone(chart)
    return chart


def _shown_probe(subject: Subject) -> str:
    """The probe whose mistakes are shown, in words."""
    if subject.evaluation is None:
        return ""
    key = subject.evaluation.shown_probe
    return titles(subject.config.evaluation).get(key, key)


def _clusters(found: Findings) -> Context | None:
    if found.clusters is None:
        return None
    members = found.clusters.members
    groups = [
        {
            "mark": charts.marker(number), "name": f"cluster {number + 1}", "count": int((members == number).sum()),
            "images": [_picture(found.images, index) for index in central],
        }
        for number, central in enumerate(found.clusters.central)
    ]  # fmt: skip
    return {"groups": groups, "silhouette": found.clusters.silhouette}


def _pairs(subject: Subject, files: Files) -> list[Context]:
    """The first pairs of the first epoch, with the images they come from."""
    config, images = subject.config, subject.pretrain
    loader = PairLoader(images.images, Augment(subject.spec, config.seed), 1, config.seed)
    chosen = loader.order(0)[:SHOWN_PAIRS]
    views = [to_uint8(view, subject.spec).numpy() for view in loader.batch(chosen, 0).views]
    originals = images.images[chosen].numpy()
    rows = np.concatenate([originals, *views])
    files["pairs.png"] = pictures.png(pictures.sheet(rows, len(chosen), 96)[0])
    return [
        {
            "name": _name(images, index),
            "uris": [pictures.photo(picture[row]) for picture in (originals, *views)],
        }
        for row, index in enumerate(chosen.tolist())
    ]  # fmt: skip


@torch.inference_mode()
def _front_end(subject: Subject, found: Findings, files: Files) -> Context | None:
    """The filters, and the coefficients of the shown image with the strongest contrast; None without scattering."""
    if not isinstance(subject.model, ScatSimCLR):
        return None
    scattering = subject.model._scatnet
    contrast = found.images.images[:200].float().std((1, 2, 3))
    sample = int(contrast.argmax())
    device = next(subject.model.parameters()).device
    x = center_view(found.images.images[sample : sample + 1].to(device), subject.spec)[0]
    coefficients = wavelets.coefficients(scattering, x)
    drawn = {f"filters-{j}.png": wavelets.wavelets(scattering, j) for j in range(scattering.J)}
    drawn["filters-low-pass.png"] = wavelets.low_pass(scattering)
    drawn["scattering-places.png"] = wavelets.disks_in_place(coefficients)
    drawn["scattering-first-order.png"] = wavelets.first_order_disk(coefficients)
    if scattering.J > 1:
        drawn["scattering-second-order.png"] = wavelets.second_order_disk(coefficients)
    files.update(drawn)
    uris = {name: pictures.uri(content) for name, content in drawn.items()}
    return {
        "J": scattering.J, "L": scattering.L, "channels": len(x) * scattering.channels, "grey": len(x) == 1,
        "sample": _picture(found.images, sample),
        "filters": [uris[f"filters-{j}.png"] for j in range(scattering.J)],
        "low_pass": uris["filters-low-pass.png"], "places": uris["scattering-places.png"],
        "first": uris["scattering-first-order.png"], "second": uris.get("scattering-second-order.png"),
    }  # fmt: skip


def _profile(folder: Path) -> Markup | None:
    """A chart of profile.json, a list of {"part", "seconds", "share"}; None where the run has none."""
    path = folder / "profile.json"
    if not path.is_file():
        return None
    rows = [
        (str(row["part"]), float(row["share"]), f"{1000 * row['seconds']:.1f} ms, {row['share']:.0%}")
        for row in json.loads(path.read_text())
    ]
    return charts.bars(rows, "Time of one training step by part")


def _environment(folder: Path) -> Context:
    """The environment that the run recorded or, marked as such, today's where an older run recorded none."""
    path = folder / "environment.json"
    if path.is_file():
        return {"recorded": True, "entries": json.loads(path.read_text())}
    return {"recorded": False, "entries": environment()}
