"""The page of a run: complete, self-contained, harmless whatever files are called; and the command."""

import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch

from scatsimclr import cli, evaluate, report
from scatsimclr.config import load_config
from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.imageset import ImageSet
from scatsimclr.evaluation import quality
from scatsimclr.evaluation.features import WORDS
from scatsimclr.reporting import findings, page
from scatsimclr.reporting.assets import asset
from scatsimclr.reporting.findings import NEIGHBOURS
from scatsimclr.reporting.subject import Subject
from scatsimclr.training import log
from scatsimclr.training.metrics import read_metrics
from tests.reporting.conftest import IN_SCRIPT, MARKUP, QUOTES, trained

# What a page may consist of; anything else came in through a name.
ELEMENTS = {
    *("html", "head", "meta", "title", "link", "style", "body", "header", "nav", "main", "section", "footer"),
    *("h1", "h2", "h3", "p", "a", "ul", "li", "dl", "dt", "dd", "div", "span", "small", "strong", "figure"),
    *("figcaption", "img", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "code"),
    *("script", "svg", "path", "circle", "rect", "text"),
}
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Checks the nesting while it collects elements, texts and what the scripts hold."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text, self.scripts = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append((dict(attributes), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = attributes, before + data
        elif self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self):
        return {attributes["id"] for _, attributes in self.elements if "id" in attributes}

    def map_data(self):
        return next(
            json.loads(text) for attributes, text in self.scripts if attributes.get("id") == "map-data"
        )


def parsed(run, name="report.html"):
    return Page((run / name).read_text(encoding="utf-8"))


@pytest.fixture(params=["hostile_run", "flat_run"])
def any_run(request):
    return request.getfixturevalue(request.param)


