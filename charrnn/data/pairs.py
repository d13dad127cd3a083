"""Read pairs of texts: a source and a target, from tables or from two parallel files.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from charrnn.data.columns import NAMES_OF_PAIRS, as_setting, describe_columns, pair_columns
from charrnn.data.formats import (
    USUAL,
    Log,
    Pair,
    Reading,
    file_name,
    not_empty,
    numbered_lines,
    path_of,
    text_of,
)
from charrnn.data.sources import Document, Sources
from charrnn.data.tables import Table, is_named_as_table, plain_table, read_table
from charrnn.data.vocabulary import shortened
from charrnn.errors import DataError

WANTED = "rows of source, tab and target"
FORM = "a row is a source and its target"


def read_pairs(sources: Sources, how: Reading = USUAL, log: Log | None = None) -> list[Pair]:
    """Read pairs of texts, in order: from tables, or from two parallel files.

    Two files without tabs, such as `a.en` and `a.fr`, are parallel: line 7 of the second is the
    translation of line 7 of the first. Further columns of a table, such as Tatoeba's attribution,
    are ignored. White space at the ends of a text is removed.

    Raises DataError for a document without pairs, for a row without a source and a target, and for
    parallel files that differ in their number of lines.
    """
    log = log or Log()
    examples: list[Pair] = []
    if how.reading == "recognise" and (twins := _parallel(sources.documents, how)):
        for one, other in twins:
            examples += _lines_of_both(one, other, how, log)
        log.settle(how.bad_rows, len(examples), FORM)
        return examples
    for i, document in enumerate(sources.documents):
        table = _table(document, how, log)
        if table is None:
            table = plain_table(document, how.encoding, how.errors)
        if not table.rows:
            log.settle(how.bad_rows, len(examples), FORM)
            not_empty(examples[:0], document, WANTED)
        source, target = _columns(table, how, document.name)
        if i == 0 and how.reading == "recognise":
            describe_columns(table, log, {"source": [source], "target": [target]})
            how = replace(
                how,
                source_column=as_setting(table, source),
                target_column=as_setting(table, target),
            )
            log.settings["data.source_column"] = how.source_column
            log.settings["data.target_column"] = how.target_column
        examples += _pairs_of(document, table, source, target, log)
    log.settle(how.bad_rows, len(examples), FORM)
    return examples


def _table(document: Document, how: Reading, log: Log) -> Table | None:
    if how.reading == "plain":
        return plain_table(document, how.encoding, how.errors)
    named = (how.source_column, how.target_column)
    given = {name.casefold() for name in named if isinstance(name, str)}
    return read_table(document, how, given or NAMES_OF_PAIRS, log, fewest=1 if given else 2)


def _columns(table: Table, how: Reading, name: str) -> tuple[int, int]:
    """Choose the columns; a table of one column has faults in every row."""
    if how.reading == "plain" or table.width < 2:
        return 0, 1
    return pair_columns(table, how.source_column, how.target_column, name)


def _pairs_of(document: Document, table: Table, source: int, target: int, log: Log) -> list[Pair]:
    """Make a pair of each row with a source and a target; report the others."""
    pairs: list[Pair] = []
    for line, fields in table.rows:
        shown = shortened("\t".join(fields))
        if len(fields) <= max(source, target):
            what = "has one column" if len(fields) == 1 else f"has {len(fields):,} columns"
            log.fault(document.name, line, f"{what}: {shown}")
        else:
            _add(pairs, Pair(fields[source], fields[target], document.name, line), shown, log)
    return pairs


def _add(pairs: list[Pair], pair: Pair, shown: str, log: Log) -> None:
    """Append a pair, or report it if one of its texts is empty or has a NUL."""
    if not pair.source or not pair.target:
        empty = "target" if pair.source else "source"
        log.fault(pair.file, pair.line, f"has an empty {empty}: {shown}")
    elif "\0" in pair.source + pair.target:
        log.fault(pair.file, pair.line, f"has a NUL in it: {shown}")
    else:
        pairs.append(pair)


# Parallel files ----------------------------------------------------------------------------------


def _parallel(documents: Sequence[Document], how: Reading) -> list[tuple[Document, Document]]:
    """Put parallel files together: two files, or files with two suffixes, none with a tab.

    The first file is the source; of several, the one whose suffix comes first, or that
    `source_column` names. An empty list means that the files are not parallel.
    """
    if len(documents) < 2 or any(map(is_named_as_table, documents)):
        return []
    by_stem: dict[str, list[Document]] = {}
    suffixes = dict.fromkeys(_language(document) for document in documents)
    if len(suffixes) != 2:
        if len(documents) > 2:
            return []
        by_stem[""] = [*documents]
    else:
        for document in documents:
            stem = str(path_of(document).parent / PurePath(file_name(document)).stem)
            by_stem.setdefault(stem, []).append(document)
        if len(documents) == 2:
            by_stem = {"": [*documents]}
    for document in documents:
        text = text_of(document, how.encoding, how.errors)
        lines = [row for _, row in numbered_lines(text[:100_000])][:200]
        if sum("\t" in row for row in lines) * 2 >= len([row for row in lines if row.strip()]):
            return []
    for stem, both in by_stem.items():
        if len(both) != 2:
            raise DataError(
                f"{both[0].name} needs a second file with the other text of each pair; give two "
                f"files {PurePath(stem).name}.{' and .'.join(map(str, suffixes))}, or {WANTED}"
            )
    order = list(suffixes)
    if how.source_column in order:
        order.sort(key=lambda suffix: suffix != how.source_column)
    return [
        (one, other) if order.index(_language(one)) <= order.index(_language(other))
        else (other, one)
        for one, other in by_stem.values()
    ]  # fmt: skip


def _language(document: Document) -> str:
    """Return the suffix of a file, such as `en`."""
    return PurePath(file_name(document)).suffix.removeprefix(".")


def _lines_of_both(one: Document, other: Document, how: Reading, log: Log) -> list[Pair]:
    """Pair the lines of two files. Raises DataError if their numbers differ."""
    sides = []
    for document in (one, other):
        text = text_of(document, how.encoding, how.errors)
        lines = [row.strip() for _, row in numbered_lines(text)]
        sides.append(lines[:-1] if lines and not lines[-1] else lines)
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{one.name} has {len(sides[0]):,} lines and {other.name} has {len(sides[1]):,}; give "
            f"two files with the same number of lines, or {WANTED}"
        )
    pairs: list[Pair] = []
    for line, (source, target) in enumerate(zip(*sides, strict=True), 1):
        if source or target:
            _add(pairs, Pair(source, target, one.name, line), shortened(source or target), log)
    log.notes.append(f"source from {one.name}, target from {other.name}, a line for a line")
    return not_empty(pairs, one, "texts, one on each line")
