"""Find texts: files, folders, patterns, standard input, URLs, named corpora, or Python's source.

The result is a list of `Document`s that can be read any number of times. Standard input and
downloads, which can be read only once, are first copied into the cache folder.
"""

from __future__ import annotations

import codecs
import filecmp
import glob
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, cast

import fsspec.compression
import zstandard
from fsspec.utils import infer_compression

from charrnn.data.archives import (
    Bounded,
    bomb,
    hidden,
    kind_of_zip,
    limit,
    unpack_tar,
    unpack_zip,
)
from charrnn.data.cache import Scratch, spool
from charrnn.data.corpora import BOOK, NAMED, corpus_text, find_corpus
from charrnn.data.download import download
from charrnn.data.kinds import (
    HEAD,
    TAR,
    ZIP,
    Kind,
    compression_of,
    kind_of,
    looks_binary,
    marked_encoding,
    unmarked_encoding,
)
from charrnn.data.rules import AS_BEFORE, Changes, Rules, natural_key
from charrnn.errors import DataError, did_you_mean

CHUNK = 1 << 20
ZSTD_PIECE = 4096  # bytes of a .zst file at a time: a few bytes may unpack to very many


@dataclass(frozen=True)
class Document:
    """One text file: its name for messages, its path, how it is compressed, and how it is read.

    Reading the text records in `changes` what the `rules` changed.
    """

    name: str
    path: Path
    compression: str | None = None
    rules: Rules = AS_BEFORE
    changes: Changes | None = field(default=None, compare=False, repr=False)

    @contextmanager
    def open(self, whole: bool = True) -> Iterator[BinaryIO]:
        """Open the decompressed bytes. Unless `whole`, only a part of them will be read.

        Raises DataError if the file cannot be read.
        """
        try:
            if self.compression == "zstd" and whole:
                _check_zstd(self.path, self.name if self.rules.kinds == "content" else None)
            with self.path.open("rb") as raw:
                if self.compression is None:
                    yield raw
                    return
                with fsspec.compression.compr[self.compression](raw, mode="rb") as unpacked:
                    bounded = cast(BinaryIO, Bounded(unpacked, self.name, raw.tell))
                    yield bounded if self.rules.kinds == "content" else unpacked
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

    def head(self, size: int = HEAD) -> bytes:
        """Read the first bytes."""
        with self.open(whole=False) as file:
            return file.read(size)


@dataclass(frozen=True)
class Sources:
    """Documents in order, with a short name and a description of all of them together.

    `arguments`, with absolute paths, name the same documents again; `left_out` are the files that
    were left out, each with the reason. `changes` is filled while the documents are read.
    """

    documents: list[Document]
    name: str
    described: str
    arguments: list[str]
    temporary: list[Scratch]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)

    @property
    def skipped(self) -> int:
        """The number of binary files that were left out."""
        return sum(reason == "binary" for _, reason in self.left_out)

    def discard(self) -> None:
        """Delete the copies of standard input and of downloads."""
        for scratch in self.temporary:
            scratch.discard()


def find_sources(
    arguments: Sequence[str], retry_seconds: float = 1.0, rules: Rules = AS_BEFORE
) -> Sources:
    """Find the documents that arguments name; no arguments mean the built-in corpus.

    Raises DataError for an argument that names no text, cannot be fetched, or has a wrong checksum;
    and, if `rules` recognise files by their content, for a file that is no text.
    """
    if not arguments:
        return _Finder(rules, retry_seconds).with_rules(builtin_corpus())
    finder = _Finder(rules, retry_seconds)
    try:
        return finder.find(arguments)
    except BaseException:
        for scratch in finder.temporary:
            scratch.discard()
        raise


