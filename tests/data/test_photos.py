"""Patches of two photographs: where they are cut, and that no pixel is in both splits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from scatsimclr.data import photos
from scatsimclr.data.datasets import DATASETS, load, normalization
from scatsimclr.data.photos import PATCH, positions


def covered(split):
    """Per photograph the pixels that are in a patch of the split."""
    masks = [np.zeros(image.shape[:2], bool) for image in load_sample_images().images]
    for patch in positions(split):
        area = masks[patch.photograph][patch.top : patch.top + PATCH, patch.left : patch.left + PATCH]
        assert area.shape == (PATCH, PATCH)  # wholly inside
        area[...] = True
    return masks


def test_no_pixel_is_in_both_splits():
    for train, test in zip(covered("train"), covered("test"), strict=True):
        assert not (train & test).any()
        assert train.mean() > 0.5
        assert test.mean() > 0.15


def test_a_patch_lies_within_the_region_of_its_class():
    for split in ("train", "test"):
        for patch in positions(split):
            photograph, region = divmod(patch.label, 6)
            row, column = divmod(region, 3)
            assert patch.photograph == photograph
            assert patch.top // 212 == (patch.top + PATCH - 1) // 212 == row
            assert patch.left // 212 == (patch.left + PATCH - 1) // 212 == column


def test_the_patches_are_cut_from_the_photographs():
    originals = load_sample_images().images
    for split in ("train", "test"):
        images = load("photos", split, size=(PATCH, PATCH), progress=False)
        for place, image, label in zip(positions(split), images.images, images.labels, strict=True):
            source = originals[place.photograph]
            assert label == place.label
            assert np.array_equal(
                image, source[place.top : place.top + PATCH, place.left : place.left + PATCH]
            )


@pytest.mark.parametrize(("split", "each"), [("train", 96), ("pretrain", 96), ("test", 40)])
def test_classes_are_balanced(split, each):
    images = load("photos", split, size=DATASETS["photos"].size)
    assert images.images.shape == (12 * each, 32, 32, 3)
    assert torch.bincount(images.labels).tolist() == [each] * 12
    assert len(images.classes) == len(set(images.classes)) == 12
    assert images.labelled


def test_positions_are_distinct_and_do_not_depend_on_random_state():
    first = positions("train"), positions("test")
    torch.manual_seed(1)
    assert (positions("train"), positions("test")) == first
    everything = [*first[0], *first[1]]
    assert len(set(everything)) == len(everything)
    # they are part of every figure measured on the set: they may not change with a library
    assert [tuple(patch) for patch in first[1][::150]] == [
        (0, 0, 9, 0),
        (0, 374, 53, 3),
        (1, 107, 320, 7),
        (1, 265, 591, 11),
    ]


def test_size_and_normalisation():
    wide = load("photos", "test", size=(24, 48), progress=False)
    assert wide.images.shape == (480, 24, 48, 3)
    assert normalization("photos") == normalization("stl10")
    assert photos.CLASSES[0] == "china top left"
    assert photos.CLASSES[-1] == "flower bottom right"
