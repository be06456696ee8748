"""Folders as people have them: layouts, odd names, links, and files that cannot be read."""

import os
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from scatsimclr.data.datasets import DataError, load
from scatsimclr.data.folder import image_files


def put(path, colour=(10, 20, 30), size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def classes(root, counts):
    for name, count in counts.items():
        for i in range(count):
            put(root / name / f"{i}.png", (i, 0, 0))


def get(root, split="pretrain", size=(4, 4)):
    return load("folder", split, size=size, data_dir=root, progress=False)


def test_class_folders_are_split_and_stay_split(tmp_path):
    classes(tmp_path, {"cat": 10, "dog": 5, "fox": 2})
    train, test, pretrain = (get(tmp_path, split) for split in ("train", "test", "pretrain"))
    assert train.classes == test.classes == ("cat", "dog", "fox")
    assert np.bincount(test.labels).tolist() == [2, 1, 1]
    assert np.bincount(train.labels).tolist() == [8, 4, 1]
    assert not set(train.paths) & set(test.paths)
    assert len(set(train.paths) | set(test.paths)) == 17
    assert pretrain.paths == train.paths
    assert [train.classes[label] for label in train.labels] == [path.split("/")[0] for path in train.paths]
    for path, image in zip(train.paths, train.images, strict=True):
        assert image[0, 0, 0] == int(path.split("/")[1].removesuffix(".png"))
    moved = tmp_path.with_name("elsewhere")
    shutil.copytree(tmp_path, moved)
    assert get(moved, "test").paths == test.paths


def test_natural_order(tmp_path):
    for name in ("img10.png", "img2.png", "img1.png"):
        put(tmp_path / name)
    assert get(tmp_path).paths == ("img1.png", "img2.png", "img10.png")


def test_single_image_class_goes_to_train_with_a_note(tmp_path):
    classes(tmp_path, {"many": 5, "one": 1})
    train, test = get(tmp_path, "train"), get(tmp_path, "test")
    assert train.labels.tolist().count(1) == 1
    assert 1 not in test.labels
    assert any("'one' has a single image" in note for note in train.notes)


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "Test"])
def test_explicit_split(tmp_path, test_name):
    classes(tmp_path / "train", {"a": 2, "b": 3, "empty": 0})
    classes(tmp_path / test_name, {"b": 1})
    assert get(tmp_path, "train").labels.tolist() == [0, 0, 1, 1, 1]
    test = get(tmp_path, "test")
    assert test.labels.tolist() == [1]
    assert test.classes == ("a", "b")
    assert test.paths == (f"{test_name}/b/0.png",)


def test_train_folder_without_a_test_folder_is_split(tmp_path):
    classes(tmp_path / "train", {"a": 5, "b": 5})
    assert len(get(tmp_path, "test")) == 2


def test_class_only_in_test_is_left_out(tmp_path):
    classes(tmp_path / "train", {"a": 2, "b": 2})
    classes(tmp_path / "test", {"a": 1, "zebra": 3})
    assert get(tmp_path, "test").paths == ("test/a/0.png",)
    assert get(tmp_path).notes == ("left out 3 images of test/zebra/, a class that train does not have",)


def test_test_folder_without_train_is_taken_without_labels(tmp_path):
    classes(tmp_path / "val", {"a": 2, "b": 3})
    put(tmp_path / "loose.png")
    found = get(tmp_path)
    assert found.labels.tolist() == [-1] * 6
    assert found.notes == ("val/ but no train/: all 6 images are taken without labels",)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"), ("train_images", "test_images"), ("TRAIN", "valid"), ("Train Set", "Validation-Set"),
        ("train", "val"), ("train.data", "test.data"),
    ],
)  # fmt: skip
def test_names_of_split_folders(tmp_path, train, test):
    classes(tmp_path / train, {"a": 3, "b": 2})
    classes(tmp_path / test, {"a": 1, "b": 2})
    assert len(get(tmp_path, "train")) == 5
    assert get(tmp_path, "test").labels.tolist() == [0, 1, 1]
    assert get(tmp_path).notes == ()


