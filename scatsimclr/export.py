"""`python -m scatsimclr.export CHECKPOINT --output DIR`: a trained encoder for other programs."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("export")

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from scatsimclr import commandline
from scatsimclr.config import Config
from scatsimclr.data.augment import center_view, normalize
from scatsimclr.errors import UserError
from scatsimclr.extras import require
from scatsimclr.models.convolution import plain_convolutions
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.portable import PortableScattering
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.training import checkpoint
from scatsimclr.training.setup import augment_spec, restore, shared_settings

FORMATS = ("safetensors", "torch", "onnx")
BATCHES = (1, 7, 64)  # sizes at which an export is compared with the encoder
TOLERANCE = 1e-4  # as a share of the norm of h and of z
OPSET = 18

Exported: TypeAlias = Callable[[Tensor], Sequence[Tensor]]  # images → h and z


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = commandline.command_parser(
        "export",
        "Writes an encoder, images → h and z, as model.safetensors with config.json, as encoder.pt2 (torch.export) "
        "and as encoder.onnx, both in standard operators and for any batch size, and compares what it wrote with the "
        "encoder.",
        ["runs/RUN --output encoder", "runs/RUN --output encoder --formats onnx --preprocess"],
    )
    commandline.add_checkpoint(parser)
    commandline.add_settings(parser, "amp=off")
    commandline.add_output(parser, "DIR", "folder to write to, created if need be", required=True)
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="what to write (default: all)"
    )
    parser.add_argument(
        "--preprocess", action="store_true",
        help="take images as a decoder gives them, uint8 (N, H, W, C) in 0..255 (C is 3, RGB, or 1, grey, as in "
        "dataset.input_shape), and normalise them in the network; by default images are float32 (N, C, H, W), "
        "normalised",
    )  # fmt: skip
    return parser


class Portable(nn.Module):
    """An encoder in standard operators: images → (h, z)."""

    def __init__(self, config: Config, encoder: Encoder, preprocess: bool):
        super().__init__()
        self.encoder = plain_convolutions(encoder)
        self.preprocess, self.spec = preprocess, augment_spec(config)
        self.front = PortableScattering(encoder._scatnet) if isinstance(encoder, ScatSimCLR) else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(h, z) of images uint8 (N, H, W, C) with `preprocess`, else float32 (N, C, H, W), normalised."""
        x = images
        if self.preprocess:
            x = normalize(images.permute(0, 3, 1, 2).to(torch.float32) / 255.0, self.spec)
        if self.front is not None and isinstance(self.encoder, ScatSimCLR):
            h = self.encoder.adapt(self.front(x))
        else:
            h = self.encoder.encode(x)
        return h, self.encoder.project(h)


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_intermixed_args(argv)
    if "onnx" in options.formats:
        require("--formats onnx", "onnx", "onnx", "onnxscript", "onnxruntime")
    config, encoder, origin = restore(
        options.checkpoint, options.config, [*commandline.settings_of(options), "device=cpu"]
    )
    options.output.mkdir(parents=True, exist_ok=True)
    print(f"{config.model.base_model}, {origin}")
    if "safetensors" in options.formats:
        checkpoint.save_pretrained(options.output, encoder, shared_settings(config))
        print(f"{options.output / 'model.safetensors'} and config.json")
    portable = Portable(config, encoder, options.preprocess).eval()
    for name, write in (("torch", write_torch), ("onnx", write_onnx)):
        if name in options.formats:
            start = time.perf_counter()
            path, exported = write(portable, example(config, options.preprocess, 3), options.output)
            compare(config, encoder, exported, options.preprocess, path)
            took = time.perf_counter() - start
            print(f"{path}: {path.stat().st_size / 2**20:.0f} MiB, written in {took:.0f} s")
    return 0


def example(config: Config, preprocess: bool, batch: int) -> Tensor:
    """Random images of the form that the export takes."""
    generator = torch.Generator().manual_seed(batch)
    images = torch.randint(
        0, 256, (batch, *config.dataset.input_shape), generator=generator, dtype=torch.uint8
    )
    return images if preprocess else center_view(images, augment_spec(config))


def write_torch(portable: Portable, images: Tensor, folder: Path) -> tuple[Path, Exported]:
    """Writes encoder.pt2, and returns its path and what is loaded from it."""
    path = folder / "encoder.pt2"
    with torch.no_grad():
        program = torch.export.export(portable, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return path, torch.export.load(path).module()


def write_onnx(portable: Portable, images: Tensor, folder: Path) -> tuple[Path, Exported]:
    """Writes encoder.onnx, and returns its path and a session on it.

    Raises:
        UserError: Where the exporter used operators beyond ONNX's own.
    """
    import onnxruntime

    path = folder / "encoder.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        exported = torch.onnx.export(
            portable, (images,), dynamo=True, opset_version=OPSET, verbose=False, input_names=["images"],
            output_names=["h", "z"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    program = cast(torch.onnx.ONNXProgram, exported)  # None is for the exporter without dynamo
    program.save(path)
    custom = {node.domain for node in program.model_proto.graph.node} - {""}
    if custom:
        raise UserError(f"{path} would need operators of {', '.join(sorted(custom))}")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return path, lambda x: [torch.from_numpy(y) for y in session.run(None, {"images": x.numpy()})]


@torch.no_grad()
def compare(config: Config, encoder: Encoder, exported: Exported, preprocess: bool, path: Path) -> None:
    """Prints how far the export is from the encoder, and the rates of both.

    Raises:
        UserError: For a difference beyond TOLERANCE.
    """
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


def seconds(call: Exported, images: Tensor) -> float:
    """Time of the fastest of three calls."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call(images)
        times.append(time.perf_counter() - start)
    return min(times)
