"""Export a trained model: find the checkpoint, write one of the formats of `registry.FORMATS`."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from charrnn.errors import ConfigError, StorageError
from charrnn.registry import FORMATS, one_of, resolve
from charrnn.runs.checkpoint import TEMPORARY, check_target
from charrnn.runs.directory import find_checkpoint, find_run
from charrnn.runs.hub import WEIGHTS, is_hub_address
from charrnn.sharing.hub import check_upload, upload

Warn = Callable[[str], None]


def export(
    run: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str] | None = None,
    *,
    step: int | None = None,
    last: bool = False,
    push: str | None = None,
    warn: Warn = warnings.warn,
    **options: Any,
) -> list[Path]:
    """Write the best model of a run, or a checkpoint file, as `format`; return the new files.

    `format` is a name in `charrnn.registry.FORMATS`: onnx is a file, torch and hub are folders.
    `out` is the path of the file or folder, by default in the working directory and named after the
    run. With `step` the checkpoint of that step is written, with `last=True` the last checkpoint.
    `options` are those of the format: hub has `license`. `push` uploads its folder to this
    repository of the Hub, OWNER/NAME.

    Nothing is written unless all of it can be. Raises ConfigError for an unknown format, a target
    that exists and a model that the format cannot hold, CheckpointError for a run that cannot be
    loaded, StorageError if the target cannot be written or uploaded.

    ::

        charrnn.export("runs/book-1", "onnx")
        charrnn.export("runs/book-1", "torch", out="for-a-friend")
    """
    if format not in FORMATS:
        raise ConfigError(f"there is no format {format!r}; use {one_of(FORMATS)}")
    entry, name = FORMATS[format], os.fspath(run)
    target = Path(out) if out is not None else Path(_name(name) + entry.suffix)
    check_target(target)
    if format != "hub" and (push or "license" in options):
        raise ConfigError(f"the format {format} has no license and is not uploaded; use hub")
    if push:
        check_upload(push)
        options["repository"] = push
    checkpoint = find_checkpoint(name, warn, step, last)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=TEMPORARY) as folder:
            draft = Path(folder) / target.name
            resolve(entry.export)(checkpoint, draft, **options)
            os.rename(draft, target)
    except (OSError, StorageError) as error:
        cause = error.__cause__ or error  # A StorageError names a file that is not kept.
        reason = getattr(cause, "strerror", None) or cause
        raise StorageError(f"cannot write {target}: {reason}") from error
    if push:
        upload(target, push)
    return sorted(target.rglob("*")) if target.is_dir() else [target]


def _name(run: str) -> str:
    """Return the name of a run's directory, or of a checkpoint file without its suffix."""
    if is_hub_address(run):
        return run.partition("@")[0].rstrip("/").rpartition("/")[2]
    place = find_run(run)
    if isinstance(place, Path) and place.name == WEIGHTS:
        return place.parent.resolve().name
    return place.stem if isinstance(place, Path) else place.path.resolve().name
