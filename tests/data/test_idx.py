"""The IDX data sets in every form that their files come in, and every way in which such a file can be wrong."""

import gzip
import hashlib
import http.server
import struct
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from scatsimclr.data import idx
from scatsimclr.data.datasets import DataError, load, names, normalization

GREY = [name for name in names() if "mnist" in name]
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def get(root, name="fashion_mnist", split="train", size=(28, 28), channels=1):
    return load(name, split, size=size, channels=channels, data_dir=root, download=False, progress=False)


def header(*words):
    return struct.pack(f">{len(words)}I", *words)


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)


def image_file(pixels):
    return header(0x803, *pixels.shape) + pixels.tobytes()


def label_file(labels):
    return header(0x801, len(labels)) + bytes(labels)


def write(folder, pixels, labels, prefix="train", form=("-idx", ".gz")):
    folder.mkdir(parents=True, exist_ok=True)
    dash, suffix = form
    pack = gzip.compress if suffix else bytes
    for kind, content in (("images-idx3", image_file(pixels)), ("labels-idx1", label_file(labels))):
        name = f"{prefix}-{kind}-ubyte".replace("-idx", dash)
        (folder / (name + suffix)).write_bytes(pack(content))


@pytest.fixture
def root(tmp_path):
    """A folder with five training images of Fashion-MNIST."""
    write(tmp_path, images(5), [0, 9, 3, 3, 1])
    return tmp_path


@pytest.mark.parametrize("form", [("-idx", ".gz"), ("-idx", ""), (".idx", ".gz"), (".idx", "")], ids="".join)
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_reads_gzipped_and_plain_files_under_both_spellings(tmp_path, name, form):
    write(tmp_path, images(5), [0, 9, 3, 3, 1], form=form)
    write(tmp_path, images(3, seed=1), [4, 5, 6], "t10k", form)
    for split, pixels, labels in (
        ("train", images(5), [0, 9, 3, 3, 1]),
        ("pretrain", images(5), [0, 9, 3, 3, 1]),
        ("test", images(3, seed=1), [4, 5, 6]),
    ):
        found = get(tmp_path, name, split)
        np.testing.assert_array_equal(found.images[..., 0], pixels)
        assert found.labels.tolist() == labels
        assert len(found.classes) == 10
        assert found.images.is_contiguous()


@pytest.mark.parametrize(
    ("part", "classes", "first", "name_of_the_last"),
    [
        ("balanced", 47, 0, "t"),
        ("byclass", 62, 0, "z"),
        ("bymerge", 47, 0, "t"),
        ("letters", 26, 1, "Z"),
        ("digits", 10, 0, "9"),
        ("mnist", 10, 0, "9"),
    ],
)
def test_emnist_is_stored_transposed_and_letters_count_from_one(
    tmp_path, part, classes, first, name_of_the_last
):
    write(tmp_path / "emnist", images(2), [first, first + classes - 1], f"emnist-{part}-test")
    found = get(tmp_path, f"emnist_{part}", "test")
    np.testing.assert_array_equal(found.images[..., 0], images(2).transpose(0, 2, 1))
    assert found.labels.tolist() == [0, classes - 1]
    assert len(found.classes) == classes
    assert found.classes[-1] == name_of_the_last


def test_the_known_classes_of_the_labels():
    assert idx._SETS["emnist_byclass"].classes[10] == "A"
    assert idx._SETS["emnist_balanced"].classes[36:39] == ("a", "b", "d")
    assert idx._SETS["fashion_mnist"].classes[9] == "Ankle boot"
    assert idx._SETS["kmnist"].classes[0] == "o"


def test_every_data_set_has_a_reader_and_a_normalisation_of_as_many_channels_as_asked_for():
    assert sorted(GREY) == sorted(idx._SETS)
    for name in GREY:
        assert [len(part) for part in normalization(name, 1)] == [1, 1]
        assert [part[:1] for part in normalization(name)] == list(normalization(name, 1))


