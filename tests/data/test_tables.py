"""Tables and folders as people have them: read right without an option, or refused in one line."""

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from charrnn.data.example_splits import Examples, load_examples
from charrnn.data.formats import Labelled, Log, Pair, Reading
from charrnn.data.labelled_texts import look_alikes, read_labelled
from charrnn.data.pairs import read_pairs
from charrnn.data.rules import Rules
from charrnn.data.sources import find_sources
from charrnn.errors import CharrnnError, DataError

WORDS = ["the", "a", "film", "book", "was", "is", "good", "bad", "of", "very", "we", "they", "saw"]


def prose(seed: int, words: int = 8) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words)) + f" {'xyzuvw'[seed % 6]}{seed}"


def load(path: Path, read: Any = read_labelled, **how: Any) -> Examples[Any]:
    return load_examples(read, find_sources([str(path)]), how=Reading(**how))


def counts(examples: Examples[Labelled]) -> dict[str, Counter[str]]:
    return {name: Counter(e.label for e in part) for name, part in examples.splits.items()}


def total(examples: Examples[Labelled]) -> Counter[str]:
    return sum(counts(examples).values(), Counter())


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


# The forms of public data sets --------------------------------------------------------------------


def test_sms_spam(tmp_path: Path) -> None:
    """The class first, a tab, and messages some of which begin with a quote that never ends."""
    rows = [f"{'spam' if i % 7 == 0 else 'ham'}\t{prose(i)}" for i in range(200)]
    rows[5], rows[9] = f'ham\t"{prose(900)}', f'ham\t"{prose(901)}" he said'
    examples = load(write(tmp_path / "SMSSpamCollection", "\n".join(rows) + "\n"))
    assert total(examples) == {"ham": 171, "spam": 29}
    assert any(e.text == f'"{prose(900)}' for part in examples.splits.values() for e in part)
    assert examples.log.notes == ["read as TSV, no header: class from column 1; text from column 2"]


def test_a_table_beside_a_readme(tmp_path: Path) -> None:
    rows = [f"{'spam' if i % 7 == 0 else 'ham'}\t{prose(i)}" for i in range(60)]
    write(tmp_path / "sms" / "SMSSpamCollection", "\n".join(rows))
    write(tmp_path / "sms" / "readme", "SMS Spam Collection v.1\n")
    assert total(load(tmp_path / "sms")) == {"ham": 51, "spam": 9}
    both = [str(tmp_path / "sms" / name) for name in ("readme", "SMSSpamCollection")]
    named = load_examples(read_labelled, find_sources(both))
    assert total(named).keys() == {"readme", "SMSSpamCollection"}


def test_sms_spam_of_kaggle(tmp_path: Path) -> None:
    """Columns v1 and v2, and three more without a name, of which a few rows have something."""
    rows = [f'{"spam" if i % 7 == 0 else "ham"},"{prose(i)}, ""ok""",,,' for i in range(60)]
    rows[3] = f"ham,{prose(3)}, and more,,"
    examples = load(write(tmp_path / "spam.csv", "v1,v2,,,\n" + "\n".join(rows)))
    assert total(examples) == {"ham": 51, "spam": 9}
    assert "class from column 1 ('v1'); text from column 2 ('v2')" in examples.log.notes[0]
    assert any(e.text.endswith(', "ok"') for e in examples.splits["train"])


def imdb(folder: Path) -> Path:
    for split in ("train", "test"):
        for label in ("pos", "neg"):
            for i in range(8):
                write(folder / split / label / f"{i}_7.txt", f"{split} {label} {prose(i)}")
    for i in range(8):
        write(folder / "train" / "unsup" / f"{i}_0.txt", prose(i))
    for name in ("README", "imdb.vocab", "train/urls_pos.txt", "train/labeledBow.feat"):
        write(folder / name, "0 1:2\n")
    return folder


def test_imdb_in_folders(tmp_path: Path) -> None:
    examples = load(imdb(tmp_path / "aclImdb"))
    assert counts(examples)["test"] == {"pos": 8, "neg": 8}
    assert total(examples) == {"pos": 16, "neg": 16}
    assert all(e.text.startswith("train") for n in ("train", "validation")
               for e in examples.splits[n])  # fmt: skip
    assert examples.log.notes == [
        "left out, about the others: README",
        "splits as the files have them: train/, test/",
        "left out, beside the splits: imdb.vocab",
        "left out, beside the folders of classes: labeledBow.feat, urls_pos.txt",
        "left out: 8 texts without a class in unsup",
    ]


