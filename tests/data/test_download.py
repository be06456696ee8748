"""Downloads from a local server: whole, resumed, cut off, wrong, absent; and what archives may contain."""

import contextlib
import hashlib
import io
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from scatsimclr.data import cifar, download, stl10
from scatsimclr.data.archive import find, unpack
from scatsimclr.data.datasets import DataError, load
from scatsimclr.data.imageset import Request

BODY = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()


class _Server:
    """Serves `body`. ranges: is Range honoured; cuts: bytes sent before the n-th connection breaks."""

    def __init__(self, body=BODY, ranges=True, cuts=(), status=200, shift=0):
        self.body, self.ranges, self.cuts, self.status, self.shift = body, ranges, list(cuts), status, shift
        self.asked = []

    def respond(self, handler):
        span = handler.headers.get("Range")
        self.asked.append(span)
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span and self.ranges else None
        if start is not None and start >= len(self.body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content = self.body[start or 0 :]
        handler.send_response(206 if start is not None else self.status)
        if start is not None:
            first = start + self.shift
            handler.send_header("Content-Range", f"bytes {first}-{len(self.body) - 1}/{len(self.body)}")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(content)
        handler.wfile.write(content[:cut])
        handler.close_connection = True


@contextlib.contextmanager
def serving(server):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.respond(self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/file.tar.gz"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def fetch(server, folder, md5=MD5):
    target = folder / "file.tar.gz"
    with serving(server) as url:
        download.fetch(url, md5, target, "set: file.tar.gz is not there", "use --data-dir", False)
    return target.read_bytes()


def part(folder):
    return folder / "file.tar.gz.part"


def test_whole_download(tmp_path):
    server = _Server()
    assert fetch(server, tmp_path / "new folder") == BODY
    assert server.asked == [None]
    assert [file.name for file in (tmp_path / "new folder").iterdir()] == ["file.tar.gz"]


def test_resumes_a_partial_file(tmp_path):
    part(tmp_path).write_bytes(BODY[:1000])
    server = _Server()
    assert fetch(server, tmp_path) == BODY
    assert server.asked == ["bytes=1000-"]
    assert not part(tmp_path).exists()


def test_complete_part_is_taken(tmp_path):
    part(tmp_path).write_bytes(BODY)
    server = _Server()
    assert fetch(server, tmp_path) == BODY
    assert server.asked == [f"bytes={len(BODY)}-"]


def test_part_longer_than_the_file_is_started_again(tmp_path):
    part(tmp_path).write_bytes(BODY + b"x")
    server = _Server()
    assert fetch(server, tmp_path) == BODY
    assert server.asked == [f"bytes={len(BODY) + 1}-", None]


def test_server_without_ranges_starts_again(tmp_path):
    part(tmp_path).write_bytes(b"?" * 1000)
    assert fetch(_Server(ranges=False), tmp_path) == BODY


def test_server_that_answers_with_another_range_starts_again(tmp_path):
    part(tmp_path).write_bytes(BODY[:1000])
    server = _Server(shift=7)
    assert fetch(server, tmp_path) == BODY
    assert server.asked == ["bytes=1000-", None]


def test_cut_connections_are_taken_up_again(tmp_path):
    server = _Server(cuts=[100_000, 50_000])
    assert fetch(server, tmp_path) == BODY
    assert len(server.asked) == 3
    starts = [int(span.removeprefix("bytes=").removesuffix("-")) for span in server.asked[1:]]
    assert 0 < starts[0] < starts[1] <= 150_000


def test_connection_that_always_breaks_keeps_the_part_and_says_so(tmp_path):
    server = _Server(cuts=[200_000, 0, 0, 0])
    with pytest.raises(DataError, match=r"broke off; run again to continue from byte \d+\): use --data-dir"):
        fetch(server, tmp_path)
    kept = part(tmp_path).read_bytes()
    assert BODY.startswith(kept)
    assert len(kept) > 100_000
    server = _Server()
    assert fetch(server, tmp_path) == BODY
    assert server.asked == [f"bytes={len(kept)}-"]


def test_server_without_ranges_that_always_breaks_ends(tmp_path):
    server = _Server(ranges=False, cuts=[100_000] * 50)
    with pytest.raises(DataError, match="broke off"):
        fetch(server, tmp_path)
    assert len(server.asked) == 2


def test_wrong_checksum_names_file_expected_and_found(tmp_path):
    with pytest.raises(DataError, match=rf"file\.tar\.gz.*expected md5:{'0' * 32} but got {MD5}") as caught:
        fetch(_Server(), tmp_path, md5="0" * 32)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_stale_part_is_found_out_and_the_next_run_is_clean(tmp_path):
    part(tmp_path).write_bytes(b"?" * 1000)
    with pytest.raises(DataError, match="does not match"):
        fetch(_Server(), tmp_path)
    assert fetch(_Server(), tmp_path) == BODY


def test_http_error_is_told(tmp_path):
    with pytest.raises(DataError, match=r"not there and http://127.* \(HTTP status 404\): use --data-dir"):
        fetch(_Server(status=404), tmp_path)


def test_no_network_is_told_in_one_line(tmp_path, monkeypatch):
    with serving(_Server()) as url:
        pass
    archive = replace(stl10.ARCHIVE, url=url)
    monkeypatch.setattr(stl10, "ARCHIVE", archive)
    with pytest.raises(DataError) as caught:
        load("stl10", "train", size=(96, 96), data_dir=tmp_path, progress=False)
    text = str(caught.value)
    for word in ("stl10_binary.tar.gz", str(tmp_path), url, "no connection", "--data-dir"):
        assert word in text
    assert "\n" not in text


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(_Server(), tmp_path / "file" / "below")


def test_load_downloads_unpacks_and_then_needs_no_network(tmp_path, writers, monkeypatch):
    expected = writers.cifar10_binary(tmp_path)["train"]
    packed = tmp_path / "packed.tar.gz"
    writers.pack_folder(tmp_path / "cifar-10-batches-bin", packed)
    server = _Server(body=packed.read_bytes(), cuts=[40_000])
    kind = cifar._SETS["cifar10"]
    with serving(server) as url:
        md5 = hashlib.md5(server.body).hexdigest()
        source = replace(kind.binary, archive=replace(kind.binary.archive, url=url, md5=md5))
        monkeypatch.setitem(cifar._SETS, "cifar10", replace(kind, binary=source))
        found = load("cifar10", "train", size=(32, 32), data_dir=tmp_path / "data", progress=False)
    np.testing.assert_array_equal(found.images, expected[0])
    again = load("cifar10", "test", size=(32, 32), data_dir=tmp_path / "data", download=False, progress=False)
    assert len(again) == 4


def test_default_folder_is_poochs_cache(tmp_path, writers, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    import pooch

    cache = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda name: cache / name)
    (cache / "scatsimclr").mkdir(parents=True)
    writers.cifar10_binary(cache / "scatsimclr")
    assert len(load("cifar10", "test", size=(32, 32), download=False, progress=False)) == 4


@pytest.mark.parametrize("source", [cifar._SETS["cifar10"].binary, cifar._SETS["cifar100"].binary])
def test_official_sources(source):
    archive = source.archive
    assert archive.url == f"https://www.cs.toronto.edu/~kriz/{archive.file}"
    assert archive.md5 in {"c32a1d4ab5d03f1284b67883e8d87530", "03b5dce01913d631647c71ecec9e9cb8"}


def _request(root):
    return Request("stl10", "train", (96, 96), root, False, False)


def _tar(path, members):
    """members: (name, content or TarInfo)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            data = b"" if content is info else content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _link(kind, target):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def test_only_expected_members_are_unpacked(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    outside = [("../evil", b"x"), (str(tmp_path / "evil"), b"x"), ("stl10_binary/../../evil", b"x")]
    link = ("stl10_binary/extra", _link(tarfile.SYMTYPE, "/etc"))
    names = [("./stl10_binary/class_names.txt", b"a b"), ("stl10_binary/other.bin", b"x")]
    _tar(root / "stl10_binary.tar.gz", [*outside, link, *names])
    folder = find(stl10.ARCHIVE, ["class_names.txt"], _request(root))
    assert [file.name for file in folder.iterdir()] == ["class_names.txt"]
    assert sorted(file.name for file in root.iterdir()) == ["stl10_binary", "stl10_binary.tar.gz"]
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_expected_name_that_is_no_regular_file_is_refused(tmp_path, kind):
    _tar(tmp_path / "stl10_binary.tar.gz", [("stl10_binary/train_X.bin", _link(kind, "/etc/passwd"))])
    with pytest.raises(DataError, match=r"train_X\.bin is not a regular file"):
        unpack(stl10.ARCHIVE, tmp_path, False)


def test_archive_without_a_needed_member(tmp_path):
    _tar(tmp_path / "stl10_binary.tar.gz", [("stl10_binary/train_X.bin", b"x")])
    with pytest.raises(DataError, match=r"stl10_binary\.tar\.gz: has no stl10_binary/train_y\.bin"):
        find(stl10.ARCHIVE, ["train_X.bin", "train_y.bin"], _request(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "tail", "flip", "text", "empty"])
def test_damaged_archive_is_named_and_leaves_nothing(tmp_path, damage):
    path = tmp_path / "stl10_binary.tar.gz"
    _tar(path, [("stl10_binary/train_X.bin", BODY)])
    raw = bytearray(path.read_bytes())
    raw[-6] ^= damage == "flip"  # gzip's checksum
    end = {"cut": len(raw) // 2, "tail": -4, "empty": 0}.get(damage)
    path.write_bytes(b"not an archive" if damage == "text" else raw[:end])
    with pytest.raises(
        DataError, match=r"stl10_binary\.tar\.gz: damaged or truncated archive \(\d+ bytes found\)"
    ):
        unpack(stl10.ARCHIVE, tmp_path, False)
    assert list(tmp_path.iterdir()) == [path]
