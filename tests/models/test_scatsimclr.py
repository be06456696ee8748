import pytest
import torch

from scatsimclr import ScatSimCLR
from scatsimclr.models.scatsimclr import ADAPTERS

# Parameters of the original's nets at J=2, L=16, RGB, out_dim 128, heads included.
PARAMETERS = {8: 6_106_214, 12: 9_278_150, 16: 10_459_846, 30: 15_501_638, 45: 16_591_302}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_four_blocks_are_ours():
    assert set(ADAPTERS) == {4, *PARAMETERS}
    assert count(ScatSimCLR(2, 8, (32, 32, 1), 4, 128)) < count(ScatSimCLR(2, 8, (32, 32, 1), 8, 128))


@pytest.mark.parametrize("blocks", sorted(PARAMETERS))
def test_parameter_counts_are_the_originals(blocks):
    assert count(ScatSimCLR(2, 16, (96, 96, 3), blocks, 128)) == PARAMETERS[blocks]


@pytest.mark.parametrize(("blocks", "millions"), [(12, 7.825), (30, 14.048)])
def test_stem_of_96_gives_the_papers_counts(blocks, millions):
    assert round(count(ScatSimCLR(2, 16, (96, 96, 3), blocks, 128, stem=96)) / 1e6, 3) == millions


@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_and_that_the_pooled_map_may_be_small(batch):
    model = ScatSimCLR(2, 4, (16, 20, 3), 8, 17)
    h, z = model.eval()(torch.randn(batch, 3, 16, 20))
    assert h.shape == (batch, 2048)
    assert z.shape == (batch, 17)
    assert torch.equal(
        model.encode(torch.zeros(batch, 3, 16, 20)), model.encode(torch.zeros(batch, 3, 16, 20))
    )


def test_state_dict_has_the_originals_names():
    names = set(ScatSimCLR(2, 4, (16, 16, 3), 12, 128).state_dict())
    assert {
        "_scatnet.tensor0",
        "_scatnet_bn.weight",
        "_adapter_network.0.weight",
        "_adapter_network.1.running_mean",
        "_adapter_network.3.0.downsample.0.weight",
        "_adapter_network.5.3.bn2.bias",
        "l1.weight",
        "l2.bias",
    } <= names


def test_every_trained_parameter_gets_a_gradient():
    model = ScatSimCLR(2, 4, (16, 16, 3), 8, 8)
    h, z = model(torch.randn(4, 3, 16, 16))
    (h.sum() + z.square().sum()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_gradient_reaches_the_image():
    model = ScatSimCLR(2, 4, (16, 16, 3), 8, 8).eval()
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    model(x)[1].square().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 4, (16, 16), 8, 8), "input_size must be"),
        ((2, 4, (16, 16, 3), 9, 8), "res_blocks must be one of"),
        ((2, 4, (16, 16, 3), 8, 0), "out_dim"),
        ((0, 4, (16, 16, 3), 8, 8), "J must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScatSimCLR(*arguments)
