"""`python -m scatsimclr.label`: what is written, what a person is told, and the page."""

import csv
import html.parser
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from scatsimclr import Encoder, ScatSimCLR, cli, label
from scatsimclr.config import load_config
from scatsimclr.label import own_size

CONFIG = """
amp: off
model: {base_model: scatsimclr8, J: 2, L: 2, out_dim: 8}
dataset: {dataset: folder, input_shape: "(16, 16, 3)"}
"""
HOSTILE = '<img src=x onerror="alert(1)">&\'é.png'


def call(argv, capsys):
    status = cli.run(label.command, [str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stripes(folder, count, prefix=""):
    """Noisy stripes across (even) and down (odd)."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(prefix))
    for index in range(count):
        wave = 127 + 100 * np.sin(np.arange(16) + generator.uniform(0, 6))
        picture = np.tile(wave, (16, 1)) + generator.normal(0, 10, (16, 16))
        picture = picture.clip(0, 255).astype(np.uint8)
        Image.fromarray(picture.T if index % 2 else picture).save(folder / f"{prefix}{index:02}.png")


@pytest.fixture
def images(tmp_path):
    stripes(tmp_path / "in", 30)
    (tmp_path / "few.csv").write_text(
        "path,label\n" + "".join(f"{i:02}.png,{'ad'[i % 2]}\n" for i in range(6))
    )
    return tmp_path


def scattering(folder):
    return [folder / "in", "--encoder", "scattering", "--output", folder / "out.csv"]


def test_all_images_get_labels(images, capsys):
    (images / "in" / "broken.png").write_text("no image")
    argv = [*scattering(images), "--labels", images / "few.csv", "--suggest", "3"]
    status, out, err = call(argv, capsys)
    assert status == 0
    rows = table(images / "out.csv")
    assert [row["path"] for row in rows] == [f"{index:02}.png" for index in range(30)]
    assert [row["label"] for row in rows] == ["a", "d"] * 15
    assert [row["confidence"] == "1" for row in rows] == [True] * 6 + [False] * 24
    assert "6 labels given" in out
    assert "broken.png (not a readable image)" in err
    suggested = table(images / "out.suggest.csv")
    assert len(suggested) == 3
    assert not {row["path"] for row in suggested} & {f"{index:02}.png" for index in range(6)}
    names = {path.name for path in images.iterdir()}
    assert names == {"in", "few.csv", "out.csv", "out.html", "out.suggest.csv"}


def test_features_of_a_trained_encoder(images, capsys, monkeypatch):
    """A checkpoint without a recommendation: h and scattering of 30 images of 16×16."""
    (images / "config.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    model = ScatSimCLR(2, 2, (16, 16, 3), 8, 8).eval()
    encoder = Encoder(load_config(str(images / "config.yaml")), model)
    monkeypatch.setattr(label.Encoder, "load", lambda *_, **__: encoder)
    argv = [images / "run", images / "in", "--labels", images / "few.csv", "--output", images / "out.csv"]
    assert call(argv, capsys)[0] == 0
    assert len(table(images / "out.csv")) == 30


def test_class_folders_are_labels_and_loose_images_get_some(tmp_path, capsys):
    stripes(tmp_path / "in", 12, "loose")
    stripes(tmp_path / "in" / "unlabeled", 4, "u")
    for number, name in enumerate(("across", "down")):
        stripes(tmp_path / "in" / name, 8, "c")
        for path in (tmp_path / "in" / name).iterdir():
            if int(path.stem[1:]) % 2 != number:
                path.unlink()
    assert call(scattering(tmp_path), capsys)[0] == 0
    rows = {row["path"]: row for row in table(tmp_path / "out.csv")}
    assert rows["across/c00.png"]["confidence"] == "1"
    assert rows["unlabeled/u01.png"]["label"] == "down"
    assert rows["loose10.png"]["label"] == "across"


def test_images_to_begin_with(images, capsys):
    status, out, _ = call([*scattering(images), "--suggest", "4"], capsys)
    assert status == 0
    assert len(table(images / "out.suggest.csv")) == 4
    assert not (images / "out.csv").exists()
    assert "out.suggest.csv" in out


def test_a_folder_alone_is_not_a_class(tmp_path, capsys):
    stripes(tmp_path / "in" / "photos", 12, "x")
    status, out, _ = call([*scattering(tmp_path), "--suggest", "3"], capsys)
    assert status == 0
    assert "images to label next (3)" in out
    status, _, err = call(scattering(tmp_path), capsys)
    assert status == 2
    assert "fewer than two class folders" in err


def test_contradictory_copies_and_unknown_classes_are_told(images, capsys):
    (images / "in" / "copy.png").write_bytes((images / "in" / "00.png").read_bytes())
    stripes(images / "in" / "a", 2, "x")
    stripes(images / "in" / "b", 2, "y")
    (images / "few.csv").open("a").write("copy.png,d\ngone.png,a\n")
    status, _, err = call([*scattering(images), "--labels", images / "few.csv"], capsys)
    assert status == 0
    assert "same pixels and different labels" in err
    assert "gone.png" in err
    assert "no folder: d" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n00.png,a\n", "1 labelled image:"),
        ("path,label\n00.png,a\n01.png,a\n", "one class, 'a'"),
        ("path,label\nx.png,a\ny.png,b\n", "none of the 2 files"),
        ("", "is empty"),
    ],
)
def test_mistakes_end_with_one_line_and_leave_earlier_files(images, capsys, content, message):
    (images / "few.csv").write_text(content)
    (images / "out.csv").write_text("earlier")
    status, _, err = call([*scattering(images), "--labels", images / "few.csv"], capsys)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert (images / "out.csv").read_text() == "earlier"


def test_arguments_that_do_not_fit(images, capsys):
    few = ["--labels", images / "few.csv"]
    for argv, message in (
        ([images / "in", *few], "must be RUN IMAGES"),
        ([*scattering(images)], "no labels"),
        ([*scattering(images), *few, "--suggest", "0"], "--suggest"),
        ([*scattering(images), *few, "--output", images / "few.csv"], "overwrite"),
        ([*scattering(images), *few, "--output", images / "few.txt"], "end in .csv"),
        ([images / "none", "--encoder", "scattering", *few], "which is nothing"),
    ):
        status, _, err = call(argv, capsys)
        assert status == 2, argv
        assert message in err


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.data, self._json = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._json = dict(attrs).get("id") == "labels-data"

    def handle_data(self, data):
        if self._json:
            self.data, self._json = data, False
        self.text.append(data)


def test_names_on_the_page_are_text(images, capsys):
    (images / "in" / "29.png").rename(images / "in" / HOSTILE.replace("/", ""))
    few = images / "few.csv"
    few.write_text(
        "path,label\n00.png,<script>alert(1)</script>\n01.png,d\n02.png,<script>alert(1)</script>\n03.png,d\n"
    )
    assert call([*scattering(images), "--labels", few], capsys)[0] == 0
    page = Page((images / "out.html").read_text())
    assert HOSTILE in page.text
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    data = json.loads(page.data)
    assert data["given"][0] == ["00.png", "<script>alert(1)</script>"]
    assert sum(tag == "option" for tag, _ in page.tags) == 26 * 2


def test_the_own_size_looks_past_metadata(tmp_path):
    """A text chunk beyond Pillow's limit hides no size."""
    path = tmp_path / "large.png"
    Image.new("RGB", (40, 30)).save(path)
    raw = path.read_bytes()
    body = b"note\0\0" + zlib.compress(bytes(2 << 20))
    check = struct.pack(">L", zlib.crc32(b"zTXt" + body))
    path.write_bytes(raw[:33] + struct.pack(">L", len(body)) + b"zTXt" + body + check + raw[33:])
    (tmp_path / "no.png").write_bytes(b"nothing")
    assert own_size([tmp_path / "no.png", path]) == (30, 30)
