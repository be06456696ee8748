"""The augmentation with NVIDIA DALI doing the geometry, on CPU and GPU.

DALI draws nothing here: its pipelines get the parameters that `draw_params` has drawn, sample by sample. So they have
no state, and neither the batch nor the number of processes nor a resumed run can change what a sample looks like. The
steps for which DALI has no equal operation, or only one that does not clip between steps, are the operator
`photometric`, as in the plain PyTorch augmentation.

On a CPU, DALI resamples rows (SSE) several times faster than columns, and an axis that keeps its size takes as long as
any other. So images are fed with their columns as rows, (W, C, H), resampled, transposed, and resampled again. The
axis that keeps its size is declared a hair larger than its result, which selects the filter for shrinking, nearest
neighbour: a copy. A view of 96×96 takes 153 µs instead of 235 (one thread, EPYC Zen 4, DALI 2.4, 2026-11-25), and
transposing bytes instead of pixels saves 16 more, in Pillow's order of passes and with its 8 bits between them.

GPU pipelines have not yet run on hardware.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

from scatsimclr.data.augment import Augment, AugmentSpec, Params
from scatsimclr.extras import MissingPackage, require

BATCH = 256  # samples per run of a pipeline, at most
_HAIR = 0.01  # pixels
# (B, H, W, C) to (B, W, C, H), columns as rows, and back.
_COLUMNS, _UPRIGHT = (0, 2, 3, 1), (0, 3, 1, 2)


def dali_missing() -> str | None:
    """Why DALI cannot be used on this machine; None where it can."""
    try:
        require("data.pipeline=dali (on Linux, x86-64)", "dali", "nvidia.dali")
    except MissingPackage as error:
        return str(error)
    return None


def _upright(device: torch.device) -> bool:
    """Whether a device's pipelines take images as they are, rows as rows, and give results on a stream."""
    return device.type == "cuda"


@dataclass(frozen=True)
class _Pipeline:
    """A built DALI pipeline. columns: whether its images are fed with their columns as rows."""

    dali: Any
    columns: bool

    def __call__(self, images: torch.Tensor, inputs: dict[str, npt.NDArray[Any]]) -> torch.Tensor:
        """Runs it on images uint8 (B, H, W, C); the result, of the same layout, is valid until the next run."""
        images = (images.permute(_COLUMNS) if self.columns else images).contiguous()
        stream: int | None = None
        if images.is_cuda:
            stream = torch.cuda.current_stream(images.device).cuda_stream
            self.dali.feed_input("images", images, cuda_stream=stream)
        else:
            self.dali.feed_input("images", images.numpy())
        for name, values in inputs.items():
            self.dali.feed_input(name, np.ascontiguousarray(values))
        (views,) = self.dali.run(stream)
        result: torch.Tensor = from_dlpack(views.as_tensor())
        return result


