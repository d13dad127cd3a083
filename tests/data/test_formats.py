"""Reading examples from their formats: what is read, what is refused, and how it is split."""

import gzip
import hashlib
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.data.example_splits import load_examples, split_examples
from charrnn.data.formats import Labelled, Pair, Reading
from charrnn.data.labelled_texts import label_vocabulary, read_labelled
from charrnn.data.pairs import read_pairs
from charrnn.data.sources import Document, Sources, find_sources
from charrnn.data.tagged import read_tagged
from charrnn.errors import ConfigError, DataError

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)
READERS = [read_labelled, read_tagged, read_pairs]


def write(folder: Path, **files: str | bytes) -> Sources:
    """Write files and return them as documents. In a name, `__` is a slash and `_` a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return find_sources([str(folder)])


def contents(examples: list[Any]) -> list[tuple[Any, Any]]:
    return [tuple(example)[:2] for example in examples]


def places(examples: list[Any]) -> list[tuple[str, int]]:
    return [(Path(example.file).name, example.line) for example in examples]


def test_a_file_a_class(tmp_path: Path) -> None:
    sources = write(tmp_path, Irish_txt="Adam\n\n  Ahearn \n", Old__Dutch_fam_txt="Aalst\tX\n")
    examples = read_labelled(sources)
    assert contents(examples) == [
        ("Adam", "Irish"),
        ("Ahearn", "Irish"),
        ("Aalst\tX", "Dutch.fam"),
    ]
    assert places(examples) == [("Irish.txt", 1), ("Irish.txt", 3), ("Dutch.fam.txt", 1)]
    assert examples[0].file == str(tmp_path / "Irish.txt")


def test_a_folder_a_class(tmp_path: Path) -> None:
    texts = {"pos__1_txt": "good\n\nfilm\n", "pos__2_txt": "fine", "neg__1_txt": "bad\tfilm"}
    examples = read_labelled(write(tmp_path, **texts))
    assert contents(examples) == [
        ("bad\tfilm", "neg"),
        ("good\n\nfilm", "pos"),
        ("fine", "pos"),
    ]
    assert {example.line for example in examples} == {1}


def test_rows_of_text_and_class(tmp_path: Path) -> None:
    sources = write(tmp_path, a_txt="Adam\tIrish\n \n Aalst \t Old Dutch \nAdam\tDutch")
    examples = read_labelled(sources)
    assert contents(examples) == [("Adam", "Irish"), ("Aalst", "Old Dutch"), ("Adam", "Dutch")]
    assert places(examples) == [("a.txt", 1), ("a.txt", 3), ("a.txt", 4)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a_txt": "x\tp\n"}, ("x", "p")),  # One document has no other class to be told from.
        ({"a_txt": "\nx\tp\n", "b_txt": "y\tq\n"}, ("x", "p")),
        ({"a_txt": "x\tp\n", "b_txt": "y\n"}, ("x\tp", "a")),
        ({"p__a_txt": "x\tp\n", "q__b_txt": "y\n"}, ("x\tp", "a")),
        ({"p__a_txt": "x\n", "p__b_txt": "y\n"}, ("x", "a")),
        ({"p__a_txt": "x\n", "p__b_txt": "y\n", "q__a_txt": "z\n"}, ("x", "p")),
    ],
)
def test_the_form_is_told_from_the_documents(
    tmp_path: Path, files: dict[str, str], expected: tuple[str, str]
) -> None:
    assert contents(read_labelled(write(tmp_path, **files)))[0] == expected


def test_documents_named_tsv_are_rows_and_a_bad_one_is_no_class(tmp_path: Path) -> None:
    sources = write(tmp_path, a_tsv="x\tp\n", b_TAB="oops\n")
    with pytest.raises(DataError, match=r"b\.TAB has one column and no column 2"):
        read_labelled(sources)
    compressed = write(tmp_path / "more", a_tsv_gz=gzip.compress(b"\n"), b_txt="x\tp")
    with pytest.raises(DataError, match=r"a\.tsv\.gz has no examples"):
        read_labelled(compressed, Reading(form="rows"))


def test_a_form_that_is_said_is_not_guessed(tmp_path: Path) -> None:
    sources = write(tmp_path, p__a_txt="x\ty\n", q__b_txt="z\tw\n")
    assert contents(read_labelled(sources)) == [("x", "y"), ("z", "w")]
    assert contents(read_labelled(sources, Reading(form="files"))) == [("x\ty", "a"), ("z\tw", "b")]
    assert contents(read_labelled(sources, Reading(form="folders"))) == [
        ("x\ty", "p"),
        ("z\tw", "q"),
    ]


def test_names_of_compressed_files_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Aalst\n")
    addresses = ["https://a.b/c%20d/Old%20Dutch.txt.gz?x=/y.z", "https://a.b/e/Irish.txt"]
    documents = [
        Document(addresses[0], write(tmp_path / "z", t_gz=gzip.compress(b"A\n")).documents[0].path),
        Document(addresses[1], tmp_path / "text"),
    ]
    documents[0] = Document(addresses[0], documents[0].path, "gzip")
    sources = Sources(documents, "", "", [], [])
    assert contents(read_labelled(sources, Reading(form="files"))) == [
        ("A", "Old Dutch"),
        ("Aalst", "Irish"),
    ]
    assert contents(read_labelled(sources, Reading(form="folders"))) == [
        ("A", "c d"),
        ("Aalst", "e"),
    ]


def test_of_repeated_examples_the_first_is_kept(tmp_path: Path) -> None:
    sources = write(tmp_path, a_tsv="x\tp\ny\tp\nx\tp\nx\tq\n", b_tsv="y\tp\nz\tp\n")
    examples = read_labelled(sources)
    assert contents(examples) == [("x", "p"), ("y", "p"), ("x", "q"), ("z", "p")]
    assert places(examples) == [("a.tsv", 1), ("a.tsv", 2), ("a.tsv", 4), ("b.tsv", 2)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x", r"line 3 has one column: 'x'; a row is a text and its class: mend it, or set data"),
        ("x\t", r"line 3 has an empty class: 'x\\t'; a row is a text and its class: mend it"),
        (" \tp", r"line 3 has an empty text: '\\tp'"),
        ("\t", r"line 3 has an empty text"),
        ("x\tp\tq", r"line 3 has 3 columns, and 'q' is number 3; a row is a text and its class"),
        ("x" * 99, r"line 3 has one column: 'x{37}\.\.\.';"),
    ],
)
def test_a_bad_row_of_a_text_and_a_class_is_named(tmp_path: Path, row: str, message: str) -> None:
    sources = write(tmp_path, a_tsv=f"a\tp\n\n{row}\nb\tq\n")
    with pytest.raises(DataError, match=message) as caught:
        read_labelled(sources)
    assert str(caught.value).startswith(str(tmp_path / "a.tsv"))


def test_a_single_document_has_no_other_class_beside_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2 has no tab: 'Adam'; .* or give a file or a fold"):
        read_labelled(write(tmp_path, Irish_txt="\r\nAdam\r\nAhearn\r\n"))


def test_one_class_is_none(tmp_path: Path) -> None:
    one = read_labelled(write(tmp_path, a_tsv="\nx\tp\ny\tp\n"))
    with pytest.raises(DataError, match=r"all 2 examples are of one class, 'p' .* line 2\)"):
        label_vocabulary(one)
    more = [*one, Labelled("z", "q", "b.tsv", 1)]
    assert label_vocabulary(more).symbols == ("p", "q")


PAIRS = "Go.\tVa !\tCC-BY 2.0\n\n Run! \t Cours !\nRun!\tCours !\n"


def test_pairs(tmp_path: Path) -> None:
    examples = read_pairs(write(tmp_path, pairs_tsv=PAIRS))
    assert contents(examples) == [("Go.", "Va !"), ("Run!", "Cours !"), ("Run!", "Cours !")]
    assert places(examples) == [("pairs.tsv", 1), ("pairs.tsv", 3), ("pairs.tsv", 4)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Go.", r"line 2 has one column: 'Go\.'; a row is a source and its target: mend it"),
        ("Go.\t ", r"line 2 has an empty target"),
        ("\tVa !", r"line 2 has an empty source"),
    ],
)
def test_a_bad_row_of_a_pair_is_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(write(tmp_path, pairs_txt=f"a\tb\n{row}\n"))
    assert str(caught.value).startswith(str(tmp_path / "pairs.txt"))


def row(number: str, word: str, tag: str) -> str:
    return "\t".join([number, word, "lemma", tag, "XPOS", "_", "0", "root", "_", "_"])


SENTENCES = "\n".join(
    [
        "# sent_id = 1",
        "# text = I don't",
        row("1", "I", "PRON"),
        row("2-3", "don't", "_"),
        row("2", "do", "AUX"),
        row("3", "n't", "PART"),
        row("3.1", "go", "VERB"),
        "",
        "",
        "# text = No _",
        row("1", "No", "INTJ"),
        row("2", "_", "PUNCT"),
    ]
)


def test_sentences_without_ranges_and_empty_nodes(tmp_path: Path) -> None:
    examples = read_tagged(write(tmp_path, a_conllu=SENTENCES, b_conllu=row("1", "Oh", "INTJ")))
    assert contents(examples) == [
        (("I", "do", "n't"), ("PRON", "AUX", "PART")),
        (("No", "_"), ("INTJ", "PUNCT")),
        (("Oh",), ("INTJ",)),
    ]
    assert places(examples) == [("a.conllu", 3), ("a.conllu", 11), ("b.conllu", 1)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            row("2", "x", "X")[:-2],
            r"line 3 has 9 columns, where CoNLL-U has ten, separated by tabs: '2\\tx",
        ),
        (row("2", "x", "X") + "\t_", r"line 3 has 11 columns"),
        ("word", r"line 3 has 1 column, .*: 'word'"),
        (row("3", "x", "X"), r"line 3 has the ID '3' where 2 is next .the words"),
        (row("1", "x", "X"), r"line 3 has the ID '1' where 2 is next"),
        (row("\u0662", "x", "X"), r"line 3 has the ID '\u0662' where 2 is next"),
        (row("2-", "x", "X"), r"line 3 has the ID '2-'"),
        (row("", "x", "X"), r"line 3 has the ID ''"),
        (row("2", "", "X"), r"line 3 has no word in column 2"),
        (row("2", "x", ""), r"line 3 has no tag for 'x' .write _ for a word without one"),
    ],
)
def test_a_bad_row_of_a_sentence_is_named(tmp_path: Path, bad: str, message: str) -> None:
    text = "\n".join(["# comment", row("1", "a", "DET"), bad, row("3", "b", "NOUN")])
    with pytest.raises(DataError, match=message) as caught:
        read_tagged(write(tmp_path, a_conllu=text))
    assert str(caught.value).startswith(str(tmp_path / "a.conllu"))


@pytest.mark.parametrize("read", READERS)
def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path, read: Any) -> None:
    text = SENTENCES if read is read_tagged else "x\tp\n\ny\tq\u2028\x0bz\n"
    plain = read(write(tmp_path / "plain", a_tsv=text))
    other = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    found = read(write(tmp_path / "other", a_tsv=other))
    assert contents(found) == contents(plain)
    assert places(found) == places(plain)
    chinese = write(tmp_path / "chinese", a_tsv=text.encode("gb18030"))
    assert contents(read(chinese, Reading(encoding="gb18030"))) == contents(plain)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("text", ["", "\n \r\n", "\ufeff"])
def test_a_document_without_examples_is_named(tmp_path: Path, read: Any, text: str) -> None:
    good = SENTENCES if read is read_tagged else "x\tp\n"
    with pytest.raises(DataError, match=r"b\.tsv has no examples; give a file of"):
        read(write(tmp_path, a_tsv=good, b_tsv=text))


def test_a_class_without_examples_is_named(tmp_path: Path) -> None:
    sources = write(tmp_path, a_txt="x\n", b_txt=" \n")
    with pytest.raises(DataError, match=r"b\.txt has no examples; give a file of text"):
        read_labelled(sources, Reading(form="files"))
    with pytest.raises(
        DataError, match=r"\(2 documents\) has no examples; give a file or a folder"
    ):
        read_labelled(sources, Reading(form="folders"))
    folders = write(tmp_path / "folders", p__a_txt="x", q__b_txt=" \n", q__c_txt="y")
    with pytest.raises(DataError, match=r"b\.txt, line 1 is empty; a file has a text; .*: mend it"):
        read_labelled(folders)


@pytest.mark.parametrize("read", READERS)
def test_what_is_not_in_the_encoding_is_named(tmp_path: Path, read: Any) -> None:
    sources = write(tmp_path, a_tsv=b"x\tp\xff\n")
    with pytest.raises(DataError, match=r"a\.tsv is not utf-8: byte 0xff at offset 3; save it as"):
        read(sources)
    with pytest.raises(ConfigError, match="utf-9"):
        read(sources, Reading(encoding="utf-9"))
    if read is not read_tagged:
        assert read(sources, Reading(errors="replace"))[0][1] == "p\ufffd"


def pairs_of(*texts: str) -> list[Pair]:
    return [Pair(text, "y", "file", line) for line, text in enumerate(texts, 1)]


def test_a_split_by_position_keeps_the_order_and_rounds_down() -> None:
    examples = pairs_of(*"abcdefghij")
    assert split_examples(examples, (0.75, 0.25), "position") == {
        "train": examples[:7],
        "validation": examples[7:],
    }
    # In binary 0.7 is less than 7/10, and 0.7 + 0.1 less than 0.8.
    three = split_examples(examples, (0.7, 0.1, 0.2), "position")
    assert three == {
        "train": examples[:7],
        "validation": examples[7:8],
        "test": examples[8:],
    }


def side(text: str, train: str) -> str:
    """Compute the side of a text by definition: its SHA-256 as a number in [0, 1), all digits."""
    number = Fraction(int(hashlib.sha256(text.encode()).hexdigest(), 16), 2**256)
    return "train" if number < Fraction(train) else "validation"


def test_a_split_by_hash_is_that_of_the_input() -> None:
    examples = pairs_of(*map(str, range(2000)))
    splits = split_examples(examples, (0.9, 0.1))
    assert {example for part in splits.values() for example in part} == set(examples)
    for name, part in splits.items():
        assert [side(example.source, "0.9") for example in part] == [name] * len(part)
        assert part == sorted(part, key=lambda example: example.line)
    assert len(splits["train"]) == 1_795


@PROPERTY
@given(st.sets(st.text(max_size=4), min_size=30, max_size=60), st.data())
def test_a_split_by_hash_is_no_business_of_the_others(texts: set[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(sorted(texts)))
    few = shuffled[: data.draw(st.integers(25, 30))]
    every = split_examples(pairs_of(*shuffled), (0.5, 0.5))
    some = split_examples(pairs_of(*few), (0.5, 0.5))
    for name in ("train", "validation"):
        assert {e.source for e in some[name]} == {e.source for e in every[name]} & set(few)


def test_examples_with_one_input_are_on_one_side() -> None:
    both = [e._replace(target=label) for e in pairs_of(*map(str, range(40))) for label in "ab"]
    splits = split_examples(both)
    sources = [{example.source for example in part} for part in splits.values()]
    assert not sources[0] & sources[1]


@pytest.mark.parametrize(("count", "name"), [(0, "train"), (1, "train"), (2, "test")])
def test_a_split_without_examples_is_named(count: int, name: str) -> None:
    with pytest.raises(DataError, match=f"the {count} examples leave none for the {name} split"):
        split_examples(pairs_of(*"abc"[:count]), (0.5, 0.5, 0.0)[: 2 + (count == 2)], "position")


def test_separate_files(tmp_path: Path) -> None:
    main = write(tmp_path / "main", a_tsv="".join(f"{i}\tx\n" for i in range(40)))
    other = write(tmp_path / "other", a_tsv="other\ty\n")
    third = write(tmp_path / "third", a_tsv="third\tz\n")
    sizes = {
        name: len(part) for name, part in load_examples(read_pairs, main, other).splits.items()
    }
    assert sizes == {"train": 40, "validation": 1}
    three = load_examples(read_pairs, main, test=third, fractions=(0.75, 0.25), by="position")
    assert {name: len(part) for name, part in three.splits.items()} == {
        "train": 30,
        "validation": 10,
        "test": 1,
    }
    contents = (main.documents[0].path.read_bytes(), third.documents[0].path.read_bytes())
    assert three.sha256 == hashlib.sha256(b"".join(contents)).hexdigest()


@pytest.mark.shared_data
def test_names_of_18_languages(shared_data: Path) -> None:
    found = load_examples(read_labelled, find_sources([str(shared_data / "names")]), by="hash")
    train, validation = found.splits["train"], found.splits["validation"]
    assert (len(train), len(validation)) == (14_319, 3_693)  # Of 20,050 lines.
    assert len(set(contents(train + validation))) == 18_012
    assert not {e.text for e in train} & {e.text for e in validation}
    assert all(side(e.text, "0.8") == "validation" for e in validation)
    labels = label_vocabulary(train)
    assert labels.size == 18
    assert labels.symbols[:2] == ("Russian", "English")
    assert {e.label for e in validation} == set(labels.symbols)


@pytest.mark.shared_data
def test_sentences_of_two_sentiments(shared_data: Path) -> None:
    sources = find_sources([str(shared_data / "sentiment")])
    splits = load_examples(read_labelled, sources, fractions=(0.9, 0.1), by="hash").splits
    assert {name: Counter(e.label for e in part) for name, part in splits.items()} == {
        "train": {"neg": 4_300, "pos": 4_297},
        "validation": {"neg": 498, "pos": 501},
    }


@pytest.mark.shared_data
def test_tagged_sentences_of_english(shared_data: Path) -> None:
    folder = shared_data / "ud_english_ewt"
    train, validation = (find_sources([str(folder / f"{n}.conllu")]) for n in ("train", "dev"))
    splits = load_examples(read_tagged, train, validation).splits
    sizes = {n: (len(part), sum(len(e.words) for e in part)) for n, part in splits.items()}
    assert sizes == {"train": (12_544, 204_577), "validation": (2_001, 25_147)}
    assert len({tag for part in splits.values() for e in part for tag in e.tags}) == 17
    assert splits["validation"][0].words[:4] == ("From", "the", "AP", "comes")


@pytest.mark.shared_data
def test_pairs_of_english_and_french(shared_data: Path) -> None:
    sources = find_sources([str(shared_data / "english_french")])
    splits = load_examples(read_pairs, sources, by="position").splits
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 8_000,
        "validation": 2_000,
    }
    assert splits["train"][0][:2] == ("Go.", "Va !")
    assert splits["validation"][0].line == 8_001


def test_few_texts_that_are_repeated_still_give_a_validation_split() -> None:
    # The hashes of "a" (0.79) and "b" (0.24) are both below 0.9: all would be for training.
    examples = pairs_of(*"ab" * 20)
    splits = split_examples(examples, (0.9, 0.1))
    assert {name: len(part) for name, part in splits.items()} == {"train": 20, "validation": 20}
    assert not {e.input for e in splits["train"]} & {e.input for e in splits["validation"]}
    with pytest.raises(DataError, match="the 20 examples leave none for the validation split"):
        split_examples(pairs_of(*"a" * 20), (0.9, 0.1))