def test_trec(tmp_path: Path) -> None:
    rows = [f"{('DESC:manner', 'ENTY:animal', 'HUM:ind')[i % 3]} How {prose(i)} ?"
            for i in range(60)]  # fmt: skip
    examples = load(write(tmp_path / "train_5500.label", "\n".join(rows)))
    assert total(examples) == {"DESC:manner": 20, "ENTY:animal": 20, "HUM:ind": 20}
    assert all(e.text.startswith("How") for e in examples.splits["train"])
    numbers = write(tmp_path / "sst.txt", "".join(f"{i % 2} {prose(i)}\n" for i in range(60)))
    assert total(load(numbers)) == {"0": 30, "1": 30}
    prices = write(tmp_path / "prices.txt", "".join(f"{i % 40} {prose(i)}\n" for i in range(60)))
    with pytest.raises(
        DataError, match=r"line 1 has no tab: .*; a row is text, tab and class \(a C"
    ):
        load(prices)


def test_newsgroups_by_date(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 4)):
        for group in ("rec.autos", "sci.med"):
            for i in range(count):
                write(tmp_path / f"20news-bydate-{split}" / group / str(i), f"{group} {prose(i)}")
    examples = load(tmp_path)
    assert counts(examples)["test"] == {"rec.autos": 4, "sci.med": 4}
    assert total(examples) == {"rec.autos": 10, "sci.med": 10}


def test_ag_news(tmp_path: Path) -> None:
    """No header; class, title and description, all in quotes; a test file and two others beside."""
    for name, count in (("train", 80), ("test", 12)):
        rows = [f'"{i % 4 + 1}","{prose(i, 4)}","{prose(i, 20)} ""quoted"", \\$3"'
                for i in range(count)]  # fmt: skip
        write(tmp_path / "ag" / f"{name}.csv", "\n".join(rows) + "\n")
    write(tmp_path / "ag" / "classes.txt", "World\nSports\nBusiness\nSci/Tech\n")
    write(tmp_path / "ag" / "readme.txt", "AG's News Topic Classification Dataset\n")
    examples = load(tmp_path / "ag")
    assert counts(examples)["test"] == {"1": 3, "2": 3, "3": 3, "4": 3}
    assert total(examples) == dict.fromkeys("1234", 23)
    assert examples.splits["test"][0].text == f'{prose(0, 4)} {prose(0, 20)} "quoted", \\$3'
    assert examples.log.notes[:4] == [
        "left out, about the others: readme.txt",
        "splits as the files have them: test.csv, train.csv",
        "left out, beside the splits: classes.txt",
        "read as CSV, no header: class from column 1; text from column 2 and column 3",
    ]


@pytest.mark.parametrize("space", [" ", "   ", "\t"])
def test_fasttext(tmp_path: Path, space: str) -> None:
    rows = [f"__label__{'sauce' if i % 3 else 'baking'}{space}{prose(i)}" for i in range(40)]
    examples = load(write(tmp_path / "cooking.train", "\n".join(rows)))
    assert total(examples) == {"sauce": 26, "baking": 14}
    two = write(tmp_path / "two.txt", "__label__a x\n__label__a __label__b y\nz\n__label__b\n")
    with pytest.raises(DataError, match=r"line 2 has 2 labels; give it one; line 3 has no "
                       r"__label__: 'z'; line 4 has an empty text"):  # fmt: skip
        load(two)


def test_tatoeba(tmp_path: Path) -> None:
    """With an attribution in the third column, or with the numbers of both sentences."""
    rows = [f"{prose(i, 3)}\t{prose(i, 4)} ?\tCC-BY 2.0 (France) #{i} (CK)" for i in range(30)]
    examples = load(write(tmp_path / "fra.txt", "\n".join(rows)), read_pairs)
    assert sum(map(len, examples.splits.values())) == 30
    assert examples.log.notes == [
        "read as TSV, no header: source from column 1; target from column 2; not read: column 3"
    ]
    numbered = [f"{1200 + i}\t{prose(i, 3)}\t{i}\t{prose(i, 4)}" for i in range(30)]
    examples = load(write(tmp_path / "with_ids.tsv", "\n".join(numbered)), read_pairs)
    assert "source from column 2; target from column 4" in examples.log.notes[0]


