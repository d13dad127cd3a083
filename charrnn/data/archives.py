"""Unpack the texts of zip and tar archives into a folder, and nothing else.

An archive may come from a stranger. Its members are written only below the folder, and their size
is checked before they are written. An archive is refused as a whole if it is encrypted, holds
another archive, or has a path that leads out of it.
"""

from __future__ import annotations

import errno
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from charrnn.data.kinds import HEAD, TAR, ZIP, Kind, compression_of, kind_of, looks_binary
from charrnn.data.vocabulary import shortened
from charrnn.errors import DataError, StorageError

ROOM = 64 << 20  # bytes: any file may unpack to this many
RATIO = 200  # a file may unpack to this many times its size, if that is more
MOST_MEMBERS = 100_000
CHUNK = 1 << 20
DOCUMENTS = {
    "word/": Kind("a Word document", "save it as plain text in its program, and name that file"),
    "xl/": Kind("an Excel table", "save it as CSV in its program, and name that file"),
    "ppt/": Kind("a slide show", "save its text in its program, and name that file"),
}
ZIPPED_DOCUMENTS = (".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub")
OPEN_DOCUMENT = Kind("an OpenDocument file", "save it as plain text in its program, and name that")
EPUB = Kind("an EPUB book", "convert it to plain text, for instance with pandoc, and name that")


@dataclass(frozen=True)
class Member:
    """A file in an archive: its path, its size, and how to read it (None: not a regular file)."""

    path: str
    size: int
    file: IO[bytes] | None


class Bounded:
    """A file that raises DataError once it has unpacked to more than is allowed (`limit`).

    `packed` returns the number of bytes that this was unpacked from so far.
    """

    def __init__(self, file: BinaryIO, name: str, packed: Callable[[], int]) -> None:
        self._file, self._name, self._packed = file, name, packed
        self._count = 0

    def read(self, size: int = -1) -> bytes:
        """Read like a file, in pieces of a bounded size."""
        pieces: list[bytes] = []
        while size and (piece := self._file.read(min(size, CHUNK) if size > 0 else CHUNK)):
            pieces.append(piece)
            size -= len(piece) if size > 0 else 0
            self._count += len(piece)
            if self._count > limit(self._packed()):
                raise DataError(bomb(self._name))
        return b"".join(pieces)


def limit(packed: int) -> int:
    """Return the number of bytes that a file of `packed` bytes may unpack to."""
    return max(ROOM, RATIO * packed)


def bomb(name: str) -> str:
    """Write the message that a file unpacks to too much."""
    return (
        f"{name} unpacks to more than {RATIO} times its size, as hostile files do; if it is "
        f"yours, unpack it, and name the texts"
    )


def kind_of_zip(path: Path) -> Kind:
    """Return the kind of a zip file: an archive, or a document whose format is a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:1000]
            if "[Content_Types].xml" in names:
                known = (k for start, k in DOCUMENTS.items() for n in names if n.startswith(start))
                return next(known, ZIP)
            if names[:1] == ["mimetype"]:
                with archive.open("mimetype") as file:
                    return EPUB if b"epub" in file.read(100) else OPEN_DOCUMENT
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        pass  # The error of unpacking it says what is wrong.
    return ZIP


def unpack_zip(path: Path, name: str, folder: Path) -> list[tuple[str, str]]:
    """Write the texts of a zip archive into a new folder; return what was left out, and why.

    Raises DataError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = path.stat().st_size
            with closing(_in_zip(archive, name, packed)) as members:
                return _write(members, name, packed, folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error,
            ValueError) as error:  # fmt: skip
        raise DataError(f"cannot unpack {name}: {error}") from error


def unpack_tar(file: BinaryIO, name: str, packed: int, folder: Path) -> list[tuple[str, str]]:
    """Write the texts of a tar archive into a new folder; return what was left out, and why.

    Raises DataError.
    """
    try:
        with (
            tarfile.open(fileobj=file, mode="r|") as archive,
            closing(_in_tar(archive)) as members,
        ):
            return _write(members, name, packed, folder)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"cannot unpack {name}: {error}") from error


def _in_zip(archive: zipfile.ZipFile, name: str, packed: int) -> Generator[Member, None, None]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if any(member.flag_bits & 1 for member in members):
        raise DataError(f"{name} is encrypted; unpack it with its password, and name the texts")
    _check_paths([member.filename for member in members], name)
    if sum(member.file_size for member in members) > limit(
        Path(archive.filename or "").stat().st_size
    ):
        raise DataError(bomb(name))
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16):
            yield Member(member.filename, 0, None)
        else:
            with archive.open(member) as file:
                yield Member(member.filename, member.file_size, file)


def _in_tar(archive: tarfile.TarFile) -> Generator[Member, None, None]:
    for member in archive:
        if not member.isdir():
            file = archive.extractfile(member) if member.isfile() else None
            yield Member(member.name.removeprefix("./"), member.size, file)


def _write(
    members: Iterator[Member], name: str, packed: int, folder: Path
) -> list[tuple[str, str]]:
    """Write the members that are texts below `folder`; return the others with the reason."""
    left_out: list[tuple[str, str]] = []
    seen: set[str] = set()
    room = limit(packed)
    folder.mkdir()
    for member in members:
        _check_paths([member.path], name)
        if member.path in seen:
            raise DataError(f"{name} holds {shortened(member.path)} twice; {ZIP.remedy}")
        seen.add(member.path)
        room -= member.size
        if room < 0:
            raise DataError(bomb(name))
        if len(seen) > MOST_MEMBERS:
            raise DataError(f"{name} holds more than {MOST_MEMBERS:,} files; {ZIP.remedy}")
        if reason := hidden(member.path):
            left_out.append((member.path, reason))
        elif member.file is None:
            left_out.append((member.path, "a link, or no regular file"))
        elif reason := _copy(member.path, member.file, name, folder):
            left_out.append((member.path, reason))
    return left_out


def _copy(path: str, file: IO[bytes], name: str, folder: Path) -> str | None:
    """Write one member; if it is no text, return the reason instead."""
    head = file.read(HEAD)
    kind = kind_of(head)
    if kind in (ZIP, TAR) and not path.lower().endswith(
        (".docx", ".xlsx", ".pptx", ".odt", ".epub")
    ):
        raise DataError(f"{name} holds another archive, {shortened(path)}; {ZIP.remedy}")
    if kind is not None:
        return "a document of another program" if kind == ZIP else kind.name
    if compression_of(head) is None and looks_binary(head):
        return "binary"
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            out.write(head)
            while chunk := file.read(CHUNK):
                out.write(chunk)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise StorageError(
                f"no room for the texts of {name}; free some, or set CHARRNN_CACHE_DIR to another "
                f"folder"
            ) from error
        raise DataError(
            f"{name} holds {shortened(path)}, which cannot be a file here; {ZIP.remedy}"
        ) from error
    return None


def _check_paths(paths: list[str], name: str) -> None:
    """Raise DataError for a path that leads out of the archive, or is invalid on some system."""
    for path in paths:
        parts = PurePosixPath(path.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0] or "\0" in path:
            raise DataError(
                f"{name} holds {shortened(path)}, a path that leads out of it; {ZIP.remedy}"
            )


def hidden(path: str) -> str | None:
    """Return why a path is left out, whatever its content, or None."""
    parts = path.split("/")
    if any(part.startswith(".") and part != "." for part in parts):
        return "hidden"
    if any(part in ("__MACOSX", "__pycache__") for part in parts):
        return "not a text of yours"
    return None
