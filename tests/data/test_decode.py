"""Every Pillow mode becomes the RGB that a person would see."""

import numpy as np
import pytest
from PIL import Image

from scatsimclr.data import decode
from scatsimclr.data.decode import read_image

WHITE, RED = (255, 255, 255), (255, 0, 0)


def read(path, size=(2, 2)):
    found = read_image(path, size)
    assert isinstance(found, np.ndarray), found
    assert found.dtype == np.uint8
    assert found.shape == (*size, 3)
    return found


def rows(found):
    """The two columns of row 0 as tuples."""
    return [tuple(int(v) for v in pixel) for pixel in found[0]]


def save(path, array, mode=None, **options):
    image = Image.fromarray(np.asarray(array))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def test_grey_and_one_bit(tmp_path):
    grey = np.array([[0, 200], [0, 200]], np.uint8)
    for name in ("a.png", "a.pgm", "a.tif", "a.bmp"):
        assert rows(read(save(tmp_path / name, grey))) == [(0, 0, 0), (200, 200, 200)]
    for name in ("b.png", "b.pbm", "b.tif"):
        assert rows(read(save(tmp_path / name, grey > 0))) == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("size", [(6, 8), (5, 11)])
def test_one_channel_is_pillows_grey_and_of_a_grey_file_the_first_of_its_three(tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    colours = Image.fromarray(pixels[..., :3])
    colours.save(tmp_path / "colour.png")
    expected = np.asarray(colours.convert("L").resize(size[::-1], Image.Resampling.LANCZOS))
    found = read_image(tmp_path / "colour.png", size, 1)
    assert found.shape == (*size, 1)
    np.testing.assert_array_equal(found[..., 0], expected)
    save(tmp_path / "grey.png", pixels[..., 0])
    save(tmp_path / "bits.png", pixels[..., 0] > 99)
    save(tmp_path / "deep.png", pixels[..., 0].astype(np.uint16) * 257)
    save(tmp_path / "alpha.png", pixels[..., 2:])
    save(tmp_path / "grey.jpg", pixels[..., 0])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "hole.png", transparency=int(pixels[0, 0, 0]))
    for name in ("grey.png", "bits.png", "deep.png", "alpha.png", "grey.jpg", "hole.png"):
        three = read(tmp_path / name, size)
        np.testing.assert_array_equal(
            read_image(tmp_path / name, size, 1)[..., 0], three[..., 0], err_msg=name
        )


def test_packed_images_change_their_channels_as_pillow_does():
    pixels = np.random.default_rng(1).integers(0, 256, (40, 9, 7, 3), np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(p).convert("L")) for p in pixels])[..., None]
    np.testing.assert_array_equal(decode.pack([pixels], 40, (9, 7), 1, False), grey)
    for size in ((9, 7), (12, 5)):
        one, three = (decode.pack([grey[:30], grey[30:]], 40, size, channels, False) for channels in (1, 3))
        np.testing.assert_array_equal(three, one.expand(-1, -1, -1, 3))
        np.testing.assert_array_equal(decode.pack([pixels], 40, size, 1, False), one)


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.array([[[255, 0, 0, 255], [0, 0, 0, 0]]] * 2, np.uint8)
    for name in ("a.png", "a.tif", "a.gif"):
        assert rows(read(save(tmp_path / name, rgba))) == [RED, WHITE]
    assert rows(read(save(tmp_path / "a.webp", rgba, lossless=True))) == [RED, WHITE]
    half = np.array([[[0, 0, 0, 128], [0, 0, 255, 51]]] * 2, np.uint8)
    assert rows(read(save(tmp_path / "half.png", half))) == [(127, 127, 127), (204, 204, 255)]
    assert rows(read(save(tmp_path / "la.png", half[..., [0, 3]]))) == [(127,) * 3, (204,) * 3]


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 2))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png")
    assert rows(read(tmp_path / "p.png")) == [RED, (0, 0, 255)]
    image.save(tmp_path / "index.png", transparency=1)
    assert rows(read(tmp_path / "index.png")) == [RED, WHITE]
    image.save(tmp_path / "alpha.png", transparency=bytes([255, 51]))
    assert rows(read(tmp_path / "alpha.png")) == [RED, (204, 204, 255)]