def test_two_files_of_wmt(tmp_path: Path) -> None:
    for name, count in (("train", 40), ("valid", 9), ("test", 8)):
        for language in ("fr", "en"):
            lines = [f"{language} {prose(i)}" for i in range(count)]
            write(tmp_path / "wmt" / f"{name}.{language}", "\n".join(lines) + "\n")
    examples = load(tmp_path / "wmt", read_pairs)
    assert {name: len(part) for name, part in examples.splits.items()} == {
        "train": 40, "validation": 9, "test": 8,
    }  # fmt: skip
    assert all(e.source[3:] == e.target[3:] for e in examples.splits["train"])
    assert all(e.source.startswith("en") for e in examples.splits["train"])
    other = load(tmp_path / "wmt", read_pairs, source_column="fr")
    assert all(e.source.startswith("fr") for e in other.splits["test"])
    both = [str(tmp_path / "wmt" / f"train.{language}") for language in ("fr", "en")]
    assert read_pairs(find_sources(both))[0] == Pair(f"fr {prose(0)}", f"en {prose(0)}", both[0], 1)


def test_two_files_of_different_length_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.en", "one\ntwo\n"), write(tmp_path / "a.fr", "un\n")]
    with pytest.raises(DataError, match=r"a\.en has 2 lines and .*a\.fr has 1; give two files"):
        read_pairs(find_sources([str(path) for path in paths]))
    write(tmp_path / "a.fr", "un\n\n\n")
    with pytest.raises(DataError, match=r"a\.en has 2 lines and .*a\.fr has 3"):
        read_pairs(find_sources([str(path) for path in paths]))


def test_poems_in_folders(tmp_path: Path) -> None:
    for topic in ("sea", "hill"):
        for i in range(5):
            write(tmp_path / "poems" / topic / f"{i}.txt", f"O {topic}\n{prose(i)}\n\nEnd.\n")
    examples = load(tmp_path / "poems")
    assert total(examples) == {"sea": 5, "hill": 5}
    assert "\n\nEnd." in examples.splits["train"][0].text


def test_the_class_is_the_folder_below_the_root(tmp_path: Path) -> None:
    for label, year in (("pos", 2019), ("neg", 2020)):
        for i in range(4):
            write(tmp_path / "nested" / label / str(year) / f"{i}.txt", f"{label} {prose(i)}")
        write(tmp_path / "nested" / label / "late.txt", f"{label} late")
    write(tmp_path / "nested" / "about.txt", "about")
    examples = load(tmp_path / "nested")
    assert total(examples) == {"pos": 5, "neg": 5}
    assert examples.log.notes == ["left out, beside the folders of classes: about.txt"]


def test_a_test_folder_with_one_class(tmp_path: Path) -> None:
    folder = imdb(tmp_path / "aclImdb")
    for path in (folder / "test" / "neg").iterdir():
        path.unlink()
    examples = load(folder)
    assert counts(examples)["test"] == {"pos": 8}