@pytest.mark.parametrize("name", ["test", "Test_Images", "val"])
@pytest.mark.parametrize("train", ["train", ""])
def test_a_flat_test_folder_is_left_out(tmp_path, name, train):
    classes(tmp_path / train, {"a": 5, "b": 5})
    classes(tmp_path, {name: 4})
    found = get(tmp_path)
    assert found.classes == ("a", "b")
    assert len(get(tmp_path, "test")) == 2
    assert f"left out 4 images in {name}/, which has no class folders" in found.notes


def test_a_flat_test_folder_beside_one_with_classes(tmp_path):
    classes(tmp_path / "train", {"a": 5, "b": 5})
    classes(tmp_path / "val", {"a": 1, "b": 1})
    classes(tmp_path, {"test": 4})
    assert get(tmp_path, "test").paths == ("val/a/0.png", "val/b/0.png")
    assert get(tmp_path).notes == ("left out 4 images in test/, which has no class folders",)


def test_one_folder_is_no_class(tmp_path):
    classes(tmp_path, {"images": 6})
    found = get(tmp_path)
    assert (found.classes, found.labels.tolist()) == ((), [-1] * 6)
    assert found.notes == (
        "images/ is the only folder with images, so it is not a class: all 6 images are taken without labels",
    )
    put(tmp_path / "loose.png")
    (note,) = get(tmp_path).notes
    assert "all 7 images, 1 of them outside it, are taken without labels" in note


@pytest.mark.parametrize("several", [0, 1, 4])
def test_folders_of_one_image_are_no_classes(tmp_path, several):
    """Where a test set would have to be split off."""
    counts = {f"day{i}": 2 if i < several else 1 for i in range(10)}
    classes(tmp_path, counts)
    found = get(tmp_path)
    assert (found.classes, len(found)) == ((), 10 + several)
    assert f"{10 - several} of 10 folders hold a single image" in found.notes[0]
    classes(tmp_path / "own" / "train", counts)
    classes(tmp_path / "own" / "test", counts)
    assert len(get(tmp_path / "own").classes) == 10


@pytest.mark.parametrize("mark", ["metrics.jsonl", "checkpoints"])
def test_run_folders_are_no_classes(tmp_path, mark):
    for i in range(4):
        put(tmp_path / f"{i}.png")
    put(tmp_path / "runs" / "one" / "plots" / "loss.png")
    (tmp_path / "runs" / "one" / "config.yaml").touch()
    (tmp_path / "runs" / "one" / mark).mkdir()
    assert len(get(tmp_path)) == (5 if mark == "metrics.jsonl" else 4)  # there a folder says nothing
    (tmp_path / "runs" / "one" / mark).rmdir()
    (tmp_path / "runs" / "one" / "metrics.jsonl").touch()
    found = get(tmp_path)
    assert (len(found), found.classes, found.notes) == (4, (), ())


def test_folders_of_studies_are_no_classes(tmp_path):
    for i in range(4):
        put(tmp_path / f"{i}.png")
    study = tmp_path / "runs" / "reproduce" / "study-digits-tiny"
    put(study / "study.png")
    (study / "cells").mkdir()
    assert len(get(tmp_path)) == 5
    (study / "study.csv").touch()
    assert len(get(tmp_path)) == 4


def test_what_stands_beside_train_is_counted(tmp_path):
    classes(tmp_path / "train", {"a": 5, "b": 5})
    classes(tmp_path, {"extra": 3})
    put(tmp_path / "loose.png")
    put(tmp_path / "train" / "loose.png")
    assert get(tmp_path).notes == (
        "left out 1 image directly in train/, outside any class folder",
        "left out 3 images in extra/, beside train/",
        "left out 1 image beside train/",
    )


