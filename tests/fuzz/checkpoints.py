"""`python -m tests.fuzz.checkpoints`: checkpoints and other files of a run, with anything in them.

Files of a real run with spoiled bytes, and well-formed ones with values missing or of other kinds and sizes. Each is
read, or refused by a message of one line and at most 300 characters, within seconds. Prints how many.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from scatsimclr import ScatSimCLR
from scatsimclr.config import load_config
from scatsimclr.data.loader import Batch
from scatsimclr.errors import UserError
from scatsimclr.evaluation.classifier import Classifier
from scatsimclr.evaluation.recommendation import Recommendation
from scatsimclr.training import checkpoint
from scatsimclr.training.metrics import Sums, read_metrics
from scatsimclr.training.progress import check_continuable
from scatsimclr.training.progress import restore as progress_of
from scatsimclr.training.setup import build_model, restore
from scatsimclr.training.update import Update
from tests.fuzz.settings import NUMBERS, TEXTS, accepted, nested


def spoiled_bytes(rng: random.Random, made: bytes) -> bytes:
    """Some bytes changed, or an end that is missing."""
    changed = bytearray(made)
    if rng.random() < 0.3:
        return bytes(changed[: rng.randrange(len(changed))])
    for _ in range(rng.choice((1, 1, 8, 100))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def other_tensors(old: torch.Tensor) -> list[object]:
    """What is not the tensor that a file should hold."""
    found: list[object] = [
        torch.zeros(0),
        torch.zeros(3, 5),
        torch.zeros(1).expand(10**6),
        torch.sparse_coo_tensor(size=(3, 3)),
        "weights",
        None,
        old.flatten()[:-1].clone(),
    ]
    if not old.is_complex():
        found += [old.to(torch.int64), old.double()]
    return [*found, torch.full_like(old, float("nan"))] if old.is_floating_point() else found


def spoiled(rng: random.Random, value: object) -> object:
    """A copy of a tree of dicts and lists in which one place is something else, or missing."""
    made = copy.deepcopy(value)
    places: list[tuple[dict | list, object]] = []

    def collect(inner: object) -> None:
        items = (
            inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        )
        for key, below in list(items):
            places.append((inner, key))
            collect(below)

    collect(made)
    if not places:
        return made
    holder, key = rng.choice(places)
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[key]
        return made
    old = holder[key]
    if isinstance(old, torch.Tensor) and rng.random() < 0.7:
        holder[key] = rng.choice(other_tensors(old))
    else:
        holder[key] = rng.choice((nested(rng, 2), rng.choice(NUMBERS), rng.choice(TEXTS)[:1000]))
    return made


class Run:
    """The files of a run that is read again and again."""

    def __init__(self, folder: Path, source: Path) -> None:
        """Copies the parts of `source`, a finished run."""
        self.folder = folder
        self.last = (source / "checkpoints" / "last.pt").read_bytes()
        self.state = checkpoint.load(source)
        self.config = load_config(base=self.state["config"])
        self.names = (
            "config.json",
            "metrics.jsonl",
            "recommendation.json",
            "model.safetensors",
            "features.safetensors",
            "classifier.json",
            "classifier.safetensors",
        )
        self.files = {name: (source / name).read_bytes() for name in self.names}
        self.weights = load_file(source / "model.safetensors")
        # Where there are checkpoints, these are read: what is shared needs a folder of its own.
        self.shared = folder / "shared"
        for place in (folder / "checkpoints", self.shared):
            place.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            (folder / name).write_bytes(self.files[name])
            (self.shared / name).write_bytes(self.files[name])

    def checkpoint(self, rng: random.Random) -> Callable[[], object]:
        path = self.folder / "checkpoints" / "last.pt"
        if rng.random() < 0.3:
            path.write_bytes(spoiled_bytes(rng, self.last))
        else:
            buffer = io.BytesIO()
            # Some integers have no place in what torch.save writes.
            with contextlib.suppress(OverflowError, ValueError):
                torch.save({"format": checkpoint.FORMAT, **spoiled(rng, self.state)}, buffer)
            path.write_bytes(buffer.getvalue())
        return lambda: restore(str(self.folder))

    def resumed(self, rng: random.Random) -> Callable[[], object]:
        path = self.folder / "checkpoints" / "last.pt"
        buffer = io.BytesIO()
        state = {**self.state, "partial": {"sums": {"loss": torch.zeros(())}, "count": 1, "seconds": 1.0}}
        with contextlib.suppress(OverflowError, ValueError):
            torch.save({"format": checkpoint.FORMAT, **spoiled(rng, state)}, buffer)
        path.write_bytes(buffer.getvalue())

        def resume() -> None:
            state = checkpoint.load(self.folder)
            update = Update(self.config, build_model(self.config), None, torch.device("cpu"))
            check_continuable(state, self.config, self.state["data"], anyway=False)
            progress = progress_of(state, update, self.state["pipeline"])
            if progress.partial is not None:
                Sums().restore(progress.partial, update.device)
            height, width, channels = self.config.dataset.input_shape
            update(Batch(torch.rand(2, 3, channels, height, width), torch.arange(3)))

        return resume

    def pretrained(self, rng: random.Random) -> Callable[[], object]:
        name = rng.choice(("config.json", "model.safetensors"))
        path = self.shared / name
        if rng.random() < 0.5 or name == "model.safetensors":
            path.write_bytes(spoiled_bytes(rng, self.files[name]))
        else:
            path.write_text(json.dumps(spoiled(rng, json.loads(self.files[name]))))

        def read() -> None:
            try:
                ScatSimCLR.from_pretrained(self.shared)
            finally:
                path.write_bytes(self.files[name])

        return read

    def other_weights(self, rng: random.Random) -> Callable[[], object]:
        path = self.shared / "other.safetensors"
        changed = spoiled(rng, self.weights)
        tensors = {
            k: v for k, v in changed.items() if isinstance(v, torch.Tensor) and v.layout == torch.strided
        }
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        model = ScatSimCLR.from_pretrained(self.shared)
        return lambda: checkpoint.load_weights(path, model)

    def recommendation(self, rng: random.Random) -> Callable[[], object]:
        name = rng.choice(("recommendation.json", "features.safetensors"))
        path = self.folder / name
        path.write_bytes(spoiled_bytes(rng, self.files[name]))

        def read() -> None:
            try:
                found = Recommendation.load(self.folder, torch.device("cpu"))
                if found is not None:
                    found.standard(found.features)
            finally:
                path.write_bytes(self.files[name])

        return read

    def classifier(self, rng: random.Random) -> Callable[[], object]:
        name = rng.choice(("classifier.json", "classifier.safetensors"))
        path = self.folder / name
        if name == "classifier.json" and rng.random() < 0.5:
            path.write_text(json.dumps(spoiled(rng, json.loads(self.files[name]))))
        else:
            path.write_bytes(spoiled_bytes(rng, self.files[name]))

        def read() -> None:
            try:
                Classifier.load(self.folder, torch.device("cpu"))
            finally:
                path.write_bytes(self.files[name])

        return read

    def metrics(self, rng: random.Random) -> Callable[[], object]:
        path = self.folder / "other.jsonl"
        lines = self.files["metrics.jsonl"].splitlines()
        place = rng.randrange(len(lines))
        lines[place] = rng.choice((
            spoiled_bytes(rng, lines[place]), b"5", b"null", b"[]", b"\xff\xfe", b"", b"{}", b'{"event": 5}',
            b"[" * 5000, json.dumps(nested(rng, 2), default=str).encode(), b'{"step": "x", "event": "epoch"}',
            b"9" * 5000,
        ))  # fmt: skip
        path.write_bytes(b"\n".join(lines) + rng.choice((b"\n", b"")))

        def read() -> None:
            records = read_metrics(path)
            # One damaged line costs that line at most.
            assert len(records) >= len(lines) - 1
            assert all(
                isinstance(record["event"], str) and isinstance(record["step"], int) for record in records
            )

        return read


def case(number: int, run: Run) -> str:
    """One file; returns "read" or "refused"; raises as `tests.fuzz.settings.accepted` does."""
    rng = random.Random(number)
    kinds = (
        run.checkpoint,
        run.resumed,
        run.pretrained,
        run.other_weights,
        run.recommendation,
        run.classifier,
        run.metrics,
    )
    kind = rng.choice(kinds)
    # Who calls `from_pretrained` gets a ValueError; what a command reads raises the kind that is one line there.
    refusal = ValueError if kind == run.pretrained else UserError
    try:
        return "read" if accepted(kind(rng), refusal) else "refused"
    except Exception as error:
        raise AssertionError(f"case {number}: {kind.__name__}") from error


def finished_run(folder: Path) -> Path:
    """A small run on generated images."""
    from scatsimclr import train
    from tests.training.conftest import TINY, write_images

    images = write_images(folder / "images", 10)
    settings = [*TINY, "epochs=1", "model.base_model=scatsimclr4", "evaluation.probes=[knn]"]
    train.command([*settings, "--data-dir", str(images), "--run-dir", str(folder / "run")])
    return folder / "run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(": ")[2].splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name) / "spoiled", finished_run(Path(name)))
        found = Counter(case(number, run) for number in range(options.first, options.first + options.count))
    print(f"checkpoints: {options.count} cases, {found['read']} read, {found['refused']} refused")


if __name__ == "__main__":
    main()
