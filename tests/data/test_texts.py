"""One way in for every text: each kind of file through each door has one outcome."""
# ruff: noqa: RUF001 -- these are texts in other scripts

import bz2
import gzip
import io
import itertools
import lzma
import sys
import tarfile
import time
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config.merge import NEWER, build_config, config_from_data, file_layer, flatten
from charrnn.config.schema import Config, unused_keys
from charrnn.data.corpus import Corpus, load_corpus
from charrnn.data.hints import hint_of_text
from charrnn.data.rules import AS_BEFORE, Cleaning, Rules, cut, natural_key, split_text
from charrnn.data.sources import find_sources
from charrnn.data.vocabulary import CharacterVocabulary, WordVocabulary, read_vocabulary
from charrnn.errors import ConfigError, DataError
from charrnn.tasks.data import find_texts, hints, lines_of, read_data, read_for
from charrnn.tasks.language_model import LanguageModelling

LINES = [f"{i}. The café by the sea, the Ångström lamp\t{'ab'[i % 2]}" for i in range(30)]
TEXT = "".join(f"{line}\n" for line in LINES)
MODERN = Rules(Cleaning("join", "nfc"), "natural", "content")


def zipped(members: dict[str, bytes], **options: Any) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def tarred(members: dict[str, bytes], mode: Any = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, member in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(member)
            archive.addfile(info, io.BytesIO(member))
    return content.getvalue()


def encrypted() -> bytes:
    content = bytearray(zipped({"a.txt": TEXT.encode()}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


PLAIN = TEXT.encode()
RUSSIAN = "Все счастливые семьи похожи друг на друга.\n"
READ: dict[str, bytes] = {
    "plain": PLAIN,
    "no last line end": PLAIN[:-1],
    "CR LF": TEXT.replace("\n", "\r\n").encode(),
    "CR": TEXT.replace("\n", "\r").encode(),
    "mixed line ends": TEXT.replace("\n", "\r\n", 9).replace("b\n", "b\r").encode(),
    "a mark": b"\xef\xbb\xbf" + PLAIN,
    "UTF-16 LE with a mark": b"\xff\xfe" + TEXT.encode("utf-16-le"),
    "UTF-16 BE with a mark": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-32 with a mark": TEXT.encode("utf-32"),
    "UTF-16 and CR LF": b"\xff\xfe" + TEXT.replace("\n", "\r\n").encode("utf-16-le"),
    "decomposed": unicodedata.normalize("NFD", TEXT).encode(),
    "gzip": gzip.compress(PLAIN),
    "bz2": bz2.compress(PLAIN),
    "xz": lzma.compress(PLAIN),
    "zstd": zstandard.ZstdCompressor().compress(PLAIN),
    "gzip of CR LF": gzip.compress(TEXT.replace("\n", "\r\n").encode()),
    "zip": zipped({"book/text.txt": PLAIN, "__MACOSX/book/._text.txt": b"\0x", ".DS_Store": b"\0"}),
    "tar": tarred({"./text.txt": PLAIN, "picture.png": b"\x89PNG\r\n\x1a\n\0"}),
    "tar.gz": tarred({"text.txt": PLAIN}, "w:gz"),
}  # fmt: skip
REFUSED: dict[str, tuple[bytes, str]] = {
    "UTF-16 LE": (TEXT.encode("utf-16-le"), "utf-16-le without a byte order mark.*utf-16-le"),
    "UTF-16 BE": (TEXT.encode("utf-16-be"), "utf-16-be without a byte order mark.*utf-16-be"),
    "UTF-32": (TEXT.encode("utf-32-le"), "utf-32-le without a byte order mark.*utf-32-le"),
    "windows-1252": (TEXT.encode("cp1252"), "The café by the sea.* is right.* windows-1252"),
    "Latin-1": (
        "Où êtes-vous, Zoë ?\n".encode("latin-1"),
        "'Où êtes-vous, Zoë .' is right.* windows-1252",
    ),
    "Shift-JIS": (
        "吾輩は猫である。名前はまだ無い。\n".encode("shift_jis"),
        "'吾輩は猫である。名前はまだ無い。' is right.*shift-jis",
    ),
    "KOI8-R": (
        b"a line\n" * 2000 + RUSSIAN.encode("koi8-r"),
        f"'{RUSSIAN.strip()}' is right.* koi8-r",
    ),
    "GB18030": (
        "道可道，非常道。名可名，非常名。无名天地之始。\n".encode("gb18030"),
        "'道可道，非常道。名可名，非常名。无名天地之始。' is right.* gb18030",
    ),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "is a PDF, not a text; extract its text"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0", r"is a picture \(PNG\), not a text"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF", r"is a picture \(JPEG\), not a text"),
    "Word": (
        zipped({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}),
        "is a Word document, not a text; save it as plain text",
    ),
    "EPUB": (zipped({"mimetype": b"application/epub+zip", "a.html": b"x"}), "is an EPUB book"),
    "encrypted": (encrypted(), "is encrypted; unpack it with its password"),
    "zip in zip": (zipped({"a": b"a", "b.zip": zipped({"c": b"c"})}), "another archive, 'b.zip'"),
    "tar.gz in zip": (zipped({"b": tarred({"c": b"c"}, "w:gz")}), "another archive, 'b'"),
    "gzip in gzip": (gzip.compress(gzip.compress(PLAIN)), "gzip inside gzip"),
    "a path that leads out": (zipped({"../a.txt": b"a"}), "a path that leads out of it"),
    "an absolute path": (tarred({"/tmp/a.txt": b"a"}), "a path that leads out of it"),
    "a Windows path": (zipped({"..\\..\\a.txt": b"a"}), "a path that leads out of it"),
    "a zip bomb": (zipped({"a.txt": bytes(70 << 20)}), "more than 200 times its size"),
    "a gzip bomb": (gzip.compress(bytes(70 << 20), 1), "more than 200 times its size"),
    "a zstd bomb": (zstandard.compress(bytes(70 << 20)), "more than 200 times its size"),
    "a tar bomb": (tarred({"a": bytes(70 << 20)}, "w:xz"), "more than 200 times its size"),
    "no texts": (zipped({"a.png": b"\x89PNG\r\n\x1a\n\0"}), "no texts in the archive"),
    "half a zip": (zipped({"a.txt": bytes(range(256)) * 9})[:200], "cannot unpack"),
    "a program": (b"\x7fELF\x02\x01" + bytes(9) + b"\xff\xfe\x80" * 40, "it is a binary file"),
}  # fmt: skip

Door = Callable[[bytes, Path, pytest.MonkeyPatch], str]


def warnings() -> tuple[list[str], Callable[[str], None]]:
    told: list[str] = []
    return told, told.append


def config_of(**values: Any) -> Config:
    return build_config([("test", {k.replace("__", "."): v for k, v in values.items()})])[0]


def read_through(config: Config) -> tuple[Corpus, list[str]]:
    told, warn = warnings()
    with find_texts(config, warn) as texts:
        return read_data(config, texts), told


def split_of(name: str, key: str, content: bytes, folder: Path) -> str:
    (folder / "plain.txt").write_bytes(PLAIN)
    (folder / "x").write_bytes(content)
    values: dict[str, Any] = {"data.sources": [str(folder / "plain.txt")]}
    values[f"data.{key}"] = [str(folder / "x")]
    config = build_config([("test", values)])[0]
    corpus, _ = read_through(config)
    if key == "sources":
        return corpus.vocabulary.decode(corpus.ids)
    span = corpus.splits[name]
    return corpus.vocabulary.decode(corpus.ids[span.start : span.stop])


def standard_input(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    corpus, _ = read_through(config_of(data__sources=["-"]))
    return corpus.vocabulary.decode(corpus.ids)


def for_a_model(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / "x").write_bytes(content)
    vocabulary = CharacterVocabulary(sorted(set(TEXT)), (), MODERN.cleaning)
    return read_for(vocabulary, [str(folder / "x")], "utf-8")


def line_by_line(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    lines = [*lines_of(io.BytesIO(content), "x", MODERN.cleaning)]
    return "\n".join([*lines, ""])


DOORS: dict[str, Door] = {
    "training": lambda content, folder, _: split_of("train", "sources", content, folder),
    "validation": lambda content, folder, _: split_of("validation", "validation", content, folder),
    "test": lambda content, folder, _: split_of("test", "test", content, folder),
    "standard input": standard_input,
    "eval and prompts": for_a_model,
    "predict": line_by_line,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("row", READ)
def test_every_kind_of_text_is_read_through_every_door(
    row: str, door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    text = DOORS[door](READ[row], tmp_path, monkeypatch)
    assert text.removesuffix("\n") == TEXT.removesuffix("\n")
    assert not [*cache.glob("incoming/scratch-*")]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("row", REFUSED)
def test_what_is_no_text_is_refused_through_every_door(
    row: str, door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    content, expected = REFUSED[row]
    if door == "predict" and row == "a program":
        expected = "line 1 of x is not UTF-8"
    began = time.perf_counter()
    with pytest.raises(DataError, match=expected) as raised:
        DOORS[door](content, tmp_path, monkeypatch)
    assert "\n" not in str(raised.value)
    assert time.perf_counter() - began < 5  # A bomb would take minutes, or all memory.
    assert not [*cache.glob("incoming/scratch-*")]
    assert {path.name for path in tmp_path.iterdir()} <= {"x", "plain.txt"}


@pytest.mark.parametrize("row", READ)
def test_labelled_rows_are_read_alike(row: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(READ[row])
    config = config_of(task="classification", data__sources=[str(tmp_path / "x")])
    if row in {"zip", "tar", "tar.gz"}:
        config = config_of(
            task="classification", data__sources=[str(tmp_path / "x")], data__form="rows"
        )
    data, _ = read_through(config)
    texts = {example.text for split in data.splits.values() for example in split}
    assert texts == {line.split("\t")[0] for line in LINES}


# Rules ------------------------------------------------------------------------------------------

clean = st.text(st.sampled_from("ab\r\n e\u0301\u0327\u1112\u1161\u11ab\xe9中-<|>"))


@given(text=clean, ends=st.lists(st.integers(0, 30), max_size=6))
def test_chunks_change_nothing(text: str, ends: list[int]) -> None:
    at = sorted({0, len(text), *(end for end in ends if end < len(text))})
    chunks = [text[a:b] for a, b in itertools.pairwise(at)]
    cleaned = MODERN.cleaning(text)
    assert "".join(MODERN.cleaning.stream(chunks, "x", None)) == cleaned
    assert MODERN.cleaning(cleaned) == cleaned
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    assert cleaned == unicodedata.normalize("NFC", plain)


@pytest.mark.parametrize("separator", ["blank", "---", "<|>", "ab"])
@given(text=clean, ends=st.lists(st.integers(0, 30), max_size=6))
def test_parts_do_not_depend_on_chunks(separator: str, text: str, ends: list[int]) -> None:
    at = sorted({0, len(text), *(end for end in ends if end < len(text))})
    chunks = [text[a:b] for a, b in itertools.pairwise(at)]
    parts = [""]
    for piece in cut(chunks, separator):
        parts = [*parts, ""] if piece is None else [*parts[:-1], parts[-1] + piece]
    assert [*filter(None, parts)] == [part for _, part in split_text(text, separator)]
    for line, part in split_text(text, separator):
        first = text.split("\n")[line - 1].rstrip("\r")
        assert first.endswith(part.split("\n")[0].rstrip("\r")) or separator == "<|>"


@pytest.mark.parametrize(
    ("separator", "text"),
    {
        "blank": "one\ntwo\n\n \t\n\nthree\n",
        "---": "---\none\ntwo\n---\n-----\nthree",
        "***": "one\ntwo\n  ***  \nthree\n***\n",
        "<|endoftext|>": "one\ntwo<|endoftext|>three\n<|endoftext|>\n",
        "END": "one\ntwo\nEND\nthree\nEND",
        "%": "one\ntwo\n%\nthree\n",
    }.items(),
)
def test_separators(separator: str, text: str) -> None:
    assert [part for _, part in split_text(text, separator)] == ["one\ntwo", "three"]


def test_a_line_that_only_holds_a_separator_is_none() -> None:
    text = "the END of it\n--- a dash\n-- two\n"
    for separator in ("END", "---", "a"):
        assert split_text(text, separator) == [(1, text.rstrip("\n"))]


def test_chapters_are_in_the_order_of_people() -> None:
    names = ["b/Chapter 10.txt", "b/Chapter 2.txt", "a/9.txt", "b/Chapter 1.txt", "a/10.txt"]
    assert sorted(names, key=natural_key) == [
        "a/9.txt", "a/10.txt", "b/Chapter 1.txt", "b/Chapter 2.txt", "b/Chapter 10.txt"
    ]  # fmt: skip
    assert natural_key("9" * 10_000) > natural_key("1")


# What is said -----------------------------------------------------------------------------------


def test_changes_are_said_with_their_number_also_from_the_cache(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(READ["CR LF"] + "e\u0301\n".encode())
    config = config_of(data__sources=[str(tmp_path / "x.txt")])
    for _ in range(2):
        _, told = read_through(config)
        assert len(told) == 2
        assert "x.txt: 30 line ends" in told[0]
        assert "data.newlines=keep" in told[0]
        assert "(Unicode NFC)" in told[1]
        assert "data.normalize=none" in told[1]


def test_a_plain_text_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(PLAIN)
    assert read_through(config_of(data__sources=[str(tmp_path / "x.txt")]))[1] == []


def test_text_is_kept_on_request_and_bytes_always(tmp_path: Path) -> None:
    text = READ["CR LF"].decode() + "e\u0301\n"
    (tmp_path / "x.txt").write_bytes(text.encode())
    sources = [str(tmp_path / "x.txt")]
    kept = config_of(data__sources=sources, data__newlines="keep", data__normalize="none")
    corpus, told = read_through(kept)
    assert (corpus.vocabulary.decode(corpus.ids), told) == (text, [])
    corpus, told = read_through(config_of(data__sources=sources, data__vocabulary="byte"))
    assert (bytes(corpus.ids.tolist()), told) == (text.encode(), [])
    assert read_for(corpus.vocabulary, sources) == text


def test_a_folder_lists_what_it_leaves_out(tmp_path: Path) -> None:
    for name, content in {
        "Chapter 2.txt": PLAIN, "Chapter 10.txt": PLAIN, ".DS_Store": b"\0\1",
        ".git/a": b"x", ".git/b": b"x", "map.png": b"\x89PNG\r\n\x1a\n\0",
        "old.docx": zipped({"[Content_Types].xml": b"", "word/document.xml": b""}),
        "mac.txt": b"\xff\xfea\0", "unmarked.txt": "some text".encode("utf-16-le"),
        "packed.zip": zipped({"a": b"a"}), "x.bin": b"\0",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    sources = find_sources([str(tmp_path)], rules=MODERN)
    names = [Path(document.name).name for document in sources.documents]
    assert names == ["Chapter 2.txt", "Chapter 10.txt", "mac.txt"]
    assert {Path(name).name: reason for name, reason in sources.left_out} == {
        ".DS_Store": "hidden", ".git": "hidden", "map.png": "a picture (PNG)",
        "old.docx": "a Word document", "packed.zip": "a zip archive", "x.bin": "binary",
        "unmarked.txt": "utf-16-le without a byte order mark",
    }  # fmt: skip
    with find_texts(config_of(data__sources=[str(tmp_path)]), (told := []).append):
        assert "7 files left out: " in told[0]
        assert "old.docx (a Word document)" in told[0]


def test_where_validation_was_taken_from_is_said(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        (tmp_path / f"Chapter {number}.txt").write_bytes(PLAIN)
    corpus, _ = read_through(config_of(data__sources=[str(tmp_path)]))
    assert corpus.held_out == "the last 10%, from the middle of Chapter 10.txt on"
    config = config_of(data__sources=[str(tmp_path / "Chapter 1.txt")], data__split=[0.8, 0.1, 0.1])
    assert read_through(config)[0].held_out == "10% before the test split"


def test_the_same_text_for_training_and_validation_is_said(tmp_path: Path) -> None:
    for name in ("a.txt", "copy.txt"):
        (tmp_path / name).write_bytes(PLAIN)
    for name in ("a.txt", "copy.txt"):
        config = config_of(
            data__sources=[str(tmp_path / "a.txt")], data__validation=[str(tmp_path / name)]
        )
        _, told = read_through(config)
        assert f"{name} is given for training and for validation" in told[0]


HINTED = {
    "Gutenberg": "*** START OF THE PROJECT GUTENBERG EBOOK ALICE ***\nAlice was\n",
    "subtitles": "1\n00:00:01,000 --> 00:00:04,000\nHello\n",
    "subtitles of the web": "WEBVTT\n\n00:01.000 --> 00:04.000\nHello\n",
    "HTML": "<!DOCTYPE html>\n<html><body>Hello</body></html>\n",
    "a chat": "[12/03/24, 10:15:02] Ann: Hi\n[12/03/24, 10:16:40] Bo: Hi\nmore\n"
    "[12/03/24, 10:17:00] Ann: Bye\n",
    "a chat of another system": "3/12/24, 10:15 PM - Ann: Hi\n" * 3,
}


@pytest.mark.parametrize("kind", HINTED)
def test_what_a_text_holds_besides_is_hinted(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(HINTED[kind] * 3, "utf-8")
    documents = find_sources([str(tmp_path / "x.txt")], rules=MODERN).documents
    hint = hint_of_text(documents, "utf-8")
    assert hint is not None
    assert "the model learns" in hint


@pytest.mark.parametrize("text", [TEXT, "12:30 The train: late\n" * 9, "He said <html> twice\n"])
def test_other_texts_get_no_hint(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(text, "utf-8")
    documents = find_sources([str(tmp_path / "x.txt")], rules=MODERN).documents
    assert hint_of_text(documents, "utf-8") is None


def hints_about(*paths: Path, **settings: Any) -> list[str]:
    config = config_of(data__sources=[*map(str, paths)], **settings)
    with find_texts(config, [].append) as texts:
        return [*hints(config, texts, read_data(config, texts))]


def test_a_separator_that_divides_nothing_is_hinted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n---\nthree\n" * 9, "utf-8")
    (tmp_path / "b.txt").write_text("four\n" * 9, "utf-8")
    both = tmp_path / "a.txt", tmp_path / "b.txt"
    for separator, hinted in (("---", False), ("blank", False), ("***", True), ("<end>", True)):
        told = hints_about(*both, data__separator=separator)
        assert (told != []) == hinted, separator
        if hinted:
            assert told[0].startswith(f"the separator {separator!r} does not occur, so that each")
    assert hints_about(*both) == []
    corpus, _ = read_through(config_of(data__sources=[*map(str, both)], data__separator="---"))
    assert corpus.documents == 11
    assert LanguageModelling.describe(corpus) == "180 characters in 11 documents, 11 symbols"


def test_the_nul_characters_of_a_text_are_counted(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(TEXT + "a\0b\0\n", "utf-8")
    for vocabulary in ("character", "word"):
        told = hints_about(tmp_path / "x.txt", data__vocabulary=vocabulary)
        assert told[0].startswith("the text has 2 NUL characters, which a model learns"), told
    assert hints_about(tmp_path / "x.txt", data__vocabulary="byte") == []


def test_many_rare_characters_are_hinted(tmp_path: Path) -> None:
    once = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    (tmp_path / "x.txt").write_text(TEXT + once, "utf-8")
    (told,) = hints_about(tmp_path / "x.txt")
    assert told.startswith("300 of the ")
    assert "data.minimum_count=3 reads them as one symbol, <unk>" in told
    assert hints_about(tmp_path / "x.txt", data__minimum_count=2) == []
    (tmp_path / "x.txt").write_text(TEXT + once * 3, "utf-8")
    assert hints_about(tmp_path / "x.txt") == []


def test_words_of_a_text_without_spaces_are_hinted(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    clauses = ["".join(map(chr, 0x4E00 + draw.integers(0, 900, 7))) for _ in range(400)]
    for text, hinted in (("，".join(clauses), True), (TEXT * 20, False)):
        (tmp_path / "x.txt").write_text(text, "utf-8")
        told = hints_about(tmp_path / "x.txt", data__vocabulary="word")
        assert ("as in a text without spaces" in "".join(told)) == hinted
    (tmp_path / "x.txt").write_text("ACGT" * 100, "utf-8")
    with pytest.raises(DataError, match=r"the text of 1 word leaves 0 .*no spaces between words"):
        read_through(config_of(data__sources=[str(tmp_path / "x.txt")], data__vocabulary="word"))


# Rare characters, and documents within a file --------------------------------------------------


def test_rare_characters_become_unknown(tmp_path: Path) -> None:
    text = "banana bandana\n" * 20 + "xyyzzz"
    (tmp_path / "x.txt").write_text(text, "utf-8")
    corpus, _ = read_through(
        config_of(data__sources=[str(tmp_path / "x.txt")], data__minimum_count=3)
    )
    vocabulary = corpus.vocabulary
    assert isinstance(vocabulary, CharacterVocabulary)
    assert vocabulary.symbols == ("\n", " ", "a", "b", "d", "n", "z", "<unk>")
    assert vocabulary.decode(corpus.ids) == text[:-6] + "\ufffd" * 3 + "zzz"
    assert corpus.unknown_count(corpus.splits["validation"]) == 3
    last = corpus.splits["validation"]
    assert corpus.byte_count(last) == len(last) - 3
    assert read_vocabulary(vocabulary.to_data()).to_data() == vocabulary.to_data()


@pytest.mark.parametrize("kind", ["character", "byte", "word"])
def test_each_part_of_a_file_has_an_end(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.txt").write_text("one two\n\nthree\n", "utf-8")
    (tmp_path / "b.txt").write_text("\nfour\nfive", "utf-8")
    corpus, _ = read_through(
        config_of(data__sources=[str(tmp_path)], data__separator="blank", data__vocabulary=kind)
    )
    end = corpus.vocabulary.end
    assert end is not None
    ends = np.flatnonzero(corpus.ids[:] == end)
    starts = [0, *(ends[:-1] + 1)]
    parts = [corpus.vocabulary.decode(corpus.ids[a:b]) for a, b in zip(starts, ends, strict=True)]
    assert parts == ["one two", "three", "four\nfive"]
    # A text that is sampled starts from the zero state with an end, and so do the documents.
    assert corpus.document_starts.tolist() == [0, *ends]


def test_a_separator_is_refused_where_no_task_uses_it() -> None:
    with pytest.raises(ConfigError, match=r"data\.separator.* is not used by the task tagging"):
        config_of(task="tagging", data__separator="---")


# Older runs --------------------------------------------------------------------------------------


def test_an_older_run_reads_its_text_as_it_did(tmp_path: Path) -> None:
    absent = NEWER | unused_keys("language_model")
    older = {k: v for k, v in flatten(Config().model_dump()).items() if k not in absent}
    nested = {"data": {k[5:]: v for k, v in older.items() if k.startswith("data.")}}
    config = config_from_data(nested, "a checkpoint")
    expected = ("keep", "none", "path", "name")
    data = config.data
    assert (data.newlines, data.normalize, data.order, data.kinds) == expected
    (tmp_path / "config.yaml").write_text(str(nested), "utf-8")
    data = build_config([file_layer(tmp_path / "config.yaml")])[0].data
    assert (data.newlines, data.normalize, data.order, data.kinds) == expected
    assert build_config([("by hand", {"data.encoding": "utf-8"})])[0].data.newlines == "join"


def test_the_key_of_an_older_corpus_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(READ["CR LF"])
    before = load_corpus(find_sources([str(tmp_path / "x.txt")], rules=AS_BEFORE))
    after = load_corpus(find_sources([str(tmp_path / "x.txt")], rules=MODERN))
    assert before.key != after.key
    assert before.sha256 == after.sha256
    assert "cleaning" not in before.vocabulary_data
    assert before.vocabulary.decode(before.ids) == READ["CR LF"].decode()


def test_a_vocabulary_cleans_every_text_that_it_reads() -> None:
    for vocabulary in (
        CharacterVocabulary("\né", (), MODERN.cleaning),
        WordVocabulary(["\n", "é"], cleaning=MODERN.cleaning),
    ):
        again = read_vocabulary(vocabulary.to_data())
        assert again.encode("e\u0301\r\n").tolist() == vocabulary.encode("é\n").tolist()
        assert not again.unknown_characters("e\u0301\r\n")


def test_setting_what_bytes_do_not_use_is_refused() -> None:
    for key, value in (("newlines", "join"), ("normalize", "nfc")):
        with pytest.raises(ConfigError, match=f"data.{key} = .* not used by a vocabulary of bytes"):
            config_of(data__vocabulary="byte", **{f"data__{key}": value})
    config_of(data__vocabulary="byte", data__newlines="keep")


@pytest.mark.parametrize("separator", ["blank", "<|endoftext|>"])
def test_each_part_is_an_example_for_generation(separator: str, tmp_path: Path) -> None:
    border = {"blank": "\n\n"}.get(separator, f"\n{separator}\n")
    poems = [f"the sea {'of green ' * i}\nis one of {i}" for i in range(20)]
    (tmp_path / "poems.txt").write_text(border.join(poems) + "\n", "utf-8")
    config = config_of(
        task="generation", data__sources=[str(tmp_path / "poems.txt")], data__separator=separator
    )
    data, _ = read_through(config)
    vocabulary = data.vocabularies["text"]
    texts = {vocabulary.decode(e.inputs) for part in data.splits.values() for e in part}
    assert texts == set(poems)


def test_parts_of_files_in_folders_of_classes_are_examples(tmp_path: Path) -> None:
    for label in ("sea", "hill"):
        (tmp_path / label).mkdir()
        for name in "ab":
            poems = [f"{label} {name} {i}\nis still" for i in range(5)]
            (tmp_path / label / name).write_text("\n---\n".join(poems), "utf-8")
    config = config_of(task="generation", data__sources=[str(tmp_path)], data__separator="---")
    data, _ = read_through(config)
    assert sum(map(len, data.splits.values())) == 20
    assert sorted(data.vocabularies["label"].symbols) == ["hill", "sea"]