# Columns ------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    rows = [json.dumps({"id": i, "meta": {"by": "me"}, "stars": i % 3, "text": prose(i)})
            for i in range(30)]  # fmt: skip
    examples = load(write(tmp_path / "a.jsonl", "\n".join(rows)))
    assert total(examples) == {"0": 10, "1": 10, "2": 10}
    assert "class from column 3 ('stars'); text from column 4 ('text')" in examples.log.notes[0]
    same = load(write(tmp_path / "b.json", f"[{','.join(rows)}]"))
    assert total(same) == total(examples)
    pairs = [json.dumps({"translation": {"fr": f"le {i}", "en": f"the {i}"}}) for i in range(30)]
    loaded = load(write(tmp_path / "c.txt", "\n".join(pairs)), read_pairs)
    assert loaded.splits["train"][0].source.startswith("the")


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    path.write_bytes(b"PAR1")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(
            DataError, match=r"needs the package pyarrow; run pip install 'charrnn-"
        ):
            load(path)
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(DataError, match=r"cannot read .*parquet as Parquet"):
        load(path)
    table = {"text": [prose(i) for i in range(30)], "label": [i % 2 for i in range(30)]}
    parquet.write_table(arrow.table(table), path)
    assert total(load(path)) == {"0": 15, "1": 15}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_header_and_line_ends_in_fields(tmp_path: Path, delimiter: str) -> None:
    rows = [["Review", "Sentiment"]]
    rows += [[f'"{prose(i)}\r\nand ""more"""', ("good", "bad")[i % 2]] for i in range(30)]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    examples = load(write(tmp_path / "a.csv", text))
    assert total(examples) == {"good": 15, "bad": 15}
    first = min(examples.splits["train"], key=lambda e: e.line)
    assert first.text.endswith('\nand "more"')
    assert {e.line % 2 for part in examples.splits.values() for e in part} == {0}


def test_an_unusual_header_is_recognised_by_its_kind(tmp_path: Path) -> None:
    rows = [f"{('yes', 'no')[i % 2]}\t{prose(i)}" for i in range(30)]
    examples = load(write(tmp_path / "a.tsv", "\n".join(["verdict\tmail", *rows])))
    assert total(examples) == {"yes": 15, "no": 15}
    assert examples.log.settings["data.label_column"] == "verdict"


@pytest.mark.parametrize("names", ["Adam\tIrish\nAalst\tDutch\n", "label\tp\nx\tp\ny\tq\n"])
def test_a_first_row_of_data_is_no_header(tmp_path: Path, names: str) -> None:
    assert len(read_labelled(find_sources([str(write(tmp_path / "a.tsv", names))]))) >= 2


def test_a_word_that_is_also_a_language_is_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "en\tin\nle\tthe\nla\tthe\n")
    assert read_pairs(find_sources([str(path)]))[0][:2] == ("en", "in")
    write(path, "en\tfr\nthe\tle\nin\ten\n")
    assert read_pairs(find_sources([str(path)]))[0][:2] == ("the", "le")
    write(path, "id\tFrom\tTo\n1\ta\tb\n2\tc\td\n")
    how = Reading(source_column="To", target_column="From")
    assert read_pairs(find_sources([str(path)]), how)[0][:2] == ("b", "a")


def test_columns_that_are_named(tmp_path: Path) -> None:
    rows = [f"{i},{prose(i)},{prose(i + 50)},{'ab'[i % 2]},{'cd'[i % 2]}" for i in range(30)]
    path = write(tmp_path / "a.csv", "\n".join(["n,one,two,p,q", *rows]))
    examples = load(path, label_column="q", text_column=["two", 2])
    assert total(examples) == {"c": 15, "d": 15}
    by_line = {e.line: e for part in examples.splits.values() for e in part}
    assert by_line[2].text == f"{prose(50)} {prose(0)}"
    with pytest.raises(DataError, match=r"no column 'tow'; did you mean two\?"):
        load(path, text_column="tow")
    with pytest.raises(DataError, match=r"has 5 columns and no column 6"):
        load(path, label_column=6)
    twice = write(tmp_path / "b.csv", "text,text,label\n" + "\n".join("x,y,p" for _ in range(9)))
    with pytest.raises(DataError, match=r"2 columns named 'text'; give the number of one"):
        load(twice, text_column="text")


def test_two_columns_of_few_values_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "".join(f"topic {i % 40}\tsubject {i % 20}\n"
                                             for i in range(400)))  # fmt: skip
    with pytest.raises(DataError, match=r"column 1 has 40 different values and column 2 has 20 in "
                       r"400 rows; set data\.label_column to 1 or 2"):  # fmt: skip
        load(path)
    log = Log()
    examples = read_labelled(find_sources([str(path)]), Reading(label_column=1), log)
    assert len({e.label for e in examples}) == 40
    assert log.notes[-1] == "360 of 400 left out, equal to earlier ones"


