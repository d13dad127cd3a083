"""The cache folder, and temporary folders in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from charrnn.errors import StorageError


def cache_folder() -> Path:
    """Return `CHARRNN_CACHE_DIR` if it is set, else the platform's cache folder for charrnn."""
    chosen = os.environ.get("CHARRNN_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("charrnn")


class Scratch:
    """A temporary folder that is locked while its process lives.

    Before a new one is made, folders that killed processes left behind are deleted.
    """

    def __init__(self, parent: Path) -> None:
        import filelock  # Imported late: it is slow, and shell completion needs no lock.

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
            except (FileNotFoundError, FileExistsError, filelock.Timeout):
                continue  # Another process deleted the folder while it was being locked.

    def discard(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def spool(fill: Callable[[Path], None]) -> Scratch:
    """Make a temporary folder with the file `text`, written by `fill`; delete it if that fails."""
    folder = cache_folder() / "incoming"
    try:
        scratch = Scratch(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write to the cache folder {folder}: {error.strerror}; set "
            f"CHARRNN_CACHE_DIR to another folder"
        ) from error
    try:
        fill(scratch.path / "text")
    except BaseException:
        scratch.discard()
        raise
    return scratch
