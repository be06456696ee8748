"""`Conv3x3` is `nn.Conv2d`, and takes the operator where it should."""

import copy

import pytest
import torch
from torch import nn

from scatsimclr import ScatSimCLR
from scatsimclr.models import convolution
from scatsimclr.models.convolution import (
    LEAST_CHANNELS,
    LEAST_TILES,
    Conv3x3,
    StridedConv3x3,
    plain_convolutions,
)
from scatsimclr.models.folding import folded
from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.ops import availability

needs_kernel = pytest.mark.skipif(
    not availability.compiled().usable, reason="the kernel needs the compiled extension"
)


@pytest.fixture
def calls(monkeypatch):
    """The dtypes of the images that the operator was given."""
    found = []

    def spy(x, *args):
        found.append(x.dtype)
        return operator(x, *args)

    # As on a CPU without AMX, whose bfloat16 convolutions are PyTorch's by rule.
    monkeypatch.setattr(convolution, "matrix_units", lambda: False)
    operator = convolution.conv3x3
    monkeypatch.setattr(convolution, "conv3x3", spy)
    return found


def test_parameters_and_initial_values_are_conv2ds():
    torch.manual_seed(0)
    ours = Conv3x3(5, 7)
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, 3, padding=1, bias=False)
    assert ours.state_dict().keys() == plain.state_dict().keys() == {"weight"}
    assert torch.equal(ours.weight, plain.weight)


@needs_kernel
@pytest.mark.parametrize("amp", [None, torch.bfloat16], ids=str)
def test_values_and_gradients_are_conv2ds(calls, amp):
    torch.manual_seed(0)
    x, results = torch.randn(16, 36, 8, 8), []
    for backend in ("auto", "reference"):
        layer = Conv3x3(36, 40, backend=backend)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-0.1, 0.1, layer.weight.numel()).view_as(layer.weight).sin())
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp is not None):
            y = layer(leaf)
        y.float().square().sum().backward()
        assert y.dtype == (amp or torch.float32)
        assert layer.weight.grad.dtype == torch.float32
        results.append((y.detach().float(), leaf.grad, layer.weight.grad))
    assert calls == [amp or torch.float32]
    for ours, plain in zip(*results, strict=True):
        assert (ours - plain).norm() < (1e-6 if amp is None else 1e-2) * plain.norm()


@needs_kernel
@pytest.mark.parametrize(
    ("channels", "batch", "settings"),
    [
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES, {}),
        ((LEAST_CHANNELS - 1, LEAST_CHANNELS), LEAST_TILES, {"served": False}),
        ((LEAST_CHANNELS, LEAST_CHANNELS - 1), LEAST_TILES, {"served": False}),
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES - 1, {"served": False}),
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES, {"size": 5, "served": False}),
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES, {"size": 7}),
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES, {"dtype": torch.float64, "served": False}),
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES, {"backend": "reference", "served": False}),
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES, {"amp": torch.bfloat16}),
        (
            (LEAST_CHANNELS, LEAST_CHANNELS),
            LEAST_TILES,
            {"amp": torch.bfloat16, "amx": True, "served": False},
        ),
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES, {"amx": True}),
        ((LEAST_CHANNELS, LEAST_CHANNELS), LEAST_TILES, {"amp": torch.float16, "served": False}),
    ],
)
def test_when_it_takes_the_operator(monkeypatch, calls, channels, batch, settings):
    monkeypatch.setattr(convolution, "matrix_units", lambda: settings.get("amx", False))
    dtype, amp = settings.get("dtype", torch.float32), settings.get("amp")
    layer = Conv3x3(*channels, backend=settings.get("backend", "auto")).to(dtype)
    size = settings.get("size", 2)
    x = torch.randn(batch, channels[0], size, size, dtype=dtype)
    with torch.autocast("cpu", amp or torch.bfloat16, enabled=amp is not None):
        y = layer(x)
    assert calls == ([amp or dtype] if settings.get("served", True) else [])
    assert y.dtype == (amp or dtype)
    assert y.shape == (batch, channels[1], size, size)


@needs_kernel
def test_an_image_alone_is_still_a_convolution(calls):
    layer = Conv3x3(32, 32)
    x = torch.randn(32, 40, 40)
    torch.testing.assert_close(layer(x), layer(x[None])[0], rtol=1e-4, atol=1e-5)
    assert len(calls) == 1


@needs_kernel
def test_folded_convolutions_take_it_with_their_bias(calls):
    torch.manual_seed(0)
    block = nn.Sequential(Conv3x3(32, 32), nn.BatchNorm2d(32))
    for _ in range(3):
        block(torch.randn(16, 32, 8, 8) + 1)
    block.eval()
    x = torch.randn(16, 32, 8, 8)
    calls.clear()
    found = folded(block)
    assert found[0].bias is not None
    torch.testing.assert_close(found(x), block(x), rtol=1e-4, atol=1e-5)
    assert len(calls) == 2


@needs_kernel
@pytest.mark.parametrize(
    "make",
    [
        lambda backend: ScatSimCLR(2, 2, (16, 16, 3), 8, 8, backend=backend),
        lambda backend: ResNetSimCLR("resnet18", 8, cifar_stem=True, backend=backend),
    ],
    ids=["scatsimclr8", "resnet18"],
)
def test_encoders_take_it_unless_told_otherwise(calls, make):
    torch.manual_seed(0)
    model = make("auto").eval()
    x = torch.randn(64, 3, 16, 16)
    h, z = model(x)
    layers = [module for module in model.modules() if isinstance(module, Conv3x3)]
    assert len(calls) >= len(layers) // 2 > 0
    plain = make("reference").eval()
    plain.load_state_dict(copy.deepcopy(model.state_dict()))
    for other in (plain, plain_convolutions(model)):
        calls.clear()
        for found, expected in zip(other(x), (h, z), strict=True):
            assert (found - expected).norm() < 1e-5 * expected.norm()
        assert calls == []
    assert layers[0].backend == "auto"


@pytest.mark.parametrize("size", [(1, 1), (4, 1), (1, 5), (3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strided_convolution_is_conv2ds_also_of_one_pixel_and_in_dirty_memory(size, dtype):
    layer = StridedConv3x3(128, 256, 2).to(memory_format=torch.channels_last)
    x = torch.randn(16, 128, *size).to(memory_format=torch.channels_last)
    weight = layer.weight.detach().to(dtype).double().requires_grad_()
    expected = nn.functional.conv2d(x.to(dtype).double(), weight, stride=2, padding=1)
    seed = torch.randn(expected.shape)
    (expected * seed.to(dtype)).sum().backward()
    allowed = {torch.float32: 1e-5, torch.bfloat16: 0.06}[dtype]
    for _ in range(10):
        dirty = [torch.full((n,), torch.nan) for n in (layer.weight.numel() // 2, layer.weight.numel()) * 3]
        del dirty
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = layer(x)
        (y * seed.to(dtype)).sum().backward()
        torch.testing.assert_close(y.double(), expected, rtol=allowed, atol=allowed)
        torch.testing.assert_close(
            layer.weight.grad.double(), weight.grad, rtol=8 * allowed, atol=8 * allowed
        )
