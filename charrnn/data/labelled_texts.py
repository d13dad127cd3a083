"""Read texts with a class: a file or a folder for each class, a table, or lines without a class.

Nothing here imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import PurePath

from charrnn.data.columns import (
    NAMES_OF_CLASSIFIED,
    Columns,
    as_setting,
    describe_columns,
    labelled_columns,
)
from charrnn.data.formats import (
    NO_CLASS,
    USUAL,
    Form,
    Labelled,
    Log,
    Reading,
    file_name,
    not_empty,
    numbered_lines,
    path_of,
    text_of,
)
from charrnn.data.layout import is_split, listed, parts_below, root_of
from charrnn.data.rules import not_divided, split_text
from charrnn.data.sources import Document, Sources
from charrnn.data.tables import Table, is_named_as_table, plain_table, read_table
from charrnn.data.vocabulary import TokenVocabulary, shortened
from charrnn.errors import DataError

WANTED = {
    "files": "texts of one class, one on each line",
    "folders": "text",
    "rows": "rows of text, tab and class",
    "lines": "texts, one on each line",
}
FORM = "a row is a text and its class"
FORM_OF_LIST = "a row of a table is a text, with or without a class (in a .txt, a line is a text)"
UNLABELLED = {"unsup", "unlabeled", "unlabelled", "unlab", "unsupervised"}
"""Names of folders of texts without a class, such as IMDB's."""
MOST_COMPARED = 200  # classes: at most this many are compared with each other
ALIKE = 0.75  # a class and its misspelling have at least this similarity
RARE = 0.02  # a misspelling has at most this share of the texts of the class that was meant


def label_vocabulary(examples: Sequence[Labelled], fewest: int = 2) -> TokenVocabulary:
    """Collect the classes, the most frequent first. Raises DataError for fewer than `fewest`."""
    first = examples[0]
    if fewest > 1 and all(example.label == first.label for example in examples):
        raise DataError(
            f"all {len(examples):,} examples are of one class, {shortened(first.label)} (the first "
            f"is {first.file}, line {first.line:,}); give a file or a folder for each class, or "
            f"rows of text, tab and class"
        )
    return TokenVocabulary.of(example.label for example in examples)


def look_alikes(counts: Counter[str]) -> list[tuple[str, str]]:
    """Find classes that are probably misspellings: pairs of a class and the one that was meant.

    >>> look_alikes(Counter({"ham": 450, "spam": 95, "Ham": 1}))
    [('Ham', 'ham')]
    """
    pairs = []
    names = [name for name, _ in counts.most_common(MOST_COMPARED)]
    for i, name in enumerate(names):
        for other in names[:i]:  # The other one is at least as frequent.
            if _letters(name) == _letters(other) or (
                counts[name] <= RARE * counts[other]
                and min(len(name), len(other)) > 2
                and not (name + other).isdecimal()
                and SequenceMatcher(None, _letters(name), _letters(other)).ratio() >= ALIKE
                and _letters(name)[0] == _letters(other)[0]
            ):
                pairs.append((name, other))
                break
    return pairs


def _letters(name: str) -> str:
    """Return a name without case, spaces and punctuation; unchanged if it has nothing else."""
    return "".join(filter(str.isalnum, name.casefold())) or name


