"""Reading words with tags in any columns, and writing rows with other tags."""

from pathlib import Path

import pytest

from charrnn.data.formats import Log, Reading
from charrnn.data.sources import find_sources
from charrnn.data.tagged import (
    ONE_COLUMN,
    Columns,
    columns_of,
    may_be_comment,
    read_tagged,
    recognise_rows,
    sheets,
)
from charrnn.errors import DataError

CONLL_2003 = """-DOCSTART- -X- -X- O

Anna NNP B-NP B-PER
, , O O
#1 CD I-NP O

-DOCSTART- -X- -X- O
Oslo  NNP B-NP\tB-LOC
"""
CONLLU = """# newdoc id = x
# text = x
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_
2\tn't\tnot\t_\tRB\t_\t1\tadvmod\t_\t_
2.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_
3\t20 000\t_\tNUM\tCD\t_\t1\tnmod\t_\t_
"""
XPOS = (
    "1\ta\t_\t_\tDT\t_\t0\t_\t_\t_\n\n1\tb\t_\t_\tNN\t_\t0\t_\t_\t_\n2\tc\t_\t_\t_\t_\t0\t_\t_\t_\n"
)
NUMBERED = "# sent_id = 1\n1\tAnna\tB-PER\n2\tsings\tO\n\n1\t#1\tO\n"
PLUS = "# global.columns = ID FORM UPOS PARSEME:MWE\n1\tput\tVERB\t1:VPC\n2\tup\tADP\t1\n"


def read(folder: Path, text: str, column: str | int | None = None) -> list[tuple[str, str]]:
    """Return the sentences as pairs of texts: words and tags."""
    path = folder / "a.txt"
    path.write_text(text, "utf-8")
    sentences = read_tagged(find_sources([str(path)]), Reading(tag_column=column))
    return [("|".join(sentence.words), " ".join(sentence.tags)) for sentence in sentences]


@pytest.mark.parametrize(
    ("text", "column", "sentences"),
    [
        (CONLL_2003, None, [("Anna|,|#1", "B-PER O O"), ("Oslo", "B-LOC")]),
        (CONLL_2003, "ner", [("Anna|,|#1", "B-PER O O"), ("Oslo", "B-LOC")]),
        (CONLL_2003, "pos", [("Anna|,|#1", "NNP , CD"), ("Oslo", "NNP")]),
        (CONLL_2003, 3, [("Anna|,|#1", "B-NP O I-NP"), ("Oslo", "B-NP")]),
        (CONLLU, None, [("do|n't|20 000", "AUX _ NUM")]),
        (CONLLU, "XPOS", [("do|n't|20 000", "VBP RB CD")]),
        (CONLLU, 8, [("do|n't|20 000", "root advmod nmod")]),
        (XPOS, None, [("a", "DT"), ("b|c", "NN _")]),
        ("#tag\tO\n@Anna\tB-a\n\n# a comment\n#\tO\n", None, [("#tag|@Anna", "O B-a"), ("#", "O")]),
        ("#tag O\nRome B-loc\n", 2, [("#tag|Rome", "O B-loc")]),
        ("New York\tB-loc\n20 000\tO\n", "last", [("New York|20 000", "B-loc O")]),
        ("a\u00a0b X\nc\u2028d Y\n", None, [("a\u00a0b|c\u2028d", "X Y")]),
        ("B-per\tAnna\nO\tsings\n", 1, [("B-per|O", "B-per O")]),
        (NUMBERED, None, [("Anna|sings", "B-PER O"), ("#1", "O")]),
        (PLUS, "mwe", [("put|up", "1:VPC 1")]),
        (PLUS, None, [("put|up", "VERB ADP")]),
        ("1 CD\n2 CD\n", None, [("1|2", "CD CD")]),
        ("a X\nb _\n\nc _\n", None, [("a|b", "X _")]),
    ],
)  # fmt: skip
def test_columns_are_told_or_chosen(
    tmp_path: Path, text: str, column: str | int | None, sentences: list[tuple[str, str]]
) -> None:
    assert read(tmp_path, text, column) == sentences
    assert read(tmp_path, text.replace("\n", "\r\n"), column) == sentences


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        (
            "a X\nb\n",
            None,
            "line 2 has 1 column, where the rows before it have 2, separated by sp.*: 'b'",
        ),
        (
            "a\tX\nb X\n",
            None,
            "line 2 has 1 column, where the rows before it have 2, separated by t",
        ),
        (
            "word\nother\n",
            None,
            "line 1 has 1 column: 'word'; a row is a word and its tag",
        ),
        ("a\tX\n\tY\n", None, "line 2 has no word in column 1"),
        ("a\tX\nb\t\n", None, "line 2 has no tag for 'b'"),
        (CONLLU, "ner2", "no column 'ner2'; set data.tag_column to one of 1 .id., 2 .form., 3"),
        ("a X\n", 3, "no column '3'; set data.tag_column to one of 1 .form., 2$"),
        ("a X\n", 0, "no column '0'"),
        ("a _\n\nb _\n", None, "no tags in column 2 of 2; set data.tag_column to another column"),
        (XPOS, "upos", r"no tags in column 4 \(UPOS\) of 10"),
        ("-DOCSTART- -X- O\n\n", None, "no examples"),
        ("a X\n" * 301, None, "no blank line among 301 words; a row is a word and its tag"),
    ],
)
def test_what_is_no_row_of_a_word_and_a_tag_is_named(
    tmp_path: Path, text: str, column: str | int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, column)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (CONLLU, 10),
        ("1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n", 10),
        ("# text = a b\n", None),
        ("# A heading\nSome text.\n", None),
        ("A sentence.\n\nAnother one.\n", None),
        ("Hello\n", None),
        ("Hello\nworld\n", None),
        ("Hello\n\nworld\n", None),
        ("Hello\nworld\n\nBye\n", 1),
        ("\n\n", None),
        ("a b\tc\n", None),
        ("a b\tO\nc\tO\n", 2),
        ("a\tO\nc d e\n", None),
        (CONLL_2003, 4),
    ],
)
def test_rows_of_words_are_recognised(text: str, columns: int | None) -> None:
    recognised = recognise_rows(text.split("\n")[:-1])
    assert (len(recognised.names) if recognised else None) == columns


