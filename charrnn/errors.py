"""The errors that a user can cause or meet, and the exit codes of the commands that they end.

A message says what is wrong, with the value, and then what to do about it.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType


class ExitCode(IntEnum):
    """How a command ended, for the shell; `charrnn --help` prints this table.

    >>> ExitCode.DATA, ExitCode.DATA.meaning
    (<ExitCode.DATA: 3>, 'data')
    """

    meaning: str

    DONE = 0, "done"
    ERROR = 1, "error"
    USAGE = 2, "usage or configuration"  # click also exits with 2
    DATA = 3, "data"
    CHECKPOINT = 4, "checkpoint"
    LOCKED = 5, "another process is training the run"
    DIVERGED = 6, "training diverged"
    STORAGE = 7, "input or output failed"
    HANGUP = 129, "the terminal was closed; saved"
    INTERRUPTED = 130, "interrupted (Ctrl-C)"
    TERMINATED = 143, "terminated"

    def __new__(cls, number: int, meaning: str) -> ExitCode:
        """Make a member from its number and its meaning."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        return code


class CharrnnError(Exception):
    """Something went wrong that the user can act on."""

    exit_code = ExitCode.ERROR


class ConfigError(CharrnnError):
    """A key, a value or a combination in the configuration that cannot be used."""

    exit_code = ExitCode.USAGE


class DataError(CharrnnError):
    """A text that cannot be found, read, decoded or split."""

    exit_code = ExitCode.DATA


class CheckpointError(CharrnnError):
    """A checkpoint that is missing, damaged, or of another program."""

    exit_code = ExitCode.CHECKPOINT


class LockedError(CharrnnError):
    """Another process is training in this run directory."""

    exit_code = ExitCode.LOCKED


class DivergedError(CharrnnError):
    """A loss or a gradient that is no longer a finite number."""

    exit_code = ExitCode.DIVERGED


class StorageError(CharrnnError):
    """A file or folder that cannot be written or read."""

    exit_code = ExitCode.STORAGE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy or torch says that memory ran out."""
    signs = ("out of memory", "can't allocate memory", "bad_alloc")
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in signs)
    )


def did_you_mean(
    name: str,
    names: Iterable[str],
    usual: Mapping[str, str] = MappingProxyType({}),
    cutoff: float = 0.5,
) -> str:
    """Return `did you mean NAME?` for the name that was most likely meant, or an empty string.

    `usual` maps names that other libraries use to ours. The comparison ignores upper and lower
    case; `cutoff` is the smallest similarity (0 to 1) at which a name is suggested.

    >>> did_you_mean("LSTM", ["gru", "lstm"])
    'did you mean lstm?'
    >>> did_you_mean("rnn", ["rhn", "vanilla"], {"rnn": "vanilla"})
    'did you mean vanilla?'
    >>> did_you_mean("transformer", ["gru", "lstm"])
    ''
    """
    meant = {other.casefold(): ours for other, ours in usual.items()}
    meant |= {ours.casefold(): ours for ours in names}
    close = difflib.get_close_matches(name.casefold(), meant, n=1, cutoff=cutoff)
    return f"did you mean {meant[close[0]]}?" if close else ""


def require_extra(module: str, extra: str, purpose: str) -> None:
    """Raise ConfigError if the package `module` of an optional extra is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{purpose} needs the package {module}; run pip install 'charrnn-trainer[{extra}]'"
        )