def read_labelled(
    sources: Sources, how: Reading = USUAL, log: Log | None = None, needs_class: bool = True
) -> list[Labelled]:
    r"""Read texts with a class, in the order of the documents.

    - `files`: a file for each class, named after it; each line that is not blank is an example.
    - `folders`: a folder for each class, named after it; each file in it or below it is an example.
    - `rows`: a table with a column of texts and one of classes (`tables.read_table`).
    - `lines`: each line that is not blank is an example of no class.

    `detect` chooses `rows` for a single document, or if all documents are named as tables, or if
    the first line of each has a tab; `folders` if there are several folders, and more documents
    than folders; and `files` otherwise. Unless `needs_class`, `detect` chooses `lines` for a single
    document that is not a table. White space at the ends of a text or class is removed. Examples
    that are equal in text and class are kept once.

    Raises DataError for a document without examples and for a row that is not text and class.
    """
    log = log or Log()
    documents = sources.documents
    form = how.form
    if form == "detect":
        form = _form(sources, how)
        if form == "files" and not needs_class and all(_is_one_line(d, how) for d in documents):
            log.settings["data.form"] = form = "lines"
            log.notes.append("a text in each file, without a class")
    if form == "folders" and how.reading == "recognise":
        examples = _in_folders(sources, how, log)
    elif form in ("rows", "lines"):
        examples = _in_tables(documents, how, log, needs_class and form != "lines", form)
    else:
        examples = []
        for document in documents:
            part = _labelled_in(document, text_of(document, how.encoding, how.errors), form)
            examples += not_empty(part, document, WANTED[form])
    examples = [example for example in examples if not _has_nul(example, log)]
    log.settle(how.bad_rows, len(examples), FORM if needs_class else FORM_OF_LIST)
    separator = documents[0].rules.separator if documents else None
    if separator and len(examples) <= len(documents):
        log.notes.append(not_divided(separator))
    if not examples:
        raise DataError(
            f"{sources.described} has no examples; give a file or a folder for each class, or rows "
            f"of text, tab and class"
        )
    firsts: dict[tuple[str, str], Labelled] = {}
    for example in examples:
        firsts.setdefault((example.text, example.label), example)
    if equal := len(examples) - len(firsts):
        log.notes.append(f"{equal:,} of {len(examples):,} left out, equal to earlier ones")
    return list(firsts.values())


def _has_nul(example: Labelled, log: Log) -> bool:
    """Whether a text or its class has a NUL, which is reported as a fault."""
    has_nul = "\0" in example.text + example.label
    if has_nul:
        log.fault(example.file, example.line, f"has a NUL in it: {shortened(example.text)}")
    return has_nul


def _form(sources: Sources, how: Reading) -> Form:
    """Detect the layout of documents from their names, folders and first lines."""
    documents = sources.documents
    if len(documents) == 1 or all(map(is_named_as_table, documents)):
        return "rows"
    texts = (text_of(document, how.encoding, how.errors) for document in documents)
    firsts = (next((row for _, row in numbered_lines(text) if row.strip()), "") for text in texts)
    if all("\t" in row for row in firsts):
        return "rows"
    fewest = 2
    if how.reading == "plain":
        folders = {str(path_of(document).parent) for document in documents}
    else:
        root = root_of(sources)
        fewest = 1 if is_split(root) else 2
        folders = {below[0] for d in documents if len(below := parts_below(root, d)) > 1}
    return "folders" if fewest <= len(folders) < len(documents) else "files"


def _is_one_line(document: Document, how: Reading) -> bool:
    """Whether a document has one line with text."""
    text = text_of(document, how.encoding, how.errors)
    return document.rules.separator is None and len(text.strip().split("\n")) == 1


def _in_folders(sources: Sources, how: Reading, log: Log) -> list[Labelled]:
    """Read a text from each file; its class is the folder below the root."""
    root = root_of(sources)
    examples, beside, unlabelled = [], [], Counter[str]()
    for document in sources.documents:
        label, *rest = parts_below(root, document)
        if not rest:
            beside.append(label)
        elif label.casefold() in UNLABELLED:
            unlabelled[label] += 1
        else:
            text, name = text_of(document, how.encoding, how.errors), document.name
            lines = ((line, part.strip()) for line, part in _parts(document, text, [(1, text)]))
            part_of_it = [Labelled(part, label, name, line) for line, part in lines if part]
            examples += part_of_it
            if not part_of_it:
                log.fault(document.name, 1, "is empty; a file has a text")
    if beside:
        log.notes.append(f"left out, beside the folders of classes: {listed(beside)}")
    for name, count in unlabelled.items():
        log.notes.append(f"left out: {count:,} texts without a class in {name}")
    return examples


def _labelled_in(document: Document, text: str, form: Form) -> list[Labelled]:
    """Read the texts of one document that has one class."""
    name, path = document.name, path_of(document)
    if form == "folders":
        label, parts = path.parent.name, _parts(document, text, [(1, text)])
    else:
        label = NO_CLASS if form == "lines" else PurePath(file_name(document)).stem
        parts = _parts(document, text, numbered_lines(text))
    lines = ((line, content.strip()) for line, content in parts)
    return [Labelled(content, label, name, line) for line, content in lines if content]


