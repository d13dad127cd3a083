"""Read and write checkpoints: one safetensors file has all that training needs to continue.

The file's tensors are those of the model, the optimizer and the carried state. Its header holds the
configuration, the vocabulary and the progress as JSON, and the SHA-256 of the whole file,
computed with these 64 digits as zeros. There is no pickle, and no path or import is built from a
header. The header is checked before any tensor is read, so a bad file is refused at little cost.
Nothing here imports torch: tensors are numpy arrays.
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

from charrnn.data.kinds import HEAD, kind_of_model
from charrnn.errors import CheckpointError, ConfigError, StorageError

FORMAT = 1
SUFFIX = ".safetensors"
MAX_HEADER = 16 << 20
MAX_VALUES = 100_000  # values in the header's JSON: a bound on the work of parsing it
SCHEMA = 1  # the version of the JSON that commands print, and of metrics.jsonl
TEMPORARY = ".writing-"
_ZEROS = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')

Arrays = dict[str, NDArray[Any]]
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""The type (such as F32) and the shape of each tensor, by name, as a header gives them."""

Check = Callable[[Mapping[str, Any], Layout], None]
"""A function that checks metadata and layout, and raises CheckpointError."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. `metadata` is plain data: config, vocabulary, progress and others."""

    tensors: Arrays
    metadata: dict[str, Any]
    path: Path


def save_checkpoint(path: Path, tensors: Arrays, metadata: dict[str, Any]) -> None:
    """Write a checkpoint so that at every moment `path` is the old file or the whole new one.

    `metadata` must be JSON without NaN. Raises StorageError naming the path and the bytes needed.

    >>> save_checkpoint(Path("a.safetensors"), {"w": np.arange(3)}, {"progress": {"step": 1}})
    >>> checkpoint = load_checkpoint(Path("a.safetensors"))
    >>> checkpoint.tensors["w"], checkpoint.metadata
    (array([0, 1, 2]), {'progress': {'step': 1}})
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

    The header is checked first, also by `check`; no tensor is read from a file that fails. Raises
    CheckpointError for a file that is missing, damaged, or not a checkpoint of this format, and
    StorageError for one that cannot be read.
    """
    with _opened(path) as file:
        metadata = _verified(file, check)
        file.seek(0)
        tensors = safetensors.numpy.load(file.read())
    return Checkpoint(tensors, metadata, path)


def read_metadata(path: Path, check: Check | None = None) -> dict[str, Any]:
    """Read a checkpoint's metadata and verify the whole file. Raises as `load_checkpoint` does."""
    with _opened(path) as file:
        return _verified(file, check)


def write_atomically(
    path: Path, content: bytes, verify: Callable[[Path], object] | None = None
) -> None:
    """Replace `path` by a file with `content`, safe against a crash, or leave it unchanged.

    The content goes to a temporary file in the same folder, which is synced to the disk, checked by
    `verify`, and renamed; then the folder is synced. Raises StorageError naming the path and the
    bytes needed.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
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
            f"the old file is unchanged"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Raise ConfigError if a file or folder exists at `path`, or the folder for it does not."""
    if path.exists():
        raise ConfigError(f"{path} exists already; delete it, or choose another path")
    if not path.parent.is_dir():
        raise ConfigError(
            f"cannot write {path}: there is no folder {path.parent}; make the folder, or choose "
            f"another path"
        )


def sweep(folder: Path) -> None:
    """Delete half-written files of killed processes. No other process may be writing here."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file; turn every error of reading it into a CharrnnError that names the file."""
    try:
        if path.exists() and not path.is_file():
            raise StorageError(f"cannot read {path}: it is not a regular file")
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
    """Check the header and the checksum of a file, and return its metadata."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        if kind := kind_of_model(start + file.read(HEAD)):
            raise ValueError(f"it is {kind.name}, which charrnn does not read; {kind.remedy}")
        if MAX_HEADER < length <= size - 8:
            raise ValueError(f"its header of {length:,} bytes is larger than {MAX_HEADER:,}")
        raise ValueError("its header is damaged, or it is not a safetensors file")
    header = file.read(length)
    entries = _json(header.decode())
    if "charrnn" not in entries.get("__metadata__", {}):
        raise ValueError(
            "it has the weights of another program, or exported ones; name a run, or a checkpoint "
            "that charrnn has saved"
        )
    metadata = {name: _json(text) for name, text in entries.pop("__metadata__").items()
                if name != "sha256"}  # fmt: skip
    version = metadata.pop("charrnn")["format"]
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        remedy = "it is from a newer version, so upgrade charrnn" if newer else "use another file"
        raise ValueError(f"it has format {version!r}, but this charrnn reads {FORMAT}; {remedy}")
    layout = {
        str(name): (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in entries.items()
    }
    if check is not None:
        check(metadata, layout)

    digits = list(_DIGEST.finditer(header))
    if len(digits) != 1:
        raise ValueError("its header does not hold exactly one checksum")
    first, last = digits[0].span(1)
    digest = hashlib.sha256(start + header[:first] + _ZEROS.encode() + header[last:])
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    if digest.hexdigest() != digits[0][1].decode():
        raise ValueError("it is damaged: its checksum does not match")
    return metadata


def _json(text: str) -> Any:
    """Parse JSON from a header: of bounded size, without NaN, and with no key twice.

    Of two equal keys, one parser may take the first and another the last, and so see two files.
    """
    if sum(map(text.count, "[{,")) > MAX_VALUES:
        raise ValueError(f"its header holds more than {MAX_VALUES:,} values")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(entries := dict(pairs)) < len(pairs):
            raise ValueError("its header has the same key twice")
        return entries

    def refuse(constant: str) -> Any:
        raise ValueError(f"its header holds {constant}")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
