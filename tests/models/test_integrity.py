"""A checkpoint's digest: in the file, skipped by torch.load, and wrong after any damage to what is stored."""

import os
import threading
import zipfile

import pytest
import torch

from scatsimclr.models.integrity import intact, seal


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"weights": torch.arange(1000.0), "step": 3}, path)
    return path


@pytest.fixture
def file(archive):
    seal(archive)
    return archive


def test_a_sealed_file_is_intact_and_loads(file):
    assert intact(file) is True
    state = torch.load(file, weights_only=True)
    assert torch.equal(state["weights"], torch.arange(1000.0))


def test_a_file_without_digest_is_neither(archive, tmp_path):
    assert intact(archive) is None
    empty = tmp_path / "empty"
    empty.touch()
    assert intact(empty) is None


def places(path):
    """A byte of every record, of the directory, and of the comment."""
    with zipfile.ZipFile(path) as archive:
        found = [info.header_offset + 30 + len(info.filename) + 64 for info in archive.infolist()]
        start = archive.start_dir
    size = path.stat().st_size
    # Of small records, what follows the padding.
    return [size - 1, size - 30, size - 72, size - 73, *range(start, size - 80, 11), *found[:2]]


def test_one_bit_is_enough(file):
    whole = file.read_bytes()
    for place in places(file):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        assert intact(file) is not True, place


def test_any_byte_of_the_weights_counts(file):
    whole = file.read_bytes()
    start = whole.index(torch.arange(1000.0).numpy().tobytes())
    for place in range(start, start + 4000, 97):
        damaged = bytearray(whole)
        damaged[place] ^= 128
        file.write_bytes(damaged)
        assert intact(file) is False


@pytest.mark.parametrize("end", [1, 2, 100, 1000])
def test_a_truncated_file_is_not_intact(file, end):
    file.write_bytes(file.read_bytes()[:-end])
    assert intact(file) is not True


@pytest.mark.parametrize("content", [b"", b"abc", bytes(100)])
def test_only_archives_are_sealed(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be a ZIP archive, got"):
        seal(path)


def test_nothing_is_sealed_twice(file):
    with pytest.raises(ValueError, match="without a comment"):
        seal(file)


def test_a_file_that_is_replaced_while_it_is_compared_is_intact(file, tmp_path):
    """Checkpoints of other sizes take the place of each other as fast as they can."""
    other, target, done = tmp_path / "b.pt", tmp_path / "target.pt", threading.Event()
    torch.save({"weights": torch.arange(5000.0)}, other)
    seal(other)
    os.link(file, target)

    def replace():
        while not done.is_set():
            for source in (other, file):
                os.link(source, tmp_path / "new")
                os.replace(tmp_path / "new", target)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        assert all(intact(target) for _ in range(500))
    finally:
        done.set()
        thread.join()
