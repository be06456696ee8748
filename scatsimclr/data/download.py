"""Downloading one file over HTTP: resumed where an earlier attempt broke off, and verified by pooch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pooch
from tqdm import tqdm

from scatsimclr.data.imageset import DataError

if TYPE_CHECKING:
    import requests

_CHUNK = 1 << 14  # bytes; the chunk during which a connection breaks is lost
_TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte


def fetch(url: str, md5: str, target: Path, absent: str, remedy: str, progress: bool) -> None:
    """Downloads a file and verifies its MD5 sum.

    If the connection breaks, what has arrived is kept in `target` + ".part", and the next call continues from there.

    Args:
        url: The file.
        md5: Its sum.
        target: Where to put it.
        absent: For the error: what is missing.
        remedy: For the error: what to do.
        progress: Whether to show a progress bar, on a terminal only.

    Raises:
        DataError: The file cannot be downloaded or written; or the sum is wrong: the message names the file, the sum
            expected and the one found, and the download is deleted.
    """
    import requests  # here, so that importing the package does not load the network stack

    part = target.with_name(target.name + ".part")
    try:
        pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            fname=target.name,
            path=target.parent,
            downloader=ResumingDownloader(part, progress),
        )
    except requests.RequestException as error:
        kept = f"; run again to continue from byte {_size(part)}" if _size(part) else ""
        raise DataError(
            f"{absent} and {url} cannot be downloaded ({_reason(error)}{kept}): {remedy}"
        ) from error
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error
    except ValueError as error:  # pooch's checksum mismatch, and what it did about it
        raise DataError(f"{target.name} from {url}: {str(error).partition(' Deleted')[0]}") from error


class ResumingDownloader:
    """A pooch downloader that collects the file in `part` and requests only what is not there yet.

    A broken connection is resumed as long as each attempt adds to the file. Two processes that download the same file
    at the same time corrupt each other's; the checksum then refuses the result.
    """

    def __init__(self, part: Path, progress: bool) -> None:
        self._part = part
        self._progress = progress

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Downloads `url` to `output_file`; requests.RequestException where the file cannot be completed."""
        import requests

        best = _size(self._part)
        while True:
            try:
                self._append(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if _size(self._part) <= best:
                    raise
                best = _size(self._part)
        os.replace(self._part, output_file)

    def _append(self, url: str) -> None:
        import requests

        offset = _size(self._part)
        # identity: a .tar.gz decompressed in transit would match neither the offset nor the checksum
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            span = response.headers.get("Content-Range", "")
            if offset and response.status_code == 416 and span == f"bytes */{offset}":
                return  # nothing follows: the part was complete already
            refused = response.status_code == 416
            elsewhere = response.status_code == 206 and not span.startswith(f"bytes {offset}-")
            if offset and (refused or elsewhere):
                self._part.unlink()
                return self._append(url)  # once: without a part no range is requested
            response.raise_for_status()
            self._write(response, offset if response.status_code == 206 else 0)

    def _write(self, response: requests.Response, offset: int) -> None:
        import requests

        length = response.headers.get("Content-Length")
        total = offset + int(length) if length else None
        with (
            open(self._part, "ab" if offset else "wb") as file,
            tqdm(
                total=total,
                initial=offset,
                unit="B",
                unit_scale=True,
                leave=False,
                desc=self._part.stem,
                disable=None if self._progress else True,
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and _size(self._part) < total:  # urllib3 before 2.0 ends a cut body silently
            raise requests.exceptions.ChunkedEncodingError(f"{_size(self._part)} of {total} bytes arrived")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """A few words instead of requests' nested messages."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)