def _parts(
    document: Document, text: str, otherwise: Iterable[tuple[int, str]]
) -> Iterable[tuple[int, str]]:
    """Return the parts of a document, numbered by their lines, if a separator divides it."""
    separator = document.rules.separator
    return split_text(text, separator) if separator else otherwise


# Tables ------------------------------------------------------------------------------------------


def _in_tables(
    documents: Sequence[Document], how: Reading, log: Log, needs_class: bool, form: Form
) -> list[Labelled]:
    """Read rows of text and class. All tables have the columns of the first one."""
    examples: list[Labelled] = []
    for i, document in enumerate(documents):
        is_list = form == "lines" and not is_named_as_table(document)
        is_list = is_list or document.rules.separator is not None
        table = None if is_list else _table(document, how, log)
        if table is None and not needs_class:
            text = text_of(document, how.encoding, how.errors)
            examples += not_empty(_labelled_in(document, text, "lines"), document, WANTED["lines"])
            continue
        if table is None:
            raise DataError(
                f"{document.name} is no table of texts and classes: {_no_tab(document, how)}; a "
                f"row is text, tab and class (a CSV has a name with .csv), or give a file or a "
                f"folder for each class"
            )
        if not table.rows:
            log.settle(how.bad_rows, len(examples), FORM)
            not_empty(examples[:0], document, WANTED["rows"])
        columns = _columns(table, how, document.name, needs_class)
        if form == "lines":
            columns = columns._replace(label=None)
        if i == 0:
            parts = {} if columns.label is None else {"class": [columns.label]}
            describe_columns(table, log, parts | {"text": columns.text})
            texts = [as_setting(table, place) for place in columns.text]
            how = replace(how, text_column=texts[0] if len(texts) == 1 else texts)
            if columns.label is not None:
                how = replace(how, label_column=as_setting(table, columns.label))
            if how.reading == "recognise":
                log.settings["data.text_column"] = how.text_column
                log.settings["data.label_column"] = how.label_column
        width = 2 if how.reading == "plain" else max(table.width, 2)
        examples += _examples_of(document, table, columns, width, log)
    return examples


def _table(document: Document, how: Reading, log: Log) -> Table | None:
    if how.reading == "plain":
        return plain_table(document, how.encoding, how.errors)
    named = [how.text_column, how.label_column]
    if isinstance(how.text_column, list):
        named = [*how.text_column, how.label_column]
    names = NAMES_OF_CLASSIFIED | {name.casefold() for name in named if isinstance(name, str)}
    return read_table(document, how, names, log)


def _columns(table: Table, how: Reading, name: str, needs_class: bool) -> Columns:
    if how.reading == "plain":
        return Columns([0], 1)
    columns = labelled_columns(table, how.text_column, how.label_column, name, needs_class)
    if columns.label is None and needs_class:
        raise DataError(
            f"{name} has no column of classes; name one in data.label_column, or give a file or a "
            f"folder for each class"
        )
    return columns


def _examples_of(
    document: Document, table: Table, columns: Columns, width: int, log: Log
) -> list[Labelled]:
    """Make an example of each row of `width` fields with a text and a class; report the others."""
    examples = []
    needed = [*columns.text] + ([] if columns.label is None else [columns.label])
    for line, fields in table.rows:
        shown = shortened("\t".join(fields))
        if len(fields) <= max(needed):
            what = "has one column" if len(fields) == 1 else f"has {len(fields):,} columns"
            log.fault(document.name, line, f"{what}: {shown}")
            continue
        if any(fields[width:]):
            third = shortened(fields[width])
            what = f"has {len(fields):,} columns, and {third} is number {width + 1:,}"
            log.fault(document.name, line, what)
            continue
        text = " ".join(fields[i] for i in columns.text if fields[i])
        label = NO_CLASS if columns.label is None else fields[columns.label]
        if not text or not label:
            empty = "class" if text else "text"
            log.fault(document.name, line, f"has an empty {empty}: {shown}")
        else:
            examples.append(Labelled(text, label, document.name, line))
    return examples


def _no_tab(document: Document, how: Reading) -> str:
    """Describe the first line of a text that is no table."""
    text = text_of(document, how.encoding, how.errors)
    line, row = next(((n, row) for n, row in numbered_lines(text) if row.strip()), (0, ""))
    return f"line {line:,} has no tab: {shortened(row)}" if line else "it is empty"
