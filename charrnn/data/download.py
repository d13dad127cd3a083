"""Download a file. An interrupted download, even a killed one, continues where it stopped."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from charrnn.data.cache import cache_folder
from charrnn.errors import DataError, StorageError

if TYPE_CHECKING:
    from urllib.request import Request

ATTEMPTS = 3  # that fail one after another before a download is given up
PIECE = 1 << 16  # bytes: at most this many wait in memory
TIMEOUT = 60  # seconds without any data, which count as a broken connection
WORTH_ANOTHER_TRY = (408, 416, 429)  # among the HTTP errors 400 to 499


class Progress(NamedTuple):
    """How many bytes of a file have arrived, and its size; if they are equal, all has arrived."""

    name: str
    done: int
    total: int | None


Watch = Callable[[str | Progress], None]
watch: ContextVar[Watch] = ContextVar("watch", default=lambda event: None)
"""A function that is called with the progress of downloads, and with lines about them."""


def download(url: str, target: Path, retry_seconds: float = 1.0) -> None:
    """Download `url` to the file `target`, in up to three attempts.

    What has arrived over HTTP is kept in the cache folder until the file is complete, so that the
    next attempt, or the next process, asks only for the rest. If the server lacks `Range`, or the
    date or entity tag that shows whether the file has changed, the whole file is asked for again.

    Raises DataError if the file cannot be downloaded, and StorageError if it cannot be stored.
    """
    partial, record = parts_of(url)
    transfer = _append if url.startswith(("http:", "https:")) else _copy
    name = url.rstrip("/").rpartition("/")[2]
    with locked(partial.with_suffix(".lock"), name):
        most = failures = 0
        try:
            while not target.exists():
                most = max(most, _size(partial))
                try:
                    transfer(url, partial, name)
                    os.replace(partial, target)
                    record.unlink(missing_ok=True)
                except Exception as error:
                    # Every remote file system has its own errors, so all are caught here.
                    failures = 0 if 0 < most < _size(partial) else failures + 1
                    _give_up_if_hopeless(error, url, failures)
                    time.sleep(retry_seconds * 2**failures)
        finally:
            watch.get()(Progress(name, most, most))
            if not record.exists():
                partial.unlink(missing_ok=True)


def parts_of(url: str) -> tuple[Path, Path]:
    """Return the files of an incomplete download: its bytes, and what is known about them."""
    partial = cache_folder() / "partial" / hashlib.sha256(url.encode()).hexdigest()[:24]
    return partial, partial.with_suffix(".json")


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock file `path`; wait, and say so, while another process holds it.

    Raises StorageError if the file cannot be written.
    """
    import filelock

    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            watch.get()(f"another process is downloading {name}; waiting until it is done")
            lock.acquire()
    except OSError as error:
        raise StorageError(
            f"cannot write to the cache folder {path.parent}: {error.strerror}; set "
            f"CHARRNN_CACHE_DIR to another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _append(url: str, partial: Path, name: str) -> None:
    """Download over HTTP what is missing in `partial`. Raises OSError or HTTPException."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    record = partial.with_suffix(".json")
    done, mark = _size(partial), _mark(record)
    headers = {"Range": f"bytes={done}-", "If-Range": mark} if done and mark else {}
    try:
        response = urlopen(_request(url, headers), timeout=TIMEOUT)  # noqa: S310
    except HTTPError as error:
        error.close()
        if error.code == 416:
            record.unlink(missing_ok=True)  # The next attempt starts from the beginning.
        raise
    with response:
        record.unlink(missing_ok=True)
        if response.status != 206:
            done = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise ConnectionError("the server sent another part of the file than it was asked for")
        tag, date = response.headers.get("ETag", ""), response.headers.get("Last-Modified")
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with partial.open("r+b" if done else "wb") as file:
            file.seek(done)
            file.truncate()
            if mark := tag if tag.startswith('"') else date:
                record.write_text(json.dumps(mark), "utf-8")
            while piece := response.read1(PIECE):
                file.write(piece)
                file.flush()  # for the next process, if this one is killed
                done += len(piece)
                watch.get()(Progress(name, done, total))
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke off after {done:,} of {total:,} bytes")


def _request(url: str, headers: dict[str, str]) -> Request:
    """Write a request; a name and a password in the address become a header."""
    from base64 import b64encode
    from urllib.parse import quote, unquote, urlsplit
    from urllib.request import Request

    parts, safe = urlsplit(url), "%/:=&?~+!$,;'@()*[]"
    login, at, host = parts.netloc.rpartition("@")
    if at:
        headers = {
            **headers,
            "Authorization": f"Basic {b64encode(unquote(login).encode()).decode()}",
        }
    address = parts._replace(
        netloc=host, path=quote(parts.path, safe), query=quote(parts.query, safe)
    )
    return Request(address.geturl(), headers={"User-Agent": "charrnn", **headers})  # noqa: S310


def _mark(record: Path) -> str:
    """Read the entity tag or the date of a file that arrived in part; empty if there is none."""
    try:
        return str(json.loads(record.read_text("utf-8")))
    except (OSError, ValueError):
        return ""


def _copy(url: str, partial: Path, name: str) -> None:
    """Download from any other file system that fsspec knows."""
    import fsspec

    filesystem, remote = fsspec.core.url_to_fs(url)
    filesystem.get_file(remote, str(partial))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _give_up_if_hopeless(error: Exception, url: str, failures: int) -> None:
    """Raise DataError or StorageError if another attempt would fail, or too many have failed."""
    from socket import gaierror

    if isinstance(error, ImportError):
        raise DataError(f"cannot open {url}: {error}") from error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise StorageError(
            f"no room in {cache_folder()} for {url}; free some, or set CHARRNN_CACHE_DIR to "
            f"another folder"
        ) from error
    code, cause = getattr(error, "code", None), getattr(error, "reason", None)
    cause = cause if isinstance(cause, OSError) else error
    refused = isinstance(code, int) and 400 <= code < 500 and code not in WORTH_ANOTHER_TRY
    if failures >= ATTEMPTS or refused or isinstance(cause, FileNotFoundError | gaierror):
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise DataError(f"cannot fetch {url}: {reason}") from error
