"""The size and the channels that images themselves ask for."""

import numpy as np
import pytest
from PIL import Image

from scatsimclr.config import load_config
from scatsimclr.config.values import OWN
from scatsimclr.data import decode, own
from scatsimclr.data.datasets import DataError, names
from scatsimclr.data.shape import natural_shape, with_shape
from scatsimclr.errors import UserError


def write(root, name, size, mode="RGB", **options):
    """An image of noise, (width, height); "grey RGB" has three equal channels."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    image = image.convert("L").convert("RGB") if mode == "grey RGB" else image.convert(mode)
    (root / "a").mkdir(parents=True, exist_ok=True)
    image.save(root / "a" / name, **options)


@pytest.mark.parametrize(
    ("size", "side"),
    [
        *(((8, 8), 32), ((28, 28), 32), ((32, 32), 32), ((33, 90), 48)),
        *(((64, 48), 48), ((49, 49), 64), ((640, 427), 64)),
    ],
)
def test_the_shorter_side_rounded_up_to_sixteen_between_32_and_64(tmp_path, size, side):
    for index in range(3):
        write(tmp_path, f"{index}.png", size)
    assert natural_shape("folder", data_dir=tmp_path) == (side, side, 3)


def test_the_median_decides(tmp_path):
    for index, side in enumerate((4, 40, 41, 42, 600)):
        write(tmp_path, f"{index}.png", (side, side))
    assert natural_shape("folder", data_dir=tmp_path)[0] == 48


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "grey RGB"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_by_mode_or_by_three_equal_channels_is_one_channel(tmp_path, mode, suffix):
    for index in range(3):
        write(tmp_path, f"{index}.{suffix}", (20, 20), mode)
    assert natural_shape("folder", data_dir=tmp_path)[2] == 1
    write(tmp_path, f"colour.{suffix}", (20, 20))
    assert natural_shape("folder", data_dir=tmp_path)[2] == 3


def test_a_grey_jpeg_saved_as_colours_is_grey_and_a_tinted_one_is_not(tmp_path):
    write(tmp_path, "a.jpg", (400, 300), "grey RGB", quality=80)
    assert natural_shape("folder", data_dir=tmp_path) == (64, 64, 1)
    pixels = np.full((40, 40, 3), 120, np.uint8)
    pixels[7, 9] = (125, 120, 120)
    Image.fromarray(pixels).save(tmp_path / "a" / "dot.png")
    assert natural_shape("folder", data_dir=tmp_path)[2] == 3


def test_pixels_are_looked_at_until_the_first_colours(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_workers", lambda: 1)
    for index in range(60):
        write(tmp_path, f"{index}.png", (20, 20))
    decoded, original = [], decode.to_rgb
    monkeypatch.setattr(decode, "to_rgb", lambda image: decoded.append(image) or original(image))
    assert natural_shape("folder", data_dir=tmp_path)[2] == 3
    assert len(decoded) == 1


def test_files_of_a_grey_mode_are_not_decoded(tmp_path, monkeypatch):
    for index in range(3):
        write(tmp_path, f"{index}.png", (20, 20), "L")
    monkeypatch.setattr(decode, "to_rgb", lambda image: pytest.fail("decoded"))
    assert natural_shape("folder", data_dir=tmp_path)[2] == 1


def test_every_image_counts_for_the_channels_however_few_do_for_the_size(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "SURVEYED", 2)
    for index in range(20):
        write(tmp_path, f"{index}.png", (20, 20), "RGB" if index == 13 else "L")
    assert natural_shape("folder", data_dir=tmp_path)[2] == 3


def test_no_more_files_are_opened_than_that_and_the_seed_chooses_them(tmp_path, monkeypatch):
    for index in range(12):
        write(tmp_path, f"{index}.png", (20, 20))
    monkeypatch.setattr(own, "SURVEYED", 5)
    opened = []
    monkeypatch.setattr(own, "shorter_side", lambda path: opened.append(path.name) or 20)
    for seed in (0, 0, 1):
        natural_shape("folder", data_dir=tmp_path, seed=seed)
    first, again, other = opened[:5], opened[5:10], opened[10:]
    assert len(opened) == 15
    assert first == again
    assert sorted(first) != sorted(other)


def test_what_cannot_be_read_does_not_count(tmp_path):
    write(tmp_path, "0.png", (40, 40), "L")
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    (tmp_path / "a" / "empty.jpg").write_bytes(b"")
    assert natural_shape("folder", data_dir=tmp_path) == (48, 48, 1)
    (tmp_path / "a" / "0.png").unlink()
    assert natural_shape("folder", data_dir=tmp_path)[:2] == (32, 32)  # reading them will tell


def test_known_data_sets_need_no_look():
    shapes = {name: natural_shape(name) for name in names() if name not in OWN}
    assert shapes["digits"] == shapes["fashion_mnist"] == shapes["emnist_letters"] == (32, 32, 1)
    assert shapes["cifar10"] == (32, 32, 3)
    assert shapes["photos"] == (48, 48, 3)
    assert shapes["stl10"] == (64, 64, 3)


def test_settings_get_the_shape_of_the_images(tmp_path):
    for index in range(3):
        write(tmp_path, f"{index}.png", (64, 48), "L")
    config = load_config("folder", [f"data_dir={tmp_path}", "epochs=3"])
    resolved = with_shape(config)
    assert resolved.dataset.input_shape == (48, 48, 1)
    assert resolved.epochs == 3
    assert with_shape(resolved) is resolved
    with pytest.raises(UserError, match="got 6 for images of 48×48"):
        with_shape(load_config("folder", [f"data_dir={tmp_path}", "model.J=6"]))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere is not there"):
        natural_shape("folder", data_dir=tmp_path / "nowhere")
    with pytest.raises(DataError, match="Name their folder with --data-dir"):
        natural_shape("folder")
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        natural_shape("mnst")
