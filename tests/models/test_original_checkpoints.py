"""State dicts as the original code's classes make them: names and shapes are written down here from its layers."""

import re

import pytest
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
from torch.nn import functional as F

from scatsimclr import ScatSimCLR
from scatsimclr.errors import UserError
from scatsimclr.models.pretext import JigsawHead, RotationHead
from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.training import checkpoint

J, L, SIZE, OUT = 2, 4, 16, 24
# The original's layers: stem width, then width and number of blocks of each stage.
NETS = {
    8: (32, [(64, 4), (128, 4)]),
    12: (256, [(128, 4), (64, 4), (128, 4)]),
    16: (256, [(128, 6), (64, 4), (128, 6)]),
    30: (256, [(128, 30)]),
    45: (256, [(128, 15), (64, 15), (128, 15)]),
}


class Drawn(dict):
    """A state dict whose entries are drawn as they are named."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, name, *shape, scale=1.0, offset=0.0):
        self[name] = torch.randn(shape, generator=self.generator) * scale + offset

    def convolution(self, name, after, before, size):
        self.draw(f"{name}.weight", after, before, size, size, scale=(before * size * size) ** -0.5)

    def norm(self, name, width):
        self.draw(f"{name}.weight", width, scale=0.2, offset=1)
        self.draw(f"{name}.bias", width, scale=0.2)
        self.draw(f"{name}.running_mean", width, scale=0.2)
        self[f"{name}.running_var"] = torch.rand(width, generator=self.generator) + 0.5
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name, after, before):
        self.draw(f"{name}.weight", after, before, scale=before**-0.5)
        self.draw(f"{name}.bias", after, scale=0.1)


def original_state(blocks):
    state, kymatio = Drawn(blocks), ScatteringTorch2D(J, (SIZE, SIZE), L)
    state.update({f"_scatnet.{name}": value for name, value in kymatio.state_dict().items()})
    channels = 3 * (1 + J * L + L * L * J * (J - 1) // 2)
    state.norm("_scatnet_bn", channels)
    before, stages = NETS[blocks]
    state.convolution("_adapter_network.0", before, channels, 3)
    state.norm("_adapter_network.1", before)
    for stage, (width, count) in enumerate(stages, start=3):
        for block in range(count):
            name = f"_adapter_network.{stage}.{block}"
            state.convolution(f"{name}.conv1", width, before, 3)
            state.norm(f"{name}.bn1", width)
            state.convolution(f"{name}.conv2", width, width, 3)
            state.norm(f"{name}.bn2", width)
            if before != width:
                state.convolution(f"{name}.downsample.0", width, before, 1)
                state.norm(f"{name}.downsample.1", width)
            before = width
    state.linear("l1", 2048, 2048)
    state.linear("l2", OUT, 2048)
    return dict(state)


def normed(x, state, name):
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def independent_forward(state, x):
    """h and z from the state dict alone, in float64, with kymatio's transform."""
    scattering = ScatteringTorch2D(J, (SIZE, SIZE), L).double()
    state = {name: value.double() for name, value in state.items()}
    u = scattering(x.double().contiguous()).flatten(1, 2)
    net = "_adapter_network"
    u = F.relu(normed(F.conv2d(u, state[f"{net}.0.weight"], padding=1), state, f"{net}.1"))
    blocks = {
        tuple(map(int, match.groups()))
        for key in state
        if (match := re.match(rf"{net}\.(\d+)\.(\d+)\.conv1", key))
    }
    for name in (f"{net}.{stage}.{block}" for stage, block in sorted(blocks)):
        v = F.relu(normed(F.conv2d(u, state[f"{name}.conv1.weight"], padding=1), state, f"{name}.bn1"))
        v = normed(F.conv2d(v, state[f"{name}.conv2.weight"], padding=1), state, f"{name}.bn2")
        if f"{name}.downsample.0.weight" in state:
            u = normed(F.conv2d(u, state[f"{name}.downsample.0.weight"]), state, f"{name}.downsample.1")
        u = F.relu(v + u)
    h = F.adaptive_avg_pool2d(u, 4).flatten(1)
    hidden = F.relu(F.linear(h, state["l1.weight"], state["l1.bias"]))
    return h, F.linear(hidden, state["l2.weight"], state["l2.bias"])