def test_resized_as_pillow_does_in_one_channel_and_in_three_equal_ones(root):
    expected = np.stack(
        [np.asarray(Image.fromarray(p).resize((40, 32), Image.Resampling.LANCZOS)) for p in images(5)]
    )
    np.testing.assert_array_equal(get(root, size=(32, 40)).images[..., 0], expected)
    three = get(root, size=(32, 40), channels=3).images
    np.testing.assert_array_equal(three, np.repeat(expected[..., None], 3, 3))


def test_a_folder_with_the_data_sets_name_comes_first(root):
    write(root / "kmnist", images(1, seed=7), [2])
    assert len(get(root, "kmnist")) == 1
    assert len(get(root, "mnist")) == 5


def test_torchvisions_folders_are_found(tmp_path):
    write(tmp_path / "FashionMNIST" / "raw", images(2), [1, 2], form=("-idx", ""))
    assert len(get(tmp_path)) == 2


def test_where_a_system_installs_them_counts_only_without_a_data_folder(tmp_path, monkeypatch):
    write(tmp_path / "system", images(2), [1, 2])
    source = idx._SETS["fashion_mnist"]
    monkeypatch.setitem(idx._SETS, "fashion_mnist", replace(source, places=(tmp_path / "system",)))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    assert len(get(None)) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        get(tmp_path / "empty")


def test_both_files_come_from_one_folder(root):
    write(root / "fashion_mnist", images(1, seed=7), [2])
    (root / "fashion_mnist" / f"{LABELS}.gz").unlink()
    assert len(get(root)) == 5


def replaced(root, name, content, *, packed=True):
    (root / f"{name}.gz").write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, b"", "truncated: expected a header of 16 bytes, found 0"),
        (LABELS, b"\0\0\x08", "truncated: expected a header of 8 bytes, found 3"),
        (
            IMAGES,
            label_file(range(9)) * 2,
            "not an IDX file of images: expected the magic number 2051, found 2049",
        ),
        (
            LABELS,
            image_file(images(5)),
            "not an IDX file of labels: expected the magic number 2049, found 2051",
        ),
        (IMAGES, header(0x803, 5, 28, 27) + bytes(5 * 28 * 27), "expected images of 28x28, found 28x27"),
        (IMAGES, header(0x803, 1 << 31, 28, 28), r"expected 1 to 1048576 entries, found 2147483648"),
        (IMAGES, header(0x803, 0, 28, 28), "entries, found 0"),
        (IMAGES, image_file(images(5))[:-1], "truncated: expected 3920 bytes after the header, found 3919"),
        (IMAGES, image_file(images(5)) + b"x", "longer than it says: expected 3920 bytes"),
        (LABELS, label_file([1, 2, 3, 4]) + b"x", "longer than it says: expected 4 bytes"),
        (LABELS, label_file([0, 1, 2, 3, 4])[:-2], "truncated: expected 5 bytes after the header, found 3"),
        (LABELS, label_file([0, 1, 2, 10, 11]), r"label 10 of image 3 is not in 0\.\.9"),
        (LABELS, label_file([0, 1, 2, 3]), "has 5 images, but .*labels-idx1-ubyte.gz has 4 labels"),
        (IMAGES, image_file(images(6)), "has 6 images, but .*labels-idx1-ubyte.gz has 5 labels"),
    ],
)
@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_a_file_that_is_not_what_it_should_be_is_named(root, name, content, message, packed):
    replaced(root, name, content, packed=packed)
    with pytest.raises(DataError, match=message) as caught:
        get(root)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_of_letters_begin_at_one(tmp_path):
    write(tmp_path, images(1), [0], "emnist-letters-train")
    with pytest.raises(DataError, match=r"label 0 of image 0 is not in 1\.\.26"):
        get(tmp_path, "emnist_letters")