class DaliAugment(Augment):
    """`Augment` with crop and affine map by DALI: same draws, same arguments; levels differ by DALI's rounding.

    A pipeline is built when a call finds no idle one: calls from several threads run side by side, each with a pipeline
    of its own. A call that fails leaves nothing behind.

    Args:
        spec: The recipe.
        seed: Integer in [0, 2**64).
        backend: Of the operator `photometric`.
        dtype: Of normalised views.
        threads: Of DALI's CPU operators; None for as many as torch has where a pipeline is built.
    """

    name = "dali"

    def __init__(
        self,
        spec: AugmentSpec,
        seed: int,
        *,
        backend: str = "auto",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ):
        super().__init__(spec, seed, backend=backend, dtype=dtype)
        self.threads = threads
        self._idle: dict[tuple[torch.device, bool, bool], list[_Pipeline]] = {}
        self._process: int | None = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": {}, "_process": None}

    def resident(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.is_cuda else images.permute(_COLUMNS).contiguous().permute(_UPRIGHT)

    @contextmanager
    def _geometry(
        self, images: torch.Tensor, params: Params, crop: bool, affine: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if not (crop or affine) or not len(images):
            yield images, params.flip
            return
        with self._pipeline(images.device, crop, affine) as pipeline:

            def run(images: torch.Tensor, params: Params) -> torch.Tensor:
                return pipeline(images, self._inputs(params, _upright(images.device), crop, affine))

            if len(images) <= BATCH:
                levels = run(images, params)
            else:
                parts = torch.split(torch.arange(len(images)), BATCH)
                levels = torch.cat([run(images[part], params[part]).clone() for part in parts])
            yield levels, params.flip

    @contextmanager
    def _pipeline(self, device: torch.device, crop: bool, affine: bool) -> Iterator[_Pipeline]:
        """A pipeline that nobody else uses until the end of the block."""
        if self._process != os.getpid():
            # DALI's threads do not survive a fork, and a child cannot end them: it keeps these pipelines, unused.
            self._abandoned = self._idle
            self._idle, self._process = {}, os.getpid()
        idle = self._idle.setdefault((device, crop, affine), [])
        try:
            pipeline = idle.pop()
        except IndexError:
            threads = self.threads or torch.get_num_threads()
            pipeline = _build(self.spec, device, crop, affine, threads)
        yield pipeline
        idle.append(
            pipeline
        )  # skipped where the block raised: DALI refuses to run a pipeline that has failed

    def _inputs(self, params: Params, upright: bool, crop: bool, affine: bool) -> dict[str, npt.NDArray[Any]]:
        """The pipeline's inputs besides the images, each (B, …)."""
        inputs: dict[str, npt.NDArray[Any]] = {}
        if crop:
            box = params.box.numpy()
            order = [0, 1] if upright else [1, 0]
            inputs["start"] = box[:, :2][:, order].astype(np.int32)
            inputs["shape"] = box[:, 2:][:, order].astype(np.int32)
        if crop and not upright:
            wide, tall = inputs["shape"].astype(np.float32).T
            inputs["end_x"] = np.stack((wide, np.full_like(wide, self.spec.channels + _HAIR)), 1)
            inputs["end_y"] = np.stack((tall, np.full_like(tall, self.spec.size[1] + _HAIR)), 1)
        if affine:
            inputs["matrix"] = _mirrored(params, self.spec.size[1])
        return inputs


def _mirrored(params: Params, width: int) -> npt.NDArray[np.float32]:
    """The affine maps, float32 (B, 2, 3), for images that are mirrored after them instead of before."""
    a, b, c, d, e, f = params.affine.numpy().T
    flip = params.flip.numpy()
    turned = np.stack((a, -b, width - a * width - c, -d, e, f + d * width), 1)
    maps: npt.NDArray[np.float32] = np.where(flip[:, None], turned, params.affine.numpy()).astype(np.float32)
    return maps.reshape(-1, 2, 3)


def _build(spec: AugmentSpec, device: torch.device, crop: bool, affine: bool, threads: int) -> _Pipeline:
    """The pipeline for the images of a recipe on one device; its inputs are those of `DaliAugment._inputs`."""
    import nvidia.dali
    from nvidia.dali import fn

    dali: Any = nvidia.dali  # most of what is used here is made at its import, out of sight of a type checker
    types = dali.types
    size, channels = spec.size, spec.channels
    height, width = size
    gpu, upright = device.type == "cuda", _upright(device)
    filters = {"mag_filter": types.INTERP_LANCZOS3, "min_filter": types.INTERP_NN, "antialias": False}
    pipeline = dali.Pipeline(
        BATCH,
        threads,
        device.index or 0 if gpu else None,
        prefetch_queue_depth=1,
        # Only this execution model gives results on a stream of ours, instead of waiting for the GPU.
        exec_dynamic=upright,
    )

    def given(name: str, **options: Any) -> Any:
        return fn.external_source(name=name, batch=True, no_copy=True, **options)

    with pipeline:
        view: Any = given("images", layout="HWC", device="gpu" if gpu else "cpu")
        if crop:
            view = fn.slice(view, given("start"), given("shape"), axes=[0, 1] if upright else [0, 2])
        if crop and upright:
            view = fn.resize(view, size=size, interp_type=types.INTERP_LANCZOS3)
        elif crop:
            # (wide, C, tall) -> (width, C, tall) -> (tall, width, C) -> (height, width, C).
            origin = [0.0, -_HAIR]
            view = fn.resize(
                view, size=[width, channels], roi_start=origin, roi_end=given("end_x"), **filters
            )
            view = fn.transpose(view, perm=[2, 0, 1], transpose_layout=False)
            view = fn.resize(view, size=size, roi_start=origin, roi_end=given("end_y"), **filters)
        if affine:
            view = fn.warp_affine(
                view, matrix=given("matrix"), size=(height, width), inverse_map=True,
                interp_type=types.INTERP_NN, fill_value=0,
            )  # fmt: skip
        pipeline.set_outputs(view)
    pipeline.build()
    return _Pipeline(pipeline, columns=crop and not upright)
