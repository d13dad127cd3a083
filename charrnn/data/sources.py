"""Find texts: files, folders, patterns, standard input, URLs, named corpora, or Python's source.

The result is a list of `Document`s that can be read any number of times. Standard input and
downloads, which can be read only once, are first copied into the cache folder.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock
import fsspec
import platformdirs
import zstandard
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_compression

from charrnn.errors import DataError, StorageError, did_you_mean

CHUNK = 1 << 20


@dataclass(frozen=True)
class NamedCorpus:
    """A text with a known address and a known SHA-256."""

    url: str
    sha256: str
    about: str


NAMED: dict[str, NamedCorpus] = {
    "shakespeare": NamedCorpus(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "Tiny Shakespeare, 1.1 MB (Karpathy 2015)",
    ),
}


@dataclass(frozen=True)
class Document:
    """One text file: its name for messages, its path, and how it is compressed."""

    name: str
    path: Path
    compression: str | None = None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the decompressed bytes. Raises DataError if the file cannot be read."""
        try:
            if self.compression == "zstd":
                _check_zstd(self.path)
            opened = LocalFileSystem().open(self.path, "rb", compression=self.compression)
            with opened as file:
                yield file
        except DataError:
            raise
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"cannot read {self.name}: {reason}") from error
        except Exception as error:
            # Each decompressor has its own class of errors, such as lzma.LZMAError.
            raise DataError(f"cannot decompress {self.name}: {error}") from error

    def chunks(self) -> Iterator[bytes]:
        """Read the bytes in pieces of at most `CHUNK`."""
        with self.open() as file:
            while chunk := file.read(CHUNK):
                yield chunk


@dataclass(frozen=True)
class Sources:
    """Documents in order, with a short name and a description of all of them together.

    `arguments` finds the same documents again, with absolute paths; `skipped` is the number of
    binary files that were left out.
    """

    documents: list[Document]
    name: str
    described: str
    arguments: list[str]
    temporary: list[Scratch]
    skipped: int = 0

    def discard(self) -> None:
        """Delete the copies of standard input and of downloads."""
        for scratch in self.temporary:
            scratch.discard()