@pytest.mark.parametrize("blocks", sorted(NETS))
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_an_original_file_loads_strictly_and_gives_its_h_and_z(tmp_path, blocks, backend):
    state = original_state(blocks)
    torch.save(state, tmp_path / "model_final.pth")
    model = ScatSimCLR(J, L, (SIZE, SIZE, 3), blocks, OUT, backend=backend).eval()
    checkpoint.load_weights(tmp_path / "model_final.pth", model)
    assert set(model.state_dict()) == set(state)
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        h, z = model(x)
    for found, expected in zip((h, z), independent_forward(state, x), strict=True):
        assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_an_original_resnet_file_loads_strictly(tmp_path, name):
    source, target = (ResNetSimCLR(name, OUT) for _ in range(2))
    state = source.state_dict()
    assert {"_features.0.weight", "_features.7.1.bn2.running_var", "_l1.weight", "_l2.bias"} <= set(state)
    torch.save(state, tmp_path / "model.pth")
    checkpoint.load_weights(tmp_path / "model.pth", target)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), target.state_dict().values(), strict=True))


def test_a_torchvision_file_fills_the_body_and_leaves_the_head(tmp_path):
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"]
    source, target = (ResNetSimCLR("resnet18", OUT) for _ in range(2))
    state = {
        re.sub(r"^\d+", lambda match: names[int(match[0])], key): value
        for key, value in source._features.state_dict().items()
    }
    torch.save(
        {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, tmp_path / "r.pth"
    )
    head = target._l1.weight.clone()
    checkpoint.load_weights(tmp_path / "r.pth", target)
    assert torch.equal(target._features[7][1].conv2.weight, source._features[7][1].conv2.weight)
    assert torch.equal(target._l1.weight, head)


@pytest.mark.parametrize(
    ("head", "shapes"),
    [
        (RotationHead, {"fc1": (512, 512), "fc2": (128, 512), "classification_fc": (4, 128)}),
        (JigsawHead, {"fc1": (512, 512), "fc2": (4096, 4608), "classification_fc": (35, 4096)}),
    ],
)
def test_an_original_pretext_file_gives_the_logits_of_its_layers(tmp_path, head, shapes):
    state = {}
    for seed, (part, shape) in enumerate(shapes.items()):
        layer = Drawn(seed)
        layer.linear("0", *shape)
        state[part] = dict(layer)
    torch.save(state, tmp_path / "model_pretext.pth")
    model = head(512).eval()
    checkpoint.load_head(tmp_path / "model_pretext.pth", model)
    h = torch.randn(18, 512, generator=torch.Generator().manual_seed(0))
    x = F.relu(F.linear(h, state["fc1"]["0.weight"], state["fc1"]["0.bias"]))
    if head is JigsawHead:
        x = torch.stack([x[9 * image : 9 * image + 9].flatten() for image in range(2)])
    x = F.relu(F.linear(x, state["fc2"]["0.weight"], state["fc2"]["0.bias"]))
    x = F.linear(x, state["classification_fc"]["0.weight"], state["classification_fc"]["0.bias"])
    torch.testing.assert_close(model(h), x, rtol=1e-5, atol=1e-5)


def test_weights_for_sharing_and_dataparallel_names_load(tmp_path):
    source, target = (ScatSimCLR(J, L, (SIZE, SIZE, 3), 8, OUT) for _ in range(2))
    checkpoint.save_pretrained(tmp_path, source, {})
    checkpoint.load_weights(tmp_path / "model.safetensors", target)
    assert torch.equal(source.l1.weight, target.l1.weight)
    other = ScatSimCLR(J, L, (SIZE, SIZE, 3), 8, OUT)
    torch.save({f"module.{name}": value for name, value in source.state_dict().items()}, tmp_path / "p.pth")
    checkpoint.load_weights(tmp_path / "p.pth", other)
    assert torch.equal(source.l2.weight, other.l2.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"l1.weight": torch.zeros(3)}, "does not fit the model"),
        ({"epoch": 3}, "holds no weights"),
        ([1, 2], "holds no weights"),
        ({}, "holds no weights"),
    ],
)
def test_files_of_something_else_are_refused_in_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message) as raised:
        checkpoint.load_weights(tmp_path / "x.pth", ScatSimCLR(J, L, (SIZE, SIZE, 3), 8, OUT))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"holds no pretext head|does not fit"):
        checkpoint.load_head(tmp_path / "x.pth", RotationHead(512))


def test_a_file_that_would_run_code_does_not(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"l1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load_weights(tmp_path / "trap.pth", ScatSimCLR(J, L, (SIZE, SIZE, 3), 8, OUT))
    assert not (tmp_path / "ran").exists()


def test_a_broken_safetensors_file_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load_weights(tmp_path / "x.safetensors", RotationHead(8))