def test_the_columns_of_training_are_those_of_the_other_splits(tmp_path: Path) -> None:
    main = write(tmp_path / "a.tsv", "".join(f"{'pq'[i % 2]}\t{prose(i)}\n" for i in range(60)))
    other = write(tmp_path / "b.tsv", "p\tone\np\ttwo\n")
    loaded = load_examples(read_labelled, find_sources([str(main)]), find_sources([str(other)]))
    assert [e.label for e in loaded.splits["validation"]] == ["p", "p"]


def test_plain_reading_is_that_of_earlier_versions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\tlabel\n"x"\tp\n"y\tq\n')
    examples = load(path, reading="plain")
    assert total(examples) == {"label": 1, "p": 1, "q": 1}
    assert {e.text for part in examples.splits.values() for e in part} == {"text", '"x"', '"y'}
    assert not examples.log.settings.keys() & {"data.text_column", "data.label_column"}


# Bad rows -----------------------------------------------------------------------------------------


def test_bad_rows_are_all_listed_or_skipped(tmp_path: Path) -> None:
    rows = [f"{prose(i)}\t{'pq'[i % 2]}" for i in range(60)]
    rows[10:13] = ["\tp", "no class", "x\ty\tp"]
    rows[20:32] = ["z"] * 12
    path = write(tmp_path / "a.tsv", "\n".join(rows))
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"15 rows are not examples: {path}, line 11 has an empty text")
    assert "line 12 has one column: 'no class'; line 13 has 3 columns" in message
    assert message.count("line ") == 10
    assert message.endswith("and 5 more; a row is a text and its class: mend them, or set "
                            "data.bad_rows to skip")  # fmt: skip
    examples = load(path, bad_rows="skip")
    assert sum(total(examples).values()) == 45
    assert f"15 of 60 rows left out: {path}, lines 11-13, 21-32" in examples.log.notes


def test_bad_rows_of_parallel_files(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.en", "".join(f"e{i}\n" for i in range(9)) + "\n\nx\n")
    write(tmp_path / "d" / "a.fr", "".join(f"f{i}\n" for i in range(9)) + "y\n\nz\n")
    with pytest.raises(DataError, match=r"a\.en, line 10 has an empty source: 'y'; a row is a sou"):
        load(tmp_path / "d", read_pairs)
    examples = load(tmp_path / "d", read_pairs, bad_rows="skip")
    assert sum(map(len, examples.splits.values())) == 10


# Classes ------------------------------------------------------------------------------------------


def test_each_split_has_its_share_of_each_class(tmp_path: Path) -> None:
    rows = [f"{prose(i)}\t{label}\n" for i, label in enumerate(
        ["often"] * 400 + ["rare"] * 40 + ["rarer"] * 10 + ["once", "also once"]
    )]  # fmt: skip
    path = write(tmp_path / "a.tsv", "".join(rows))
    splits = counts(load(path))
    for label, low, high in (("often", 79, 81), ("rare", 7, 9), ("rarer", 1, 3)):
        assert low <= splits["validation"][label] <= high
    assert splits["train"]["once"] == splits["train"]["also once"] == 1
    shuffled = write(tmp_path / "b.tsv", "".join(random.Random(1).sample(rows, len(rows))))
    sides = [{e.text for e in load(p).splits["train"]} for p in (path, shuffled)]
    assert sides[0] == sides[1]


def test_few_examples_are_split_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "x\tp\ny\tp\nz\tq\n")
    assert {name: len(part) for name, part in load(path).splits.items()} == {
        "train": 2, "validation": 1,
    }  # fmt: skip


def test_look_alikes() -> None:
    classes = Counter({"ham": 450, "spam": 90, "Ham": 1, "spma": 1, "Spam.": 2})
    assert look_alikes(classes) == [("Spam.", "spam"), ("Ham", "ham"), ("spma", "spam")]
    assert look_alikes(Counter({"pos": 50, "neg": 50, "1": 900, "10": 3, "neutral": 4})) == []


# Hostile tables -----------------------------------------------------------------------------------


