"""Checkpoints: one safetensors file is one commit.

Tensors are the file's tensors; configuration, vocabulary and progress are JSON texts in its
header, and beside them the SHA-256 of the whole raw file, computed with its own 64 digits read as
zeros. There is no pickle, and nothing in a header builds a path or an import. Nothing here imports
torch: tensors are numpy arrays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from charrnn.errors import CheckpointError, StorageError

FORMAT = 1
SUFFIX = ".safetensors"
MAX_HEADER = 32 << 20
_ZEROS = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')

Arrays = dict[str, NDArray[Any]]


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
    start, stop = _digest_span(content)
    content[start:stop] = hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, bytes(content), verify=read_metadata)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint, all of it.

    Raises CheckpointError for what is missing, damaged, or no checkpoint of this format.
    """
    content = _read(path)
    metadata = _verified_metadata(path, content)
    try:
        tensors = safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a usable checkpoint: {error}") from error
    return Checkpoint(tensors, metadata, path)


def read_metadata(path: Path) -> dict[str, Any]:
    """A checkpoint's metadata after verifying the whole file. Raises as `load_checkpoint`."""
    return _verified_metadata(path, _read(path))


def write_atomically(
    path: Path, content: bytes, verify: Callable[[Path], object] | None = None
) -> None:
    """Replace `path` by a file with `content`, durably, or leave it as it was.

    Raises StorageError naming the path and the bytes needed.
    """
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _digest_span(content: bytes | bytearray) -> tuple[int, int]:
    """Where in the header the 64 digits stand. Raises ValueError where they do not."""
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(MAX_HEADER, len(content) - 8):
        raise ValueError("its header is damaged, or it is no safetensors file")
    found = list(_DIGEST.finditer(content, 8, 8 + length))
    if len(found) != 1:
        raise ValueError("it has no checksum of ours in its header")
    return found[0].span(1)


def _verified_metadata(path: Path, content: bytes) -> dict[str, Any]:
    try:
        start, stop = _digest_span(content)
        expected = content[start:stop].decode()
        digest = hashlib.sha256(content[:start])
        digest.update(_ZEROS.encode())
        digest.update(memoryview(content)[stop:])
        if digest.hexdigest() != expected:
            raise ValueError("its checksum does not match: it is damaged")
        length = int.from_bytes(content[:8], "little")
        texts = json.loads(content[8 : 8 + length])["__metadata__"]
        metadata = {name: json.loads(text) for name, text in texts.items() if name != "sha256"}
        version = metadata.pop("charrnn")["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a usable checkpoint: {error}") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {version!r}, this charrnn reads format {FORMAT}: "
            f"it was made by a newer version, upgrade charrnn"
        )
    return metadata
