"""Draws, switches, batch independence and errors of the augmentation."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from scatsimclr.data.augment import Augment, AugmentSpec, center_view, normalize, to_uint8
from scatsimclr.data.randomness import philox4x32, uniforms

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = {"crop": False, "flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0}


def noise(batch, height, width, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, height, width, channels), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers_of_random123(counter, key, expected):
    assert tuple(philox4x32(np.array(counter), key)) == expected


def test_uniforms_are_uniform_and_uncorrelated():
    count, samples = 8, 20000
    base = uniforms(3, range(samples), 0, 0, count)
    assert base.min() > 0
    assert base.max() < 1
    error = 1 / math.sqrt(base.size)
    assert abs(base.mean() - 1 / 2) < 5 * error * math.sqrt(1 / 12)
    assert abs((base**2).mean() - 1 / 3) < 5 * error * math.sqrt(4 / 45)
    assert abs((base**3).mean() - 1 / 4) < 5 * error * math.sqrt(9 / 112)
    histogram = np.bincount((base * 64).astype(int).ravel(), minlength=64)
    expected = base.size / 64
    chi2 = ((histogram - expected) ** 2 / expected).sum()
    assert chi2 < 63 + 5 * math.sqrt(2 * 63)
    others = {
        "next sample": uniforms(3, range(1, samples + 1), 0, 0, count),
        "next epoch": uniforms(3, range(samples), 1, 0, count),
        "other view": uniforms(3, range(samples), 0, 1, count),
        "next seed": uniforms(4, range(samples), 0, 0, count),
        "next number": np.roll(base, 1, axis=1),
    }
    for name, other in others.items():
        correlation = np.corrcoef(base.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 5 * error, name
    np.testing.assert_array_equal(uniforms(3, range(50), 0, 0, 3), base[:50, :3])


def test_crop_boxes_follow_the_recipe():
    spec = AugmentSpec(size=(96, 96))
    params = Augment(spec, 0).draw(range(20000), 0, 0)
    top, left, tall, wide = params.box.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (tall >= 1).all()
    assert (wide >= 1).all()
    assert (top + tall <= 96).all()
    assert (left + wide <= 96).all()
    area, ratio = (tall * wide) / 96**2, wide / tall
    assert 0.07 < area.min() < 0.09
    assert area.max() > 0.97
    assert 0.72 < ratio.min() < 0.77
    assert 1.30 < ratio.max() < 1.38
    assert abs(ratio.log().mean()) < 0.01
    # Areas above 3/4 are refused where the ratio does not fit; up to there the area is uniform.
    small = area[area < 0.7]
    counts = torch.histc(small, 5, 0.1, 0.7)
    assert (counts / counts.mean() - 1).abs().max() < 0.08
    room = (96 - wide) > 20
    assert abs((left[room] / (96 - wide[room])).mean() - 0.5) < 0.01


def test_impossible_crop_falls_back_to_the_largest_centre_crop():
    wide = Augment(AugmentSpec(size=(4, 64), crop_scale=(1.0, 1.0)), 0).draw(range(5), 0, 0)
    assert wide.box.tolist() == [[0, 29, 4, 5]] * 5
    tall = Augment(AugmentSpec(size=(64, 3), crop_scale=(1.0, 1.0)), 0).draw(range(5), 0, 0)
    assert tall.box.tolist() == [[30, 0, 4, 3]] * 5


def test_probabilities_and_ranges():
    samples = 20000
    params = Augment(AugmentSpec(size=(32, 32), affine=True), 0).draw(range(samples), 0, 0)
    for field, p in (("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5)):
        share = getattr(params, field).double().mean()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / samples), field
    low, high = params.factors.amin(0), params.factors.amax(0)
    assert torch.allclose(low, torch.tensor([0.2, 0.2, 0.2, -0.2]), atol=2e-3)
    assert torch.allclose(high, torch.tensor([1.8, 1.8, 1.8, 0.2]), atol=2e-3)
    assert abs(params.sigma.mean() - 1.05) < 0.02
    assert 0.1 <= params.sigma.min() < 0.11
    assert 1.99 < params.sigma.max() <= 2.0
    a, b, _, d, e, _ = params.affine.unbind(1)
    zoom = (a * e - b * d).rsqrt()
    assert 0.9 <= zoom.min() < 0.91
    assert 1.09 < zoom.max() <= 1.1


def test_jitter_orders_are_uniform_over_all_24():
    samples = 24000
    order = Augment(AugmentSpec(size=(32, 32)), 1).draw(range(samples), 0, 0).order
    assert torch.equal(order.sort(1).values, torch.arange(4).expand(samples, 4))
    _, counts = order.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    chi2 = ((counts - 1000) ** 2 / 1000).sum()
    assert chi2 < 23 + 5 * math.sqrt(46)


def same(first, second, names):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_a_draw_belongs_to_seed_epoch_index_and_view_alone():
    spec = AugmentSpec(size=(32, 32))
    names = [field.name for field in dataclasses.fields(Augment(spec, 7).draw([0], 0, 0))]
    whole = Augment(spec, 7).draw(torch.arange(100), 3, 1)
    assert same(whole[40:50], Augment(spec, 7).draw(np.arange(40, 50), 3, 1), names)
    for other in (
        Augment(spec, 8).draw(range(100), 3, 1),
        Augment(spec, 7).draw(range(100), 4, 1),
        Augment(spec, 7).draw(range(100), 3, 0),
        Augment(spec, 7).draw(range(1, 101), 3, 1),
    ):
        assert (whole.sigma == other.sigma).sum() == 0
        assert (whole.box == other.box).all(1).sum() < 5


GREY = {"mean": (0.3,), "std": (0.4,)}


@pytest.mark.parametrize("size", [(32, 32), (19, 45)], ids=str)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("grey", [{}, GREY], ids=["colour", "grey"])
def test_views_are_bit_equal_whatever_the_batch_and_the_threads(size, affine, grey):
    augment = Augment(AugmentSpec(size=size, affine=affine, **grey), 11)
    images = noise(64, *size, channels=augment.spec.channels)
    whole = augment(images, range(64), 1, 0)
    for step in (1, 7, 33):
        parts = [augment(images[k : k + step], range(k, min(k + step, 64)), 1, 0) for k in range(0, 64, step)]
        assert torch.equal(torch.cat(parts), whole)
    shuffled = torch.randperm(64)
    assert torch.equal(augment(images[shuffled], shuffled, 1, 0), whole[shuffled])
    torch.set_num_threads(2)
    assert torch.equal(augment(images, range(64), 1, 0), whole)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("size", [(32, 32), (19, 45), (1, 1)], ids=str)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    "colour", [{"saturation": 0.0, "hue": 0.0, "grayscale": 0.0}, {"saturation": 2.0}], ids=str
)
def test_a_grey_view_is_the_first_channel_of_the_view_of_three_equal_ones(backend, size, affine, colour):
    """With colour steps too: they leave grey as it is."""
    images = noise(200, *size, channels=1)
    grey = AugmentSpec(size=size, affine=affine, blur_kernel=5, **colour, **GREY)
    three = dataclasses.replace(grey, mean=(0.3, 0.1, 0.2), std=(0.4, 0.1, 0.2))
    one = Augment(grey, 5, backend=backend)(images, range(200), 2, 1)
    expected = Augment(three, 5, backend=backend)(images.expand(-1, -1, -1, 3), range(200), 2, 1)
    assert one.shape == (200, 1, *size)
    assert torch.equal(one, expected[:, :1])
    assert torch.equal(center_view(images, grey), center_view(images.expand(-1, -1, -1, 3), three)[:, :1])


def test_colour_steps_of_grey_images_are_not_computed(monkeypatch):
    def refused(*args):
        raise AssertionError("a step that cannot change a grey image")

    monkeypatch.setattr("scatsimclr.reference.color.shift_hue_", refused)
    given = []
    monkeypatch.setattr(
        "scatsimclr.data.augment.photometric",
        lambda *args, **_: given.append(args) or args[0].permute(0, 3, 1, 2),
    )
    spec = AugmentSpec(size=(8, 8), jitter=1.0, grayscale=1.0, **GREY)
    Augment(spec, 0)(noise(50, 8, 8, channels=1), range(50), 0, 0)
    _, _, order, _, grayscale, *_ = given[0]
    assert sorted(set(order.flatten().tolist())) == [-1, 0, 1]
    assert not grayscale.any()


def test_slicing_a_large_batch_changes_nothing(monkeypatch):
    augment = Augment(AugmentSpec(size=(16, 16)), 2)
    images = noise(50, 16, 16)
    whole = augment(images, range(50), 0, 0)
    for module in ("data.augment", "reference.photometric"):
        monkeypatch.setattr(f"scatsimclr.{module}.SLICE_PIXELS", 3 * 16 * 16)
    for backend in ("auto", "reference"):
        augment.backend = backend
        assert torch.equal(augment(images, range(50), 0, 0), whole)


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 20)], ids=str)
@pytest.mark.parametrize("grey", [{}, GREY], ids=["colour", "grey"])
def test_shape_type_and_layout(batch, size, grey):
    augment = Augment(AugmentSpec(size=size, **grey), 0)
    images = noise(batch, *size, channels=augment.spec.channels)
    before = images.clone()
    for view in (augment(images, range(batch), 0, 0), center_view(images, augment.spec)):
        assert view.shape == (batch, augment.spec.channels, *size)
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert view.isfinite().all()
    assert torch.equal(images, before)


def test_non_contiguous_images_give_the_same_view():
    augment = Augment(AugmentSpec(size=(12, 14)), 0)
    images = noise(6, 14, 12).transpose(1, 2)
    assert not images.is_contiguous()
    assert torch.equal(augment(images, range(6), 0, 0), augment(images.contiguous(), range(6), 0, 0))


def test_everything_off_is_the_centre_view():
    spec = AugmentSpec(size=(24, 24), **PLAIN)
    images = noise(9, 24, 24)
    assert torch.equal(Augment(spec, 0)(images, range(9), 0, 0), center_view(images, spec))


@pytest.mark.parametrize(
    ("switch", "field"),
    [
        ({"crop": True}, "box"),
        ({"flip": 1.0}, "flip"),
        ({"jitter": 1.0}, "jitter"),
        ({"grayscale": 1.0}, "grayscale"),
        ({"blur": 1.0}, "blur"),
        ({"affine": True}, "affine"),
    ],
    ids=lambda value: str(value),
)
def test_each_switch_moves_only_its_own_step(switch, field):
    images, size = noise(32, 24, 24), (24, 24)
    off = Augment(AugmentSpec(size=size, **PLAIN), 0)
    on = Augment(AugmentSpec(size=size, **{**PLAIN, **switch}), 0)
    first, second = off.draw(range(32), 0, 0), on.draw(range(32), 0, 0)
    names = {entry.name for entry in dataclasses.fields(first)}
    assert same(first, second, names - {field})
    assert not same(first, second, {field})
    changed = (on(images, range(32), 0, 0) != off(images, range(32), 0, 0)).flatten(1).any(1)
    assert changed.float().mean() > 0.8


@pytest.mark.parametrize("strength", ["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_strength_can_be_zero(strength):
    size, images = (10, 10), noise(16, 10, 10)
    names = ("brightness", "contrast", "saturation", "hue")
    settings = {**PLAIN, "jitter": 1.0, **dict.fromkeys(names, 0.0)}
    none = Augment(AugmentSpec(size=size, **settings), 0)
    assert torch.equal(none(images, range(16), 0, 0), center_view(images, none.spec))
    one = Augment(AugmentSpec(size=size, **{**settings, strength: 0.4}), 0)
    assert not torch.equal(one(images, range(16), 0, 0), center_view(images, one.spec))


def test_flip_is_a_mirror():
    images = noise(4, 6, 9)
    flipped = Augment(AugmentSpec(size=(6, 9), **{**PLAIN, "flip": 1.0}), 0)(images, range(4), 0, 0)
    assert torch.equal(flipped, center_view(images, AugmentSpec(size=(6, 9))).flip(3))


@pytest.mark.parametrize(("height", "taps"), [(8, 1), (19, 1), (20, 3), (32, 3), (64, 7), (96, 9)])
def test_blur_kernel_follows_the_height_as_in_the_original(height, taps):
    assert AugmentSpec(size=(height, 40)).blur_taps == taps
    assert AugmentSpec(size=(height, 40), blur_kernel=5).blur_taps == 5


def test_to_uint8_undoes_normalisation():
    spec = AugmentSpec(size=(16, 16))
    images = torch.arange(768, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 16, 16, 3)
    assert torch.equal(to_uint8(center_view(images, spec), spec), images)
    plain = center_view(images, spec, normalize=False)
    assert torch.equal(plain.permute(0, 2, 3, 1), images / 255)
    assert torch.equal(normalize(plain, spec), center_view(images, spec))
    grey = dataclasses.replace(spec, **GREY)
    assert torch.equal(to_uint8(center_view(images[..., :1], grey), grey), images[..., :1])


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("size", 32, TypeError),
        ("size", (0, 4), ValueError),
        ("size", (4.5, 4), TypeError),
        ("flip", 1.5, ValueError),
        ("flip", math.nan, ValueError),
        ("jitter", "yes", TypeError),
        ("hue", 0.6, ValueError),
        ("brightness", -0.1, ValueError),
        ("crop", 1, TypeError),
        ("crop_scale", (0.5, 0.1), ValueError),
        ("crop_ratio", (0.0, 1.0), ValueError),
        ("blur_sigma", (0.0, 1.0), ValueError),
        ("blur_kernel", 4, ValueError),
        ("blur_kernel", 3.0, TypeError),
        ("std", (0.2, 0.0, 0.2), ValueError),
        ("mean", (), TypeError),
        ("std", (0.2,), TypeError),
        ("translate", (0.1, 2.0), ValueError),
    ],
)
def test_bad_settings_are_refused_by_name(name, value, error):
    with pytest.raises(error, match=rf"^{name} must .* got "):
        AugmentSpec(**{"size": (8, 8), name: value})


def test_mean_and_standard_deviation_have_as_many_channels():
    with pytest.raises(TypeError, match=r"^std must be as many numbers as mean, 1, got"):
        AugmentSpec(size=(8, 8), mean=(0.2,))


@pytest.mark.parametrize(
    ("call", "name", "error"),
    [
        (lambda a: a.apply(noise(2, 8, 8).float(), a.draw([0, 1], 0, 0)), "images", TypeError),
        (lambda a: a.apply(noise(2, 8, 8).numpy(), a.draw([0, 1], 0, 0)), "images", TypeError),
        (lambda a: a.apply(noise(2, 8, 9), a.draw([0, 1], 0, 0)), "images", ValueError),
        (lambda a: a.apply(noise(2, 8, 8, channels=1), a.draw([0, 1], 0, 0)), "images", ValueError),
        (lambda a: a.apply(noise(2, 8, 8)[0], a.draw([0, 1], 0, 0)), "images", ValueError),
        (lambda a: a.apply(noise(2, 8, 8), a.draw([0], 0, 0)), "params", ValueError),
        (lambda a: a.draw([0.5], 0, 0), "indices", TypeError),
        (lambda a: a.draw([-1], 0, 0), "indices", ValueError),
        (lambda a: a.draw([[1]], 0, 0), "indices", ValueError),
        (lambda a: a.draw([1], -1, 0), "epoch", ValueError),
        (lambda a: a.draw([1], 0, 1.0), "view", TypeError),
        (lambda a: Augment(a.spec, 2**64), "seed", ValueError),
        (lambda a: Augment({"size": (8, 8)}, 0), "spec", TypeError),
        (lambda a: to_uint8(noise(2, 8, 8), a.spec), "images", ValueError),
        (lambda a: center_view(noise(2, 9, 8), a.spec), "images", ValueError),
    ],
)
def test_bad_arguments_are_refused_by_name(call, name, error):
    with pytest.raises(error, match=rf"^{name} must .* got "):
        call(Augment(AugmentSpec(size=(8, 8)), 0))
