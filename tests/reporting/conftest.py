"""Runs on folders as people have them: names that are markup, files that cannot be read, one image of a class."""

import os

import numpy as np
import pytest
from PIL import Image

from scatsimclr import cli, train
from tests.training.conftest import TINY, write_images

# Names that a file system takes (no slash): each would be active if it reached the page as it is.
MARKUP = "<img src=x onerror=alert(1)>"
QUOTES = "\"quoted' & ünï<b>code"
IN_SCRIPT = "<!--<script>alert(2) ]]> ${x} {{ 7*7 }} \u2028.png"


def hostile_folder(root):
    """Two classes of 30 images and one of a single image, with everything that goes wrong."""
    write_images(root, 30)
    (root / "across").rename(root / MARKUP)
    (root / "down").rename(root / QUOTES)
    first, second = root / MARKUP, root / QUOTES
    for number in (1, 3, 5):  # several, so that some come into every part of a report
        (second / f"{number:02}.png").rename(second / f"{number}{IN_SCRIPT}")
    (first / "02.png").rename(first / '"><svg onload=alert(3)>.png')
    os.rename(os.fsencode(first / "04.png"), os.fsencode(first) + b"/not \xff utf-8.png")
    (root / "only one").mkdir()
    Image.new("RGB", (40, 20), (200, 30, 30)).save(root / "only one" / "a b.jpg")
    (first / "empty.png").write_bytes(b"")
    (first / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    Image.fromarray(np.zeros((20_000, 20_000), bool)).save(first / "huge.png")
    (first / "link.png").symlink_to(second / "00.png")
    (first / "gone.png").symlink_to("nowhere.png")
    (second / "loop").symlink_to(root, target_is_directory=True)
    (root / "notes.txt").write_text("no image")
    return root


def flat_folder(root):
    """The same pictures without labels."""
    pictures = write_images(root.parent / "sorted", 15, seed=1)
    root.mkdir()
    for path in sorted(pictures.rglob("*.png")):
        path.rename(root / f"{path.parent.name} <i>{path.stem}</i>.png".replace("/", "÷"))
    return root


def trained(images, folder, *settings):
    argv = ["--data-dir", str(images), "--run-dir", str(folder), "--fused", *TINY, *settings]
    assert cli.run(train.command, argv) == 0
    return folder


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    images = hostile_folder(root / "my images, π & <b>bold")
    return trained(images, root / "run 'one' <i>")


@pytest.fixture(scope="session")
def flat_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("flat")
    return trained(flat_folder(root / "flat"), root / "run", "seed=3", "batch_size=6")
