"""The page on your own images, from a folder to features, for images without labels: what its walk-through finds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from tests.docs.pages import SMALL, blocks, run_commands, run_python
from tests.training.conftest import write_images


def test_the_walk_through_finds_an_image_among_its_neighbours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = write_images(tmp_path / "my" / "images", 20)
    for path in images.rglob("*.png"):
        path.rename(images / f"{path.parent.name} {path.name}")
    chosen = sorted(images.rglob("*.png"))[7]
    with Image.open(chosen) as picture:
        picture.save("new.jpg", quality=100, subsampling=0)
    walk_through = [*blocks("docs/images.md")][:2]
    assert [block.language for block in walk_through] == ["bash", "python"]
    ran = run_commands(walk_through[0], SMALL)
    assert ran == ["scatsimclr.train", "scatsimclr.report", "scatsimclr.embed"]
    capsys.readouterr()
    run_python(walk_through[1], {})
    nearest = int(re.search(r"\d+", capsys.readouterr().out).group())
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert len(np.load("features.npy")) == 40
    assert chosen.name in Path("features.csv").read_text().splitlines()[1:][nearest]
