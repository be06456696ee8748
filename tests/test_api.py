"""The package's functions: images in every form, the command's own runs, and encoders that carry all they need."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import scatsimclr
from scatsimclr import cli, embed, train
from scatsimclr.data.datasets import load as load_set
from scatsimclr.errors import UserError
from scatsimclr.training import checkpoint
from tests.training.conftest import write_images

# A small net on small images: a second or two for a whole run.
SMALL = {
    "dataset": {"input_shape": (16, 16, 3), "valid_size": 0.2},
    "model": {"L": 2, "out_dim": 16, "base_model": "scatsimclr4"},
    "batch_size": 8, "epochs": 2, "evaluation": {"labels_per_class": (2,), "seeds": 2, "probe_epochs": 2},
    "evaluation.probes": ("knn", "few"), "data.pipeline": "torch", "amp": "off",
}  # fmt: skip
WORDS = [
    "dataset.dataset=folder", "dataset.input_shape=(16, 16, 3)", "dataset.valid_size=0.2", "model.L=2",
    "model.out_dim=16", "model.base_model=scatsimclr4", "batch_size=8", "epochs=2", "evaluation.seeds=2",
    "evaluation.labels_per_class=[2]", "evaluation.probe_epochs=2", "evaluation.probes=[knn,few]",
    "data.pipeline=torch", "amp=off",
]  # fmt: skip


def small(**more):
    return {**SMALL, "verbose": False, "report": False, **more}


def weights(folder):
    return load_file(folder / "model.safetensors")


def same_run(one, other):
    """Whether two runs ended with the same bits, and measured the same on the way."""
    ours, theirs = (checkpoint.load(folder) for folder in (one, other))
    equal = all(
        torch.equal(a, b) for a, b in zip(ours["model"].values(), theirs["model"].values(), strict=True)
    )
    records = [
        [
            {k: v for k, v in json.loads(line).items() if not k.endswith(("_seconds", "_per_second"))}
            for line in file
        ]
        for file in ((folder / "metrics.jsonl").open() for folder in (one, other))
    ]
    return equal and records[0] == records[1] and torch.equal(ours["rng"], theirs["rng"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 20)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return scatsimclr.fit(folder, run_dir=tmp_path_factory.mktemp("api") / "run", **small())


def arrays(folder):
    """The images of a folder in its order, and their classes."""
    files = sorted(folder.rglob("*.png"))
    return (
        np.stack([np.asarray(Image.open(file)) for file in files]),
        [file.parent.name for file in files],
        files,
    )


def test_fit_is_the_command(folder, run, tmp_path):
    argv = ["--fused", "--data-dir", str(folder), "--run-dir", str(tmp_path / "run"), *WORDS]
    assert cli.run(train.command, argv) == 0
    assert same_run(run.folder, tmp_path / "run")


@pytest.mark.parametrize("form", ["array", "list", "tensor", "data set", "npy"])
def test_images_in_memory_give_the_run_of_the_same_images_in_files(folder, tmp_path, form):
    """Without labels, which would divide files by their names and arrays by their numbers."""
    pixels, _, files = arrays(folder)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, flat / f"{number:03}.png")
    argv = ["--fused", "--data-dir", str(flat), "--run-dir", str(tmp_path / "command"), *WORDS, "epochs=1"]
    assert cli.run(train.command, argv) == 0
    np.save(tmp_path / "images.npy", pixels)
    tensor = torch.from_numpy(pixels.transpose(0, 3, 1, 2))
    images = {
        "array": pixels, "list": [Image.fromarray(image) for image in pixels], "tensor": tensor,
        "data set": torch.utils.data.TensorDataset(tensor), "npy": tmp_path / "images.npy",
    }[form]  # fmt: skip
    fitted = scatsimclr.fit(images, run_dir=tmp_path / "fit", **small(epochs=1))
    assert same_run(fitted.folder, tmp_path / "command")


def test_an_array_with_labels_is_the_command_on_the_same_data_set(tmp_path):
    digits = (
        load_set("digits", "train", size=(8, 8), channels=1),
        load_set("digits", "test", size=(8, 8), channels=1),
    )
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    settings = [
        "dataset.limit=96",
        "epochs=1",
        "model.L=2",
        "amp=off",
        "data.pipeline=torch",
        "evaluation.probes=[knn]",
    ]
    argv = ["--fused", "--config", "digits", "--run-dir", str(tmp_path / "command"), *settings]
    assert cli.run(train.command, argv) == 0
    normalization = ((0.312,), (0.357,))  # those of digits
    fitted = scatsimclr.fit(
        images, found.target, config="digits", run_dir=tmp_path / "fit", epochs=1, verbose=False, report=False,
        dataset={"limit": 96, "normalization": normalization}, amp="off",
        **{"model.L": 2, "data.pipeline": "torch", "evaluation.probes": ("knn",)},
    )  # fmt: skip
    assert same_run(fitted.folder, tmp_path / "command")
    assert fitted.after["knn"] > 0.5
    assert len(digits[0]) + len(digits[1]) == len(images)


def test_a_list_of_files_and_a_table_of_them_are_the_same_run(folder, tmp_path):
    _, names, files = arrays(folder)
    listed = scatsimclr.fit(files, names, run_dir=tmp_path / "list", **small(epochs=1))
    table = folder / "files.csv"
    with table.open("w", newline="") as file:
        rows = [(path.relative_to(folder), name) for path, name in zip(files, names, strict=True)]
        csv.writer(file).writerows([("path", "label"), *rows])
    by_table = scatsimclr.fit(table, run_dir=tmp_path / "table", **small(epochs=1))
    assert same_run(listed.folder, by_table.folder)
    argv = ["--fused", "--data-dir", str(table), "--run-dir", str(tmp_path / "command"), *WORDS, "epochs=1"]
    assert cli.run(train.command, argv) == 0
    assert same_run(listed.folder, tmp_path / "command")
    assert listed.after["knn"] is not None


def test_settings_are_nested_or_dotted(folder, tmp_path):
    settings = small(epochs=1)
    del settings["model"]
    dotted = {"model.L": 2, "model.out_dim": 16, "model.base_model": "scatsimclr4"}
    one = scatsimclr.fit(folder, run_dir=tmp_path / "dotted", **settings, **dotted)
    other = scatsimclr.fit(folder, run_dir=tmp_path / "nested", **small(epochs=1))
    assert same_run(one.folder, other.folder)
    with pytest.raises(UserError, match=r"unknown setting model\.Q"):
        scatsimclr.fit(folder, model={"Q": 1})


def test_a_stopped_run_is_resumed_with_the_images_it_had(folder, tmp_path):
    pixels, _, _ = arrays(folder)
    whole = scatsimclr.fit(pixels, run_dir=tmp_path / "whole", **small(flat_epochs=0))
    scatsimclr.fit(pixels, run_dir=tmp_path / "r", **small(flat_epochs=0))
    checkpoints = tmp_path / "r" / "checkpoints"
    (checkpoints / "last.pt").unlink()
    shutil.copy(checkpoints / "previous.pt", checkpoints / "last.pt")  # back to the end of the first epoch
    resumed = scatsimclr.fit(pixels, run_dir=tmp_path / "r", resume=True, **small(flat_epochs=0))
    assert all(torch.equal(a, weights(resumed.folder)[name]) for name, a in weights(whole.folder).items())
    with pytest.raises(UserError, match="already holds a run"):
        scatsimclr.fit(pixels, run_dir=tmp_path / "r", **small())
    with pytest.raises(UserError, match="other pixels"):
        scatsimclr.fit(pixels[::-1].copy(), run_dir=tmp_path / "r", resume=True, **small(flat_epochs=0))
    status = cli.run(train.command, ["--resume", str(tmp_path / "r")])
    assert status == 2


def test_the_encoder_embeds_what_the_command_embeds(folder, run, tmp_path):
    encoder = scatsimclr.load(run.folder)
    assert cli.run(embed.command, [str(run.folder), str(folder), "--output", str(tmp_path / "f.npy")]) == 0
    expected = np.load(tmp_path / "f.npy")
    pixels, _, files = arrays(folder)
    for images in (folder, files, [str(file) for file in files], pixels, list(pixels)):
        np.testing.assert_array_equal(encoder.embed(images), expected)
    np.testing.assert_allclose(run.encoder.embed(files[3]), expected[3:4], rtol=0, atol=1e-6)
    assert encoder.embed(pixels, features="h").shape == (40, 2048)
    assert encoder.features == run.encoder.features
    rows = list(csv.DictReader((tmp_path / "f.csv").open()))
    assert [row["class"] for row in rows] == [Path(row["path"]).parent.name for row in rows]
    assert {row["label"] for row in rows} == {"0", "1"}


def test_an_image_that_cannot_be_read_is_an_error_or_nan(folder, run, tmp_path):
    files = sorted(folder.rglob("*.png"))[:3]
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = [*files[:2], tmp_path / "bad.png", files[2]]
    with pytest.raises(UserError, match=r"bad\.png cannot be read: not a readable image \(on_error='nan'"):
        run.encoder.embed(images)
    found = run.encoder.embed(images, on_error="nan")
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[[0, 1, 3]], run.encoder.embed(files))
    with pytest.raises(UserError, match="none of 1 images can be read"):
        run.encoder.embed(tmp_path / "bad.png", on_error="nan")
    with pytest.raises(UserError, match=r"image 1: an image must have shape \(H, W\) or \(H, W, C\)"):
        run.encoder.embed([np.zeros((4, 4)), np.zeros(4)])


def test_a_run_with_labels_predicts_and_others_learn_to(folder, run, tmp_path):
    pixels, names, _ = arrays(folder)
    encoder = scatsimclr.load(run.folder)
    assert encoder.classes == ("across", "down")
    assert (encoder.predict(pixels) == names).mean() > 0.9
    np.testing.assert_allclose(encoder.predict_proba(folder).sum(1), 1, rtol=1e-5)
    bare = scatsimclr.fit(pixels, run_dir=tmp_path / "bare", **small(epochs=1)).encoder
    with pytest.raises(UserError, match="predict needs labels"):
        bare.predict(pixels)
    labels = [name if number % 2 else None for number, name in enumerate(names)]
    assert (bare.learn(pixels, labels).predict(pixels) == names).mean() > 0.8
    kept = scatsimclr.load(bare.save_pretrained(tmp_path / "kept"))
    np.testing.assert_array_equal(kept.predict(folder), bare.predict(folder))
    with pytest.raises(UserError, match="labels must be of two classes or more"):
        bare.learn(pixels, ["a"] * 40)
    with pytest.raises(UserError, match="labels must be one per image, 40, got 3"):
        bare.learn(pixels, [1, 2, 1])


def test_a_few_labels_become_labels_for_all(folder, run, tmp_path):
    pixels, names, files = arrays(folder)
    few = [name if number % 20 < 6 else None for number, name in enumerate(names)]
    found = run.encoder.label(pixels, few, suggest=3)
    assert (found.labels == names).mean() > 0.8
    assert (found.confidence[[0, 25]] == 1).all()
    assert found.probabilities.shape == (40, 2)
    assert len(found.suggestions) == 3
    table = tmp_path / "few.csv"
    known = [(file, name) for file, name in zip(files, few, strict=True) if name]
    table.write_text("path,label\n" + "".join(f"{file.relative_to(folder)},{name}\n" for file, name in known))
    for labels in (table, dict(known)):
        by_file = run.encoder.label(folder, labels)
        np.testing.assert_array_equal(by_file.labels, found.labels)
    assert by_file.names[0].endswith("00.png")
    with pytest.raises(UserError, match="0 labelled images: at least two"):
        run.encoder.label(pixels)


@pytest.mark.parametrize("name", ["turned.jpg", "alpha.png", "deep.png", "grey.png"])
def test_an_image_has_the_same_features_wherever_it_comes_from(run, tmp_path, name):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (40, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "turned.jpg": lambda path: Image.fromarray(colours).save(path, exif=exif),
        "alpha.png": lambda path: Image.fromarray(np.dstack([colours, colours[..., 0]])).save(path),
        "deep.png": lambda path: Image.fromarray(colours[..., 0].astype(np.uint16) << 4).save(path),
        "grey.png": lambda path: Image.fromarray(colours[..., 0]).save(path),
    }
    path = tmp_path / name
    images[name](path)
    encoder = run.encoder
    pixels = scatsimclr.read_image(path, (16, 16))
    expected = encoder.embed(path, features="h")
    np.testing.assert_array_equal(encoder.embed(pixels[None], features="h"), expected)
    model = scatsimclr.ScatSimCLR.from_pretrained(run.folder)
    with torch.no_grad():
        h = model.encode(encoder.preprocess(path))
    torch.testing.assert_close(h, torch.from_numpy(expected), rtol=1e-3, atol=1e-4)
    assert (
        cli.run(
            embed.command,
            [str(run.folder), str(path), "--features", "h", "--output", str(tmp_path / "h.npy")],
        )
        == 0
    )
    np.testing.assert_array_equal(np.load(tmp_path / "h.npy"), expected)
    with pytest.raises(UserError, match="cannot be read"):
        scatsimclr.read_image(tmp_path / "absent.png", (16, 16))


def test_a_stopped_run_is_loaded_from_its_last_checkpoint(run, folder, tmp_path):
    stopped = tmp_path / "stopped"
    (stopped / "checkpoints").mkdir(parents=True)
    shutil.copy(run.folder / "checkpoints" / "previous.pt", stopped / "checkpoints" / "last.pt")
    first = scatsimclr.load(stopped)
    assert first.origin == "after epoch 1"
    model = scatsimclr.ScatSimCLR.from_pretrained(stopped)
    state = checkpoint.load(stopped)["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(
        model.encode(first.preprocess(folder)),
        torch.from_numpy(first.embed(folder, features="h")),
        rtol=1e-3,
        atol=1e-4,
    )


def test_preprocessing_travels_with_the_weights(folder, tmp_path):
    settings = small(epochs=1)
    settings["dataset"] = {**settings["dataset"], "normalization": "images"}
    fitted = scatsimclr.fit(folder, run_dir=tmp_path / "run", **settings)
    mean, std = fitted.config.dataset.normalization
    seen = load_set("folder", "pretrain", size=(16, 16), data_dir=folder).images.double().flatten(0, 2) / 255
    assert mean == pytest.approx(seen.mean(0).tolist(), abs=0.03)
    assert std == pytest.approx(seen.std(0).tolist(), abs=0.03)
    kept = scatsimclr.load(fitted.encoder.save_pretrained(tmp_path / "kept"))
    (tmp_path / "run").rename(tmp_path / "gone")
    assert kept.config.dataset.normalization == (mean, std)
    np.testing.assert_array_equal(kept.embed(folder), fitted.encoder.embed(folder))
    usual = scatsimclr.Encoder.load(tmp_path / "gone", changes=["dataset.normalization=usual", "fused=true"])
    assert not np.allclose(usual.embed(folder), kept.embed(folder))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 12])
def test_tiny_sets_train_and_smaller_ones_are_refused_in_one_line(tmp_path, count):
    images = np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), np.uint8)
    settings = {"epochs": 1, "verbose": False, "model": {"base_model": "scatsimclr4", "L": 2}}
    if count < 2:
        message = "one or more, got none" if count == 0 else "1 image to train on: two or more are needed"
        with pytest.raises(UserError, match=message):
            scatsimclr.fit(images, run_dir=tmp_path / "run", **settings)
        return
    fitted = scatsimclr.fit(images, run_dir=tmp_path / "run", **settings)
    assert fitted.config.batch_size == min(count, 11)
    assert fitted.report.is_file()
    assert np.isfinite(fitted.encoder.embed(images)).all()
    longer = scatsimclr.fit(images, run_dir=tmp_path / "run", resume=True, **{**settings, "epochs": 2})
    assert checkpoint.load(longer.folder)["epoch"] == 2


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_images_of_any_number_of_channels(tmp_path, channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 4096, (24, 20, 18, channels)).astype(np.uint16)
    fitted = scatsimclr.fit(
        images,
        run_dir=tmp_path / "run",
        **{**small(epochs=1), "dataset": {"input_shape": (16, 16, channels)}},
    )
    encoder = fitted.encoder
    expected = encoder.embed(images)
    assert expected.shape[0] == 24
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", images[number])
        pages = [Image.fromarray(images[number, ..., c]) for c in range(channels)]
        pages[0].save(tmp_path / f"{number}.tif", save_all=True, append_images=pages[1:])
    for suffix in ("npy", "tif"):
        files = [tmp_path / f"{number}.{suffix}" for number in range(3)]
        assert torch.equal(encoder.preprocess(files), encoder.preprocess(images[:3]))
        # Batches of other sizes are summed in another order.
        np.testing.assert_allclose(encoder.embed(files), expected[:3], rtol=0, atol=1e-6)
    with pytest.raises(UserError, match=f"{channels + 5} channels, where {channels} are expected"):
        encoder.embed(rng.integers(0, 256, (2, 8, 8, channels + 5), np.uint8))


def test_the_number_of_channels_is_found(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", rng.integers(0, 256, (20, 20, 6), np.uint8))
    settings = {"epochs": 1, "verbose": False, "model": {"base_model": "scatsimclr4", "L": 2}}
    fitted = scatsimclr.fit(tmp_path, run_dir=tmp_path / "run", **settings)
    assert fitted.config.dataset.input_shape == (32, 32, 6)
    assert fitted.report.is_file()


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not there"):
        scatsimclr.fit(tmp_path / "nowhere")
    with pytest.raises(UserError, match="images must be a folder, files, arrays or a data set, got int"):
        scatsimclr.fit(7)
    with pytest.raises(UserError, match=r"images must be \(N, H, W\[, C\]\).*got 2 axes"):
        scatsimclr.fit(np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="labels must be one per image, 4, got 3"):
        scatsimclr.fit(np.zeros((4, 8, 8), np.uint8), [0, 1, 0])
    with pytest.raises(UserError, match="does not exist"):
        scatsimclr.load(tmp_path)
    with pytest.raises(UserError, match="features must be one of h, z"):
        scatsimclr.Encoder.standard(object.__new__(scatsimclr.Encoder), "k")
