"""Checkpoints: one safetensors file is one commit.

Tensors are the file's tensors; configuration, vocabulary and progress are JSON texts in its
header, and beside them the SHA-256 of the whole raw file, computed with its own 64 digits read as
zeros. There is no pickle, and nothing in a header builds a path or an import. The header is judged
before any data is read, so that a stranger's file costs little to refuse. Nothing here imports
torch: tensors are numpy arrays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from charrnn.errors import CheckpointError, StorageError

FORMAT = 1
SUFFIX = ".safetensors"
MAX_HEADER = 16 << 20
MAX_VALUES = 100_000  # in the header's JSON: what it takes to parse has a bound, too
_TEMPORARY = ".writing-"
_ZEROS = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')

Arrays = dict[str, NDArray[Any]]
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""What a header says of each tensor: its type (as F32) and its shape."""

Check = Callable[[Mapping[str, Any], Layout], None]
"""Judges metadata and layout. Raises CheckpointError."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. `metadata` is plain data: config, vocabulary, progress, ..."""

    tensors: Arrays
    metadata: dict[str, Any]
    path: Path


def save_checkpoint(path: Path, tensors: Arrays, metadata: dict[str, Any]) -> None:
    """Write the file so that at every moment `path` is the old file or the whole new one.

    Temporary file in the same folder, fsync, verify, replace, fsync the folder. Raises
    StorageError naming the path and the bytes needed.
    """
    texts = {name: json.dumps(value, allow_nan=False) for name, value in metadata.items()}
    texts |= {"charrnn": json.dumps({"format": FORMAT}), "sha256": _ZEROS}
    contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    content = bytearray(safetensors.numpy.save(contiguous, texts))
    digits = _DIGEST.search(content)
    assert digits is not None
    start, stop = digits.span(1)
    content[start:stop] = hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, bytes(content), verify=read_metadata)


def load_checkpoint(path: Path, check: Check | None = None) -> Checkpoint:
    """Read a checkpoint and verify all of it.

    The header is judged first, by `check` as well, and no data is read where it does not pass.
    Raises CheckpointError for what is missing, damaged, or no checkpoint of this format.
    """
    with _opened(path) as file:
        metadata = _verified(file, check)
        file.seek(0)
        tensors = safetensors.numpy.load(file.read())
    return Checkpoint(tensors, metadata, path)


def read_metadata(path: Path, check: Check | None = None) -> dict[str, Any]:
    """A checkpoint's metadata after verifying the whole file. Raises as `load_checkpoint`."""
    with _opened(path) as file:
        return _verified(file, check)


def write_atomically(
    path: Path, content: bytes, verify: Callable[[Path], object] | None = None
) -> None:
    """Replace `path` by a file with `content`, durably, or leave it as it was.

    Raises StorageError naming the path and the bytes needed.
    """
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if verify is not None:
            verify(temporary)
        os.replace(temporary, path)
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({len(content):,} bytes): {error.strerror or error}; "
            f"what was there before is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what processes that were killed left half-written. Only where nobody else writes."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file; whatever is found wrong with it becomes a CheckpointError that names it."""
    try:
        if path.exists() and not path.is_file():
            raise StorageError(f"cannot read {path}: it is no regular file")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (
        CheckpointError, SafetensorError, ValueError, KeyError, TypeError, AttributeError,
        RecursionError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is not a usable checkpoint: {error}") from error


def _verified(file: BinaryIO, check: Check | None) -> dict[str, Any]:
    """The metadata of a file whose header is ours, fits `check`, and whose checksum matches."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= size - 8:
        raise ValueError("its header is damaged, or it is no safetensors file")
    if length > MAX_HEADER:
        raise ValueError(f"its header of {length:,} bytes is larger than {MAX_HEADER:,}")
    header = file.read(length)
    entries = _json(header.decode())
    metadata = {name: _json(text) for name, text in entries.pop("__metadata__").items()
                if name != "sha256"}  # fmt: skip
    version = metadata.pop("charrnn")["format"]
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        remedy = "it was made by a newer version, upgrade charrnn" if newer else "it is not ours"
        raise ValueError(f"it has format {version!r}, this charrnn reads {FORMAT}: {remedy}")
    layout = {
        str(name): (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in entries.items()
    }
    if check is not None:
        check(metadata, layout)

    digits = list(_DIGEST.finditer(header))
    if len(digits) != 1:
        raise ValueError("it has no checksum of ours in its header")
    first, last = digits[0].span(1)
    digest = hashlib.sha256(start + header[:first] + _ZEROS.encode() + header[last:])
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    if digest.hexdigest() != digits[0][1].decode():
        raise ValueError("its checksum does not match: it is damaged")
    return metadata


def _json(text: str) -> Any:
    """Plain data; not too much, no key twice (two readers could see two files) and no NaN."""
    if sum(map(text.count, "[{,")) > MAX_VALUES:
        raise ValueError(f"its header holds more than {MAX_VALUES:,} values")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("its header names something twice")
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"its header holds {constant}")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


SCHEMA = 1