@pytest.mark.parametrize("text", [CONLLU, CONLL_2003, NUMBERED, XPOS, "a\tX\n\n\n\nb\tX"])
def test_rows_come_back_with_other_tags_and_nothing_else(tmp_path: Path, text: str) -> None:
    columns = columns_of(enumerate(text.split("\n"), 1), "a file")
    parts = list(sheets(text.split("\n"), columns, "a file"))
    once = "\n".join(part.tagged([f"T{i}" for i in range(len(part.words))], columns)
                     for part in parts)  # fmt: skip
    assert len(once.split("\n")) == len(text.split("\n"))
    assert sum(len(part.words) for part in parts) == once.count("T0") + once.count(
        "T1"
    ) + once.count("T2")
    again = sheets(once.split("\n"), columns, "a file")
    tags = [[columns.fields(row)[columns.tag] for row in (part.rows[i] for i in part.places)]
            for part in again]  # fmt: skip
    assert tags == [[f"T{i}" for i in range(len(part.words))] for part in parts]
    same = "\n".join(
        part.tagged([columns.fields(part.rows[i])[columns.tag] for i in part.places], columns)
        for part in parts
    )
    assert same == text


def test_a_word_a_line_gets_a_second_column() -> None:
    (first, second) = sheets(["20 000", "men", "", "go"], ONE_COLUMN, "a file")
    assert first.tagged(["NUM", "NOUN"], ONE_COLUMN) == "20 000\tNUM\nmen\tNOUN\n"
    assert second.tagged(["VERB"], ONE_COLUMN) == "go\tVERB"
    assert may_be_comment("# sent_id = 3")
    assert not may_be_comment("# A heading")


def test_a_row_with_other_columns_is_named() -> None:
    columns = Columns(("form", ""), True, 0, 1, False)
    with pytest.raises(DataError, match="line 2 of a file has 3 columns, 'b\\\\tX\\\\tY', where"):
        list(sheets(["a\tX", "b\tX\tY"], columns, "a file"))


def test_bad_rows_are_listed_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a\tX\nb\n\nc\tY\n\n\tZ\nd\n\n", "utf-8")
    with pytest.raises(DataError, match=r"2 rows are .*line 2 has 1.*; line 6 has no word"):
        read_tagged(find_sources([str(path)]))
    log = Log()
    kept = read_tagged(find_sources([str(path)]), Reading(bad_rows="skip"), log)
    assert [(sentence.words, sentence.line, sentence.lines) for sentence in kept] == [
        (("c",), 4, (4,))
    ]
    assert log.notes[0] == f"2 of 3 rows left out: {path}, lines 2, 6"


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (CONLL_2003, ["words in column 1, tags in column 4 (NER) of 4"]),
        (XPOS, ["words in column 2, tags in column 5 (XPOS) of 10",
                "words without a tag (_), read but not scored: 1"]),
        ("a X\n\nb _\n\nc X\n", ["words in column 1, tags in column 2 of 2",
                                 "sentences without any tag, left out: 1",
 "all words have the tag 'X': choose"]),
    ],
)  # fmt: skip
def test_the_columns_as_read_are_noted(tmp_path: Path, text: str, notes: list[str]) -> None:
    (tmp_path / "a").write_text(text, "utf-8")
    log = Log()
    read_tagged(find_sources([str(tmp_path / "a")]), Reading(), log)
    assert len(log.notes) == len(notes)
    assert all(map(str.startswith, log.notes, notes)), log.notes
    assert log.settings == ({"data.tag_column": "xpos"} if text == XPOS else {})


@pytest.mark.parametrize("text", ["Anna|B-PER\nsings|O\n\nOslo|B-LOC\n", "A|NN|O b|VB|O\nc|NN|O\n"])
def test_words_that_are_joined_to_their_tags_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(text, "utf-8")
    with pytest.raises(
        DataError, match=r"line 1 joins a word and its tag, 'A.*in a row of its own"
    ):
        read_tagged(find_sources([str(tmp_path / "x.txt")]))
    (tmp_path / "x.txt").write_text("a|b O\n| O\n\nc X\n", "utf-8")
    assert len(read_tagged(find_sources([str(tmp_path / "x.txt")]))) == 2


def test_a_nul_in_a_word_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a O\n\nb\0 O\n", "utf-8")
    with pytest.raises(DataError, match=r"line 3 has a NUL in it: 'b.x00'"):
        read_tagged(find_sources([str(tmp_path / "x.txt")]))
