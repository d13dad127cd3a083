"""Split examples into training, validation and test. Nothing here imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import PurePath
from typing import Generic, Literal

from charrnn.data.corpus import fingerprint
from charrnn.data.formats import USUAL, Example, Labelled, Log, Reading, file_name
from charrnn.data.layout import is_about, listed, parts_below, root_of, split_of_name
from charrnn.data.sources import Document, Sources
from charrnn.data.splits import NAMES, boundaries, split_of, split_positions
from charrnn.errors import DataError

By = Literal["auto", "stratified", "hash", "position"]
"""How examples are assigned to splits."""


@dataclass(frozen=True)
class Examples(Generic[Example]):
    """Examples by split (train, validation and possibly test), and the SHA-256 of the files.

    `log` has the notes and faults found while reading.
    """

    splits: dict[str, list[Example]]
    sha256: str
    log: Log = field(default_factory=Log)


def load_examples(
    read: Callable[[Sources, Reading, Log], list[Example]],
    main: Sources | None,
    validation: Sources | None = None,
    test: Sources | None = None,
    *,
    how: Reading = USUAL,
    fractions: Sequence[float] = (0.8, 0.2),
    by: By = "auto",
) -> Examples[Example]:
    """Read examples and split them; `fractions` does not apply if validation files are separate.

    Folders or files `train`, `valid` (`val`, `dev`) and `test` in one folder are these splits. With
    `auto`, texts with a class are split as `stratified`, others as `hash`. Without `main`, there is
    no training split.

    Raises the errors of `read`, and DataError if a split would be empty.
    """
    log = Log()
    parts = {"train": main} if main else {}
    if main and how.reading == "recognise":
        parts = _parts(_without_readme(main, log), log)
    parts |= {
        name: part
        for name, part in (("validation", validation), ("test", test))
        if part is not None
    }
    if main and "test" in parts and test is None and len(fractions) == 3:
        raise DataError(
            f"{main.described} has a test set of its own, so data.split must not have a third "
            f"fraction; leave it out"
        )
    splits: dict[str, list[Example]] = {}
    for name, part in parts.items():
        own = Log(settings=log.settings)
        if name != "train":
            told = {key.removeprefix("data."): value for key, value in log.settings.items()}
            how = replace(how, **told)
        splits[name] = read(part, how, own)
        is_first = name == "train"
        new = own.notes if is_first else [note for note in own.notes if note not in log.notes]
        log.notes += new if is_first else [f"{name}: {note}" for note in new]
    if main and by == "auto":
        by = "stratified" if isinstance(splits["train"][0], Labelled) else "hash"
        log.settings["data.split_by"] = by
    if main and "validation" not in parts:
        splits = split_examples(splits["train"], fractions, by) | {
            name: part for name, part in splits.items() if name == "test"
        }
    documents = [document for part in parts.values() for document in part.documents]
    return Examples(splits, fingerprint(documents)[0], log)


# Splits of the files ------------------------------------------------------------------------------


def _without_readme(sources: Sources, log: Log) -> Sources:
    """Leave out files such as readmes that are found in a folder or an archive."""
    documents = sources.documents
    kept = [document for document in documents if not is_about(file_name(document))]
    if len(sources.arguments) == len(documents) or len(kept) in (0, len(documents)):
        return sources
    about = [file_name(document) for document in documents if document not in kept]
    log.notes.append(f"left out, about the others: {listed(about)}")
    return replace(sources, documents=kept)


def _parts(sources: Sources, log: Log) -> dict[str, Sources]:
    """Divide documents by folders or files named as splits; leave out other files.

    Without at least `train` and another split, all documents are for training.
    """
    documents = sources.documents
    if len(documents) < 2:
        return {"train": sources}
    root = root_of(sources)
    below = [parts_below(root, document) for document in documents]
    folders = {names[0] for names in below if len(names) > 1}
    in_folders = {split_of_name(name) for name in folders}
    if "train" in in_folders and (len(in_folders - {None}) > 1 or in_folders == {"train"}):
        named = [split_of_name(n[0]) if len(n) > 1 else None for n in below]
        shown = [
            f"{folder}/" for folder in sorted(folders, key=_rank) if _rank(folder) < len(NAMES)
        ]
    else:
        named = [split_of_name(names[-1]) for names in below]
        if "train" not in named or len(set(named) - {None}) < 2:
            return {"train": sources}
        shown = [names[-1] for names, split in zip(below, named, strict=True) if split]
    by_split: dict[str, list[Document]] = {}
    for document, split in zip(documents, named, strict=True):
        if split:
            by_split.setdefault(split, []).append(document)
    log.notes.append(f"splits as the files have them: {listed(shown)}")
    beside = ["/".join(names) for names, split in zip(below, named, strict=True) if not split]
    if beside:
        log.notes.append(f"left out, beside the splits: {listed(beside)}")
    order = sorted(by_split, key=NAMES.index)
    return {split: _part(sources, by_split[split], root) for split in order}


def _rank(name: str) -> int:
    """Return the place of a folder's split in `NAMES`; for any other folder, `len(NAMES)`."""
    split = split_of_name(name)
    return NAMES.index(split) if split else len(NAMES)