def test_nothing_is_fetched_and_only_our_script_runs(any_run):
    text, found = (any_run / "report.html").read_text(), parsed(any_run)
    assert {name for name, _ in found.elements} <= ELEMENTS
    for name, attributes in found.elements:
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        for key in ("src", "href"):
            value = attributes.get(key, "#")
            assert value.startswith("#" if name == "a" else ("data:", "#")), (name, key, value[:80])
    assert not re.findall(r"url\((?!data:)", text)
    assert "@import" not in text
    runs = [text for attributes, text in found.scripts if attributes.get("type") != "application/json"]
    assert runs == [asset("map.js")]
    policy = next(m["content"] for m in found.all("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy


def test_names_are_text_wherever_they_appear(hostile_run):
    text, found = (hostile_run / "report.html").read_text(encoding="utf-8"), parsed(hostile_run)
    assert MARKUP not in text
    assert IN_SCRIPT not in text
    assert "my images, π & <b>bold" in found.text
    assert MARKUP in found.text
    assert QUOTES in found.text
    data = found.map_data()
    assert MARKUP in data["names"]
    names = [attributes["alt"] for attributes in found.all("img")]
    assert any(IN_SCRIPT in name for name in names + data["paths"])
    assert any("not ? utf-8.png" in name for name in names) or any(
        "not \udcff utf-8" in p for p in data["paths"]
    )


def test_what_was_left_out_is_named_with_its_reason(hostile_run):
    text = parsed(hostile_run).text
    for name, reason in (
        ("empty.png", "empty file"), ("cut.jpg", ""), ("huge.png", "too large, it could be a decompression bomb"),
        ("gone.png", "a broken link"),
    ):  # fmt: skip
        assert re.search(re.escape(name) + r"\s*" + (reason or r"\w"), text), name
    assert "4 files that could not be read" in text
    assert "class 'only one' has a single image" in text


def test_a_labelled_run_has_every_section_and_its_claim(hostile_run):
    found = parsed(hostile_run)
    assert found.ids() >= {
        "result", "embeddings", "neighbours", "mistakes", "training", "views", "scattering", "speed", "use", "settings",
    }  # fmt: skip
    assert "clusters" not in found.ids()
    records = [r for r in read_metrics(hostile_run / "metrics.jsonl") if r["event"] == "evaluation"]
    for record in (records[0], records[-1]):
        for key in ("linear", "logistic_2", "knn", "scattering_knn", "scattering_logistic_2"):
            assert f"{100 * record[key]:.1f}" in found.text
    reached = f"{100 * records[-1]['recommended_logistic_2']:.1f}"
    assert found.text.index(reached) < found.text.index("Map of the embeddings")
    assert "scattering alone" in found.text[: found.text.index("Map of the embeddings")]
    assert f"the recommended features, {WORDS[records[-1]['recommended_features']]}" in found.text
    assert "base_model: scatsimclr8" in found.text
    assert "Environment of the run" in found.text
    assert "Images per second" in found.text


def test_a_run_of_an_earlier_version_has_its_report(hostile_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(hostile_run, folder)
    records = read_metrics(folder / "metrics.jsonl")
    for record in records:
        if record["event"] == "evaluation":
            for key in [key for key in record if key.startswith(("logistic", "scattering", "recommended"))]:
                value = record.pop(key)
                if key.startswith("logistic"):
                    record[key.replace("logistic", "linear")] = value
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "recommendation.json").unlink()
    assert call([folder], capsys)[0] == 0
    text = parsed(folder).text
    assert "linear probe, 2 labels per class" in text
    assert "Scattering alone is the fixed transform" not in text
    assert call([folder, hostile_run, "--output", tmp_path / "both.html"], capsys)[0] == 0


def test_an_unlabelled_run_has_clusters_and_measures_instead(flat_run):
    found = parsed(flat_run)
    assert {"clusters", "result", "embeddings", "neighbours"} <= found.ids()
    assert "mistakes" not in found.ids()
    assert "no labels" in found.text
    record = [r for r in read_metrics(flat_run / "metrics.jsonl") if r["event"] == "quality"][-1]
    for text in (
        f"{100 * record['found_again']:.1f} %",
        f"{record['rankme']:.1f} of",
        f"{record['alignment']:.3f}",
    ):
        assert text in found.text
    data = found.map_data()
    assert data["predicted"] == []
    assert set(data["groups"]) == set(range(len(data["names"])))


def test_pictures_are_described_and_headings_in_order(any_run):
    found = parsed(any_run)
    assert all(attributes.get("alt") for attributes in found.all("img"))
    charts = [a for a in found.all("svg") if "chart" in a["class"]]
    assert charts
    assert all(a["role"] == "img" and a["aria-label"] for a in charts)
    levels = [int(name[1]) for name, _ in found.elements if name in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert found.all("html") == [{"lang": "en"}]


def test_every_point_has_an_image_a_name_and_neighbours(any_run):
    found = parsed(any_run)
    data, dots = found.map_data(), [a for a in found.all("path") if a.get("class", "").startswith("dot")]
    count = len(dots)
    assert count == len(data["points"]) == len(data["groups"]) == len(data["paths"]) == len(data["near"]) > 3
    for index, near in enumerate(data["near"]):
        assert index not in near
        assert len(set(near)) == len(near) == min(NEIGHBOURS, count - 1)
        x, y = map(float, dots[index]["transform"][len("translate(") : -1].split())
        assert data["points"][index] == pytest.approx([x, y], abs=0.6)


def test_the_page_stays_small(any_run):
    assert (any_run / "report.html").stat().st_size < 1_500_000
    assert not list(any_run.glob("*.partial"))


class Mean(torch.nn.Module):
    """h: the mean colour of a grid of places."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def encode(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 3).flatten(1) * self.weight


def test_a_page_of_many_large_images_of_noise_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "project", lambda features: (features[:, :2], "PCA"))
    monkeypatch.setattr(findings, "CLUSTERS", (12,))
    count = 2 * findings.SHOWN
    images = torch.randint(0, 256, (count, 128, 96, 3), generator=torch.Generator().manual_seed(0))
    names = tuple(f"{'long name ' * 12}{i}.jpg" for i in range(count))
    pretrain = ImageSet(images.to(torch.uint8), torch.full((count,), -1), (), names)
    config = load_config(None, ["model.base_model=resnet18", "dataset.input_shape=(128,96,3)"])
    spec = AugmentSpec((128, 96))
    path = page.write_report(Subject(tmp_path, config, Mean(), pretrain, spec, None, []))
    assert 2_000_000 < path.stat().st_size < 8_000_000
    found = parsed(tmp_path)
    assert len(found.map_data()["points"]) == findings.SHOWN
    assert "No epoch was finished" in found.text


def test_figures_are_files_too(hostile_run):
    assert {path.name for path in (hostile_run / "plots").iterdir()} == {
        "loss.svg", "embeddings.svg", "confusion.svg", "pairs.png", "filters-0.png", "filters-1.png",
        "filters-low-pass.png", "scattering-places.png", "scattering-first-order.png", "scattering-second-order.png",
    }  # fmt: skip
    for path in (hostile_run / "plots").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<svg")
        assert MARKUP not in text
        assert "prefers-color-scheme: dark" in text


def call(argv, capsys):
    capsys.readouterr()
    status = cli.run(report.command, [str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def without_clock(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", text)


def test_the_command_makes_the_page_that_training_made(hostile_run, capsys):
    before = without_clock(hostile_run)
    status, out, _ = call([hostile_run], capsys)
    assert status == 0
    assert out.strip() == str(hostile_run / "report.html")
    assert without_clock(hostile_run) == before


def test_a_profile_is_shown_where_the_run_has_one(flat_run, capsys):
    assert "Where the time of a training step goes" not in parsed(flat_run).text
    rows = [
        {"part": "scattering <b>", "seconds": 0.25, "share": 0.625},
        {"part": "loss", "seconds": 0.15, "share": 0.375},
    ]
    (flat_run / "profile.json").write_text(json.dumps(rows))
    try:
        assert call([flat_run], capsys)[0] == 0
        text = parsed(flat_run).text
    finally:
        (flat_run / "profile.json").unlink()
    assert "scattering <b>" in text
    assert "250.0 ms, 62%" in text or "250.0 ms, 63%" in text


def test_a_report_that_fails_leaves_a_whole_run(hostile_run, tmp_path, capsys, monkeypatch):
    def fail(subject):
        raise MemoryError("too many\nimages")

    monkeypatch.setattr(log, "write_report", fail)
    images = next(iter((hostile_run.parent).glob("my images*")))
    folder = trained(images, tmp_path / "run", "epochs=1")
    out = capsys.readouterr().out
    assert "warning: no report, MemoryError: too many images; `python -m scatsimclr.report" in out
    assert "kNN, all labels" in out
    assert (folder / "model.safetensors").exists()
    assert not (folder / "report.html").exists()


def test_a_resnet_has_no_scattering(hostile_run, tmp_path):
    images = next(iter((hostile_run.parent).glob("my images*")))
    folder = trained(
        images, tmp_path / "run", "epochs=1", "model.base_model=resnet18", "model.cifar_stem=true"
    )
    assert "scattering" not in parsed(folder).ids()
    assert not list((folder / "plots").glob("filters*"))


def test_a_collapse_is_told_on_the_terminal_and_in_the_records(hostile_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(log, "SETTLED", 1)
    monkeypatch.setattr(quality, "POINT", 2.0)
    images = next(iter((hostile_run.parent).glob("my images*")))
    folder = trained(images, tmp_path / "run", "epochs=1")
    out = capsys.readouterr().out
    assert (
        len(re.findall("^warning: after epoch 1 the embeddings of all images are nearly the same", out, re.M))
        == 1
    )
    warnings = [r for r in read_metrics(folder / "metrics.jsonl") if r["event"] == "warning"]
    assert len(warnings) == 1
    assert "nearly the same" in warnings[0]["text"]
    assert "After epoch 1: the embeddings of all images are nearly the same" in parsed(folder).text


def test_several_runs_are_compared(hostile_run, flat_run, tmp_path, capsys):
    output = tmp_path / "both.html"
    status, out, _ = call([hostile_run, flat_run, "--output", output], capsys)
    assert status == 0
    assert out.strip() == str(output)
    found = parsed(tmp_path, "both.html")
    assert {name for name, _ in found.elements} <= ELEMENTS
    assert "run 'one' <i>" in found.text
    settings = found.text[found.text.index("Differing settings") :]
    assert "seed" in settings
    assert "batch_size" in settings
    assert "weight_decay" not in settings
    score = [r for r in read_metrics(hostile_run / "metrics.jsonl") if r["event"] == "evaluation"][-1][
        "linear"
    ]
    assert f"{100 * score:.1f} %" in found.text


def test_mistakes_end_with_status_2_and_one_line(hostile_run, flat_run, tmp_path, capsys):
    cases = [
        ([tmp_path], "is not a run folder"),
        ([hostile_run, "--output", "x.html"], "--output is for a comparison"),
        ([hostile_run, flat_run, "--data-dir", tmp_path], "are for one run"),
        ([hostile_run, flat_run, "--output", tmp_path / "no" / "x.html"], "No such file"),
        ([flat_run, "--data-dir", tmp_path / "gone"], "gone"),
    ]
    for argv, message in cases:
        status, _, err = call(argv, capsys)
        assert status == 2
        assert message in err
        assert err.count("\n") == 1


def test_evaluate_writes_the_same_confusion_matrix(hostile_run, tmp_path):
    images = next(iter((hostile_run.parent).glob("my images*")))
    argv = [str(hostile_run), "--data-dir", str(images), "--output", str(tmp_path)]
    assert cli.run(evaluate.command, argv) == 0
    assert "rows: true, columns: taken for" in (tmp_path / "confusion.svg").read_text(encoding="utf-8")
