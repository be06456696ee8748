"""DALI's pipelines on the CPU against the torch twin, sample by sample, and as processes use them."""

import dataclasses
import math
import multiprocessing
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from scatsimclr.config import load_config
from scatsimclr.data import dali
from scatsimclr.data.augment import Augment, AugmentSpec, center_view
from scatsimclr.data.datasets import load
from scatsimclr.data.loader import PairLoader
from scatsimclr.data.prefetch import ahead
from scatsimclr.data.pretext import Jigsaw, Rotation
from scatsimclr.errors import UserError
from scatsimclr.training.setup import build_augment

pytestmark = pytest.mark.skipif(dali.dali_missing() is not None, reason=str(dali.dali_missing()))

OFF = {"crop": False, "flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0}
SIZES = [(32, 32), (96, 96), (24, 41), (8, 8)]


def pictures(batch, height, width, noise=8.0, seed=0):
    """Smooth colourful pictures: uint8 (B, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width][..., None]
    speed, phase = rng.uniform(0.02, 0.3, (2, batch, 1, 1, 3)), rng.uniform(0, 6, (batch, 1, 1, 3))
    images = (
        128
        + 100 * np.sin(speed[0] * x + speed[1] * y + phase)
        + rng.normal(0, noise, (batch, height, width, 3))
    )
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8))


@pytest.fixture(params=["columns as rows", "upright"])
def graph(request, monkeypatch):
    """The CPU's pipelines, and on the CPU those of a GPU."""
    upright = request.param == "upright"
    monkeypatch.setattr(dali, "_upright", lambda device: upright)
    return request.param


def test_gpu_pipelines_give_results_on_a_stream(monkeypatch):
    """Otherwise DALI refuses every call. Building one needs a GPU."""
    import nvidia.dali

    monkeypatch.setattr(nvidia.dali.Pipeline, "build", lambda self: None)
    spec = AugmentSpec((8, 8), affine=True)
    assert dali._build(spec, torch.device("cuda", 0), True, True, 1).dali.exec_dynamic


def both(spec, images, **options):
    """Levels of DALI's views and of the twin's, with the same draws; and the draws."""
    twin, ours = Augment(spec, 4), dali.DaliAugment(spec, 4, **options)
    params = twin.draw(range(len(images)), 1, 0)
    return *((a.apply(images, params, normalize=False) * 255).round() for a in (ours, twin)), params


# Mean distance in levels (facts of DALI's own single step: 0.25), and the share of values more than 2 apart. DALI's
# filter is an interpolated table, so magnification is what decides: crops of 8 × 8 are a few pixels.
CROP = {(32, 32): (0.2, 5e-4), (96, 96): (0.1, 1e-4), (24, 41): (0.2, 5e-4), (8, 8): (0.5, 0.01)}
# A GPU's pipelines have DALI round where Pillow does not.
UPRIGHT = {(32, 32): (0.35, 5e-4), (96, 96): (0.3, 1e-4), (24, 41): (0.35, 5e-4), (8, 8): (0.5, 0.01)}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crop_agrees_within_levels(size, graph):
    ours, twin, _ = both(AugmentSpec(size, **{**OFF, "crop": True}), pictures(128, *size, noise=0))
    distance, (mean, share) = (ours - twin).abs(), (UPRIGHT if graph == "upright" else CROP)[size]
    assert distance.mean() < mean
    assert (distance > 2).double().mean() < share
    assert distance.max() <= (5 if graph == "upright" else 4)


def test_crop_of_noise_agrees_on_average():
    """Noise is the worst case: Lanczos over- and undershoots everywhere."""
    images = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8)
    ours, twin, _ = both(AugmentSpec((32, 32), **{**OFF, "crop": True}), images)
    distance = (ours - twin).abs()
    assert distance.mean() < 1.2
    assert distance.max() <= 32