class _Finder:
    """Finds documents, and collects what was left out and the temporary folders that it makes."""

    def __init__(self, rules: Rules, retry_seconds: float) -> None:
        self._rules, self._retry_seconds = rules, retry_seconds
        self._by_content = rules.kinds == "content"
        self.temporary: list[Scratch] = []
        self.left_out: list[tuple[str, str]] = []
        self.changes = Changes()

    def find(self, arguments: Sequence[str]) -> Sources:
        """Find the documents that arguments name, in order. Raises DataError."""
        documents: list[Document] = []
        kept: list[str] = []
        for argument in arguments:
            in_argument, remembered = self._argument(argument)
            documents += in_argument
            kept.append(remembered)
        first = arguments[0]
        base = os.path.basename(first.rstrip("/")).split(".")[0]
        name = {"-": "stdin"}.get(first, base).replace(":", "-") or "text"
        described = first if len(arguments) == 1 else f"{first} and {len(arguments) - 1} more"
        if len(documents) > 1:
            described += f" ({len(documents):,} documents)"
        return self.with_rules(
            Sources(documents, name, described, kept, self.temporary, self.left_out)
        )

    def of_copy(self, name: str, copy: Callable[[Path], None]) -> Sources:
        """Copy a text that can be read only once, and find its documents."""
        self.temporary.append(spool(copy))
        documents = self._file(name, self.temporary[-1].path / "text", None)
        return self.with_rules(Sources(documents, name, name, [], self.temporary, self.left_out))

    def with_rules(self, sources: Sources) -> Sources:
        """Return the documents with the rules to read them by, and a record of the changes."""
        documents = [
            replace(document, rules=self._rules, changes=self.changes)
            for document in sources.documents
        ]
        return replace(sources, documents=documents, changes=self.changes)

    def _argument(self, argument: str) -> tuple[list[Document], str]:
        """Find the documents of one argument; also return an argument that finds them again."""
        path = Path(os.path.expanduser(argument))
        if not argument:
            raise DataError("an empty name is not a text; leave it out")
        if argument == "-":
            self.temporary.append(spool(_copy_standard_input))
            return self._file("standard input", self.temporary[-1].path / "text", None), argument
        # A shell's `<(command)` is a pipe, which can be read only once.
        if os.path.exists(path) and path.is_fifo():
            self.temporary.append(spool(lambda copy: _copy_pipe(path, copy)))
            return self._file(argument, self.temporary[-1].path / "text", None), "-"
        if "://" in argument:
            self.temporary.append(spool(lambda path: download(argument, path, self._retry_seconds)))
            fetched = self.temporary[-1].path / "text"
            return self._file(argument, fetched, _compression(argument)), argument
        absolute = str(path.absolute())
        if os.path.isdir(path):
            return self._folder(path), absolute
        if os.path.exists(path):
            return self._file(str(path), path, _compression(str(path))), absolute
        if matches := glob.glob(str(path), recursive=True):
            files = [Path(match) for match in self._ordered(matches) if Path(match).is_file()]
            each = (self._file(str(file), file, _compression(str(file))) for file in files)
            return [document for documents in each for document in documents], absolute
        if corpus := find_corpus(argument):
            return [Document(argument, corpus_text(*corpus, self._retry_seconds))], argument
        raise DataError(_no_such(argument))

    def _ordered(self, paths: Iterable[str]) -> list[str]:
        return sorted(paths, key=natural_key if self._rules.order == "natural" else None)

    def _file(self, name: str, path: Path, by_name: str | None) -> list[Document]:
        """Return a file as a document, or the documents of an archive. Raises DataError."""
        document, kind = self._recognised(Document(name, path, by_name, self._rules))
        if kind is None:
            return [document]
        if kind is not TAR and (kind is not ZIP or document.compression):
            raise DataError(
                f"{name} is {kind.name}, not a text; {kind.remedy} (data.kinds=name reads the "
                f"bytes as they are)"
            )

        def unpack(folder: Path) -> None:
            size = path.stat().st_size
            if kind is ZIP:
                left_out = unpack_zip(path, name, folder)
            else:
                with document.open() as file:
                    left_out = unpack_tar(file, name, size, folder)
            self.left_out += [(f"{name}/{member}", reason) for member, reason in left_out]

        self.temporary.append(spool(unpack))
        return self._members(name, self.temporary[-1].path / "text")

    def _members(self, name: str, folder: Path) -> list[Document]:
        """Return the documents of an archive that was unpacked into `folder`."""
        documents = []
        for path in self._ordered(_files_below(folder)):
            inside = Document(f"{name}/{path}", folder / path, None, self._rules)
            document, kind = self._recognised(inside)
            if kind is not None:
                raise DataError(f"{name} holds another archive, {path!r}; {kind.remedy}")
            documents.append(document)
        if not documents:
            raise DataError(f"no texts in the archive {name}{_listed(self.left_out)}")
        return documents

    def _recognised(self, document: Document) -> tuple[Document, Kind | None]:
        """Recognise by a file's first bytes how it is compressed, and whether it is no text."""
        if not self._by_content:
            return document, None
        try:
            with document.path.open("rb") as file:
                head = file.read(HEAD)
        except OSError as error:
            raise DataError(f"cannot read {document.name}: {error.strerror}") from error
        named, document = document.compression, replace(document, compression=compression_of(head))
        if named and not document.compression and _is_damaged(head):
            return document, Kind(
                f"a damaged {named} file", "fetch it again, or rename it if it is a text"
            )
        if document.compression:
            head = document.head()
            if inner := compression_of(head):
                return document, Kind(f"{inner} inside {document.compression}", TAR.remedy)
        kind = kind_of(head)
        return document, kind_of_zip(
            document.path
        ) if kind is ZIP and not document.compression else kind

    def _folder(self, root: Path) -> list[Document]:
        """Find the text files below `root`; record the others with the reason.

        Hidden files are left out as well. As for `grep` and `git`, a file with a NUL byte near its
        start is binary, unless it is UTF-16.
        """
        documents = []
        for relative in self._ordered(_files_below(root)):
            path = root / relative
            if reason := hidden(relative):
                if self._by_content:
                    self._leave_out(root, relative, reason)
                continue
            named = Document(str(path), path, _compression(str(path)), self._rules)
            document, kind = self._recognised(named)
            head = b"" if kind else document.head()
            if kind:
                self._leave_out(root, relative, kind.name)
            elif self._by_content and (encoding := unmarked_encoding(head)):
                self._leave_out(root, relative, f"{encoding} without a byte order mark")
            elif looks_binary(head) if self._by_content else b"\0" in head:
                self._leave_out(root, relative, "binary")
            else:
                documents.append(document)
        if not documents:
            raise DataError(
                f"no text files in the folder {root}{_listed(self.left_out)}; name the files "
                f"themselves"
            )
        return documents

    def _leave_out(self, root: Path, relative: str, reason: str) -> None:
        """Record a file that is left out; a hidden folder counts as one."""
        parts = relative.split("/")
        depth = next((i for i, part in enumerate(parts) if part.startswith(".")), len(parts))
        entry = str(root / "/".join(parts[: depth + 1])), reason
        if entry not in self.left_out[-1:]:
            self.left_out.append(entry)


