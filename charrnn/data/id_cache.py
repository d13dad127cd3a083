"""The cache of ids on disk: one folder for each text and vocabulary, read piece by piece.

An entry is the folder `ids/<key>` of the cache folder. It contains `ids.bin`, the ids one after
another, and `about.json`: their type, number and SHA-256, the end of each document, the start of
each part (main, validation and test texts), and the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.data.cache import cache_folder
from charrnn.data.vocabulary import Ids, Vocabulary, read_vocabulary
from charrnn.errors import CheckpointError, DataError

CACHE_FORMAT = 2  # part of the key: a new format gets new entries
IDS_FILE, ABOUT_FILE = "ids.bin", "about.json"
IN_MEMORY = 1 << 26  # ids: a text of at most this size is kept in memory


class IdFile:
    """Ids in a file that are indexed like an array and read on access.

    This is not a memory map. A memory map would end the process with a bus error if the file became
    shorter, and its pages would count as memory of the process. Here, such a file raises DataError.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], count: int) -> None:
        self._path, self._dtype, self._count = path, dtype, count
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice | NDArray[np.int64]) -> Ids:
        """Read one id, a slice with step 1, or an array of positions (N, T).

        Each row of positions is read in one piece, from the smallest to the largest, so they should
        be close together.
        """
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
        """Read the ids from `start` to before `stop`. Raises DataError if the file ends before."""
        size = self._dtype.itemsize
        wanted = max(0, int(stop - start)) * size
        if hasattr(os, "pread"):  # Forked processes share a file's position.
            content = os.pread(self._file, wanted, int(start) * size)
        else:
            os.lseek(self._file, int(start) * size, os.SEEK_SET)
            content = os.read(self._file, wanted)
        if len(content) < wanted:
            raise DataError(
                f"the id cache {self._path} became shorter while it was read; resume the run, "
                f"which rebuilds the cache"
            )
        return np.frombuffer(content, self._dtype)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


@dataclass(frozen=True)
class CachedIds:
    """The content of one entry of the cache."""

    ids: Ids | IdFile
    vocabulary: Vocabulary
    document_starts: NDArray[np.int64]
    part_ends: list[int]
    sha256: str
    key: str
    file_starts: Sequence[int] = ()
    joined: int = 0
    composed: bool = False


def read_cache(key: str) -> CachedIds | None:
    """Read an entry of the cache; return None if there is none or it is damaged."""
    if not re.fullmatch("[0-9a-f]{64}", key):
        return None  # The key may come from a checkpoint, which must not choose a path.
    folder = cache_path(key)
    try:
        about = json.loads((folder / ABOUT_FILE).read_text("utf-8"))
        dtype = np.dtype(about["dtype"])
        with (folder / IDS_FILE).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["ids_sha256"]:
                return None
            ids: Ids | IdFile = IdFile(folder / IDS_FILE, dtype, about["count"])
            if about["count"] <= IN_MEMORY:
                ids = ids[:]
        starts = np.array(about["document_starts"], np.int64)
        vocabulary = read_vocabulary(about["vocabulary"])
        return CachedIds(
            ids, vocabulary, starts, about["part_ends"], about["sha256"], key,
            about.get("file_starts", about["document_starts"]),
            about.get("joined", 0), about.get("composed", False),
        )  # fmt: skip
    except (
        OSError, ValueError, KeyError, TypeError, RecursionError, CheckpointError, DataError,
    ):  # fmt: skip
        return None  # The caller rebuilds it from the text.


def cache_path(key: str) -> Path:
    """Return the folder of an entry of the cache."""
    return cache_folder() / "ids" / key
