"""Recognise the columns of a table that hold texts, classes, sources and targets.

They are recognised by their names in the header, else by their content. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from charrnn.data.formats import Column, Log
from charrnn.data.tables import Table
from charrnn.data.vocabulary import shortened
from charrnn.errors import DataError, did_you_mean

CLASS_NAMES = (
    "label_text", "label_name", "label", "labels", "class", "class_label", "class index",
    "category", "target", "sentiment",
    "topic", "intent", "language", "lang", "emotion", "polarity", "rating", "stars", "score",
    "coarse_label", "tag", "type", "author", "genre", "y", "v1",
)  # fmt: skip
TEXT_NAMES = (
    "text", "sentence", "content", "review", "message", "tweet", "question", "comment", "document",
    "utterance", "sms", "name", "poem", "v2", "x",
)  # fmt: skip
PARTS_OF_TEXTS = ("title", "headline", "subject", "description", "summary", "abstract", "body")
SOURCE_NAMES = ("source", "src", "input", "question", "english", "en", "translation.en", "text")
TARGET_NAMES = ("target", "tgt", "trg", "output", "answer", "translation", "summary")
LANGUAGES = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it",
    "ja", "ko", "nl", "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "ur", "vi", "zh",
    "arabic", "chinese", "czech", "danish", "dutch", "english", "finnish", "french", "german",
    "greek", "hindi", "hungarian", "italian", "japanese", "korean", "norwegian", "polish",
    "portuguese", "romanian", "russian", "spanish", "swedish", "turkish", "ukrainian", "vietnamese",
)  # fmt: skip
NAMES_OF_CLASSIFIED = frozenset({*CLASS_NAMES, *TEXT_NAMES, *PARTS_OF_TEXTS})
NAMES_OF_PAIRS = frozenset({*SOURCE_NAMES, *TARGET_NAMES, *LANGUAGES})
LOOKED_AT = 20_000  # rows
CLEARLY_FEWER = 2  # the first of two columns is the class if it has at most 1/2 of the values
FEW = 5  # a column of texts has fewer rows than this per different value
ENOUGH_ROWS = 50  # in fewer rows, the number of values says nothing


class Columns(NamedTuple):
    """The columns (from 0) that are joined to the text, and the class column, if there is one."""

    text: list[int]
    label: int | None


class Held(NamedTuple):
    """The content of a column: different values, mean characters, mean spaces, share of digits."""

    number: int
    distinct: int
    length: float
    spaces: float
    digits: float

    @property
    def is_prose(self) -> bool:
        """Whether most values have several words and few digits."""
        return self.spaces >= 2 and self.digits < 0.2


def index_of(table: Table, column: Column, name: str) -> int:
    """Return the place (from 0) of a column that a user names. Raises DataError."""
    if isinstance(column, int):
        if 1 <= column <= table.width:
            return column - 1
        width = "one column" if table.width == 1 else f"{table.width:,} columns"
        raise DataError(f"{name} has {width} and no column {column:,}")
    places = [i for i, header in enumerate(table.header) if header == column]
    if len(places) == 1:
        return places[0]
    if places:
        raise DataError(
            f"{name} has {len(places):,} columns named {shortened(column)}; give the number of one"
        )
    if not table.header:
        raise DataError(
            f"{name} has no header with {shortened(column)}; give the number of the column"
        )
    listed = ", ".join(map(shortened, table.header[:10]))
    hint = did_you_mean(column, table.header) or f"its columns are {listed}"
    raise DataError(f"{name} has no column {shortened(column)}; {hint}")


def labelled_columns(
    table: Table,
    text: Column | Sequence[Column] | None,
    label: Column | None,
    name: str,
    needs_class: bool = True,
) -> Columns:
    """Choose the columns of text and class: those that are named, else those that are recognised.

    Unless `needs_class`, a table may have no classes. Raises DataError if text and class cannot be
    told apart.
    """
    columns = [text] if isinstance(text, str | int) else list(text or ())
    texts = [index_of(table, column, name) for column in columns]
    place = None if label is None else index_of(table, label, name)
    if table.class_first:
        place, texts = 0 if place is None else place, texts or [1]
    if place is None:
        place = _class_by_name(table, texts)
    if place is not None and texts:
        return Columns(texts, place)
    held = _held(table)
    if place is None:
        place = _class_by_content(table, held, texts, name, needs_class)
    if not texts:
        texts = _texts(table, held, place)
    if not texts:
        raise DataError(f"{name} has one column; a table has a column of texts and one of classes")
    return Columns(texts, place)


def pair_columns(
    table: Table, source: Column | None, target: Column | None, name: str
) -> tuple[int, int]:
    """Choose the columns of source and target: those that are named, else the first two with texts.

    A column of numbers, such as the ids of Tatoeba, is no text. Raises DataError.
    """
    first = None if source is None else index_of(table, source, name)
    second = None if target is None else index_of(table, target, name)
    header = [cell.casefold() for cell in table.header]
    for i, cell in enumerate(header):
        if first is None and i != second and cell in SOURCE_NAMES:
            first = i
        elif second is None and i != first and cell in TARGET_NAMES:
            second = i
    held = _held(table)
    left = [one.number for one in held if one.number not in (first, second) and one.length]
    written = [one.number for one in held if one.number in left and one.digits < 0.9]
    left = written if len(written) >= (first is None) + (second is None) else left
    try:
        first = left.pop(0) if first is None else first
        second = left.pop(0) if second is None else second
    except IndexError:
        raise DataError(f"{name} has no two columns of texts; a row is source and target") from None
    return first, second


def describe_columns(table: Table, log: Log, parts: dict[str, list[int]]) -> None:
    """Note the use of each column, and the columns that were not read."""
    used = [i for places in parts.values() for i in places]
    shown = [
        f"{part} from {' and '.join(_name(table, i) for i in places)}"
        for part, places in parts.items()
    ]
    unread = [_name(table, i) for i in range(table.width) if i not in used]
    if unread:
        more = f" and {len(unread) - 5:,} more" if len(unread) > 5 else ""
        shown.append(f"not read: {', '.join(unread[:5])}{more}")
    header = ""
    if "SV" in table.form:
        header = ", with a header" if table.header else ", no header"
    log.notes.append(f"read as {table.form}{header}: {'; '.join(shown)}")


def as_setting(table: Table, place: int) -> Column:
    """Return the name of a column, or its number if it has no name or shares its name."""
    name = table.header[place] if table.header else ""
    return name if name and list(table.header).count(name) == 1 else place + 1


def _name(table: Table, place: int) -> str:
    name = table.header[place] if place < len(table.header) else ""
    return f"column {place + 1}" + (f" ({shortened(name)})" if name else "")


def _held(table: Table) -> list[Held]:
    """Describe the content of each column, from the first rows."""
    rows = table.rows[:LOOKED_AT]
    held = []
    for number in range(table.width):
        values = [row.fields[number] for row in rows if number < len(row.fields)]
        values = [value[:1000] for value in values if value]
        letters = sum(map(len, values)) or 1
        count = len(values) or 1
        spaces = sum(value.count(" ") for value in values) / count
        digits = sum(sum(map(str.isdigit, value)) for value in values) / letters
        held.append(Held(number, len(set(values)), letters / count, spaces, digits))
    return held


def _class_by_name(table: Table, texts: Sequence[int]) -> int | None:
    """Find the column whose name comes first in `CLASS_NAMES`."""
    header = [cell.casefold() for cell in table.header]
    for name in CLASS_NAMES:
        if name in header and header.index(name) not in texts:
            return header.index(name)
    return None


def _class_by_content(
    table: Table, held: list[Held], texts: Sequence[int], name: str, needs_class: bool
) -> int | None:
    """Find the column with the fewest different values, at least two; None if there is none.

    Of two columns the second is the class, unless the first has clearly fewer values.
    """
    possible = [one for one in held if one.distinct > 1 and one.number not in texts]
    if len(held) == 2 and len(possible) == 2:
        first, second = possible
        count = len(table.rows)
        if count >= ENOUGH_ROWS and max(first.distinct, second.distinct) * FEW <= count:
            raise DataError(
                f"{name}: text and class cannot be told apart, since column 1 has "
                f"{first.distinct:,} different values and column 2 has {second.distinct:,} in "
                f"{count:,} rows; set data.label_column to 1 or 2"
            )
        chosen = first if first.distinct * CLEARLY_FEWER <= second.distinct else second
    elif not possible or len(possible) + len(texts) == 1:
        return 1 if len(held) == 2 and not texts else None
    else:
        chosen = min(possible, key=lambda one: (one.distinct, one.length))
    if not needs_class and chosen.distinct * 2 > min(len(table.rows), LOOKED_AT):
        return None
    return chosen.number


def _texts(table: Table, held: list[Held], label: int | None) -> list[int]:
    """Find the columns of the text: by name, else all that hold prose, else the longest."""
    header = [cell.casefold() for cell in table.header]
    for name in TEXT_NAMES:
        if name in header and header.index(name) != label:
            return [header.index(name)]
    parts = [i for i, cell in enumerate(header) if cell in PARTS_OF_TEXTS and i != label]
    if parts:
        return parts
    others = [one for one in held if one.number != label]
    if not others:
        return []
    longest = max(others, key=lambda one: (one.is_prose, one.length))
    prose = [one.number for one in others if one.is_prose and one.distinct * 2 >= longest.distinct]
    return prose if not table.header and prose else [longest.number]
