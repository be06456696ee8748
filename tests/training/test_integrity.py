"""A checkpoint's digest: in the file, skipped by torch.load, and different for every damage."""

import io

import pytest
import torch

from scatsimclr.training.integrity import intact, sealed


@pytest.fixture(scope="module")
def archive():
    buffer = io.BytesIO()
    torch.save({"weights": torch.arange(1000.0), "step": 3}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def file(archive):
    return b"".join(sealed(archive))


def test_a_sealed_file_is_intact_and_loads(file):
    assert intact(file) is True
    state = torch.load(io.BytesIO(file), weights_only=True)
    assert torch.equal(state["weights"], torch.arange(1000.0))


def test_a_file_without_digest_is_neither(archive):
    assert intact(archive) is None
    assert intact(b"") is None


@pytest.mark.parametrize("place", [0, 1, 500, 2000, -1, -30, -71, -72, -73, -74, -90])
def test_one_bit_is_enough(file, place):
    damaged = bytearray(file)
    damaged[place] ^= 1
    assert intact(damaged) is not True


@pytest.mark.parametrize("end", [1, 2, 100, 1000])
def test_a_truncated_file_is_not_intact(file, end):
    assert intact(file[:-end]) is not True


@pytest.mark.parametrize("no_archive", [b"", b"abc", b"PK\x05\x06" + bytes(16) + b"\1\0c", bytes(100)])
def test_only_archives_without_comment_are_sealed(no_archive):
    with pytest.raises(ValueError, match="archive must be a ZIP archive without a comment"):
        sealed(no_archive)
