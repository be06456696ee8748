"""Claim: pairs of views are made several times as fast as by the original code, one image at a time in two processes.

The original code applies a list of steps to Pillow images, with OpenCV's blur, in a DataLoader with two workers. Each
round makes whole epochs with each competitor in turn on two cores (`benchmarks/measure.py` says what is recorded; an
item is an image, of which two views are made). Ours is DALI where it is installed, else the torch twin. Before timing,
the views of all for the same parameters are compared.
"""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from benchmarks.measure import THREADS, compare
from scatsimclr.allocator import keep_freed_memory
from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.dali import DaliAugment, dali_missing
from scatsimclr.data.loader import PairLoader

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

BATCH = 64
IMAGES = {32: 4096, 96: 2048}


def pictures(count, size):
    """Smooth colours with noise, uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size][..., None]
    speed, phase = rng.uniform(0.02, 0.4, (2, count, 1, 1, 3)), rng.uniform(0, 6, (count, 1, 1, 3))
    images = 128 + 100 * np.sin(speed[0] * x + speed[1] * y + phase)
    return (images + rng.normal(0, 10, images.shape)).clip(0, 255).astype(np.uint8)


def drawn(spec):
    """One view's parameters, drawn as by torchvision's transforms."""
    height, width = spec.size
    for _ in range(10):
        area = height * width * random.uniform(*spec.crop_scale)
        ratio = math.exp(random.uniform(*map(math.log, spec.crop_ratio)))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            box = random.randint(0, height - tall), random.randint(0, width - wide), tall, wide
            break
    else:
        box = 0, 0, height, width
    factors = [random.uniform(1 - s, 1 + s) for s in (spec.brightness, spec.contrast, spec.saturation)]
    factors.append(random.uniform(-spec.hue, spec.hue))
    return {
        "box": box, "flip": random.random() < spec.flip, "jitter": random.random() < spec.jitter,
        "order": random.sample(range(4), 4), "factors": factors, "grayscale": random.random() < spec.grayscale,
        "blur": random.random() < spec.blur, "sigma": random.uniform(*spec.blur_sigma),
    }  # fmt: skip


def one_view(image, spec, params):
    """The original code's steps on one image, uint8 (H, W, 3) → float32 (3, H, W)."""
    height, width = spec.size
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    top, left, tall, wide = params["box"]
    picture = picture.crop((left, top, left + wide, top + tall))
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if params["flip"]:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for step in params["order"] if params["jitter"] else ():
        factor = params["factors"][step]
        if step == 3:
            hue, saturation, value = picture.convert("HSV").split()
            turned = (np.array(hue).astype(np.int64) + int(factor * 255)).astype(np.uint8)
            picture = Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
        else:
            enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
            picture = enhancer(picture).enhance(factor)
    if params["grayscale"]:
        picture = picture.convert("L").convert("RGB")
    levels = np.array(picture)
    if params["blur"]:
        levels = cv2.GaussianBlur(levels, (spec.blur_taps, spec.blur_taps), params["sigma"])
    scaled = torch.from_numpy(levels).permute(2, 0, 1).contiguous().float().div_(255)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.mean, spec.std))
    return scaled.sub_(mean).div_(std)


class Original(torch.utils.data.Dataset):
    """Two views of each image, drawn anew each time."""

    def __init__(self, images, spec):
        self.images, self.spec = images, spec

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        cv2.setNumThreads(0)
        return tuple(one_view(self.images[index], self.spec, drawn(self.spec)) for _ in range(2))


def assert_close(images, spec):
    """For the same parameters, the torch twin's views equal the original's bit for bit, and DALI's are close."""
    twin = Augment(spec, 0)
    params = twin.draw(range(len(images)), 0, 0)
    fields = ("flip", "jitter", "order", "factors", "grayscale", "blur", "sigma", "box")
    rows = [{name: getattr(params, name)[i].tolist() for name in fields} for i in range(len(images))]
    theirs = torch.stack([one_view(image, spec, row) for image, row in zip(images, rows, strict=True)])
    torch.testing.assert_close(twin.apply(torch.from_numpy(images), params), theirs, rtol=0, atol=0)
    if not dali_missing():
        ours = DaliAugment(spec, 0).apply(torch.from_numpy(images), params)
        assert (ours - theirs).abs().mean() < 0.5 / 255 / min(spec.std)


@pytest.mark.parametrize("size", [pytest.param(96, marks=pytest.mark.full), 32])
def bench_two_views(benchmark, size):
    count = BATCH if benchmark.disabled else IMAGES[size]
    images, spec = pictures(count, size), AugmentSpec((size, size))
    assert_close(images[:BATCH], spec)
    keep_freed_memory()  # as the commands that train do
    workers = torch.utils.data.DataLoader(
        Original(images, spec), BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    augments = {"torch twin": Augment(spec, 0), "torch reference": Augment(spec, 0, backend="reference")}
    if not dali_missing():
        augments["dali"] = DaliAugment(spec, 0)
    loaders = {
        name: PairLoader(torch.from_numpy(images), augment, BATCH, 0, prefetch=4, threads=THREADS)
        for name, augment in augments.items()
    }
    epochs = {name: (lambda loader=loader: loader.epoch(0)) for name, loader in loaders.items()}
    epochs["original"] = lambda: iter(workers)
    # For the record, ours is DALI or, without it, the twin.
    epochs["ours"] = epochs.pop("dali" if "dali" in epochs else "torch twin")

    def whole_epoch(name):
        for _ in epochs[name]():
            pass

    compare(
        benchmark,
        {name: lambda name=name: whole_epoch(name) for name in epochs},
        op="two views",
        case={"size": size, "batch": BATCH},
        peers=["original"],
        items=count,
        # uint8 read, two float32 views written.
        work={"bytes": count * 3 * size * size * (1 + 2 * 4)},
        ours="torch twin" if dali_missing() else "DALI",
    )
