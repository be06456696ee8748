import pytest
import torch
from torch.nn import functional as F

from scatsimclr.models.resnet import ResNetSimCLR, from_torchvision, is_torchvision

# torchvision's nets, with their classifier of 1,000 classes.
PARAMETERS = {"resnet18": 11_689_512, "resnet50": 25_557_032}


def filled(model, seed=0):
    """The model with every parameter and statistic drawn, so that none could be swapped unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            scale = 0.05 if value.ndim > 1 else 0.2
            value.copy_(
                torch.randn(value.shape, generator=generator) * scale + ("var" in name or "weight" in name)
            )
            if value.ndim > 1:
                value.sub_(1).mul_(0.5)
    return model.eval()


def batch_norm(x, state, name):
    return F.batch_norm(
        x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    )


def forward_by_names(state, x, counts, bottleneck):
    """The network written down from its state dict alone, torchvision's names."""
    x = F.relu(batch_norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), state, "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate(counts, start=1):
        for block in range(count):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            shortcut = x
            if f"{name}.downsample.0.weight" in state:
                shortcut = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                shortcut = batch_norm(shortcut, state, f"{name}.downsample.1")
            convolutions = 3 if bottleneck else 2
            for index in range(1, convolutions + 1):
                weight = state[f"{name}.conv{index}.weight"]
                step = stride if index == (2 if bottleneck else 1) else 1
                x = F.conv2d(x, weight, stride=step, padding=weight.shape[-1] // 2)
                x = batch_norm(x, state, f"{name}.bn{index}")
                x = F.relu(x + shortcut if index == convolutions else x)
    return x.mean((2, 3))


NETS = [("resnet18", (2, 2, 2, 2), False), ("resnet50", (3, 4, 6, 3), True)]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameter_counts_are_torchvisions(name):
    model = ResNetSimCLR(name, 128)
    body = sum(p.numel() for p in model._features.parameters())
    assert body + model.h_dim * 1000 + 1000 == PARAMETERS[name]


@pytest.mark.parametrize(("name", "counts", "bottleneck"), NETS)
def test_h_and_z_of_a_torchvision_state_are_an_independent_forwards(name, counts, bottleneck):
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"]
    source = filled(ResNetSimCLR(name, 16)).double()
    state = {}
    for key, value in source._features.state_dict().items():
        first, _, rest = key.partition(".")
        state[f"{names[int(first)]}.{rest}"] = value
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, source.h_dim), torch.zeros(1000)
    assert is_torchvision(state)
    model = ResNetSimCLR(name, 16).double().eval()
    model._features.load_state_dict(from_torchvision(state))
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    h, z = model(x)
    expected = forward_by_names(state, x, counts, bottleneck)
    assert (h - expected).norm() < 1e-5 * expected.norm()
    projected = F.linear(
        F.relu(F.linear(expected, model._l1.weight, model._l1.bias)), model._l2.weight, model._l2.bias
    )
    assert (z - projected).norm() < 1e-5 * projected.norm()


def test_cifar_stem_keeps_the_resolution():
    model = ResNetSimCLR("resnet18", 8, cifar_stem=True)
    assert model._features[:4](torch.zeros(2, 3, 32, 32)).shape == (2, 64, 32, 32)
    assert ResNetSimCLR("resnet18", 8)._features[:4](torch.zeros(2, 3, 32, 32)).shape == (2, 64, 8, 8)
    assert model(torch.zeros(2, 3, 32, 32))[0].shape == (2, 512)


def test_a_batch_of_one_keeps_its_dimension():
    h, z = ResNetSimCLR("resnet18", 8).eval()(torch.zeros(1, 3, 32, 32))
    assert h.shape == (1, 512)
    assert z.shape == (1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"), [(("resnet19", 8), "base_model"), (("resnet18", 0), "out_dim")]
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNetSimCLR(*arguments)


@pytest.mark.parametrize("cifar_stem", [False, True])
def test_grey_images_have_one_channel(cifar_stem):
    model = ResNetSimCLR("resnet18", 4, in_channels=1, cifar_stem=cifar_stem).eval()
    assert model._features[0].in_channels == 1
    assert model(torch.randn(2, 1, 32, 32))[1].shape == (2, 4)
    with pytest.raises(ValueError, match="in_channels must be positive"):
        ResNetSimCLR("resnet18", 4, in_channels=0)