def _is_damaged(head: bytes) -> bool:
    """Return whether the start of a file that is named like a compressed one is not text either."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return unmarked_encoding(head) is None and marked_encoding(head) is None
    return looks_binary(head)


def _files_below(root: Path) -> list[str]:
    """List the files below a folder, in order, by their relative paths with slashes."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _listed(left_out: list[tuple[str, str]]) -> str:
    """Say how many binary files or others were left out, in brackets."""
    binary = sum(reason == "binary" for _, reason in left_out)
    what = "binary files" if binary == len(left_out) else "files"
    return f" ({len(left_out):,} {what} left out)" if left_out else ""


def say_left_out(sources: Sources, most: int = 10) -> str | None:
    """List the files that were left out with the reason, up to `most`; None if there are none."""
    if not sources.left_out:
        return None
    shown = [f"{name} ({reason})" for name, reason in sources.left_out[:most]]
    more = len(sources.left_out) - len(shown)
    count = len(sources.left_out)
    return (
        f"{sources.described}: {count:,} file{'s' * (count > 1)} left out: {', '.join(shown)}"
        f"{f' and {more:,} more' if more else ''}"
    )


def shared_documents(sources: Sources, other: Sources) -> list[Document]:
    """Return the documents of `other` whose content is that of a document of `sources`."""
    by_size: dict[int, list[Path]] = {}
    for document in sources.documents:
        by_size.setdefault(document.path.stat().st_size, []).append(document.path)
    return [
        document
        for document in other.documents
        if any(
            filecmp.cmp(path, document.path, shallow=False)
            for path in by_size.get(document.path.stat().st_size, [])
        )
    ]


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


def spooled(content: BinaryIO, name: str, rules: Rules) -> Sources:
    """Copy what is left of a stream, and find the documents in it. Raises DataError."""

    def copy(path: Path) -> None:
        with path.open("wb") as file:
            shutil.copyfileobj(content, file, CHUNK)

    finder = _Finder(rules, 0.0)
    try:
        return finder.of_copy(name, copy)
    except BaseException:
        for scratch in finder.temporary:
            scratch.discard()
        raise


def _copy_standard_input(path: Path) -> None:
    """Copy standard input to a file. Raises DataError if that is not possible."""
    if sys.stdin is None:
        raise DataError("standard input is closed; name a file, or pipe a text in")
    _copy_stream("standard input", sys.stdin.buffer, path)


def _copy_pipe(pipe: Path, path: Path) -> None:
    """Copy what a named pipe gives to a file. Raises DataError."""
    try:
        with pipe.open("rb") as stream:
            _copy_stream(str(pipe), stream, path)
    except OSError as error:
        raise DataError(f"cannot read {pipe}: {error.strerror}") from error


def _copy_stream(name: str, stream: BinaryIO, path: Path) -> None:
    """Copy a stream to a file. Raises DataError."""
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, CHUNK)
    except OSError as error:
        raise DataError(f"cannot copy {name} to {path}: {error.strerror}") from error


def _check_zstd(path: Path, bounded: str | None) -> None:
    """Raise EOFError for an incomplete file, which zstandard's reader accepts without an error.

    If `bounded` is a name, raise DataError once the file unpacks to too much.
    """
    complete, count = True, 0
    with path.open("rb") as file:
        left = b""
        while left or (left := file.read(ZSTD_PIECE)):
            if complete:
                frame = zstandard.ZstdDecompressor().decompressobj()
            count += len(frame.decompress(left))
            if bounded and count > limit(file.tell()):
                raise DataError(bomb(bounded))
            complete, left = frame.eof, frame.unused_data if frame.eof else b""
    if not complete:
        raise EOFError("it breaks off before its end")


def _compression(name: str) -> str | None:
    """Return how a file is compressed, by its name; None for an archive of several files."""
    kind = infer_compression(name)
    return kind if kind in {"gzip", "bz2", "xz", "zstd"} else None


def _no_such(argument: str) -> str:
    """Return the message that an argument does not name a text, with the most likely name."""
    folder, name = os.path.split(argument)
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    paths = {other: os.path.join(folder, other) for other in [*beside, *NAMED]}
    hint = did_you_mean(name, (), paths, cutoff=0.6)
    return (
        f"no file, folder or pattern {argument!r}, and no named corpus of that name "
        f"({', '.join(NAMED)}, {BOOK}NUMBER){f'; {hint}' if hint else ''}"
    )
