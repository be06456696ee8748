"""Neighbours as positives: which images they are, and how often a second view is theirs."""

import pytest
import torch

from scatsimclr.config import load_config
from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.loader import PARTNERS, PairLoader
from scatsimclr.errors import UserError
from scatsimclr.evaluation.front import fit_front
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.training.loop import Trainer
from scatsimclr.training.neighbours import nearest_images

SPEC = AugmentSpec((16, 16), crop_scale=(0.9, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
STILL = AugmentSpec((16, 16), crop=False, flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)


def families(count=6, each=4):
    """Images (count · each, 16, 16, 3) of which those of one family differ by a little noise; their families."""
    generator = torch.Generator().manual_seed(0)
    bases = torch.randint(30, 220, (count, 1, 8, 8), generator=generator).float()
    bases = torch.nn.functional.interpolate(bases, (16, 16), mode="bilinear").permute(0, 2, 3, 1)
    noise = torch.randint(-8, 9, (count, each, 16, 16, 1), generator=generator)
    images = (bases[:, None] + noise).expand(-1, -1, -1, -1, 3).flatten(0, 1)
    return images.to(torch.uint8).contiguous(), torch.arange(count).repeat_interleave(each)


def test_the_nearest_are_of_the_same_family_and_never_the_image_itself():
    images, family = families()
    model = ScatSimCLR(2, 4, (16, 16, 3), 8, 16, front="log").eval()
    fit_front(model, images, Augment(SPEC, 0))
    found = nearest_images(model, images, SPEC, 3)
    assert found.shape == (24, 3)
    assert torch.equal(family[found], family[:, None].expand(-1, 3))
    assert not (found == torch.arange(24)[:, None]).any()
    with pytest.raises(UserError, match="neighbours=24"):
        nearest_images(model, images, SPEC, 24)


def test_half_of_the_second_views_are_a_neighbours_and_each_neighbour_is_drawn():
    images, _ = families(50, 4)
    neighbours = torch.arange(200)[:, None] ^ torch.tensor([1, 2, 3])
    loader = PairLoader(images, Augment(STILL, 0), 200, seed=7, neighbours=neighbours)
    taken, used = 0, torch.zeros(4)
    for epoch in range(5):
        partners = loader.partners(torch.arange(200), epoch)
        used += torch.bincount(partners ^ torch.arange(200), minlength=4)
        taken += int((partners != torch.arange(200)).sum())
    assert abs(taken / 1000 - PARTNERS) < 0.05
    assert (used[1:] > 100).all()
    # Whatever batch an image is in, its partner is the same; in another epoch another.
    assert torch.equal(
        loader.partners(torch.tensor([5, 150]), 3), loader.partners(torch.arange(200), 3)[[5, 150]]
    )
    assert not torch.equal(loader.partners(torch.arange(200), 3), loader.partners(torch.arange(200), 4))


def test_the_second_view_is_made_of_the_partners_image():
    images, _ = families()
    neighbours = (torch.arange(24)[:, None] + 1) % 24
    loader = PairLoader(images, Augment(STILL, 0), 24, seed=1, neighbours=neighbours)
    batch = loader.batch(torch.arange(24), 0)
    plain = PairLoader(images, Augment(STILL, 0), 24, seed=1).batch(torch.arange(24), 0)
    assert torch.equal(batch.views[0], plain.views[0])
    assert torch.equal(batch.views[1], plain.views[1][loader.partners(torch.arange(24), 0)])
    assert not torch.equal(batch.views[1], plain.views[1])


def test_settings_that_cannot_have_neighbours_are_refused():
    with pytest.raises(UserError, match=r"neighbours=5 needs a ScatSimCLR with model\.front=log"):
        load_config("cifar10", overrides=["neighbours=5"])
    # Settings of ScatSimCLR alone do not stand in a ResNet's way.
    assert load_config("cifar10", overrides=["neighbours=5", "model.base_model=resnet18"]).neighbours == 5
    with pytest.raises(UserError, match=r"evaluation\.features=whitened needs"):
        load_config("cifar10", overrides=["evaluation.features=whitened"])


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    changes = ["dataset.input_shape=(16, 16, 3)", "model.J=1", "model.L=2", "dataset.limit=80", "batch_size=16",
               "model.front=log", "model.head=normalised", "neighbours=3", "fused=true", "flat_epochs=9",
               "evaluation.probes=[knn]", "evaluation.labels_per_class=[2]"]  # fmt: skip
    whole = Trainer(load_config(overrides=[*changes, "epochs=2"]), tmp_path / "whole")
    whole.fit()
    Trainer(load_config(overrides=[*changes, "epochs=1"]), tmp_path / "part").fit()
    state = torch.load(tmp_path / "part" / "checkpoints" / "last.pt", weights_only=True)
    again = Trainer(load_config(overrides=[*changes, "epochs=2"]), tmp_path / "part", state)
    again.fit()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_the_normalised_head():
    torch.manual_seed(0)
    model = ScatSimCLR(2, 4, (16, 16, 3), 8, 16, head="normalised").train()
    _, z = model(torch.randn(40, 3, 16, 16))
    torch.testing.assert_close(z.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(16), atol=1e-3, rtol=0)
    assert model.l1.bias is None
    with pytest.raises(ValueError, match="head"):
        ScatSimCLR(2, 4, (16, 16, 3), 8, 16, head="large")
