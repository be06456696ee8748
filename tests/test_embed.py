"""`python -m scatsimclr.embed`: what is written, in which order, and what is left out."""

import csv
import json
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from scatsimclr import Encoder, ScatSimCLR, cli, embed, evaluate, train
from scatsimclr.data import decode
from scatsimclr.data.augment import center_view
from scatsimclr.evaluation.features import WORDS
from scatsimclr.training.setup import augment_spec, restore
from tests.training.conftest import TINY, write_images

CONFIG = """
amp: off
model: {base_model: scatsimclr8, J: 2, L: 2, out_dim: 8}
dataset: {dataset: folder, input_shape: "(16, 16, 3)"}
evaluation: {probes: [knn], knn_k: 5}
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Weights and settings, as arguments of the command."""
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "config.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    torch.save(ScatSimCLR(2, 2, (16, 16, 3), 8, 8).state_dict(), folder / "model.pth")
    return [str(folder / "model.pth"), "--config", str(folder / "config.yaml")]


def call(argv, capsys):
    status = cli.run(embed.command, [str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def table(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def expected(encoder, files):
    """h of each file by itself: nothing can have been swapped."""
    config, model, _ = restore(encoder[0], encoder[2])
    rows = []
    for file in files:
        image = torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy())[None]
        with torch.no_grad():
            rows.append(model.encode(center_view(image, augment_spec(config)))[0].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_rows_are_the_files_in_natural_order(encoder, tmp_path, capsys, batch_size):
    images = write_images(tmp_path / "in", 12)
    output = tmp_path / "out.npy"
    status, out, _ = call([*encoder, images, "--output", output, "--batch-size", batch_size], capsys)
    assert status == 0
    assert "24 images" in out
    files = [images / name / f"{index:02}.png" for name in ("across", "down") for index in range(12)]
    assert [row["path"] for row in table(output.with_suffix(".csv"))] == [str(file) for file in files]
    np.testing.assert_allclose(np.load(output), expected(encoder, files), rtol=1e-4, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.csv", "out.npy"]


def test_precision_of_the_features(encoder, tmp_path, capsys):
    """In bfloat16 near the float32 features but not them: the setting is what the encoder runs in."""
    images, output = write_images(tmp_path / "in", 2), tmp_path / "out.npy"
    call([*encoder, images, "--output", output, "amp=bf16"], capsys)
    files = sorted(images.glob("*/*.png"))
    ours, truth = np.load(output), expected(encoder, files)
    error = np.linalg.norm(ours - truth, axis=1) / np.linalg.norm(truth, axis=1)
    assert (error > 0).all()
    assert error.max() < 2e-2


def test_a_file_with_the_look_of_a_setting_is_a_file(encoder, tmp_path, capsys, monkeypatch):
    images = write_images(tmp_path / "in", 1)
    (images / "down" / "00.png").rename(tmp_path / "seed=1.png")
    monkeypatch.chdir(tmp_path)
    assert call([*encoder, "seed=1.png", "amp=off", "--output", "out.npy"], capsys)[0] == 0
    assert [row["path"] for row in table(tmp_path / "out.csv")] == ["seed=1.png"]
    status, _, err = call([*encoder, "seeds=1", "seed=1.png", "--output", "out.npy"], capsys)
    assert status == 2
    assert "unknown setting seeds; did you mean seed?" in err


def test_named_files_come_in_the_order_given(encoder, tmp_path, capsys):
    images = write_images(tmp_path / "in", 2)
    files = [images / "down" / "01.png", images / "across" / "00.png"]
    call([*encoder, *files, "--output", tmp_path / "out.npy"], capsys)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(encoder, files), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("features", "width"), [("h", 2048), ("z", 8), ("scattering", 432), ("pooled", 432)])
def test_features_by_name(encoder, tmp_path, capsys, features, width):
    """J=2, L=2 make 9 channels of 4×4 for each of three colours; a map that small is not pooled."""
    images, output = write_images(tmp_path / "in", 2), tmp_path / "out.npy"
    status, out, _ = call([*encoder, images, "--output", output, "--features", features], capsys)
    assert status == 0
    assert f"{WORDS[features]} of 4 images" in out
    found, files = np.load(output), sorted(images.glob("*/*.png"))
    assert found.shape == (4, width)
    config, model, _ = restore(encoder[0], encoder[2])
    for row, file in zip(found, files, strict=True):
        image = torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy())[None]
        with torch.no_grad():
            x = center_view(image, augment_spec(config))
            h = model.encode(x)
            parts = {"h": h, "z": model.project(h)}
            truth = parts.get(features, model._scatnet.features(x).flatten(1))
        np.testing.assert_allclose(row, truth[0], rtol=1e-4, atol=1e-5)


def test_what_the_run_recommends_is_written_with_its_statistics(tmp_path, capsys):
    images, run = write_images(tmp_path / "in", 10), tmp_path / "run"
    settings = ["--fused", *TINY, "epochs=1", "amp=off"]
    assert cli.run(train.command, ["--data-dir", str(images), "--run-dir", str(run), *settings]) == 0
    recommended = json.loads((run / "recommendation.json").read_text())["features"]
    for path in (run, run / "checkpoints" / "last.pt"):
        status, out, _ = call([path, images, "--output", tmp_path / "out.npy"], capsys)
        assert status == 0
        assert f"{WORDS[recommended]} of 20 images" in out
    choice = run / "recommendation.json"
    choice.write_text(choice.read_text().replace(recommended, "both_pooled", 1))
    argv = [run, "--split", "train", "--data-dir", images, "--output", tmp_path / "train.npy"]
    assert call(argv, capsys)[0] == 0
    found = np.load(tmp_path / "train.npy")
    assert found.shape[1] == 2048 + 432
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    variance = found.var(0)
    assert variance[:2048].sum() == pytest.approx(0.5, rel=1e-2)
    assert variance[2048:].sum() == pytest.approx(0.5, rel=1e-2)


def test_what_cannot_be_read_is_left_out_and_named(encoder, tmp_path, capsys):
    images = write_images(tmp_path / "my images, π", 3)
    (images / "across" / "01.png").write_bytes(b"")
    (images / "down" / "=cmd.png").write_bytes(b"\x89PNG nothing")
    (images / "down" / "link.png").symlink_to("nowhere.png")
    Image.new("L", (1, 1), 9).save(images / "down" / "one pixel.gif")
    output = tmp_path / "out.npy"
    status, out, _ = call([*encoder, images, "--output", output], capsys)
    assert status == 0
    assert "3 files skipped" in out
    assert "empty file" in out
    names = [row["path"] for row in table(output.with_suffix(".csv"))]
    assert len(names) == len(np.load(output)) == 6
    assert str(images / "down" / "one pixel.gif") in names
    skipped = {row["path"]: row["reason"] for row in table(output.with_suffix(".skipped.csv"))}
    assert skipped[str(images / "across" / "01.png")] == "empty file"
    assert "broken link" in skipped[str(images / "down" / "link.png")]


def test_neighbours_of_the_embeddings_are_what_evaluate_measures(encoder, tmp_path, capsys):
    images = write_images(tmp_path / "in", 20)
    for split in ("train", "test"):
        argv = [*encoder, "--split", split, "--data-dir", images, "--output", tmp_path / f"{split}.npy"]
        assert call(argv, capsys)[0] == 0
    bank, queries = (np.load(tmp_path / f"{split}.npy") for split in ("train", "test"))
    labels, truth = (
        np.array([int(row["label"]) for row in table(tmp_path / f"{split}.csv")])
        for split in ("train", "test")
    )
    mean, deviation = bank.mean(0), bank.std(0)
    deviation[deviation < 1e-6] = np.inf
    bank, queries = (bank - mean) / deviation, (queries - mean) / deviation
    neighbours = NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank)
    distance, index = neighbours.kneighbors(queries)
    votes = np.zeros((len(queries), 2))
    for column in range(5):
        np.add.at(
            votes, (np.arange(len(queries)), labels[index[:, column]]), np.exp(-distance[:, column] / 0.1)
        )
    accuracy = (votes.argmax(1) == truth).mean()
    cli.run(evaluate.command, [*encoder, "--data-dir", str(images), "--json"])
    assert f'"knn": {accuracy}' in capsys.readouterr().out


def test_parquet_has_everything_in_one_table(encoder, tmp_path, capsys):
    images = write_images(tmp_path / "in", 20)
    argv = [*encoder, "--split", "train", "--data-dir", images, "--batch-size", 9]
    call([*argv, "--output", tmp_path / "out.parquet"], capsys)
    call([*argv, "--output", tmp_path / "out.npy"], capsys)
    found = pq.read_table(tmp_path / "out.parquet").to_pydict()
    rows = table(tmp_path / "out.csv")
    assert found["row"] == list(range(len(rows)))
    for name in ("path", "class"):
        assert found[name] == [row[name] for row in rows]
    assert found["label"] == [int(row["label"]) for row in rows]
    assert np.array_equal(np.array(found["embedding"], np.float32), np.load(tmp_path / "out.npy"))


def test_a_run_that_breaks_leaves_the_output_before(encoder, tmp_path, capsys, monkeypatch):
    images = write_images(tmp_path / "in", 5)
    output = tmp_path / "out.npy"
    call([*encoder, images, "--output", output], capsys)
    before, original, calls = output.read_bytes(), Encoder.rows, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(Encoder, "rows", stop)
    status, _, _ = call([*encoder, images, "--output", output, "--batch-size", 2], capsys)
    assert status == 130
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.csv", "out.npy"]


def test_the_next_batch_is_decoded_while_one_is_worked_on(tmp_path, monkeypatch):
    images = write_images(tmp_path / "in", 10)
    files, decoded, original = sorted(images.rglob("*.png")), [], decode.read_image
    monkeypatch.setattr(
        decode, "read_image", lambda file, *given: decoded.append(file) or original(file, *given)
    )
    batches = decode.decode_batches(files, (16, 16), 3, 3)
    first, *_ = next(batches)
    until = time.monotonic() + 10
    while len(decoded) < 6 and time.monotonic() < until:
        time.sleep(0.01)
    assert sorted(decoded)[:6] == files[:6]
    assert [first, *(kept for kept, _, _ in batches)] == [
        list(range(start, min(start + 3, 20))) for start in range(0, 20, 3)
    ]
    assert not list(decode.decode_batches([], (16, 16), 3, 3))


def mistakes(folder):
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"no")
    (folder / "none").mkdir()
    output = folder / "out.npy"
    return [
        ([folder / "none", "--output", output], "no image file in"),
        ([folder / "absent", "--output", output], "absent does not exist"),
        ([folder / "bad.png", "--output", output], "none of 1 image files can be read, the first"),
        ([folder / "bad.png", "--output", folder / "out.txt"], "must end in .npy or .parquet"),
        ([folder / "bad.png", "--output", folder / "x" / "out.npy"], "must be in a folder that exists"),
        (["--output", output], "either images (files or folders) or --split"),
        ([folder, "--output", output, "--batch-size", 0], "--batch-size must be 1 or more"),
        ([folder, "--output", output, "--features", "both"], "need the statistics of a run"),
        (["--split", "tset", "--output", output], "did you mean 'test'"),
    ]


@pytest.mark.parametrize("case", range(9))
def test_a_mistake_ends_with_status_2_and_one_line(encoder, tmp_path, capsys, case):
    arguments, message = mistakes(tmp_path / "in")[case]
    status, _, err = call([*encoder, *arguments], capsys)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob("*.partial"))


def test_parquet_without_pyarrow_says_what_to_install(encoder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    images = write_images(tmp_path / "in", 1)
    status, _, err = call([*encoder, images, "--output", tmp_path / "out.parquet"], capsys)
    assert status == 2
    assert "needs pyarrow: pip install 'scatsimclr[parquet]'" in err
