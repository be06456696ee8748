"""`python -m scatsimclr.export`: what is written is the encoder, at any batch size, in standard operators."""

import sys

import onnx
import onnxruntime
import pytest
import torch

from scatsimclr import ScatSimCLR, Scattering2D, cli, export
from scatsimclr.data.augment import normalize
from scatsimclr.models.portable import PortableScattering
from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.training.setup import augment_spec, restore

CONFIG = """
model: {base_model: %s, J: 2, L: 2, out_dim: 8}
dataset: {dataset: digits, input_shape: "(16, 20, 3)"}
"""


@pytest.fixture(scope="module", params=["scatsimclr8", "resnet18"])
def exported(request, tmp_path_factory):
    """Arguments that name the encoder, and the folder of its exports."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "config.yaml").write_text(CONFIG % request.param)
    torch.manual_seed(0)
    model = (
        ScatSimCLR(2, 2, (16, 20, 3), 8, 8) if request.param == "scatsimclr8" else ResNetSimCLR("resnet18", 8)
    )
    torch.save(model.state_dict(), folder / "model.pth")
    encoder = [str(folder / "model.pth"), "--config", str(folder / "config.yaml")]
    assert cli.run(export.command, [*encoder, "--output", str(folder / "out"), "--preprocess"]) == 0
    return encoder, folder / "out"


def images(batch):
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, 16, 20, 3), generator=generator, dtype=torch.uint8)


def expected(encoder, x):
    config, model, _ = restore(encoder[0], encoder[2])
    with torch.no_grad():
        return model(normalize(x.permute(0, 3, 1, 2).float() / 255, augment_spec(config)))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_onnx_and_torch_give_h_and_z(exported, batch):
    encoder, folder = exported
    x = images(batch)
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / "encoder.pt2").module()
    for outputs in (session.run(["h", "z"], {"images": x.numpy()}), program(x)):
        for found, wanted in zip(outputs, expected(encoder, x), strict=True):
            assert found.shape == wanted.shape
            assert (torch.as_tensor(found) - wanted).norm() < 1e-4 * wanted.norm()


def test_the_onnx_file_is_valid_and_has_standard_operators_alone(exported):
    model = onnx.load(exported[1] / "encoder.onnx")
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}
    assert not {node.op_type for node in model.graph.node} & {"DFT", "STFT", "Loop"}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_from_pretrained_reads_the_folder(exported):
    encoder, folder = exported
    if "resnet18" in (folder / "config.json").read_text():
        with pytest.raises(ValueError, match="must hold a ScatSimCLR, got resnet18"):
            ScatSimCLR.from_pretrained(folder)
        return
    model = ScatSimCLR.from_pretrained(folder)
    assert not model.training
    x = torch.randn(2, 3, 16, 20)
    for found, wanted in zip(model(x), restore(encoder[0], encoder[2])[1](x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_without_preprocessing_images_are_normalised_floats(exported, tmp_path):
    encoder, _ = exported
    assert cli.run(export.command, [*encoder, "--output", str(tmp_path), "--formats", "torch"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pt2"]
    x = torch.randn(5, 3, 16, 20)
    found = torch.export.load(tmp_path / "encoder.pt2").module()(x)
    wanted = restore(encoder[0], encoder[2])[1](x)
    assert all((a - b).norm() < 1e-4 * b.norm() for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("J", "L", "size", "options"),
    [
        (1, 3, (8, 9), {}),
        (2, 8, (32, 32), {}),
        (3, 4, (33, 40), {}),
        (4, 2, (48, 64), {}),
        (2, 4, (16, 16), {"max_order": 1}),
        (2, 4, (24, 32), {"pre_pad": True}),
    ],
)
def test_portable_scattering_has_the_numbers_of_the_operator(J, L, size, options):
    scattering = Scattering2D(J, (size[0] - 8, size[1] - 8) if options.get("pre_pad") else size, L, **options)
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(
        PortableScattering(scattering)(x), scattering.features(x), rtol=1e-5, atol=1e-6
    )


def test_an_export_that_is_not_the_encoder_is_refused(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", 1e-12)
    argv = [*exported[0], "--output", str(tmp_path), "--formats", "torch"]
    if "resnet18" in (exported[1] / "config.json").read_text():
        monkeypatch.setattr(
            export.Portable, "forward", lambda self, x: (self.encoder(x)[0] + 1, self.encoder(x)[1])
        )
    assert cli.run(export.command, argv) == 2
    assert "differs from the encoder" in capsys.readouterr().err


def test_missing_packages_are_named(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert cli.run(export.command, [*exported[0], "--output", str(tmp_path)]) == 2
    assert "--formats onnx needs onnxscript: pip install 'scatsimclr[onnx]'" in capsys.readouterr().err