@pytest.mark.parametrize("keep", [2, 9, 20, -1])
@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_a_truncated_gzip_file_is_refused_with_its_size(root, name, keep):
    file = root / f"{name}.gz"
    raw = file.read_bytes()
    file.write_bytes(raw[:keep])
    with pytest.raises(
        DataError, match=rf"{name}\.gz: damaged or truncated \({len(raw[:keep])} bytes found\)"
    ):
        get(root)


@pytest.mark.parametrize("place", [14, 1000, -6])
def test_a_flipped_bit_is_found(root, place):
    file = root / f"{IMAGES}.gz"
    raw = bytearray(file.read_bytes())
    raw[place] ^= 4
    file.write_bytes(raw)
    with pytest.raises(DataError, match=f"{IMAGES}"):
        get(root)


def test_a_decompression_bomb_is_not_decompressed(root, monkeypatch):
    """64 MB of zeros behind five images, in 64 kB: reading stops one byte behind the images."""
    replaced(root, IMAGES, image_file(images(5)) + bytes(1 << 26))
    read, original = [], gzip.GzipFile.read

    def counted(self, size=-1):
        content = original(self, size)
        read.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(DataError, match="longer than it says"):
        get(root)
    assert sum(read) < 10_000


def test_nothing_there_and_no_download_says_what_is_missing_and_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is neither in .*--data-dir"):
        get(tmp_path)
    write(tmp_path, images(2), [1, 2])
    (tmp_path / f"{LABELS}.gz").unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz is neither in"):
        get(tmp_path)


@pytest.fixture
def server(tmp_path):
    """Serves the folder served/ of tmp_path; yields its address."""
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def served(monkeypatch, name, url, folder):
    sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    monkeypatch.setitem(idx._SETS, name, replace(idx._SETS[name], url=url, md5=sums, places=()))


def test_downloads_to_a_folder_of_the_data_sets_own_and_checks_the_sum(tmp_path, monkeypatch, server):
    write(tmp_path / "served", images(3), [1, 2, 3])
    served(monkeypatch, "mnist", server, tmp_path / "served")
    data = tmp_path / "data"
    found = load("mnist", "train", size=(28, 28), channels=1, data_dir=data, progress=False)
    assert found.labels.tolist() == [1, 2, 3]
    assert sorted(file.name for file in (data / "mnist").iterdir()) == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    assert len(get(data, "mnist")) == 3  # without another download
    (tmp_path / "served" / f"{IMAGES}.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"md5"):
        load("mnist", "train", size=(28, 28), data_dir=tmp_path / "other", progress=False)


def zipped(target, prefix):
    write(target.parent / "unzipped", images(2), [1, 2], prefix)
    with zipfile.ZipFile(target, "w") as archive:
        for file in (target.parent / "unzipped").iterdir():
            archive.write(file, f"gzip/{file.name}")


def test_emnist_comes_out_of_its_archive_downloaded_or_there_already(tmp_path, monkeypatch, server):
    zipped(tmp_path / "served" / "gzip.zip", "emnist-digits-train")
    (tmp_path / "served" / "unzipped").rename(tmp_path / "unzipped")
    served(monkeypatch, "emnist_digits", server, tmp_path / "served")
    found = load("emnist_digits", "train", size=(28, 28), data_dir=tmp_path / "data", progress=False)
    assert found.labels.tolist() == [1, 2]
    (tmp_path / "there").mkdir()
    zipped(tmp_path / "there" / "gzip.zip", "emnist-digits-train")
    assert len(get(tmp_path / "there", "emnist_digits")) == 2
    with pytest.raises(DataError, match=r"gzip\.zip: There is no item named 'gzip/emnist-letters"):
        get(tmp_path / "there", "emnist_letters")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "gzip.zip").write_bytes((tmp_path / "there" / "gzip.zip").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"gzip\.zip: damaged or truncated archive"):
        get(tmp_path / "cut", "emnist_digits")