def test_unlabelled_folder_is_only_for_pretraining(tmp_path):
    classes(tmp_path, {"a": 5, "b": 5, "unlabeled": 3})
    assert get(tmp_path, "train").classes == ("a", "b")
    pretrain = get(tmp_path)
    assert pretrain.labels.tolist() == [0] * 4 + [1] * 4 + [-1] * 3
    assert get(tmp_path, "unlabeled").labels.tolist() == [-1] * 3
    assert len(get(tmp_path, "test")) == 2


@pytest.mark.parametrize("inside", ["", "train", "unlabeled"])
def test_flat_folder_has_no_labels(tmp_path, inside):
    for i in range(3):
        put(tmp_path / inside / f"{i}.png")
    if inside == "train":
        put(tmp_path / "test" / "9.png")
    found = get(tmp_path)
    assert len(found) == 3
    assert found.classes == ()
    assert found.labels.tolist() == [-1] * 3
    for split in ("train", "test"):
        with pytest.raises(DataError, match=f"the split '{split}' needs labels, and there are none"):
            get(tmp_path, split)


def test_loose_images_beside_class_folders_are_noted(tmp_path):
    classes(tmp_path, {"a": 3, "b": 3})
    put(tmp_path / "loose.png")
    found = get(tmp_path)
    assert "loose.png" not in found.paths
    assert any("left out 1 image directly in" in note for note in found.notes)


