"""A user's own images beyond folders: tables of files, files of arrays, and images passed from Python."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scatsimclr.data import decode
from scatsimclr.data.augment import Augment, AugmentSpec, center_view
from scatsimclr.data.datasets import DataError, load
from scatsimclr.data.given import Given
from scatsimclr.data.inputs import Inputs
from scatsimclr.data.shape import natural_shape


def pictures(folder, count=10, size=(7, 5)):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return pixels


def read(place, split="pretrain", channels=3, **options):
    return load("folder", split, size=(6, 6), channels=channels, data_dir=place, progress=False, **options)


def table(folder, text, name="files.csv"):
    (folder / name).write_text(text)
    return folder / name


def test_a_table_without_a_header_is_a_list_of_files(tmp_path):
    pictures(tmp_path / "in")
    files = "".join(f"in/{number}.png\n" for number in (3, 1, 2))
    for name in ("files.csv", "files.txt"):
        found = read(table(tmp_path, files, name))
        assert found.paths == ("in/3.png", "in/1.png", "in/2.png")
        assert found.classes == ()
    flat = read(tmp_path / "in")
    assert torch.equal(found.images[0], flat.images[3])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_labels_split_as_class_folders_do(tmp_path, delimiter):
    pictures(tmp_path)
    rows = [f"{number}.png{delimiter}{'cat' if number % 2 else 'dog'}" for number in range(10)]
    place = table(tmp_path, "\n".join([f"path{delimiter}label", *rows]))
    train, test, pretrain = (read(place, split) for split in ("train", "test", "pretrain"))
    assert train.classes == ("cat", "dog")
    assert sorted(test.labels.tolist()) == [0, 1]
    assert set(train.paths) | set(test.paths) == {f"{number}.png" for number in range(10)}
    assert pretrain.paths == train.paths
    for path, label in zip(train.paths, train.labels.tolist(), strict=True):
        assert train.classes[label] == ("cat" if int(path[0]) % 2 else "dog")


def test_a_table_may_say_the_split(tmp_path):
    pictures(tmp_path)
    splits = ["train", "Training", "test", "val", "unlabeled", "", "train", "test", "odd", "train"]
    rows = [f"{'ab'[number % 2]},{number}.png,{split}" for number, split in enumerate(splits)]
    place = table(
        tmp_path, "\n".join(["class,file,split", *rows, "b,0.png,train", "a,gone.png,train", ",9.png,"])
    )
    assert read(place, "test").paths == ("2.png", "7.png")
    train = read(place, "train")
    assert train.paths == ("0.png", "1.png", "5.png", "6.png", "9.png")
    assert read(place).paths == (*train.paths, "4.png")
    assert ("gone.png", "does not exist") in train.skipped
    assert any("listed again (2)" in note for note in train.notes)
    assert "left out 2 images of other splits than train and test" in train.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\na.png,1\n", "none of its 1 files exists, the first: a.png"),
        ("path\n", "none of its 0 files exists"),
    ],
)
def test_a_table_without_images_is_told(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(table(tmp_path, text))


def test_paths_in_the_home_of_nobody_are_paths(tmp_path):
    pictures(tmp_path / "~no-such-user")
    found = read(table(tmp_path, "~no-such-user/0.png\n~no-such-user/1.png\n~no-such-user-else/1.png\n"))
    assert len(found) == 2
    assert found.skipped == (("~no-such-user-else/1.png", "does not exist"),)
    with pytest.raises(DataError, match="~no-such-user"):
        read("~no-such-user")


def test_predictions_in_a_table_are_no_labels(tmp_path):
    pictures(tmp_path)
    rows = [f"{number}.png,{'ab'[number % 2]},{0.5 if number > 5 else 1}" for number in range(10)]
    found = read(table(tmp_path, "\n".join(["path,label,confidence", *rows])))
    assert (found.labels < 0).sum() == 4


@pytest.mark.parametrize("shape", [(10, 5, 7), (10, 5, 7, 1), (10, 5, 7, 3)])
def test_a_file_of_arrays(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    found = read(tmp_path / "images.npy", channels=1)
    assert found.paths is None
    expected = [decode.pixels_of(image, (6, 6), 1) for image in pixels]
    assert torch.equal(found.images, torch.from_numpy(np.stack(expected)))
    assert natural_shape("folder", data_dir=tmp_path / "images.npy") == (
        32,
        32,
        3 if shape[3:] == (3,) else 1,
    )
    with pytest.raises(DataError, match="needs labels"):
        read(tmp_path / "images.npy", "test")


@pytest.mark.parametrize("content", [b"no", np.zeros((3, 4)), np.array([None, 1], object)])
def test_a_file_that_holds_no_images_is_told(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(DataError, match=r"x\.npy (cannot be read|must hold images)"):
        read(path)


def test_arrays_of_any_numbers_are_read_as_files_of_them_are(tmp_path):
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 4096, (9, 8)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    expected = decode.read_image(tmp_path / "deep.png", (6, 6), 1)
    assert np.array_equal(decode.pixels_of(deep, (6, 6), 1), expected)
    assert np.array_equal(decode.pixels_of(torch.from_numpy(deep.astype(np.int32)), (6, 6), 1), expected)
    floats = decode.read_image(tmp_path / "float.tif", (6, 6), 3)
    assert np.array_equal(decode.pixels_of(deep.astype(np.float64), (6, 6), 3), floats)
    shares = decode.pixels_of(deep / 4095, (9, 8), 1)
    assert np.array_equal(shares[..., 0], np.rint(deep * (255 / 4095)).astype(np.uint8))
    assert set(np.unique(decode.pixels_of(deep > 2000, (9, 8), 1))) == {0, 255}
    for bad, message in ((np.full((4, 4), np.nan), "finite"), (np.array([["a"]]), "real numbers, got <U1")):
        with pytest.raises(ValueError, match=message):
            decode.pixels_of(bad, (6, 6))


def test_alpha_in_arrays_is_composited_on_white_as_in_files(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (9, 8, 4), np.uint8)
    for channels, pixels in ((3, rgba), (1, rgba), (3, rgba[..., 2:])):
        Image.fromarray(pixels).save(tmp_path / "x.png")
        expected = decode.read_image(tmp_path / "x.png", (6, 6), channels)
        assert np.array_equal(decode.pixels_of(pixels, (6, 6), channels), expected)


def test_a_small_npy_in_a_folder_is_an_image_only_with_three_axes(tmp_path):
    pictures(tmp_path, 2)
    np.save(tmp_path / "features.npy", np.zeros((100, 20), np.float32))
    np.save(tmp_path / "image.npy", np.zeros((5, 7, 3), np.uint8))
    found = read(tmp_path)
    assert found.paths == ("0.png", "1.png", "image.npy")
    assert [path for path, _ in found.skipped] == ["features.npy"]


def test_items_of_data_sets_bring_their_labels():
    images = np.random.default_rng(0).integers(0, 256, (8, 5, 7, 3), np.uint8)
    pairs = [(Image.fromarray(image), number % 2) for number, image in enumerate(images)]
    dicts = [{"image": image, "label": torch.tensor(number % 2)} for number, image in enumerate(images)]
    for items in (pairs, dicts):
        found = Given.of(items).found
        assert found.classes == ["0", "1"]
        assert [label for _, label in found.train] == [0, 1] * 4
    assert Given.of([item[0] for item in pairs]).found.classes == []
    numbers = Given.of(images, np.array([10, 9, 10, 9, -1, 10, 9, 2])).found
    assert numbers.classes == ["2", "9", "10"]
    assert numbers.unlabelled == [(4, -1)]
    one = Given.of(images, ["a"] * 8).found
    assert one.classes == []
    assert "all labels are 'a'" in one.notes[0]


def test_classes_of_what_is_embedded(tmp_path):
    for name in ("cat", "dog"):
        pictures(tmp_path / "in" / name, 3)
    pictures(tmp_path / "in", 1)
    found = Inputs.of([tmp_path / "in", tmp_path / "in" / "dog" / "1.png"])
    names = [Path(name).parent.name for name in found.names]
    assert [found.classes[label] if label >= 0 else "in" for label in found.labels[:-1]] == names[:-1]
    assert found.labels[-1] == found.labels[found.names.index(found.names[-1])]
    assert Inputs.of(tmp_path / "in" / "dog").classes == ()


@pytest.mark.parametrize("channels", [2, 5])
def test_each_of_several_channels_is_augmented_as_a_grey_image(channels):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (6, 24, 24, channels), np.uint8))
    mean, std = tuple(rng.random(channels)), tuple(0.1 + rng.random(channels))
    settings = {"jitter": 1.0, "grayscale": 1.0, "blur": 1.0, "affine": True}
    views = Augment(AugmentSpec((24, 24), mean=mean, std=std, **settings), 0)(images, range(6), 0, 0)
    assert views.is_contiguous(memory_format=torch.channels_last)
    plain = center_view(images, AugmentSpec((24, 24), mean=mean, std=std))
    for channel in range(channels):
        grey = AugmentSpec(
            (24, 24), mean=mean[channel : channel + 1], std=std[channel : channel + 1], **settings
        )
        part = images[..., channel : channel + 1].contiguous()
        assert torch.equal(Augment(grey, 0)(part, range(6), 0, 0)[:, 0], views[:, channel])
        assert torch.equal(center_view(part, grey)[:, 0], plain[:, channel])
