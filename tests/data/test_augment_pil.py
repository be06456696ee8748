"""Every step and the whole view against the per-image way: Pillow, and torchvision's formulas on it.

All comparisons are in 8-bit levels and demand equality: the batched steps follow Pillow's rounding.
"""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.resample import affine_nearest, lanczos_taps, resample
from scatsimclr.reference.blur import gaussian_blur, gaussian_weights
from scatsimclr.reference.color import blend_, luma, shift_hue_

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(32, 32), (96, 96), (24, 41), (8, 8), (1, 1), (1, 7), (5, 1)]


def pictures(batch, height, width, seed=0):
    """Half noise, half smooth colourful pictures with saturated parts: uint8 (B, H, W, 3)."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (batch, height, width, 3))
    y, x = np.mgrid[0:height, 0:width][..., None]
    speed, phase = rng.uniform(0.02, 0.3, (2, batch, 1, 1, 3)), rng.uniform(0, 6, (batch, 1, 1, 3))
    smooth = 128 + 160 * np.sin(speed[0] * x + speed[1] * y + phase)
    smooth[::4] = smooth[::4, ..., :1]  # some are grey
    chosen = np.where(np.arange(batch)[:, None, None, None] % 2, noise, smooth)
    return torch.from_numpy(chosen.clip(0, 255).astype(np.uint8))


def planes_of(images):
    return images.permute(3, 0, 1, 2).to(torch.float32).contiguous()


def levels_of(planes):
    assert torch.equal(planes, planes.floor())
    assert planes.min() >= 0
    assert planes.max() <= 255
    return planes.permute(1, 2, 3, 0).to(torch.uint8).numpy()


def pil_hue(image, turns):
    """torchvision's adjust_hue for Pillow images."""
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.array(hue).astype(np.int64) + int(turns * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def numpy_blur(image, sigma, size):
    """OpenCV's fixed-point blur, one image, straight from its definition."""
    half = size // 2
    side = gaussian_weights([sigma], size)[0]
    kernel = np.concatenate((side, side[:-1][::-1]))
    sums = image.astype(np.int64)
    for axis in (0, 1):
        pad = [(half, half) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(sums, pad, mode="reflect" if sums.shape[axis] > 1 else "edge")
        sums = sum(k * np.take(padded, range(t, t + sums.shape[axis]), axis) for t, k in enumerate(kernel))
    return ((sums + 32768) >> 16).astype(np.uint8)


def pil_view(image, params, row, spec):
    """The recipe on one uint8 (H, W, 3) image; returns the 8-bit levels."""
    one = params[row]
    picture = Image.fromarray(image)
    height, width = spec.size
    if spec.crop:
        top, left, tall, wide = one.box.tolist()
        picture = picture.crop((left, top, left + wide, top + tall))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if one.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if spec.affine:
        picture = picture.transform(
            (width, height), Image.Transform.AFFINE, one.affine.tolist(), Image.Resampling.NEAREST
        )
    if one.jitter:
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for step in one.order.tolist():
            factor = float(one.factors[step])
            if step < 3:
                picture = enhancers[step](picture).enhance(factor)
            elif spec.hue > 0:
                picture = pil_hue(picture, factor)
    if one.grayscale:
        picture = picture.convert("L").convert("RGB")
    levels = np.array(picture)
    return numpy_blur(levels, float(one.sigma), spec.blur_taps) if one.blur else levels


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("affine", [False, True])
def test_whole_view_equals_pillow_level_for_level(shape, affine):
    spec = AugmentSpec(size=shape, affine=affine)
    augment = Augment(spec, seed=5)
    images = pictures(48, *shape)
    params = augment.draw(range(48), epoch=2, view=1)
    assert params.flip.any()
    assert params.jitter.any()
    assert params.grayscale.any()
    assert params.blur.any()
    view = augment.apply(images, params, normalize=False)
    expected = np.stack([pil_view(image, params, row, spec) for row, image in enumerate(images.numpy())])
    got = (view * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(got, expected)
    # ToTensor, then Normalize, in torchvision's order of float32 operations.
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (spec.mean, spec.std))
    exact = (expected.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(augment.apply(images, params).numpy(), exact)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_each_jitter_order_is_followed(order):
    spec = AugmentSpec(size=(9, 11), crop=False, flip=0, grayscale=0, blur=0, jitter=1.0)
    augment = Augment(spec, seed=1)
    images = pictures(6, 9, 11, seed=3)
    params = augment.draw(range(6), 0, 0)
    params.order[:] = torch.tensor(order)
    got = (augment.apply(images, params, normalize=False) * 255).round().to(torch.uint8)
    expected = np.stack([pil_view(image, params, row, spec) for row, image in enumerate(images.numpy())])
    np.testing.assert_array_equal(got.permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize(
    ("source", "target"),
    [((96, 96), (32, 32)), ((32, 32), (96, 96)), ((17, 40), (23, 9)), ((100, 3), (7, 3)), ((1, 1), (4, 5)),
     ((6, 5), (1, 1))],
)  # fmt: skip
def test_resampling_equals_pillow_growing_and_shrinking(source, target):
    images = pictures(4, *source)
    down, across = (
        tuple(
            table.expand(len(images), *table.shape[1:]) for table in lanczos_taps(torch.tensor([length]), to)
        )
        for length, to in zip(source, target, strict=True)
    )
    got = resample(images, across, down).transpose(2, 3).numpy()
    expected = [
        np.array(Image.fromarray(image).resize(target[::-1], Image.Resampling.LANCZOS))
        for image in images.numpy()
    ]
    np.testing.assert_array_equal(got, np.stack(expected))


@pytest.mark.parametrize("operation", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.0, 0.2, 0.7354, 1.0, 1.3, 1.8, 5.0])
def test_blends_equal_pillow(operation, factor):
    images = pictures(8, 21, 18)
    planes = planes_of(images)
    blend_(planes, torch.full((8,), operation), torch.full((8,), factor))
    enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation]
    expected = [np.array(enhancer(Image.fromarray(image)).enhance(factor)) for image in images.numpy()]
    np.testing.assert_array_equal(levels_of(planes), np.stack(expected))


def test_luma_equals_pillow_for_hostile_colours():
    steps = torch.tensor([0, 1, 2, 3, 63, 64, 100, 127, 128, 129, 200, 252, 253, 254, 255], dtype=torch.uint8)
    image = torch.cartesian_prod(steps, steps, steps).view(1, 225, 15, 3)
    expected = np.array(Image.fromarray(image[0].numpy()).convert("L"))
    np.testing.assert_array_equal(luma(planes_of(image))[0].numpy().astype(np.uint8), expected)


@pytest.mark.parametrize("shift", [-51, 0, 23])
def test_hue_equals_pillow_on_a_lattice_of_all_colours(shift):
    # All 2**24 colours agree (checked once, exhaustively); here every third level of each channel.
    steps = torch.arange(0, 256, 3, dtype=torch.uint8)
    image = torch.cartesian_prod(steps, steps, steps).view(1, 86, 86 * 86, 3)
    planes = planes_of(image)
    shift_hue_(planes, torch.tensor([float(shift)]))
    turns = (shift + (0.5 if shift > 0 else -0.5 if shift < 0 else 0)) / 255
    expected = np.array(pil_hue(Image.fromarray(image[0].numpy()), turns))
    np.testing.assert_array_equal(levels_of(planes)[0], expected)


RAMP = (np.arange(7)[:, None] * 37 + np.arange(6) * 91 + 11 * np.arange(7)[:, None] * np.arange(6)) % 256
# cv2.GaussianBlur(RAMP.astype(uint8), (k, k), sigma), opencv-python-headless 5.0.0, first and fourth row.
OPENCV = {
    (3, 0.5): ([27, 101, 167, 59, 119, 156], [131, 187, 124, 179, 116, 172]),
    (5, 1.25): ([108, 115, 127, 123, 117, 112], [133, 134, 132, 127, 118, 117]),
    (9, 1.9): ([124, 124, 124, 122, 120, 121], [128, 128, 125, 122, 119, 118]),
}


@pytest.mark.parametrize(("size", "sigma"), list(OPENCV), ids=str)
def test_blur_equals_recorded_opencv(size, sigma):
    image = torch.from_numpy(RAMP.astype(np.uint8))[None, :, :, None].expand(1, 7, 6, 3)
    got = levels_of(gaussian_blur(planes_of(image), torch.from_numpy(gaussian_weights([sigma], size))))[0]
    for channel in range(3):
        np.testing.assert_array_equal(got[[0, 3], :, channel], OPENCV[size, sigma])


@pytest.mark.parametrize("shape", [(20, 20), (3, 30), (2, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("size", [1, 3, 9, 15])
def test_blur_equals_its_definition_also_where_the_kernel_is_wider_than_the_image(shape, size):
    images = pictures(5, *shape)
    sigma = torch.tensor([0.1, 0.4, 1.0, 1.7, 2.0])
    got = levels_of(gaussian_blur(planes_of(images), torch.from_numpy(gaussian_weights(sigma, size))))
    expected = [numpy_blur(i, float(s), size) for i, s in zip(images.numpy(), sigma, strict=True)]
    np.testing.assert_array_equal(got, np.stack(expected))


def test_blur_weights_sum_to_256_and_fall_off():
    weights = gaussian_weights(np.linspace(0.1, 2.0, 50), 9)
    assert (2 * weights[:, :-1].sum(1) + weights[:, -1] == 256).all()
    assert (weights[:, -1] >= weights[:, -2]).all()
    assert weights.min() >= 0


def test_affine_identity_and_pixel_shift():
    planes = planes_of(pictures(2, 6, 9))
    shift = torch.tensor([[1.0, 0, 0, 0, 1.0, 0], [1.0, 0, 2.0, 0, 1.0, -1.0]], dtype=torch.float64)
    moved = affine_nearest(planes, shift)
    assert torch.equal(moved[:, 0], planes[:, 0])
    assert torch.equal(moved[:, 1, 1:, :-2], planes[:, 1, :-1, 2:])
    assert not moved[:, 1, 0].any()
    assert not moved[:, 1, :, -2:].any()