@pytest.mark.parametrize(
    "step",
    [
        {"flip": 0.5},
        {"jitter": 1.0},
        {"jitter": 1.0, "hue": 0.0},
        {"grayscale": 0.5},
        {"blur": 1.0, "blur_kernel": 9},
    ],
    ids=lambda step: "-".join(step),
)
def test_everything_but_the_geometry_is_the_twins_bits(step):
    ours, twin, _ = both(AugmentSpec((24, 30), **{**OFF, **step}), pictures(64, 24, 30))
    assert torch.equal(ours, twin)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_affine_moves_the_same_pixels(size, graph):
    """Up to ties: DALI maps in float32, Pillow in 16.16 fixed point."""
    for flip in (0.0, 1.0):
        spec = AugmentSpec(size, **{**OFF, "affine": True, "flip": flip})
        ours, twin, _ = both(spec, pictures(64, *size, noise=60))
        assert (ours != twin).double().mean() < 0.02


def test_flip_and_crop_and_affine_compose_in_the_recipes_order(graph):
    ours, twin, params = both(AugmentSpec((32, 32), affine=True, **{**OFF, "crop": True, "flip": 0.5}),
                              pictures(64, 32, 32, noise=0))  # fmt: skip
    assert 0 < params.flip.sum() < 64
    assert ((ours - twin).abs() > 3).double().mean() < 0.02


