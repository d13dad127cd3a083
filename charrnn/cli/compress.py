"""`charrnn compress` and `charrnn decompress`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import Bar, say, warn
from charrnn.cli.options import dynamic_rates, naming_rate_flag, quiet

if TYPE_CHECKING:
    from charrnn.inference.trained_model import TrainedModel

SUFFIX = ".charrnn"


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--out", type=click.Path(path_type=Path, allow_dash=True),
              help="Where to write [FILE.charrnn; standard output for -].")  # fmt: skip
@click.option("--dynamic", is_flag=True, help="Learn from the text while coding it.")
@dynamic_rates("0.01", "0.001")
@quiet
def compress(
    run: str,
    file: Path,
    out: Path | None,
    dynamic: bool,
    dynamic_rate: float | None,
    dynamic_decay: float | None,
) -> None:
    """Compress FILE with the probabilities of RUN's best model.

    The compressed file has about as many bits as the model's score of FILE. FILE is any file, or -
    for standard input; characters that the vocabulary lacks are escaped. Decompression needs the
    same model on the same kind of machine. Both commands need the package `constriction` (`pip
    install constriction`).

    \b
    Examples:
      charrnn compress book-1 chapter.txt
      charrnn compress book-1 chapter.txt --dynamic --out chapter.small
      charrnn decompress book-1 chapter.txt.charrnn --out again.txt
    """
    from charrnn.inference import compression

    compression.require_constriction()
    content, model = _read(file), _model(run)
    rates = None
    if dynamic or dynamic_rate is not None or dynamic_decay is not None:
        from charrnn.evaluation.dynamic import Rates

        rates = Rates.of(dynamic_rate, dynamic_decay)
    target = out or (Path("-") if str(file) == "-" else file.with_name(file.name + SUFFIX))
    _check(target)
    with naming_rate_flag() if rates else contextlib.nullcontext():
        packed = _with_bar(lambda progress: compression.compress(model, content, rates, progress))
    _write(target, packed)
    bits = 8 * len(packed) / max(1, len(content))
    say(f"{len(content):,} bytes in, {len(packed):,} out: {bits:.3f} bits per byte")


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--out", type=click.Path(path_type=Path, allow_dash=True),
              help="Where to write [FILE without .charrnn; standard output for -].")  # fmt: skip
@quiet
def decompress(run: str, file: Path, out: Path | None) -> None:
    """Restore the file that `charrnn compress` compressed with the same RUN.

    \b
    Examples:
      charrnn decompress book-1 chapter.txt.charrnn --out again.txt
    """
    from charrnn.errors import ConfigError
    from charrnn.inference import compression

    compression.require_constriction()
    packed = _read(file)
    with _naming(file):
        compression.read_header(packed)  # Refuse a wrong file before a model is read.
    if out is None and str(file) != "-" and file.suffix != SUFFIX:
        raise ConfigError(f"{file} does not end in {SUFFIX}; say where to write with --out")
    target = out or (Path("-") if str(file) == "-" else file.with_suffix(""))
    _check(target)
    model = _model(run)
    with _naming(file):
        content = _with_bar(lambda progress: compression.decompress(model, packed, progress))
    _write(target, content)
    say(f"{len(packed):,} bytes in, {len(content):,} out")


def _model(run: str) -> TrainedModel:
    """Load the best model of a run."""
    from charrnn.inference.trained_model import TrainedModel
    from charrnn.nn.fast.memory import keep_freed_memory
    from charrnn.runs.directory import find_checkpoint

    keep_freed_memory()
    return TrainedModel.from_checkpoint(find_checkpoint(run, warn))


def _read(file: Path) -> bytes:
    """Read a file, or standard input for -. Raises DataError."""
    from charrnn.errors import DataError

    if str(file) == "-":
        if sys.stdin is None:
            raise DataError("standard input is closed; name a file, or pipe one in")
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Begin the errors about a file with its name."""
    from charrnn.errors import CheckpointError, DataError

    try:
        yield
    except (CheckpointError, DataError) as error:
        raise type(error)(f"{file}: {error}") from error


def _check(target: Path) -> None:
    """Raise ConfigError, before any work, for a target that cannot be written."""
    from charrnn.runs.checkpoint import check_target

    if str(target) != "-":
        check_target(target)


def _write(target: Path, content: bytes) -> None:
    """Write a file, or standard output for -."""
    from charrnn.runs.checkpoint import write_atomically

    if str(target) != "-":
        write_atomically(target, content)
    elif sys.stdout is not None:
        sys.stdout.buffer.write(content)


def _with_bar(work: Callable[[Any], bytes]) -> bytes:
    """Work with a progress bar that counts symbols."""
    bar = Bar(shown=True, unit="symbol")
    bar.start(None, 0)
    try:
        return work(lambda _: bar.advance())
    finally:
        bar.close()
