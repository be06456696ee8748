"""The augmentation with NVIDIA DALI doing the geometry, on CPU and GPU.

DALI draws nothing here: its pipelines get the parameters that `draw_params` has drawn, sample by sample, so that
they have no state, and batch, processes and resume cannot change what a sample sees. What DALI has no equal
operation for, or only one that does not clip between steps, is the operator `photometric`, as in the torch twin.

On a CPU DALI resamples rows (SSE) several times faster than columns, and resamples an axis that keeps its size like
any other. So images come as rows of columns, (W, C, H), are resampled, turned, and resampled again; the axis left
alone is declared a hair larger than its result, which gives it the filter for shrinking, nearest neighbour, that is: a
copy. 235 µs a 96×96 view became 153 (one thread, EPYC Zen 4, DALI 2.4, 2026-11-25), and turning bytes instead of pixels
takes 16 less, in Pillow's order of passes and with its 8 bits between them.

GPU pipelines have not yet run on hardware.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager

import numpy as np
import torch

from scatsimclr.data.augment import Augment, AugmentSpec, Params

# Samples of one call of a pipeline at most; more are several calls.
BATCH = 256
_HAIR = 0.01  # pixels
# (B, H, W, C) to (B, W, C, H), columns as rows, and back.
_COLUMNS, _UPRIGHT = (0, 2, 3, 1), (0, 3, 1, 2)


def dali_missing() -> str | None:
    """Why DALI cannot be used on this machine, or None where it can."""
    try:
        found = importlib.util.find_spec("nvidia.dali")
    except ModuleNotFoundError:
        found = None
    return None if found else "nvidia-dali is not installed (its wheels are for Linux)"


class DaliAugment(Augment):
    """`Augment` with crop and affine map by DALI: same draws, same arguments; levels differ by DALI's rounding.

    Pipelines are made where a call finds none that is idle: calls of several threads run side by side, each with its
    own. A call that fails leaves nothing behind.

    Args:
        threads: of DALI's CPU operators; None: as many as torch's where a pipeline is made.
    """

    name = "dali"

    def __init__(self, spec: AugmentSpec, seed: int, *, threads: int | None = None, **settings):
        super().__init__(spec, seed, **settings)
        self.threads = threads
        self._idle: dict[tuple, list] = {}
        self._process = os.getpid()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_idle": {}, "_process": None}

    def resident(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.is_cuda else images.permute(_COLUMNS).contiguous().permute(_UPRIGHT)

    @contextmanager
    def _geometry(self, images: torch.Tensor, params: Params, crop: bool, affine: bool):
        if not (crop or affine) or not len(images):
            yield images, params.flip
            return
        with self._pipeline(images.device, crop, affine) as pipeline:

            def run(images, params):
                return _call(pipeline, images, self._inputs(params, images.is_cuda, crop, affine))

            if len(images) <= BATCH:
                levels = run(images, params)
            else:
                parts = torch.arange(len(images)).split(BATCH)
                levels = torch.cat([run(images[part], params[part]).clone() for part in parts])
            yield levels, params.flip

    @contextmanager
    def _pipeline(self, device: torch.device, crop: bool, affine: bool):
        """One that nobody else uses until the end of the block: its result is valid until its next run."""
        if self._process != os.getpid():  # DALI's threads do not survive a fork, nor do they end in the child
            self._abandoned = self._idle
            self._idle, self._process = {}, os.getpid()
        idle = self._idle.setdefault((device, crop, affine), [])
        try:
            pipeline = idle.pop()
        except IndexError:
            threads = self.threads or torch.get_num_threads()
            pipeline = _build(self.spec, device, crop, affine, threads)
        yield pipeline
        idle.append(pipeline)  # not where the block raised: DALI calls a pipeline that has failed invalid

    def _inputs(self, params: Params, gpu: bool, crop: bool, affine: bool) -> dict[str, np.ndarray]:
        """What the pipeline's inputs besides the images are, each (B, …)."""
        inputs = {}
        if crop:
            box = params.box.numpy()
            order = [0, 1] if gpu else [1, 0]
            inputs["start"] = box[:, :2][:, order].astype(np.int32)
            inputs["shape"] = box[:, 2:][:, order].astype(np.int32)
        if crop and not gpu:
            wide, tall = inputs["shape"].astype(np.float32).T
            inputs["end_x"] = np.stack((wide, np.full_like(wide, self.spec.channels + _HAIR)), 1)
            inputs["end_y"] = np.stack((tall, np.full_like(tall, self.spec.size[1] + _HAIR)), 1)
        if affine:
            inputs["matrix"] = _mirrored(params, self.spec.size[1])
        return inputs


def _mirrored(params: Params, width: int) -> np.ndarray:
    """The affine maps, float32 (B, 2, 3), for images that are mirrored after them instead of before."""
    a, b, c, d, e, f = params.affine.numpy().T
    flip = params.flip.numpy()
    turned = np.stack((a, -b, width - a * width - c, -d, e, f + d * width), 1)
    return np.where(flip[:, None], turned, params.affine.numpy()).astype(np.float32).reshape(-1, 2, 3)


def _build(spec: AugmentSpec, device: torch.device, crop: bool, affine: bool, threads: int):
    """The pipeline for the images of a recipe on one device; its inputs are those of `DaliAugment._inputs`."""
    from nvidia.dali import Pipeline, fn, types

    size, channels = spec.size, spec.channels
    height, width = size
    gpu = device.type == "cuda"
    filters = {"mag_filter": types.INTERP_LANCZOS3, "min_filter": types.INTERP_NN, "antialias": False}
    pipeline = Pipeline(
        BATCH,
        threads,
        device.index or 0 if gpu else None,
        prefetch_queue_depth=1,
        exec_dynamic=False,
    )

    def given(name: str, **options):
        return fn.external_source(name=name, batch=True, no_copy=True, **options)

    with pipeline:
        view = given("images", layout="HWC", device="gpu" if gpu else "cpu")
        if crop:
            view = fn.slice(view, given("start"), given("shape"), axes=[0, 1] if gpu else [0, 2])
        if crop and gpu:
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
    pipeline.columns = crop and not gpu
    return pipeline


def _call(pipeline, images: torch.Tensor, inputs: dict[str, np.ndarray]) -> torch.Tensor:
    """One run of a pipeline: uint8 (B, H, W, C), valid until the next."""
    images = (images.permute(_COLUMNS) if pipeline.columns else images).contiguous()
    if images.is_cuda:
        stream = torch.cuda.current_stream(images.device).cuda_stream
        pipeline.feed_input("images", images, cuda_stream=stream)
    else:
        stream = None
        pipeline.feed_input("images", images.numpy())
    for name, values in inputs.items():
        pipeline.feed_input(name, np.ascontiguousarray(values))
    (views,) = pipeline.run(stream)
    return torch.from_dlpack(views.as_tensor())
