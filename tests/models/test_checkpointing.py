"""Activation checkpointing and folded normalisation change memory and time, not results."""

import copy

import pytest
import torch
from torch import nn

from scatsimclr.models.folding import folded
from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.models.scatsimclr import ScatSimCLR

MODELS = {
    "scatsimclr8": lambda: ScatSimCLR(1, 2, (16, 16, 3), 8, 16),
    "resnet18": lambda: ResNetSimCLR("resnet18", 16, cifar_stem=True),
    "resnet50": lambda: ResNetSimCLR("resnet50", 16),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def test_checkpointed_training_is_the_same_to_the_last_bit(model):
    other = copy.deepcopy(model)
    other.activation_checkpointing = True
    for seed in range(2):
        x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        for network in (model, other):
            network.zero_grad()
            network(x)[1].square().sum().backward()
    ours, theirs = other.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    for own, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert own.grad is None if expected.grad is None else torch.equal(own.grad, expected.grad)


def saved_bytes(model, x):
    """What autograd keeps between forward and backward, besides parameters."""
    kept = {}
    parameters = {parameter.data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x)[1].sum()
    del out
    return sum(kept.values())


def test_checkpointing_keeps_less(model):
    x = torch.rand(4, 3, 16, 16)
    plain = saved_bytes(model, x)
    model.activation_checkpointing = True
    assert saved_bytes(model, x) < 0.6 * plain


def test_folding_leaves_no_normalisation_and_the_same_features(model):
    with torch.no_grad():
        for seed in range(3):  # running statistics that are not their initial values
            model(5 * torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    state = copy.deepcopy(model.state_dict())
    model.eval()
    fast, x = folded(model), torch.rand(7, 3, 16, 16)
    used = [m for name, m in fast.named_modules() if isinstance(m, nn.BatchNorm2d) and name != "_scatnet_bn"]
    assert not used
    with torch.no_grad():
        for own, expected in zip(fast(x), model(x), strict=True):
            assert (own - expected).norm() <= 1e-5 * expected.norm()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
