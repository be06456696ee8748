"""Shards: what was written is what is read, image by image, and training on them is training on the images."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from scatsimclr import cli, embed, evaluate, shards, train
from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.dali import DaliAugment, dali_missing
from scatsimclr.data.datasets import DataError, load, request
from scatsimclr.data.given import Given
from scatsimclr.data.loader import PairLoader
from scatsimclr.data.mapped import MappedImages, part
from scatsimclr.data.pieces import source
from scatsimclr.data.shape import natural_shape
from scatsimclr.data.sharding import write
from scatsimclr.data.shards import LABELS, MANIFEST, Manifest, digest_of, digest_of_manifest
from scatsimclr.errors import UserError
from scatsimclr.training.setup import channel_statistics
from tests.faults.child import same, weights
from tests.training.conftest import TINY, write_images

SIZE = (16, 16)
BYTES = 16 * 16 * 3


@pytest.fixture
def folder(tmp_path):
    """Two classes, unlabelled images, and a file that cannot be read."""
    place = write_images(tmp_path / "images", 9)
    write_images(place / "unlabeled", 2, seed=1)
    (place / "across" / "bad.png").write_bytes(b"nothing")
    return place


def sharded(place, to, largest=7 * BYTES, name="folder", **options):
    asked = request(name, "pretrain", size=SIZE, data_dir=place, progress=False, **options)
    write(source(asked), to, largest, progress=False)
    return to


def read(name, place, split="pretrain", **options):
    return load(name, split, size=SIZE, data_dir=place, progress=False, **options)


def test_every_split_is_that_of_the_folder(folder, tmp_path):
    place = sharded(folder, tmp_path / "shards")
    manifest = Manifest.read(place)
    assert len(manifest.shards) == 4
    assert [count for _, count, _ in manifest.shards] == [7, 7, 7, 1]
    assert natural_shape("shards", data_dir=place) == (16, 16, 3)
    for split in ("pretrain", "train", "test", "unlabeled"):
        ours, theirs = read("shards", place, split), read("folder", folder, split)
        assert torch.equal(ours.images[:], theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.paths == theirs.paths
        assert ours.classes == theirs.classes
        assert ours.notes == theirs.notes
        chosen = torch.tensor([3, 0, 3])
        if len(ours) > 3:
            assert torch.equal(ours.subset(chosen).images[:], theirs.images[chosen])
            assert torch.equal(ours.subset(ours.labels == 1).images[:], theirs.images[theirs.labels == 1])
    assert [path for path, _ in ours.skipped] == ["across/bad.png"]
    assert channel_statistics(ours.images) == channel_statistics(theirs.images)


@pytest.mark.parametrize("channels", [1, 5])
def test_arrays_and_known_sets_become_shards(channels, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, *SIZE, channels), np.uint8)
    given = Given.of(pixels, [0, 1, None, 1, 0, 1, 1, 0, 0])
    place = sharded(None, tmp_path / "shards", channels=channels, given=given)
    for split in ("pretrain", "train", "test", "unlabeled"):
        ours = load("shards", split, size=SIZE, data_dir=place, channels=channels)
        theirs = load("folder", split, size=SIZE, channels=channels, given=given)
        assert torch.equal(ours.images[:], theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.paths is None
    digits = sharded(None, tmp_path / "digits", largest=10**5, name="digits")
    for split in ("pretrain", "train", "test"):
        ours, theirs = read("shards", digits, split), read("digits", None, split)
        assert torch.equal(ours.images[:], theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
    flat = sharded(write_images(tmp_path / "flat", 3) / "down", tmp_path / "unlabelled")
    assert len(read("shards", flat)) == 3
    with pytest.raises(DataError, match="the split 'train' needs labels, and there are none"):
        read("shards", flat, "train")


def test_indices_mean_what_they_mean_for_tensors(tmp_path):
    pixels = torch.arange(11 * 12, dtype=torch.uint8).view(11, 2, 2, 3)
    counts, files = (4, 1, 6), [tmp_path / name for name in "abc"]
    for file, some in zip(files, pixels.split(counts), strict=True):
        some.numpy().tofile(file)
    whole = MappedImages(files, counts, (2, 2, 3))
    odd = torch.arange(1, 11, 2)
    for ours, theirs in ((whole, pixels), (whole.select(odd), pixels[odd]), (part(whole, 2, 9), pixels[2:9])):
        assert ours.shape == theirs.shape
        assert len(ours) == len(theirs)
        for index in (
            0, -1, np.int64(2), slice(None), slice(2, 4), slice(-2, None), slice(None, None, 3), slice(9, 3),
            slice(0, 10**12),
            torch.tensor([4, 0, 4, -2]), torch.tensor([], dtype=torch.int64), theirs[:, 0, 0, 0] > 30,
        ):  # fmt: skip
            assert torch.equal(ours[index], theirs[index]), index
            if isinstance(index, torch.Tensor):
                assert torch.equal(ours.select(index)[:], theirs[index]), index
        with pytest.raises(IndexError, match="must be in"):
            ours[torch.tensor([len(theirs)])]


@pytest.mark.parametrize("pipeline", [Augment, DaliAugment])
@pytest.mark.parametrize("world_size", [1, 3])
def test_views_are_those_of_images_in_memory(pipeline, world_size, folder, tmp_path):
    if pipeline is DaliAugment and dali_missing():
        pytest.skip("DALI is not installed")
    mapped = read("shards", sharded(folder, tmp_path / "shards")).images
    resident = read("folder", folder).images
    for rank in range(world_size):
        loaders = [
            PairLoader(
                images, pipeline(AugmentSpec(SIZE), 0), 5, 3, prefetch=2, rank=rank, world_size=world_size
            )
            for images in (mapped, resident)
        ]
        for ours, theirs in zip(*(loader.epoch(1) for loader in loaders), strict=True):
            assert torch.equal(ours.views, theirs.views)
            assert torch.equal(ours.indices, theirs.indices)


def test_a_step_reads_its_own_images_of_more_than_memory_holds(tmp_path):
    """A shard of 1 TB, with holes: whoever read all of it would not come back."""
    count, file = 10**12 // BYTES, tmp_path / "00000.u8"
    with file.open("wb") as out:
        out.truncate(count * BYTES)
        out.seek((count - 40) * BYTES)
        out.write(bytes(range(256)) * 3 * 40)
    images = part(MappedImages([file], [count], (*SIZE, 3)), count - 40, count)
    (batch,) = list(PairLoader(images, Augment(AugmentSpec(SIZE), 0), 40, 0).epoch(0))
    assert torch.equal(images[7], images[39])
    assert batch.views.std() > 0.1


def test_a_run_is_that_of_the_folder(folder, tmp_path, monkeypatch, capsys):
    place, results = tmp_path / "shards", {}
    assert cli.run(shards.command, [str(folder), "-o", str(place), "dataset.input_shape=(16,16,3)"]) == 0
    out = capsys.readouterr().out
    assert "22 images of 16×16×3 in 1 shards, 18 pretrain, 4 unlabeled, 14 train, 4 test" in out
    assert "across/bad.png" in out
    assert cli.run(shards.command, ["--check", str(place)]) == 0
    assert "22 images in 1 shards are as they were written" in capsys.readouterr().out
    small = ["--fused", *TINY[1:], "model.front=log", "neighbours=2", "normalization=images", "best_by=knn"]
    small = [s.replace("normalization", "dataset.normalization") for s in small]
    for name, data in (("folder", folder), ("shards", place)):
        run, out = tmp_path / f"run-{name}", tmp_path / f"out-{name}"
        argv = ["--run-dir", str(run), "--data-dir", str(data), f"dataset.dataset={name}", *small]
        assert cli.run(train.command, argv) == 0, capsys.readouterr().err
        out.mkdir()
        assert cli.run(evaluate.command, [str(run), "-o", str(out)]) == 0
        assert cli.run(embed.command, [str(run), "--split", "test", "-o", str(out / "test.npy")]) == 0
        figures = json.loads((out / "evaluation.json").read_text())
        results[name] = figures, (out / "test.npy").read_bytes(), (out / "test.csv").read_text()
        assert (run / "report.html").is_file()
    assert same(weights(tmp_path / "run-folder", "last"), weights(tmp_path / "run-shards", "last"))
    assert results["folder"] == results["shards"]


def damaged(place, how):
    manifest = place / MANIFEST
    if how == "shard missing":
        (place / "00001.u8").unlink()
    elif how == "shard short":
        (place / "00001.u8").write_bytes(b"x" * 100)
    elif how == "no manifest":
        manifest.unlink()
    elif how == "half a manifest":
        manifest.write_text(manifest.read_text()[:200])
    elif how == "a list":
        manifest.write_text("[1]")
    elif how == "changed":
        manifest.write_text(manifest.read_text().replace('"train": 14', '"train": 15'))
    elif how == "labels changed":
        np.save(place / LABELS, np.zeros(22, np.int64))
    elif how == "labels missing":
        (place / LABELS).unlink()
    else:
        raise ValueError(how)


def signed(place, **changes):
    """Changes a manifest and its digest, as whoever writes the one can."""
    found = {**json.loads((place / MANIFEST).read_text()), **changes}
    del found["digest"]
    (place / MANIFEST).write_text(json.dumps({**found, "digest": digest_of_manifest(found)}))


def labelled(place, content):
    """Other labels, with their digest."""
    (place / LABELS).write_bytes(content)
    files = json.loads((place / MANIFEST).read_text())["files"]
    signed(place, files={**files, LABELS: digest_of(place / LABELS)})


def array(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("shard missing", "00001.u8 is not there: expected 5376, 7 images of 768 bytes"),
        ("shard short", "00001.u8 has 100 bytes: expected 5376"),
        ("no manifest", "has no manifest.json: it holds no shards, or writing them was interrupted"),
        ("half a manifest", "manifest.json is damaged"),
        ("a list", "manifest.json is damaged"),
        ("changed", "manifest.json is damaged, or was changed"),
        ("labels changed", "labels.npy is damaged"),
        ("labels missing", "labels.npy is not there"),
    ],
)
def test_bad_shards_are_one_line(how, message, folder, tmp_path, capsys):
    place = sharded(folder, tmp_path / "shards")
    damaged(place, how)
    refused(place, message, tmp_path, capsys)


SHARD = {"file": "00000.u8", "images": 7, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": "scatsimclr shards 9"},
            "format must be 'scatsimclr shards 1', got 'scatsimclr shards 9'",
        ),
        ({"shape": [16, 16]}, "shape must have at least 3 items"),
        ({"shape": [16, -16, 3]}, "shape.1 must be greater than 0, got -16"),
        ({"shape": [2**40, 16, 3]}, "shape.0 must be less than or equal to 65536"),
        ({"shards": []}, "shards must have at least 1 item"),
        ({"shards": [{**SHARD, "file": "../shards/00000.u8"}]}, "shards.0.file must match pattern"),
        ({"shards": [{**SHARD, "images": True}]}, "shards.0.images must be a valid integer, got True"),
        ({"shards": [SHARD]}, "must have as many images in its parts as in its shards"),
        ({"images": {"train": 22}}, "must have images of train, unlabeled, test, and labels.npy"),
        ({"files": {"../secret": "0" * 64}}, "must be 'labels.npy' or 'paths.jsonl'"),
        ({"classes": "ab"}, "classes must be a valid list, got 'ab'"),
        ({"more": 1}, "more"),
    ],
)
def test_a_manifest_that_is_none_is_one_line_whatever_its_digest(changes, message, folder, tmp_path, capsys):
    place = sharded(folder, tmp_path / "shards")
    signed(place, **changes)
    refused(place, message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "labels.npy must be int64 (22,)"),
        (array(np.zeros(21, np.int64)), "labels.npy must be int64 (22,)"),
        (array(np.zeros(22)), "labels.npy must be int64 (22,)"),
        (array(np.full(22, 2)), "labels.npy must hold numbers from -1 to 1"),
        (array(np.full(22, -2)), "labels.npy must hold numbers from -1 to 1"),
    ],
)
def test_labels_that_are_none_are_one_line_whatever_their_digest(content, message, folder, tmp_path, capsys):
    place = sharded(folder, tmp_path / "shards")
    labelled(place, content)
    refused(place, message, tmp_path, capsys)


def refused(place, message, tmp_path, capsys):
    """Training on the shards ends with one line that says so."""
    argv = ["--data-dir", str(place), "dataset.dataset=shards", "dataset.input_shape=(16,16,3)"]
    assert cli.run(train.command, [*argv, "--run-dir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("scatsimclr: error: ")
    assert "\n" not in err
    assert message in err


def test_what_cannot_be_written_or_checked_is_one_line(folder, tmp_path, capsys):
    place = sharded(folder, tmp_path / "shards")
    byte = place / "00002.u8"
    byte.write_bytes(byte.read_bytes()[:-1] + b"\0")
    empty = tmp_path / "empty"
    empty.mkdir()
    for argv, message in (
        (["--check", str(place)], "00002.u8 is damaged: its SHA-256 is not the manifest's"),
        ([str(folder), "-o", str(place)], "must be a new or empty folder, got one with files"),
        ([str(folder)], "--output must name a new folder for the shards, got none"),
        ([str(folder), str(folder), "-o", str(empty)], "IMAGES must be one folder or file, got 2"),
        ([str(empty), "-o", str(tmp_path / "new")], "no image"),
        ([str(folder), "-o", str(empty), "--megabytes", "0"], "--megabytes must be 1 or more, got 0"),
    ):
        assert cli.run(shards.command, argv) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match=r"must be auto, or \(16, 16, 3\) as the shards .* got \(32, 32, 3\)"):
        load("shards", "pretrain", size=(32, 32), data_dir=place)
