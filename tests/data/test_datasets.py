"""The interface: names, splits, digits, `ImageSet`, and the split that sets without one get."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scatsimclr.data.datasets import DATASETS, DataError, ImageSet, load, names, normalization, splits
from scatsimclr.data.imageset import allocate
from scatsimclr.data.splitting import stratified_split
from scatsimclr.errors import UserError


def test_names_and_splits():
    assert names()[:5] == ("digits", "photos", "cifar10", "cifar20", "cifar100")
    assert names()[-3:] == ("stl10", "folder", "shards")
    assert {"mnist", "fashion_mnist", "kmnist", "emnist_letters"} < set(names())
    for name in names():
        assert splits(name)[:3] == ("pretrain", "train", "test")
        mean, std = normalization(name)
        assert len(mean) == len(std) == 3
        assert len(DATASETS[name].size) == 2
    assert issubclass(DataError, UserError)


@pytest.mark.parametrize(
    ("given_name", "nearest"), [("cifa10", "cifar10"), ("STL-10", "stl10"), ("digit", "digits")]
)
def test_unknown_name_gets_the_nearest(given_name, nearest):
    with pytest.raises(DataError, match=f"did you mean '{nearest}'.*known are digits, photos, cifar10"):
        load(given_name, "train", size=(32, 32))


def test_unknown_name_far_from_everything():
    with pytest.raises(DataError, match="unknown data set 'zzz': known are"):
        normalization("zzz")


def test_unknown_split():
    with pytest.raises(DataError, match="digits has no split 'tset': did you mean 'test'"):
        load("digits", "tset", size=(32, 32))
    with pytest.raises(DataError, match="has no split 'unlabeled'"):
        load("cifar10", "unlabeled", size=(32, 32))


@pytest.mark.parametrize("size", [(0, 32), (32,), (32, 32, 3), (32.0, 32), (-1, 4)])
def test_bad_size(size):
    with pytest.raises(DataError, match="size must be two positive integers"):
        load("digits", "train", size=size)


def test_one_channel_of_grey_images_is_the_first_of_three_and_of_colours_their_grey():
    one, three = (load("digits", "test", size=(20, 24), channels=c, progress=False).images for c in (1, 3))
    assert torch.equal(one.expand(-1, -1, -1, 3), three)
    assert load("photos", "test", size=(40, 40), channels=1, progress=False).images.shape == (480, 40, 40, 1)
    with pytest.raises(DataError, match="channels must be 1 or 3, got 2"):
        load("digits", "test", size=(8, 8), channels=2)


def test_absent_data_is_told_in_one_line(tmp_path):
    with pytest.raises(DataError) as caught:
        load("cifar20", "train", size=(32, 32), data_dir=tmp_path / "no", download=False)
    text = str(caught.value)
    for word in ("cifar20", "cifar-100-binary.tar.gz", str(tmp_path / "no"), "--data-dir"):
        assert word in text
    assert "\n" not in text


def test_data_dir_that_is_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for name, message in (
        ("stl10", "file is not a folder"),
        ("folder", r"file is no folder, \.csv, .* or \.npy"),
    ):
        with pytest.raises(DataError, match=message):
            load(name, "train", size=(32, 32), data_dir=file)


def test_what_the_system_refuses_is_told(tmp_path):
    for name in ("folder", "stl10"):
        with pytest.raises(DataError, match=f"{name}: .*File name too long"):
            load(name, "train", size=(32, 32), data_dir=tmp_path / ("x" * 300))


def test_digits_are_scaled_split_and_reproducible():
    train, test = (load("digits", split, size=(8, 8), progress=False) for split in ("train", "test"))
    from sklearn.datasets import load_digits

    assert (len(train), len(test)) == (1438, 359)
    counts = torch.bincount(test.labels)
    assert counts.min() >= 34
    assert counts.max() <= 38
    both = np.concatenate([train.images, test.images]).reshape(1797, -1)
    original = np.rint(np.repeat(load_digits().images[..., None], 3, -1) * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, both)) == sorted(map(bytes, original.reshape(1797, -1)))
    assert both.min() == 0
    assert both.max() == 255
    # the split is part of every published number: it may not change with a library
    assert stratified_split([0] * 20, [str(i) for i in range(20)])[1] == [0, 1, 11, 18]


def test_digits_pretrain_is_train_at_any_size():
    train, pretrain = (
        load("digits", split, size=(32, 24), progress=False) for split in ("train", "pretrain")
    )
    assert train.images.shape == (1438, 32, 24, 3)
    assert torch.equal(train.images, pretrain.images)
    assert torch.equal(train.labels, pretrain.labels)
    mean = load("digits", "train", size=(32, 32)).images.double().div(255)
    assert mean.mean() == pytest.approx(normalization("digits")[0][0], abs=1e-3)
    assert mean.std() == pytest.approx(normalization("digits")[1][0], abs=1e-3)


@given(st.lists(st.integers(0, 4), max_size=60))
def test_stratified_split(labels):
    keys = [f"k{i}" for i in range(len(labels))]
    train, test = stratified_split(labels, keys)
    assert sorted(train + test) == list(range(len(labels)))
    for label in set(labels):
        n, held = labels.count(label), sum(labels[i] == label for i in test)
        assert held == (0 if n == 1 else max(1, round(n / 5)))


def test_split_of_names_that_are_not_text():
    assert stratified_split([0, 0], ["caf\udce9.jpg", "b"]) in (([0], [1]), ([1], [0]))


def _set(n=4, **changes):
    values = {
        "images": torch.arange(n * 12, dtype=torch.uint8).reshape(n, 2, 2, 3),
        "labels": torch.arange(n) - 1,
        "classes": ("a", "b", "c"),
        "paths": tuple("pqrs"[:n]),
    }
    return ImageSet(**(values | changes))


def test_imageset():
    images = _set(notes=("n",))
    assert len(images) == 4
    assert not images.labelled
    for chosen in ([3, 1], torch.tensor([3, 1]), np.array([3, 1], np.int32)):
        part = images.subset(chosen)
        assert part.labels.tolist() == [2, 0]
        assert part.paths == ("s", "q")
        assert torch.equal(part.images, images.images[[3, 1]])
        assert part.labelled
        assert part.notes == ("n",)
    assert images.subset(images.labels > 0).paths == ("r", "s")
    empty = images.subset([])
    assert len(empty) == 0
    assert not empty.labelled
    with pytest.raises(IndexError):
        images.subset([4])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"images": torch.zeros(4, 2, 2, 3)}, TypeError),
        ({"labels": torch.zeros(4)}, TypeError),
        ({"images": torch.zeros(4, 3, 2, dtype=torch.uint8)}, ValueError),
        ({"images": torch.zeros(4, 3, 2, 2, dtype=torch.uint8).permute(0, 2, 3, 1)}, ValueError),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError),
        ({"labels": torch.full((4,), 3)}, ValueError),
        ({"labels": torch.full((4,), -2)}, ValueError),
        ({"paths": ("a",)}, ValueError),
    ],
)
def test_imageset_refuses_what_does_not_fit(change, error):
    with pytest.raises(error):
        _set(**change)


def test_too_little_memory_is_told_in_gigabytes():
    with pytest.raises(DataError, match=r"96x96 need 27648000\.0 GB"):
        allocate(10**12, (96, 96), 3)
