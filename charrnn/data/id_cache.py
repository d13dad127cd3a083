"""The ids of long texts, kept in a cache folder and read piece by piece."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.data.sources import cache_folder
from charrnn.data.vocabulary import (
    Ids,
    Vocabulary,
    read_vocabulary,
)
from charrnn.errors import CheckpointError, DataError

CACHE_FORMAT = 2


IN_MEMORY = 1 << 26  # ids: a text up to this size is read whole


class IdFile:
    """Ids in a file, indexed like an array, and read when they are asked for.

    No memory map: a file that shrinks under a map ends the process with a bus error, and the
    pages that were touched count as the process's memory. Here it is a DataError.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], count: int) -> None:
        self._path, self._dtype, self._count = path, dtype, count
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice | NDArray[np.int64]) -> Ids:
        """One id, a slice with step 1, or positions in rows (N, T), each a short stretch."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(self._count)
            return self._read(start, stop)
        positions = np.atleast_2d(np.asarray(index))
        rows = [
            self._read(first, last + 1)[row - first]
            for row, first, last in zip(
                positions, positions.min(axis=1), positions.max(axis=1), strict=True
            )
        ]
        return np.stack(rows).reshape(np.shape(index))

    def _read(self, start: int, stop: int) -> Ids:
        size = self._dtype.itemsize
        wanted = max(0, int(stop - start)) * size
        if hasattr(os, "pread"):  # Forks share a file's position.
            content = os.pread(self._file, wanted, int(start) * size)
        else:
            os.lseek(self._file, int(start) * size, os.SEEK_SET)
            content = os.read(self._file, wanted)
        if len(content) < wanted:
            raise DataError(
                f"the id cache {self._path} became shorter while it was read; start again: "
                f"it is rebuilt, and charrnn resume goes on from the last checkpoint"
            )
        return np.frombuffer(content, self._dtype)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


@dataclass(frozen=True)
class CachedIds:
    """What one entry of the cache holds."""

    ids: Ids | IdFile
    vocabulary: Vocabulary
    document_starts: NDArray[np.int64]
    part_ends: list[int]
    sha256: str
    key: str


def read_cache(key: str) -> CachedIds | None:
    """An entry of the cache, or None where there is none or it is damaged."""
    if not re.fullmatch("[0-9a-f]{64}", key):
        return None  # A checkpoint says so; it must not choose a path.
    folder = _cache_path(key)
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
        dtype = np.dtype(about["dtype"])
        with (folder / "ids.bin").open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["ids_sha256"]:
                return None
            ids: Ids | IdFile = IdFile(folder / "ids.bin", dtype, about["count"])
            if about["count"] <= IN_MEMORY:
                ids = ids[:]
        starts = np.array(about["document_starts"], np.int64)
        vocabulary = read_vocabulary(about["vocabulary"])
        return CachedIds(ids, vocabulary, starts, about["part_ends"], about["sha256"], key)
    except (
        OSError, ValueError, KeyError, TypeError, RecursionError, CheckpointError, DataError,
    ):  # fmt: skip
        return None  # Rebuilt from the text, which is the truth.


def _cache_path(key: str) -> Path:
    return cache_folder() / "ids" / key