def _part(sources: Sources, documents: list[Document], root: PurePath) -> Sources:
    """Return the documents of one split, with their folders or files as arguments."""
    folders = {parts_below(root, document)[0] for document in documents}
    arguments = [str(root / folder) for folder in sorted(folders)]
    return replace(sources, documents=documents, arguments=arguments)


# Splits of examples -------------------------------------------------------------------------------


def split_examples(
    examples: Sequence[Example], fractions: Sequence[float] = (0.8, 0.2), by: By = "hash"
) -> dict[str, list[Example]]:
    """Split examples by the fractions: training, validation, and testing if there are three.

    With `position`, the first examples are for training; their number is rounded down. With `hash`,
    the SHA-256 of the input text, as a number in [0, 1), decides: a text is always in the same
    split, whatever other examples there are, and the sizes are close to the fractions. (A split
    that would be empty gets one text from training.) With `stratified`, the texts of each class
    are ordered by these numbers and then cut by the fractions, so that each split has the same
    share of each class; at least one text of a class is for training.

    Raises DataError if a split would be empty.
    """
    names = NAMES[: len(fractions)]
    if by == "position":
        parts = split_positions(fractions, len(examples))
        splits = {name: [examples[i] for i in part] for name, part in parts.items()}
    else:
        splits = {name: [] for name in names}
        place = (_strata if by == "stratified" else _hashed)(examples, fractions)
        for example in examples:
            splits[place[example.input]].append(example)
    for name, part in splits.items():
        if not part:
            raise DataError(
                f"the {len(examples):,} examples leave none for the {name} split; give more, or "
                f"name separate files in data.validation"
            )
    return splits


def _hashed(examples: Sequence[Example], fractions: Sequence[float]) -> dict[str, str]:
    """Assign each text to a split by its hash; an empty split gets a text from training."""
    ends = boundaries(fractions)
    split = {text: split_of(_place(text), ends) for text in {e.input: None for e in examples}}
    for name in NAMES[1 : len(fractions)]:
        free = [text for text in split if split[text] == "train"]
        if name not in split.values() and len(free) > 1:
            split[max(free, key=_place)] = name
    return split


def _strata(examples: Sequence[Example], fractions: Sequence[float]) -> dict[str, str]:
    """Assign each text to a split, so that the splits have equal shares of each class.

    The number of texts of a class is rounded up or down by a hash of the class, so that the splits
    together have about the sizes of the fractions. A text of several classes counts for the first
    one. A split that would be empty gets a text from training, one of the most frequent class if
    that has at least two.
    """
    classes: dict[str, list[str]] = {}
    label_of: dict[str, str] = {}
    for example in examples:
        label = getattr(example, "label", "")
        if label_of.setdefault(example.input, label) == label:
            classes.setdefault(label, []).append(example.input)
    split: dict[str, str] = {}
    names = NAMES[: len(fractions)]
    for label, texts in classes.items():
        ordered = sorted(dict.fromkeys(texts), key=_place)
        ends = [int(end * len(ordered) + _place(label)) for end in boundaries(fractions)]
        ends = [max(1, end) for end in ends] + [len(ordered)]
        start = 0
        for name, end in zip(names, ends, strict=True):
            split |= dict.fromkeys(ordered[start:end], name)
            start = max(start, end)
    most = max(classes.values(), key=len, default=[])
    for name in names[1:]:
        free = [text for text in most if split[text] == "train"]
        if name not in split.values() and list(split.values()).count("train") > 1:
            free = free if len(free) > 1 else [text for text in split if split[text] == "train"]
            split[max(free, key=_place)] = name
    return split


def _place(text: str) -> Fraction:
    """Return the first 64 bits of the SHA-256 of a text in UTF-8 as a number in [0, 1)."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return Fraction(int.from_bytes(digest[:8], "big"), 1 << 64)
