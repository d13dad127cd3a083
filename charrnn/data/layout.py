"""How files lie in folders: their root, the folders below it, and names that mean a split."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePath

from charrnn.data.formats import path_of
from charrnn.data.sources import Document, Sources

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "valid": "validation", "val": "validation", "validation": "validation",
    "dev": "validation", "devel": "validation", "development": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""The names of folders and files that hold a split."""

ABOUT = {"readme", "license", "licence", "copying", "citation", "changelog"}
"""The names of files that describe the other files."""


def is_about(name: str) -> bool:
    """Whether a file's name is that of a readme, a licence and the like: `README.md`."""
    return name.partition(".")[0].casefold() in ABOUT


def split_of_name(name: str) -> str | None:
    """Recognise a split by the first or last word of the name of a folder or of a file.

    Up to two suffixes of a file are ignored.

    >>> [split_of_name(name) for name in ("train-00.parquet", "a-ud-dev.conllu", "a.train.en")]
    ['train', 'validation', 'train']
    >>> split_of_name("20news-bydate-test"), split_of_name("latest.txt")
    ('test', None)
    """
    words = re.split(r"[-_. ]", name.casefold())
    ends = [*words[:1], *words[-3:]]
    return next((SPLIT_NAMES[word] for word in ends if word in SPLIT_NAMES), None)


def is_split(folder: PurePath) -> bool:
    """Whether the last word of a folder's name is that of a split: `test`, but not `test_data`."""
    return re.split(r"[-_. ]", folder.name.casefold())[-1] in SPLIT_NAMES


def root_of(sources: Sources) -> PurePath:
    """Return the deepest folder that has all documents in it or below it.

    If the sources are a single folder that is named as a split, that folder is the root, even if
    it holds only one folder.
    """
    if len(sources.arguments) == 1:
        argument = PurePath(sources.arguments[0])
        if is_split(argument) and os.path.isdir(argument):
            return argument
    try:
        return PurePath(os.path.commonpath([path_of(d).parent for d in sources.documents]))
    except ValueError:  # The documents are on several drives.
        return PurePath()


def parts_below(root: PurePath, document: Document) -> tuple[str, ...]:
    """Return the folders of a document below `root`, and its name."""
    path = path_of(document)
    return path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-2:]


def listed(names: Sequence[str], most: int = 5) -> str:
    """List the first names, and say how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