class Scratch:
    """A temporary folder that is locked while its process lives.

    Before a new one is made, folders that killed processes left behind are deleted.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        for folder in parent.glob("scratch-*"):
            with contextlib.suppress(filelock.Timeout, OSError):
                lock = filelock.FileLock(folder / "lock", timeout=0)
                lock.acquire()
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()
        while True:
            self.path = Path(tempfile.mkdtemp(dir=parent, prefix="scratch-"))
            try:
                self._lock = filelock.FileLock(self.path / "lock", timeout=0)
                self._lock.acquire()
                return
            except (FileNotFoundError, filelock.Timeout):
                continue  # Another process deleted it before it was locked.

    def discard(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def cache_folder() -> Path:
    """Return `CHARRNN_CACHE_DIR` if it is set, else the platform's cache folder for charrnn."""
    chosen = os.environ.get("CHARRNN_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("charrnn")


def find_sources(arguments: Sequence[str], retry_seconds: float = 1.0) -> Sources:
    """Find the documents that arguments name; no arguments mean the built-in corpus.

    Raises DataError for an argument that names no text, cannot be fetched, or has another checksum
    than it should.
    """
    if not arguments:
        return builtin_corpus()
    temporary: list[Scratch] = []
    try:
        return _find(arguments, temporary, retry_seconds)
    except BaseException:
        for scratch in temporary:
            scratch.discard()
        raise


def _find(arguments: Sequence[str], temporary: list[Scratch], retry_seconds: float) -> Sources:
    """Find documents; append the temporary folders that are made for them to `temporary`."""
    documents: list[Document] = []
    kept: list[str] = []
    skipped = 0
    for argument in arguments:
        path = Path(os.path.expanduser(argument))
        kept.append(argument)
        if not argument:
            raise DataError("an empty name is not a text; leave it out")
        if argument == "-":
            temporary.append(_spool(_copy_standard_input))
            documents.append(Document("standard input", temporary[-1].path / "text"))
        elif "://" in argument:
            temporary.append(download(argument, retry_seconds=retry_seconds))
            path = temporary[-1].path / "text"
            documents.append(Document(argument, path, _compression(argument)))
        elif os.path.isdir(path):
            in_folder, left_out = _folder(path)
            documents += in_folder
            skipped += left_out
            kept[-1] = str(path.absolute())
        elif os.path.exists(path):
            documents.append(_file(path))
            kept[-1] = str(path.absolute())
        elif matches := sorted(glob.glob(str(path), recursive=True)):
            documents += [_file(Path(match)) for match in matches if Path(match).is_file()]
            kept[-1] = str(path.absolute())
        elif argument in NAMED:
            documents.append(Document(argument, named_corpus(argument, retry_seconds)))
        else:
            raise DataError(_no_such(argument))
    first = arguments[0]
    name = {"-": "stdin"}.get(first, os.path.basename(first.rstrip("/")).split(".")[0]) or "text"
    described = first if len(arguments) == 1 else f"{first} and {len(arguments) - 1} more"
    if len(documents) > 1:
        described += f" ({len(documents):,} documents)"
    return Sources(documents, name, described, kept, temporary, skipped)


def builtin_corpus() -> Sources:
    """Find the source of Python's standard library, without its tests, in the order of paths."""
    root = Path(sysconfig.get_path("stdlib"))
    excluded = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    relative = [path.relative_to(root) for path in root.rglob("*.py")]
    chosen = sorted(path.as_posix() for path in relative if not excluded & set(path.parts))
    if not chosen:
        raise DataError(f"no Python sources found under {root}; name a text in data.sources")
    described = f"the source of Python {platform.python_version()}'s standard library"
    documents = [Document(name, root / name) for name in chosen]
    return Sources(documents, "python", f"{described} ({len(chosen):,} files)", [], [])


def named_corpus(name: str, retry_seconds: float = 1.0) -> Path:
    """Return the path of a named corpus in the cache; download and verify it if necessary."""
    corpus = NAMED[name]
    target = cache_folder() / "corpora" / f"{name}-{corpus.sha256[:16]}.txt"
    if not target.exists() or _sha256(target) != corpus.sha256:
        fetched = download(corpus.url, corpus.sha256, retry_seconds)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(fetched.path / "text", target)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from error
        finally:
            fetched.discard()
    return target


def download(url: str, sha256: str | None = None, retry_seconds: float = 1.0) -> Scratch:
    """Fetch `url` into the file `text` of a temporary folder, in up to three attempts.

    Raises DataError if it cannot be fetched or its SHA-256 is not `sha256`.
    """

    def fetch(path: Path) -> None:
        options = {}
        if url.startswith(("http:", "https:")):
            from aiohttp import ClientTimeout

            # A large text may take long; only a pause without any data ends the download.
            options["client_kwargs"] = {
                "timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)
            }
        filesystem, remote = fsspec.core.url_to_fs(url, **options)
        filesystem.get_file(remote, str(path))
        if sha256 and (actual := _sha256(path)) != sha256:
            raise DataError(
                f"{url} has SHA-256 {actual}, not {sha256}: it changed or was damaged; try again"
            )

    attempts = 3
    for attempt in range(attempts):
        try:
            return _spool(fetch)
        except (StorageError, KeyboardInterrupt):
            raise
        except ImportError as error:
            raise DataError(f"cannot open {url}: {error}") from error
        except Exception as error:
            # Every remote file system has its own errors, so all are caught here. The last one is
            # the cause of the error that is raised.
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise StorageError(
                    f"no room in {cache_folder()} for {url}; free some, or set CHARRNN_CACHE_DIR "
                    "to another folder"
                ) from error
            if attempt + 1 == attempts or isinstance(error, FileNotFoundError):
                reason = error if str(error) else type(error).__name__
                raise DataError(f"cannot fetch {url}: {reason}") from error
            time.sleep(retry_seconds * 2**attempt)
    raise AssertionError("unreachable")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _spool(fill: Callable[[Path], None]) -> Scratch:
    """Make a temporary folder with the file `text`, written by `fill`; delete it if that fails."""
    folder = cache_folder() / "incoming"
    try:
        scratch = Scratch(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write to the cache folder {folder}: {error.strerror}"
        ) from error
    try:
        fill(scratch.path / "text")
    except BaseException:
        scratch.discard()
        raise
    return scratch


def _copy_standard_input(path: Path) -> None:
    """Copy standard input to a file. Raises DataError if that is not possible."""
    if sys.stdin is None:
        raise DataError("standard input is closed; name a file, or pipe a text in")
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, CHUNK)
    except OSError as error:
        raise DataError(f"cannot copy standard input to {path}: {error.strerror}") from error


def _check_zstd(path: Path) -> None:
    """Raise EOFError for an incomplete file, which zstandard's reader accepts without an error."""
    complete = True
    with path.open("rb") as file:
        left = b""
        while left or (left := file.read(CHUNK)):
            if complete:
                frame = zstandard.ZstdDecompressor().decompressobj()
            frame.decompress(left)
            complete, left = frame.eof, frame.unused_data if frame.eof else b""
    if not complete:
        raise EOFError("it breaks off before its end")


def _compression(name: str) -> str | None:
    """Tell from its name how a file is compressed; None for an archive of several files."""
    kind = infer_compression(name)
    return kind if kind in {"gzip", "bz2", "xz", "zstd"} else None


def _file(path: Path) -> Document:
    return Document(str(path), path, _compression(str(path)))


def _folder(root: Path) -> tuple[list[Document], int]:
    """Find the text files below `root` in the order of paths; count the binary ones left out.

    Hidden files are left out as well. As for `grep` and `git`, a file with a NUL byte near its
    start is binary.
    """
    documents, skipped = [], 0
    for path in sorted(root.rglob("*"), key=lambda p: p.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") or part == "__pycache__" for part in parts):
            continue
        if not path.is_file():
            continue
        document = _file(path)
        with document.open() as file:
            binary = b"\0" in file.read(8192)
        if binary:
            skipped += 1
        else:
            documents.append(document)
    if not documents:
        binaries = f" ({skipped:,} binary files left out)" if skipped else ""
        raise DataError(f"no text files in the folder {root}{binaries}; name the files themselves")
    return documents, skipped


def _no_such(argument: str) -> str:
    """Write the message that an argument does not name a text, with the most likely name."""
    folder, name = os.path.split(argument)
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    paths = {other: os.path.join(folder, other) for other in [*beside, *NAMED]}
    hint = did_you_mean(name, (), paths, cutoff=0.6)
    return (
        f"no file, folder or pattern {argument!r}, and no named corpus of that name "
        f"({', '.join(NAMED)}){f'; {hint}' if hint else ''}"
    )
