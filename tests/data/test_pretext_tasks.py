"""The pretext views: labels are checked by undoing the transformation."""

import numpy as np
import pytest
import torch
from PIL import Image

from scatsimclr.data.augment import Augment, AugmentSpec, center_view, to_uint8
from scatsimclr.data.pretext import Jigsaw, Rotation

STILL = {"crop": False, "flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0}


def images(count, size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def test_undoing_the_rotation_of_a_label_gives_the_image_back():
    spec = AugmentSpec((12, 12), **STILL)
    pictures = images(5, (12, 12))
    views, labels = Rotation(Augment(spec, 0))(pictures, torch.arange(5), 0)
    assert views.shape == (20, 3, 12, 12)
    assert labels.tolist() == [0, 1, 2, 3] * 5
    for index, (view, label) in enumerate(zip(to_uint8(views, spec), labels.tolist(), strict=True)):
        image = Image.fromarray(view.numpy()).rotate(90 * label)  # Pillow turns counter-clockwise
        assert np.array_equal(np.asarray(image), pictures[index // 4].numpy())


def test_every_rotated_copy_is_an_augmentation_of_its_own():
    augment = Augment(AugmentSpec((12, 12)), 3)
    pictures = images(2, (12, 12))
    views, _ = Rotation(augment)(pictures, torch.tensor([4, 7]), 5)
    for label in range(4):
        turned = torch.rot90(pictures, -label, (1, 2)).contiguous()
        assert torch.equal(views[label::4], augment(turned, torch.tensor([4, 7]), 5, 2 + label))


def test_rotation_needs_square_images():
    with pytest.raises(ValueError, match="square"):
        Rotation(Augment(AugmentSpec((12, 14)), 0))


@pytest.mark.parametrize("size", [(12, 12), (16, 16), (18, 24)])
def test_undoing_the_permutation_of_a_label_gives_the_tiles_in_reading_order(size):
    spec = AugmentSpec(size)
    pictures = images(6, size)
    task = Jigsaw(Augment(spec, 1))
    views, labels = task(pictures, torch.arange(6), 2)
    assert views.shape == (54, 3, *size)
    height, width = size
    rows = [(-(-height * i // 3), height * (i + 1) // 3) for i in range(3)]
    columns = [(-(-width * i // 3), width * (i + 1) // 3) for i in range(3)]
    for image, label, nine in zip(pictures, labels.tolist(), views.split(9), strict=True):
        restored = torch.empty_like(nine)
        restored[task.permutations[label]] = nine
        tiles = [
            Image.fromarray(image[top:bottom, left:right].numpy()).resize((width, height), Image.LANCZOS)
            for top, bottom in rows
            for left, right in columns
        ]
        expected = torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles]))
        assert torch.equal(restored, center_view(expected, spec))


def test_permutations_are_the_originals_and_every_one_is_drawn():
    task = Jigsaw(Augment(AugmentSpec((6, 6)), 0))
    assert task.permutations.shape == (35, 9)
    assert task.permutations[0].tolist() == [2, 4, 6, 0, 5, 8, 7, 1, 3]
    assert len(task.permutations.unique(dim=0)) == 35
    _, labels = task(torch.zeros(3500, 6, 6, 3, dtype=torch.uint8), torch.arange(3500), 0)
    counts = labels.bincount(minlength=35)
    assert counts.min() > 60  # 100 ± 10
    assert counts.max() < 140


@pytest.mark.parametrize("task", [Rotation, Jigsaw])
def test_views_depend_on_seed_epoch_and_sample_alone(task):
    pictures, indices = images(4, (9, 9)), torch.tensor([3, 9, 1, 0])
    make = task(Augment(AugmentSpec((9, 9)), 2))
    views, labels = make(pictures, indices, 1)
    part_views, part_labels = make(pictures[1:3], indices[1:3], 1)
    per_label = len(labels) // 4
    assert torch.equal(views[task.copies : 3 * task.copies], part_views)
    assert torch.equal(labels[per_label : 3 * per_label], part_labels)
    assert not torch.equal(make(pictures, indices, 2)[0], views)
    assert not torch.equal(task(Augment(AugmentSpec((9, 9)), 3))(pictures, indices, 1)[0], views)


@pytest.mark.parametrize("task", [Rotation, Jigsaw])
def test_grey_views_are_the_first_channel_of_three_equal_ones(task):
    one = images(4, (12, 12))[..., :1]
    views = []
    for channels in (1, 3):
        spec = AugmentSpec(size=(12, 12), mean=(0.3,) * channels, std=(0.2,) * channels)
        views.append(task(Augment(spec, 1))(one.expand(-1, -1, -1, channels), torch.arange(4), 0))
    (grey, labels), (three, others) = views
    assert grey.shape == (4 * task.copies, 1, 12, 12)
    assert torch.equal(grey, three[:, :1])
    assert torch.equal(labels, others)


def test_tiles_are_normalised():
    spec = AugmentSpec((6, 6))
    views, _ = Jigsaw(Augment(spec, 0))(
        torch.full((1, 6, 6, 3), 255, dtype=torch.uint8), torch.tensor([0]), 0
    )
    expected = (1 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    assert torch.allclose(views[0, :, 0, 0], expected)
