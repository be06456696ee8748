"""Measures without labels: against the formulas written out, at their extremes, and what a probe leaves untouched."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.imageset import ImageSet
from scatsimclr.evaluation import quality


def views(n=17, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, d, generator=generator)
    return first, first + 0.5 * torch.randn(n, d, generator=generator)


def unit(row):
    return np.asarray(row, np.float64) / np.linalg.norm(np.asarray(row, np.float64))


def test_alignment_is_the_mean_squared_distance():
    first, second = views()
    expected = np.mean([np.sum((unit(a) - unit(b)) ** 2) for a, b in zip(first, second, strict=True)])
    assert quality.alignment(first, second) == pytest.approx(expected, rel=1e-12)
    assert quality.alignment(first, 3 * first) == pytest.approx(0, abs=1e-12)


def test_uniformity_is_the_log_of_the_mean_potential_over_pairs():
    z, _ = views()
    potentials = [
        math.exp(-2 * np.sum((unit(z[i]) - unit(z[j])) ** 2)) for i in range(len(z)) for j in range(i)
    ]
    assert quality.uniformity(z) == pytest.approx(math.log(np.mean(potentials)), rel=1e-12)
    assert quality.uniformity(z[:1].repeat(4, 1)) == pytest.approx(0, abs=1e-7)
    assert quality.uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)


def test_rankme_is_the_exponential_of_the_entropy_of_singular_values():
    z, _ = views()
    values = np.linalg.svd(z.double().numpy(), compute_uv=False)
    share = values / values.sum() + 1e-7
    assert quality.rankme(z) == pytest.approx(math.exp(-np.sum(share * np.log(share))), rel=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_counts_equal_directions(rank):
    rows = torch.linalg.qr(torch.randn(20, 20)).Q[:rank]
    assert quality.rankme(rows.repeat(3, 1)) == pytest.approx(rank, rel=1e-4)


def test_spread_is_one_on_the_sphere_and_zero_in_a_point():
    assert quality.spread(torch.randn(20_000, 16)) == pytest.approx(1, abs=0.01)
    assert quality.spread(torch.ones(9, 4)) == pytest.approx(0, abs=1e-7)
    z, _ = views()
    coordinates = np.stack([unit(row) for row in z])
    assert quality.spread(z) == pytest.approx(coordinates.std(0).mean() * math.sqrt(5), rel=1e-10)


def test_found_again_looks_among_all_second_views():
    first, second = views()
    hits = []
    for i, row in enumerate(first):
        cosines = [float(unit(row) @ unit(other)) for other in second]
        hits.append(int(np.argmax(cosines)) == i)
    assert 0 < np.mean(hits) < 1
    assert quality.found_again(first, second) == pytest.approx(np.mean(hits))
    assert quality.found_again(first, first) == 1


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        ({"spread": 0.001, "rankme": 1.0}, "nearly the same"),
        ({"spread": 0.9, "rankme": 2.0}, "few of their directions"),
        ({"spread": 0.9, "rankme": 7.0}, None),
    ],
)
def test_a_collapse_is_named(figures, word):
    found = quality.collapse({"rank_limit": 128, **figures})
    assert found is None if word is None else word in found


class Network(nn.Module):
    """h: mean colour and one more; z: `constant`, or h."""

    def __init__(self, constant=False):
        super().__init__()
        self.weight, self.constant = nn.Parameter(torch.ones(1)), constant
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        h = torch.cat((x.mean((2, 3)), x.std((1, 2, 3))[:, None]), 1) * self.weight
        self.norm(h)
        return h, torch.ones_like(h) if self.constant else h


def image_set(n, seed):
    images = torch.randint(0, 256, (n, 8, 8, 3), generator=torch.Generator().manual_seed(seed))
    return ImageSet(images.to(torch.uint8), torch.full((n,), -1), ())


def probe(*counts):
    augment = Augment(AugmentSpec((8, 8)), 3)
    return quality.Probe.of(augment, *(image_set(n, seed) for seed, n in enumerate(counts)))


def test_a_probe_measures_the_same_whenever_and_leaves_the_model_as_it_was():
    network, watched = Network().train(), probe(5, 40)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    figures = watched.measure(network)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert watched.measure(network, batch_size=7) == pytest.approx(figures, rel=1e-4)
    assert figures["images"] == 45
    assert (figures["rank_limit"], figures["rank_limit_h"]) == (4, 4)
    assert quality.collapse(watched.measure(Network(constant=True))) is not None


def test_a_probe_takes_the_first_set_whole_and_no_more_than_it_may():
    watched = probe(5, 1000)
    assert len(watched.images) == quality.IMAGES
    held_out = {tuple(image.flatten().tolist()) for image in image_set(5, 0).images}
    assert {tuple(image.flatten().tolist()) for image in watched.images[:5]} == held_out
    assert probe(0, 1).measure(Network()) == {}
