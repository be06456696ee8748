"""STL-10's binary files, whole and damaged."""

import numpy as np
import pytest

from scatsimclr.data.datasets import DataError, folds, load


def get(root, split, size=(96, 96)):
    return load("stl10", split, size=size, data_dir=root, download=False, progress=False)


def test_every_split_has_the_written_images_upright(tmp_path, writers):
    parts = writers.stl10(tmp_path)
    for split in ("train", "test", "unlabeled"):
        found = get(tmp_path, split)
        np.testing.assert_array_equal(found.images, parts[split][0])
        labels = parts[split][1] if split != "unlabeled" else [-1, -1]
        np.testing.assert_array_equal(found.labels, labels)
        assert found.labelled == (split != "unlabeled")
        assert found.classes == tuple(f"thing{i}" for i in range(10))


def test_pretrain_is_train_then_unlabelled(tmp_path, writers):
    parts = writers.stl10(tmp_path)
    found = get(tmp_path, "pretrain")
    np.testing.assert_array_equal(found.images, np.concatenate([parts["train"][0], parts["unlabeled"][0]]))
    assert found.labels.tolist() == [0, 1, 2, 3, -1, -1]
    assert not found.labelled


def test_more_than_one_chunk(tmp_path, writers, monkeypatch):
    from scatsimclr.data import stl10

    monkeypatch.setattr(stl10, "_CHUNK", 2)
    parts = writers.stl10(tmp_path, train=5)
    np.testing.assert_array_equal(get(tmp_path, "train").images, parts["train"][0])


def test_resized(tmp_path, writers):
    writers.stl10(tmp_path)
    assert get(tmp_path, "train", (32, 48)).images.shape == (4, 32, 48, 3)


def test_archive(tmp_path, writers):
    parts = writers.stl10(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    writers.pack_folder(tmp_path / "stl10_binary", data / "stl10_binary.tar.gz")
    np.testing.assert_array_equal(get(data, "test").images, parts["test"][0])
    assert not list(data.glob(".unpack-*"))


def test_folds(tmp_path, writers):
    writers.stl10(tmp_path)
    found = folds("stl10", data_dir=tmp_path, download=False)
    assert len(found) == 10
    assert found[3].tolist() == [3, 0]
    assert get(tmp_path, "train").subset(found[3]).labels.tolist() == [3, 0]


@pytest.mark.parametrize(("text", "message"), [("0 1\n2 x\n", "line 2.*'x'"), ("0 4\n", r"line 1 .*0\.\.3")])
def test_damaged_folds_are_refused(tmp_path, writers, text, message):
    writers.stl10(tmp_path)
    (tmp_path / "stl10_binary" / "fold_indices.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        folds("stl10", data_dir=tmp_path, download=False)


def test_other_sets_have_no_folds():
    with pytest.raises(DataError, match="digits has no predefined folds"):
        folds("digits")


@pytest.mark.parametrize("cut", [1, 27647])
def test_truncated_images_are_named_with_both_sizes(tmp_path, writers, cut):
    writers.stl10(tmp_path)
    file = tmp_path / "stl10_binary" / "unlabeled_X.bin"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(
        DataError, match=rf"unlabeled_X\.bin: truncated: .*55296 bytes for 2.*found {55296 - cut}"
    ):
        get(tmp_path, "pretrain")


def test_images_and_labels_must_agree(tmp_path, writers):
    writers.stl10(tmp_path)
    (tmp_path / "stl10_binary" / "train_y.bin").write_bytes(b"\1\2\3")
    with pytest.raises(DataError, match=r"train_y\.bin: expected 4 labels.*found 3"):
        get(tmp_path, "train")


@pytest.mark.parametrize("label", [0, 11])
def test_label_out_of_range(tmp_path, writers, label):
    writers.stl10(tmp_path)
    (tmp_path / "stl10_binary" / "train_y.bin").write_bytes(bytes([1, 2, label, 3]))
    with pytest.raises(DataError, match=rf"label {label} of image 2 is not in 1\.\.10"):
        get(tmp_path, "train")
