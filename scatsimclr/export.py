"""`python -m scatsimclr.export CHECKPOINT --output DIR`: a trained encoder for other programs."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from scatsimclr.cli import run
from scatsimclr.config import Config
from scatsimclr.data.augment import center_view, normalize
from scatsimclr.errors import UserError
from scatsimclr.models.convolution import plain_convolutions
from scatsimclr.models.portable import PortableScattering
from scatsimclr.training import checkpoint
from scatsimclr.training.setup import Encoder, augment_spec, restore

FORMATS = ("safetensors", "torch", "onnx")
BATCHES = (1, 7, 64)  # at which an export is compared with the encoder
TOLERANCE = 1e-4  # of the norm of h and of z
OPSET = 18


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scatsimclr.export",
        description="Writes an encoder, images → h and z, as model.safetensors with config.json, as "
        "encoder.pt2 (torch.export) and as encoder.onnx, both for any batch size and in standard operators, and "
        "compares what was written with the encoder.",
        epilog="Examples: runs/RUN --output encoder | runs/RUN --output encoder --formats onnx --preprocess",
    )
    parser.add_argument("checkpoint", help="checkpoint file, run folder, or with --config weights alone")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="made if it is not there"
    )
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("-c", "--config", help="settings file, for weights that come without their settings")
    parser.add_argument(
        "--preprocess", action="store_true",
        help="images are uint8 (N, H, W, C), 0..255, as they come from a decoder (C: 3, RGB, or 1, grey, as "
        "dataset.input_shape says), and are normalised inside; without it they are float32 (N, C, H, W), normalised",
    )  # fmt: skip
    return parser


class Portable(nn.Module):
    """An encoder in standard operators: images → (h, z)."""

    def __init__(self, config: Config, encoder: Encoder, preprocess: bool):
        super().__init__()
        self.encoder = plain_convolutions(encoder)
        self.preprocess, self.spec = preprocess, augment_spec(config)
        self.front = PortableScattering(encoder._scatnet) if config.model.scattering else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images
        if self.preprocess:
            x = normalize(images.permute(0, 3, 1, 2).to(torch.float32) / 255.0, self.spec)
        h = self.encoder.encode(x) if self.front is None else self.encoder.adapt(self.front(x))
        return h, self.encoder.project(h)


def command(argv: list[str]) -> int:
    options = parser().parse_intermixed_args(argv)
    if "onnx" in options.formats:
        require_onnx()
    config, encoder, origin = restore(options.checkpoint, options.config, ["device=cpu"])
    options.output.mkdir(parents=True, exist_ok=True)
    print(f"{config.model.base_model}, {origin}")
    if "safetensors" in options.formats:
        checkpoint.save_pretrained(options.output, encoder, config.model_dump(mode="json", by_alias=True))
        print(f"{options.output / 'model.safetensors'} and config.json")
    portable = Portable(config, encoder, options.preprocess).eval()
    for name, write in (("torch", write_torch), ("onnx", write_onnx)):
        if name in options.formats:
            start = time.perf_counter()
            path, exported = write(portable, example(config, options.preprocess, 3), options.output)
            compare(config, encoder, exported, options.preprocess, path)
            print(
                f"{path}: {path.stat().st_size / 2**20:.0f} MiB, written in {time.perf_counter() - start:.0f} s"
            )
    return 0


def require_onnx() -> None:
    """UserError where a package for ONNX is missing."""
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(f"writing ONNX needs pip install {' '.join(missing)}; or --formats safetensors torch")


def example(config: Config, preprocess: bool, batch: int) -> Tensor:
    """Random images as the export takes them."""
    generator = torch.Generator().manual_seed(batch)
    images = torch.randint(
        0, 256, (batch, *config.dataset.input_shape), generator=generator, dtype=torch.uint8
    )
    return images if preprocess else center_view(images, augment_spec(config))


def write_torch(portable: Portable, images: Tensor, folder: Path) -> tuple[Path, Callable]:
    path = folder / "encoder.pt2"
    with torch.no_grad():
        program = torch.export.export(portable, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return path, torch.export.load(path).module()


def write_onnx(portable: Portable, images: Tensor, folder: Path) -> tuple[Path, Callable]:
    import onnxruntime

    path = folder / "encoder.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        program = torch.onnx.export(
            portable, (images,), dynamo=True, opset_version=OPSET, verbose=False, input_names=["images"],
            output_names=["h", "z"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    program.save(path)
    custom = {node.domain for node in program.model_proto.graph.node} - {""}
    if custom:
        raise UserError(f"{path} would need operators of {', '.join(sorted(custom))}")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return path, lambda x: [torch.from_numpy(y) for y in session.run(None, {"images": x.numpy()})]


@torch.no_grad()
def compare(config: Config, encoder: Encoder, exported: Callable, preprocess: bool, path: Path) -> None:
    """Prints how far the export is from the encoder, and their rates; UserError beyond TOLERANCE."""
    worst = 0.0
    for batch in BATCHES:
        images = example(config, preprocess, batch)
        seen = center_view(images, augment_spec(config)) if preprocess else images
        for found, expected in zip(exported(images), encoder(seen), strict=True):
            worst = max(worst, ((found - expected).norm() / expected.norm()).item())
    if not worst <= TOLERANCE:
        raise UserError(
            f"{path} differs from the encoder by {worst:.1e} of the norm, more than {TOLERANCE:g}"
        )
    rates = [
        BATCHES[-1] / seconds(call, argument) for call, argument in ((exported, images), (encoder, seen))
    ]
    print(
        f"{path.name}: within {worst:.1e} of the encoder at batches of {', '.join(map(str, BATCHES))}; "
        f"{rates[0]:.0f} images/s, the encoder {rates[1]:.0f}"
    )


def seconds(call: Callable, images: Tensor) -> float:
    """The best of three calls."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call(images)
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(run(command))