def test_transparent_colour_of_rgb_and_grey_png(tmp_path):
    Image.new("RGB", (2, 2), RED).save(tmp_path / "rgb.png", transparency=RED)
    assert rows(read(tmp_path / "rgb.png")) == [WHITE, WHITE]
    Image.new("L", (2, 2), 7).save(tmp_path / "l.png", transparency=7)
    assert rows(read(tmp_path / "l.png")) == [WHITE, WHITE]


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    for name in ("a.jpg", "a.tif"):
        image.save(tmp_path / name)
        assert np.abs(read(tmp_path / name)[0, 0].astype(int) - RED).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_by_the_full_range(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", np.array([[257, 65535], [128, 129]], np.uint16))
    found = read(path)
    assert rows(found) == [(1, 1, 1), WHITE]
    assert found[1, :, 0].tolist() == [0, 1]


def test_16_bits_big_endian(tmp_path):
    path = tmp_path / "a.tif"
    Image.frombytes("I;16B", (2, 1), b"\x80\x80\x01\x01").save(path)
    assert rows(read(path, (1, 2))) == [(128, 128, 128), (1, 1, 1)]


def test_16_bits_with_a_transparent_value(tmp_path):
    image = Image.fromarray(np.array([[257, 65535], [257, 65535]], np.uint16))
    image.save(tmp_path / "a.png", transparency=65535)
    assert rows(read(tmp_path / "a.png")) == [(1, 1, 1), WHITE]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("auto", [0, 128, 255]),
        ("dtype", [0, 8, 16]),
        ("image", [0, 128, 255]),
        ((0.0, 4095.0), [0, 128, 255]),
        ((1024.0, 3072.0), [0, 128, 255]),
        ((0.0, 8190.0), [0, 64, 128]),
    ],
)
def test_12_bits_in_files_of_16(tmp_path, suffix, scale, expected):
    path = save(tmp_path / f"a.{suffix}", np.array([[0, 2050, 4095]], np.uint16))
    assert read_image(path, (1, 3), scale=scale)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(("bits", "level"), [(8, 255), (10, 255), (12, 255), (14, 255), (16, 255)])
def test_the_fewest_bits_that_hold_an_image(tmp_path, bits, level):
    path = save(tmp_path / "a.png", np.array([[0, 2**bits - 1]], np.uint16))
    assert read_image(path, (1, 2))[0, :, 0].tolist() == [0, level]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int32, [0, 200], [0, 200]),
        (np.int32, [0, 257 * 9], [0, 144]),
        (np.int32, [257 * 9, 65535], [9, 255]),
        (np.int32, [0, 10**6], [0, 255]),
        (np.int32, [-50, 50], [0, 255]),
        (np.float32, [0, 0.4], [0, 102]),
        (np.float32, [0, 99.6], [0, 100]),
        (np.float32, [0, 257 * 5], [0, 80]),
        (np.float32, [-1, 1], [0, 255]),
        (np.float32, [0, 0], [0, 0]),
        (np.int32, [70000, 70000], [0, 0]),
    ],
)
def test_integer_and_float_images(tmp_path, dtype, values, expected):
    found = read(save(tmp_path / "a.tif", np.array([values, values], dtype)))
    assert found[0, :, 0].tolist() == expected
    assert (found == found[..., :1]).all()


def test_pixels_that_are_not_numbers_are_a_reason(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[0, np.nan]], np.float32))
    assert "must be finite" in read_image(path, (2, 2))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 180), (6, 270), (8, 90)])
def test_exif_orientation(tmp_path, suffix, orientation, turned):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, 16:] = 255
    stored = Image.fromarray(upright).rotate(-turned, expand=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif)
    found = read(path, (16, 32)).astype(int)
    assert np.abs(found - upright)[:, [*range(12), *range(20, 32)]].max() < 20


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, (0, 255, 0))]
    for name in ("a.gif", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert rows(read(tmp_path / name)) == [RED, RED]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert rows(read(tmp_path / "a.webp")) == [RED, RED]


def test_the_suffix_does_not_decide(tmp_path):
    Image.new("RGB", (2, 2), RED).save(tmp_path / "a.jpg", format="PNG")
    assert rows(read(tmp_path / "a.jpg")) == [RED, RED]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_never_raise(tmp_path):
    """Bytes flipped and cut off anywhere: pixels or a reason."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    reasons = 0
    for suffix in ("jpg", "png", "bmp", "webp", "gif", "ppm", "jp2", "tga"):
        path = tmp_path / f"a.{suffix}"
        image.save(path)
        raw = path.read_bytes()
        for _ in range(25):
            damaged = np.frombuffer(raw, np.uint8).copy()
            damaged[rng.integers(0, min(len(raw), 200), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(damaged[: rng.integers(1, len(raw) + 1)].tobytes())
            found = read_image(path, (4, 4))
            reasons += isinstance(found, str)
            assert isinstance(found, str) or found.shape == (4, 4, 3)
    assert 50 < reasons < 200


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(tmp_path, monkeypatch):
    """The picture is that of a full decode, to a level or two, and upright whatever its orientation."""
    y, x = np.mgrid[0:600, 0:900]
    waves = np.stack([128 + 100 * np.sin(x / a + y / b) for a, b in ((40, 70), (90, 30), (55, 55))], 2)
    image = Image.fromarray(waves.astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    sizes, original = [], decode.to_rgb
    monkeypatch.setattr(decode, "to_rgb", lambda image, scale: sizes.append(image.size) or original(image))
    small = decode.read_image(tmp_path / "turned.jpg", (48, 32)).astype(int)
    assert sizes == [(225, 150)]  # a quarter; an eighth would be less than 2 · 48
    full = np.asarray(image.rotate(-90, expand=True).resize((32, 48), Image.Resampling.LANCZOS)).astype(int)
    assert abs(small - full).mean() < 1
    assert decode.read_image(tmp_path / "turned.jpg", (900, 600)).shape == (900, 600, 3)
    assert sizes[-1] == (900, 600)
