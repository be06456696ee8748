"""CIFAR in both official forms, whole, truncated and tampered with."""

import pickle
import resource

import numpy as np
import pytest

from scatsimclr.data.datasets import DataError, load
from scatsimclr.data.pickles import load_batch


def get(root, name="cifar10", split="train", size=(32, 32)):
    return load(name, split, size=size, data_dir=root, download=False, progress=False)


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("split", ["pretrain", "train", "test"])
def test_cifar10_reads_both_forms_as_folder_and_archive(tmp_path, writers, form, archived, split):
    build = tmp_path / "build"
    build.mkdir()
    expected = getattr(writers, f"cifar10_{form}")(build)["test" if split == "test" else "train"]
    root = build
    if archived:
        root = tmp_path / "data"
        root.mkdir()
        writers.pack_folder(next(build.iterdir()), root / f"cifar-10-{form}.tar.gz")
    found = get(root, split=split)
    np.testing.assert_array_equal(found.images, expected[0])
    np.testing.assert_array_equal(found.labels, expected[1])
    assert found.classes == tuple(f"kind{i}" for i in range(10))
    assert found.paths is None
    assert found.images.is_contiguous()


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize(("name", "column", "count"), [("cifar20", 1, 20), ("cifar100", 2, 100)])
def test_cifar100_has_two_labellings(tmp_path, writers, form, name, column, count):
    expected = getattr(writers, f"cifar100_{form}")(tmp_path)
    for split in ("train", "test"):
        found = get(tmp_path, name, split)
        np.testing.assert_array_equal(found.images, expected[split][0])
        np.testing.assert_array_equal(found.labels, expected[split][column])
        assert len(found.classes) == count


def test_data_dir_may_be_the_extracted_folder_itself(tmp_path, writers):
    writers.cifar10_binary(tmp_path)
    assert len(get(tmp_path / "cifar-10-batches-bin")) == 15


def test_upsampling_is_pillows_lanczos(tmp_path, writers):
    from PIL import Image

    pictures = writers.cifar10_binary(tmp_path)["test"][0]
    found = get(tmp_path, split="test", size=(40, 56))
    expected = [np.asarray(Image.fromarray(p).resize((56, 40), Image.Resampling.LANCZOS)) for p in pictures]
    np.testing.assert_array_equal(found.images, np.stack(expected))


def test_truncated_file_is_named_with_both_sizes(tmp_path, writers):
    writers.cifar10_binary(tmp_path)
    file = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"data_batch_3\.bin.*expected .*9219 bytes for 3.*found 9119"):
        get(tmp_path)


def test_empty_file_is_refused(tmp_path, writers):
    writers.cifar10_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"test_batch\.bin.*found 0"):
        get(tmp_path, split="test")


@pytest.mark.parametrize(
    ("name", "offset", "label"), [("cifar10", 0, 10), ("cifar20", 0, 20), ("cifar100", 1, 100)]
)
def test_label_out_of_range_is_named(tmp_path, writers, name, offset, label):
    (writers.cifar10_binary if name == "cifar10" else writers.cifar100_binary)(tmp_path)
    record = 3072 + (1 if name == "cifar10" else 2)
    file = next(tmp_path.rglob("test*.bin"))
    raw = bytearray(file.read_bytes())
    raw[record + offset] = label
    file.write_bytes(raw)
    with pytest.raises(DataError, match=rf"label {label} of image 1 is not in 0\.\.{label - 1}"):
        get(tmp_path, name, "test")


def test_wrong_number_of_class_names_is_refused(tmp_path, writers):
    writers.cifar10_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="names of 10 classes, found 2"):
        get(tmp_path)


def test_a_missing_batch_is_named(tmp_path, writers):
    writers.cifar10_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"has no data_batch_4\.bin"):
        get(tmp_path)
    assert len(get(tmp_path, split="test")) == 4


class _Runs:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def _malicious(mark):
    import os

    touch = f"touch {mark}"
    yield "os.system", pickle.dumps({"data": _Runs(os.system, touch)}, 2)
    yield "builtins.eval", pickle.dumps(_Runs(eval, f"open({str(mark)!r}, 'w')"), 4)
    yield "old text protocol", f"cos\nsystem\n(S'{touch}'\ntR.".encode()
    yield "INST opcode", f"(S'{touch}'\nios\nsystem\n.".encode()
    yield "dotted name", pickle.PROTO + b"\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."
    yield "object array", pickle.dumps({"data": np.array([_Runs(os.system, touch)], dtype=object)}, 2)
    yield "float array", pickle.dumps({"data": np.zeros(3)}, 2)
    yield "set on a class", b"cnumpy\ndtype\n}S'codes'\nI1\nsb."
    yield "array without bytes", b"cnumpy\nndarray\n)R(I1\n(I9\ntcnumpy\ndtype\n(S'u1'\ntRI0\nS'abc'\ntb."
    yield "memory", pickle.PROTO + b"\x04\x8e" + b"\xff" * 7 + b"\x7f."


def test_tampered_pickles_are_refused_and_run_nothing(tmp_path, writers):
    writers.cifar10_python(tmp_path)
    mark = tmp_path / "ran"
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    for what, raw in _malicious(mark):
        file.write_bytes(raw)
        with pytest.raises(DataError, match="test_batch") as caught:
            get(tmp_path, split="test")
        assert "\n" not in str(caught.value), what
        assert not mark.exists(), what


def test_forbidden_name_is_told(tmp_path, writers):
    writers.cifar10_python(tmp_path)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"test_batch: refused as unsafe: it would load os\.system"):
        get(tmp_path, split="test")


@pytest.mark.parametrize("keep", [0, 1, 40, 5000, -1])
def test_truncated_pickle_is_refused(tmp_path, writers, keep):
    writers.cifar10_python(tmp_path)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    raw = file.read_bytes()[:keep]
    file.write_bytes(raw)
    with pytest.raises(DataError, match=rf"test_batch: damaged or truncated \({len(raw)} bytes found\)"):
        get(tmp_path, split="test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"labels": [0, 1, 2]}, r"expected data of shape \(3, 3072\), found \(4, 3072\)"),
        ({b"labels": [0, 1, 2, 10]}, "label 10 of image 3"),
        ({b"labels": [0, 1, 2, -1]}, "label -1 of image 3"),
        ({b"labels": [0, 1, 2, b"3"]}, "must be integers"),
        ({b"labels": []}, "at least one"),
        ({b"data": b"abc"}, "not a CIFAR batch"),
    ],
)
def test_inconsistent_pickled_batch_is_refused(tmp_path, writers, change, message):
    expected = writers.cifar10_python(tmp_path)["test"]
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": expected[1].tolist()} | change
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(writers.python2_pickle(batch))
    with pytest.raises(DataError, match=message):
        get(tmp_path, split="test")


def test_pickles_rewritten_by_todays_python_and_numpy_are_read(tmp_path, writers):
    writers.cifar10_python(tmp_path)
    pixels = writers.images(2, 32, 32, 1).reshape(2, 3072)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    for protocol in (3, 4):
        file.write_bytes(pickle.dumps({"data": pixels, "labels": [1, 2]}, protocol))
        assert get(tmp_path, split="test").labels.tolist() == [1, 2]


def test_numbers_of_objects_take_no_memory(tmp_path):
    """Objects are numbered as their file likes: the unpickler in C makes a table as long as the highest number."""
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x04}r\x00\x00\x00\x08.")  # an empty dictionary, number 2^27: 2 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_batch(path) == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