HOSTILE = {
    "wide.csv": "a," * 100_000 + "b\n" + "x," * 100_000 + "p\n",
    "wide.tsv": "\t".join(["x"] * 100_000) + "\n",
    "nul.tsv": "a\tp\nb\0c\tq\nd\tp\n",
    "open.csv": 'text,label\nx,p\n"y,q\n' + "z,p\n" * 50_000,
    "all open.csv": '"x,p\n' * 50_001,
    "duplicate.csv": "label,label\nx,p\n",
    "deep.jsonl": '{"a":' * 100_000 + "}\n",
    "digits.jsonl": '{"text": ' + "1" * 10_000_000 + "}\n",
    "names.jsonl": json.dumps({f"n{i}": 1 for i in range(100_000)}) + "\n",
    "array.json": "[" * 1_000_000,
    "empty.csv": "",
    "header.csv": "text,label\n",
    "nothing.tsv": "\t\n\t\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_table_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, HOSTILE[name])
    began = time.perf_counter()
    with pytest.raises(CharrnnError) as caught:
        load(path)
    assert time.perf_counter() - began < 5  # A second, on a machine with nothing else to do.
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_field_of_ten_megabytes(tmp_path: Path) -> None:
    rows = [f'"{prose(i)}","{"pq"[i % 2]}"\n' for i in range(20)]
    path = write(tmp_path / "a.csv", "".join([*rows, f'"{"x" * 10_000_000}",p\n']))
    began = time.perf_counter()
    examples = load(path)
    assert time.perf_counter() - began < 5
    assert sum(total(examples).values()) == 21


def test_a_row_after_an_open_quote_is_not_lost(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\nx,p\n"y,q\nz,q\nit was,p\nv,q\n')
    with pytest.raises(DataError, match=r"line 3 opens a quote and never ends it; a row is"):
        load(path)
    examples = read_labelled(find_sources([str(path)]), Reading(bad_rows="skip"))
    assert [tuple(e)[::3] for e in examples] == [("x", 2), ("z", 4), ("it was", 5), ("v", 6)]


# As public reports have them ---------------------------------------------------------------------


@pytest.mark.parametrize("row", ["{text} __label__{label}", "__label__{label} {text}"])
def test_a_label_of_fasttext_before_or_after_the_text(row: str, tmp_path: Path) -> None:
    rows = [row.format(text=prose(i), label="ab"[i % 2]) for i in range(40)]
    examples = load(write(tmp_path / "x.txt", "\n".join(rows) + "\n"))
    assert total(examples) == {"a": 20, "b": 20}
    assert {e.text for part in examples.splits.values() for e in part} == {*map(prose, range(40))}
    bad = [*rows, "no label", "__label__a", "__label__a two __label__b"]
    with pytest.raises(DataError, match=r"line 41 has no __label__.*42 has an empty.*43 has 2 lab"):
        load(write(tmp_path / "x.txt", "\n".join(bad)))


def test_a_text_in_each_file_has_no_class(tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path / "x" / f"{i}.txt", f"\n{prose(i)}\n\n")
    examples = load_examples(
        lambda *a: read_labelled(*a, needs_class=False), find_sources([str(tmp_path / "x")])
    )
    assert total(examples) == {"<no class>": 12}
    assert examples.log.settings["data.form"] == "lines"
    assert examples.log.notes == ["a text in each file, without a class"]
    write(tmp_path / "x" / "0.txt", "Anna\nBo\n")
    examples = load_examples(
        lambda *a: read_labelled(*a, needs_class=False), find_sources([str(tmp_path / "x")])
    )
    assert len(total(examples)) == 12


def test_a_nul_in_a_list_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "Anna\nB\0o\n" + "".join(f"{prose(i)}\n" for i in range(9)))
    write(tmp_path / "b.txt", "".join(f"{prose(i)}\n" for i in range(9)))
    both = find_sources([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    with pytest.raises(DataError, match=r"a\.txt, line 2 has a NUL in it: 'B.x00o'"):
        load_examples(read_labelled, both)
    examples = load_examples(read_labelled, both, how=Reading(bad_rows="skip"))
    assert total(examples) == {"a": 10, "b": 9}


def test_a_separator_that_divides_no_example_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", "a\n---\nb\n")
    for separator, hinted in (("---", False), ("***", True)):
        sources = find_sources([str(path)], rules=Rules(separator=separator))
        log = Log()
        read_labelled(sources, log=log, needs_class=False)
        assert any("does not occur" in note for note in log.notes) == hinted