def test_whole_views_agree_in_distribution_over_10000_draws(graph):
    """Same draws, so that crops and probabilities are the same numbers; means and variances within rounding."""
    spec, size = AugmentSpec((16, 16)), (16, 16)
    twin, ours = Augment(spec, 9), dali.DaliAugment(spec, 9)
    params, images = ours.draw(range(10000), 0, 1), pictures(500, *size).repeat(20, 1, 1, 1)
    others = twin.draw(range(10000), 0, 1)
    for field in dataclasses.fields(params):
        assert torch.equal(getattr(params, field.name), getattr(others, field.name))
    area = (params.box[:, 2] * params.box[:, 3] / 256).double()
    assert abs(area[area < 0.7].mean() - 0.39) < 0.02
    for field, p in (("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5)):
        assert abs(getattr(params, field).double().mean() - p) < 4 * math.sqrt(p * (1 - p) / 10000), field
    first, second = (a.apply(images, params, normalize=False).double() * 255 for a in (ours, twin))
    assert (first.mean((0, 2, 3)) - second.mean((0, 2, 3))).abs().max() < 0.2
    assert (first.var((0, 2, 3)) / second.var((0, 2, 3)) - 1).abs().max() < 0.01
    assert (first.mean((1, 2, 3)) - second.mean((1, 2, 3))).abs().max() < 2  # picture by picture


@pytest.mark.parametrize("affine", [False, True])
def test_views_are_bit_equal_whatever_the_batch_and_the_threads(affine, monkeypatch, graph):
    spec, images = AugmentSpec((19, 25), affine=affine), pictures(64, 19, 25)
    augment = dali.DaliAugment(spec, 11)
    whole = augment(images, range(64), 1, 0)
    for step in (1, 7, 33):
        parts = [augment(images[k : k + step], range(k, min(k + step, 64)), 1, 0) for k in range(0, 64, step)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(dali.DaliAugment(spec, 11, threads=2)(images, range(64), 1, 0), whole)
    assert torch.equal(augment(augment.resident(images), range(64), 1, 0), whole)
    monkeypatch.setattr(dali, "BATCH", 10)
    assert torch.equal(dali.DaliAugment(spec, 11)(images, range(64), 1, 0), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shape_type_and_layout(dtype):
    spec, images = AugmentSpec((12, 14)), pictures(5, 12, 14)
    before = images.clone()
    augment = dali.DaliAugment(spec, 0, dtype=dtype)
    view = augment(images, range(5), 0, 0)
    assert view.dtype == dtype
    assert view.shape == (5, 3, 12, 14)
    assert view.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    exact = dali.DaliAugment(spec, 0)(images, range(5), 0, 0)
    assert torch.equal(view, exact.to(dtype))
    assert augment(images[:0], [], 0, 0).shape == (0, 3, 12, 14)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("affine", [False, True])
def test_a_grey_view_is_the_first_channel_of_the_view_of_three_equal_ones(size, affine, graph):
    images = pictures(64, *size)[..., :1].contiguous()
    grey = AugmentSpec(size, affine=affine, blur_kernel=5, mean=(0.3,), std=(0.4,))
    three = dataclasses.replace(grey, mean=(0.3,) * 3, std=(0.4,) * 3)
    augment = dali.DaliAugment(grey, 3)
    one = augment(images, range(64), 1, 0)
    expected = dali.DaliAugment(three, 3)(images.expand(-1, -1, -1, 3), range(64), 1, 0)
    assert one.shape == (64, 1, *size)
    assert torch.equal(one, expected[:, :1])
    assert torch.equal(augment(augment.resident(images), range(64), 1, 0), one)
    pair = PairLoader(images, augment, 16, 0).batch(torch.arange(16), 1).views
    assert torch.equal(pair[0], one[:16])


def test_a_result_outlives_the_next_call(graph):
    augment = dali.DaliAugment(AugmentSpec((16, 16), **{**OFF, "crop": True}), 0)
    images = pictures(8, 16, 16)
    first = augment(images, range(8), 0, 0)
    kept = first.clone()
    augment(255 - images, range(8), 0, 1)
    assert torch.equal(first, kept)


def test_everything_off_is_the_centre_view():
    spec, images = AugmentSpec((10, 10), **OFF), pictures(4, 10, 10)
    assert torch.equal(dali.DaliAugment(spec, 0)(images, range(4), 0, 0), center_view(images, spec))


def test_one_pixel_images(graph):
    ours, twin, _ = both(AugmentSpec((1, 1)), torch.randint(0, 256, (20, 1, 1, 3), dtype=torch.uint8))
    assert torch.equal(ours, twin)


def test_undoing_the_rotation_of_a_label_gives_the_image():
    spec, images = AugmentSpec((12, 12), **OFF), pictures(6, 12, 12)
    views, labels = Rotation(dali.DaliAugment(spec, 0))(images, torch.arange(6), 0)
    plain = center_view(images, spec)
    for view, label, index in zip(views, labels.tolist(), range(24), strict=True):
        assert torch.equal(torch.rot90(view, label, (1, 2)), plain[index // 4])


def test_rotated_views_are_near_the_twins():
    images = pictures(6, 24, 24, noise=0)
    spec = AugmentSpec((24, 24), jitter=0, grayscale=0)
    (ours, a), (twin, b) = (
        Rotation(made(spec, 5))(images, torch.arange(6), 2) for made in (dali.DaliAugment, Augment)
    )
    assert torch.equal(a, b)
    assert (ours - twin).abs().max() < 5 / 255 / min(spec.std)


@pytest.mark.parametrize("size", [(12, 12), (18, 24)])
def test_undoing_the_permutation_of_a_label_gives_the_tiles_in_reading_order(size):
    spec, images = AugmentSpec(size), pictures(6, *size, noise=0)
    task = Jigsaw(dali.DaliAugment(spec, 1))
    views, labels = task(images, torch.arange(6), 2)
    rows, columns = ([(-(-s * i // 3), s * (i + 1) // 3) for i in range(3)] for s in size)
    for image, label, nine in zip(images, labels.tolist(), views.split(9), strict=True):
        restored = torch.empty_like(nine)
        restored[task.permutations[label]] = nine
        tiles = [
            Image.fromarray(image[top:bottom, left:right].numpy()).resize(size[::-1], Image.LANCZOS)
            for top, bottom in rows
            for left, right in columns
        ]
        expected = center_view(torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])), spec)
        assert (restored - expected).abs().max() < 5 / 255 / min(spec.std)


def test_a_call_that_fails_says_why_and_the_next_one_works(graph):
    augment = dali.DaliAugment(AugmentSpec((16, 16)), 0)
    images = pictures(4, 16, 16)
    good = augment(images, range(4), 0, 0)
    params = augment.draw(range(4), 0, 0)
    params.box[2] = torch.tensor([3, 3, 40, 40])
    with pytest.raises(RuntimeError, match="slice"):
        augment.apply(images, params)
    with pytest.raises(RuntimeError, match="slice"):
        next(ahead_of(augment, images, params))
    assert torch.equal(augment(images, range(4), 0, 0), good)


def ahead_of(augment, images, params):
    return ahead([lambda: augment.apply(images, params)] * 3, 2)


def test_several_threads_may_share_one(graph):
    augment, images = dali.DaliAugment(AugmentSpec((16, 16)), 0), pictures(32, 16, 16)
    expected = [augment(images, range(32), epoch, 0) for epoch in range(4)]
    wrong = []

    def work(epoch):
        for _ in range(20):
            if not torch.equal(augment(images, range(32), epoch, 0), expected[epoch]):
                wrong.append(epoch)

    threads = [threading.Thread(target=work, args=(epoch,)) for epoch in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _digest(augment, images, queue):
    torch.set_num_threads(1)
    queue.put(augment(images, range(len(images)), 0, 0).sum().item())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_other_processes_make_pipelines_of_their_own(method):
    context = multiprocessing.get_context(method)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork either
    augment, images = dali.DaliAugment(AugmentSpec((16, 16)), 0), pictures(8, 16, 16)
    expected = augment(images, range(8), 0, 0).sum().item()
    torch.set_num_threads(threads)
    queue = context.Queue()
    child = context.Process(target=_digest, args=(augment, images, queue))
    child.start()
    assert queue.get(timeout=120) == expected
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize("prefetch", [0, 2])
def test_epochs_repeat_and_begin_anywhere(prefetch):
    spec, images = AugmentSpec((16, 16)), pictures(40, 16, 16)
    pairs = PairLoader(images, dali.DaliAugment(spec, 2), 8, 2, prefetch=prefetch, threads=2)
    whole, rest = list(pairs.epoch(1)), list(pairs.epoch(1, start=3))
    assert len(whole) == 5
    for first, second in zip(whole[3:], rest, strict=True):
        assert torch.equal(first.indices, second.indices)
        assert all(torch.equal(a, b) for a, b in zip(first.views, second.views, strict=True))


def test_folders_of_odd_files(tmp_path):
    """What cannot be read is named and left out by the reader; everything else goes through the pipeline."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (9, 7, 4), dtype=np.uint8)
    Image.fromarray(colours[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(colours).save(tmp_path / "rgba.png")
    Image.fromarray(colours[..., 0].astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(colours, mode=None).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(colours[:1, :1, :3]).save(tmp_path / "pixel.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colours[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    whole = (tmp_path / "rgba.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    images = load("folder", "pretrain", size=(12, 12), data_dir=tmp_path)
    assert len(images) == 6
    assert [path for path, _ in images.skipped] == ["cut.png"]
    spec = AugmentSpec((12, 12))
    pairs = PairLoader(images.images, dali.DaliAugment(spec, 0), 6, 0, prefetch=1)
    (batch,) = pairs.epoch(0)
    assert all(view.isfinite().all() for view in batch.views)


def test_the_settings_choose_the_pipeline(monkeypatch):
    def name(*settings):
        return build_augment(load_config(None, ["dataset.input_shape=(8,8,3)", *settings]), 0).name

    assert name("fused=true") == "dali"
    assert name() == "torch"
    assert name("data.pipeline=dali") == "dali"
    assert name("fused=true", "data.pipeline=torch") == "torch"
    monkeypatch.setattr("scatsimclr.training.setup.dali_missing", lambda: "not installed")
    assert name("fused=true") == "torch"
    with pytest.raises(UserError, match=r"^not installed$"):
        name("data.pipeline=dali")


def test_without_dali_it_is_missing_not_broken(monkeypatch):
    monkeypatch.delitem(sys.modules, "nvidia.dali", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia", None)
    assert "needs nvidia-dali-cuda130: pip install 'scatsimclr[dali]'" in dali.dali_missing()