def test_hidden_and_other_files_are_ignored(tmp_path):
    put(tmp_path / "a.PNG")
    put(tmp_path / ".hidden.png")
    put(tmp_path / ".cache" / "b.png")
    put(tmp_path / "__MACOSX" / "c.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("x")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    found = get(tmp_path)
    assert found.paths == ("a.PNG",)
    assert found.skipped == ()


def _bomb():
    """A PNG of a few bytes that claims 65,536 x 65,536 pixels."""
    chunks = (
        (b"IHDR", b"\0\1\0\0\0\1\0\0\x08\2\0\0\0"),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    parts = [len(d).to_bytes(4, "big") + k + d + zlib.crc32(k + d).to_bytes(4, "big") for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_unreadable_files_are_skipped_by_name_and_reason(tmp_path):
    classes(tmp_path / "train", {"a": 4, "b": 2})
    classes(tmp_path / "test", {"a": 1})
    folder = tmp_path / "train" / "a"
    (folder / "00_empty.png").write_bytes(b"")
    (folder / "01_text.jpg").write_text("this is not an image")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("02_cut.jpg", "03_cut.png", "04_cut.bmp", "05_cut.gif", "06_cut.webp", "07_cut.tif"):
        Image.fromarray(noise).save(folder / name)
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: len(raw) // 2])
    (folder / "08.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "09_script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "10_broken_link.png").symlink_to(folder / "nowhere.png")
    (folder / "11_bomb.png").write_bytes(_bomb())
    found = get(tmp_path, "pretrain")
    reasons = {path.removeprefix("train/a/")[:2]: why for path, why in found.skipped}
    assert sorted(reasons) == [f"{i:02}" for i in range(12)]
    assert reasons["00"] == "empty file"
    assert reasons["01"] == "not a readable image"
    assert "truncated" in reasons["02"]
    assert "HEIC" in reasons["08"]
    assert reasons["09"] == "not a readable image"  # Ghostscript is never started
    assert reasons["10"] == "a broken link"
    assert "decompression bomb" in reasons["11"]
    assert set(found.paths) == set(get(tmp_path, "train").paths)
    for path, image in zip(found.paths, found.images, strict=True):  # rows still belong to their paths
        assert image[0, 0, 0] == int(path.split("/")[-1].removesuffix(".png"))


def test_no_readable_image_names_the_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=rf"{tmp_path}: .*none of 1 image files.*a\.png: empty file"):
        get(tmp_path)


@pytest.mark.parametrize("split", ["pretrain", "train", "unlabeled"])
def test_empty_folder_is_named(tmp_path, split):
    with pytest.raises(DataError, match=f"{tmp_path}: no image"):
        get(tmp_path, split)


def test_all_classes_of_one_image_have_no_test_split(tmp_path):
    classes(tmp_path, {"a": 1, "b": 1})
    assert len(get(tmp_path)) == 2
    with pytest.raises(DataError, match="the split 'test' needs labels"):
        get(tmp_path, "test")


def test_folder_that_is_not_there_or_not_named(tmp_path):
    with pytest.raises(DataError, match=r"nix is not there"):
        get(tmp_path / "nix")
    with pytest.raises(DataError, match="--data-dir"):
        get(None)


def test_spaces_and_unicode(tmp_path):
    put(tmp_path / "großer Hund" / "日本 1.png")
    put(tmp_path / "großer Hund" / "sub folder" / "ü.png")
    put(tmp_path / "wolf" / "1.png")
    found = get(tmp_path, "train")
    assert found.classes == ("großer Hund", "wolf")
    both = {*found.paths, *get(tmp_path, "test").paths}
    assert both == {"großer Hund/日本 1.png", "großer Hund/sub folder/ü.png", "wolf/1.png"}


def test_links_are_followed_and_loops_end(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    put(store / "x.png")
    put(store / "y.png")
    put(root / "b" / "z.png")
    (root / "a").symlink_to(store, target_is_directory=True)
    (root / "b" / "file.png").symlink_to(store / "x.png")
    (store / "up").symlink_to(root, target_is_directory=True)
    (store / "self").symlink_to(store, target_is_directory=True)
    (root / "b" / "knot.png").symlink_to(root / "b" / "knot.png")
    for i in range(12):  # without the visited set, 12! ways
        (store / f"d{i}").mkdir()
    for i in range(12):
        for j in range(12):
            (store / f"d{i}" / f"l{j}").symlink_to(store / f"d{j}", target_is_directory=True)
    found = [get(root, split) for split in ("train", "test")]
    assert {path for part in found for path in part.paths} == {"a/x.png", "a/y.png", "b/file.png", "b/z.png"}
    assert found[0].skipped == (("b/knot.png", "a broken link"),)


def test_pipes_are_not_opened(tmp_path):
    put(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert get(tmp_path).paths == ("a.png",)


def test_file_that_vanishes_is_skipped(tmp_path):
    from scatsimclr.data.decode import read_image

    assert read_image(tmp_path / "gone.png", (4, 4)) == "No such file or directory"


def test_mixed_sizes_and_one_pixel(tmp_path):
    put(tmp_path / "1.png", size=(1, 1))
    put(tmp_path / "2.jpg", size=(300, 2))
    put(tmp_path / "3.bmp", size=(7, 99))
    found = get(tmp_path, size=(6, 9))
    assert found.images.shape == (3, 6, 9, 3)
    assert (found.images[0] == found.images[0, 0, 0]).all()
    assert np.abs(found.images.numpy().astype(int) - [10, 20, 30]).max() <= 3


def test_resize_is_lanczos_of_height_and_width(tmp_path, writers):
    picture = Image.fromarray(writers.images(1, 30, 20, 0)[0])
    picture.save(tmp_path / "a.png")
    expected = np.asarray(picture.resize((8, 16), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(get(tmp_path, size=(16, 8)).images[0], expected)


@pytest.mark.parametrize(("name", "levels"), [("d", 1500), ("d" * 200, 25)])
def test_what_is_nested_too_deep_is_left_out_and_named(tmp_path, monkeypatch, name, levels):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(levels):
        os.mkdir(name)
        os.chdir(name)
    Image.new("L", (8, 8)).save("deep.png")
    files, skipped = image_files([tmp_path])
    assert files == [tmp_path / "a.png"]
    assert [reason for _, reason in skipped] == ["nested too deep"]
    # rmtree of pytest's own would recurse as deep
    for _ in range(levels):
        for path in os.listdir():
            os.unlink(path) if os.path.isfile(path) else os.rmdir(path)
        os.chdir("..")
    os.rmdir(name)
