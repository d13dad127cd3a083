"""From bytes to ids: decoding, the cache and its key, the splits."""

import codecs
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.data import sources as sources_module
from charrnn.data.cache import Scratch
from charrnn.data.corpus import Corpus, Span, corpus_of_text, load_corpus, read_text, split_corpus
from charrnn.data.id_cache import CachedIds, IdFile
from charrnn.data.sources import Document, Sources, find_sources
from charrnn.data.vocabulary import ByteVocabulary, CharacterVocabulary, WordVocabulary
from charrnn.errors import ConfigError, DataError, StorageError

FAMILY = "👩\u200d👩\u200d👧\u200d👦"
TEXTS = {
    "letters": "hello world, here we are\n" * 4,
    "line endings": "one\r\ntwo\nthree\rfour\r\n\n\r",
    "NUL bytes": "a\0b\0\0c",
    "one symbol": "a" * 50,
    "emoji with joiners": FAMILY * 3 + "e\u0301",
    "beyond the first plane": "\U00010348\U0010ffff\ue000 x" * 3,
    "a byte order mark inside": "abc\ufeffdef",
    "controls": "".join(map(chr, range(160))),
    "300 symbols": "".join(map(chr, range(0x4E00, 0x4E00 + 300))),
    "three characters": "abc",
}


def sources_of(folder: Path, *texts: str | bytes, name: str = "text") -> Sources:
    paths = []
    for i, text in enumerate(texts):
        paths.append(folder / f"{name}-{i}.txt")
        paths[-1].write_bytes(text.encode() if isinstance(text, str) else text)
    return find_sources([str(path) for path in paths])


def whole_text(corpus: Corpus) -> str:
    return corpus.vocabulary.decode(corpus.ids)


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "ids").glob("*"))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_ids_are_the_text(tmp_path: Path, text: str) -> None:
    corpus = load_corpus(sources_of(tmp_path, text))
    assert whole_text(corpus) == text
    assert corpus.vocabulary.symbols == tuple(sorted(set(text)))
    assert corpus.vocabulary.encode(text).tolist() == corpus.ids.tolist()
    assert read_text(sources_of(tmp_path, text)) == text


@pytest.mark.parametrize(
    ("symbols", "name"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65_537, "uint32")]
)
def test_ids_take_the_smallest_type(tmp_path: Path, symbols: int, name: str) -> None:
    points = [p for p in range(0xD800 + symbols) if not 0xD800 <= p < 0xE000]
    text = "".join(map(chr, points[:symbols])) * 3
    corpus = load_corpus(sources_of(tmp_path, text))
    assert corpus.ids.dtype.name == name
    assert whole_text(corpus) == text


@settings(deadline=None, max_examples=50)
@given(text=st.text(st.characters(codec="utf-8"), min_size=1), chunk=st.integers(1, 9))
def test_any_text_read_in_any_chunks(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "a"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources_module, "CHUNK", chunk)
        assert read_text(find_sources([str(path)])) == text.removeprefix("\ufeff")


BOM = codecs.BOM_UTF8.decode()


@pytest.mark.parametrize("chunk", [1, 2, 1 << 20])
def test_a_byte_order_mark_is_stripped_once_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(sources_module, "CHUNK", chunk)
    corpus = load_corpus(sources_of(tmp_path, BOM + BOM + "ab", BOM + "cd" + BOM, "ef"))
    assert whole_text(corpus) == BOM + "abcd" + BOM + "ef"
    assert corpus.document_starts.tolist() == [0, 3, 6]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "gbk"])
@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_other_encodings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, chunk: int
) -> None:
    text = "中文你好\r\n" if encoding == "gbk" else "naïve café\r\n"
    monkeypatch.setattr(sources_module, "CHUNK", chunk)
    sources = sources_of(tmp_path, text.encode(encoding))
    assert whole_text(load_corpus(sources, encoding=encoding)) == text


BAD = {
    "at the start": (b"\xffabc", "utf-8", "byte 0xff at offset 0"),
    "in the first chunk": (b"a\xffbcdef", "utf-8", "byte 0xff at offset 1"),
    "at the chunk's edge": (b"abc\xffdef", "utf-8", "byte 0xff at offset 3"),
    "in a later chunk": (b"abcdefghi\xfe", "utf-8", "byte 0xfe at offset 9"),
    "after a straddling character": (b"abc\xc3\xa9d\xff", "utf-8", "byte 0xff at offset 6"),
    "a straddling half": (b"abc\xc3(", "utf-8", "byte 0xc3 at offset 3"),
    "a straddling three quarters": (b"ab\xf0\x9f\x98(", "utf-8", "byte 0xf0 at offset 2"),
    "cut off at the end": (b"abcd\xe2\x98", "utf-8", "byte 0xe2 at offset 4"),
    "an encoded surrogate": (b"abcd\xed\xa0\x80", "utf-8", "byte 0xed at offset 4"),
    "half a unit": ("abc".encode("utf-16-le") + b"d", "utf-16-le", "byte 0x64 at offset 6"),
    "not ASCII": (b"abcdef\xe9", "ascii", "byte 0xe9 at offset 6"),
    "not GBK": ("你好".encode("gbk") + b"ab\xff", "gbk", "byte 0xff at offset 6"),
}


@pytest.mark.parametrize(("content", "encoding", "expected"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
def test_bad_bytes_are_named_by_file_and_offset(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    content: bytes,
    encoding: str,
    expected: str,
    chunk: int,
) -> None:
    monkeypatch.setattr(sources_module, "CHUNK", chunk)
    sources = sources_of(tmp_path, b"fine", content)
    with pytest.raises(DataError) as caught:
        load_corpus(sources, encoding=encoding)
    assert f"{tmp_path / 'text-1.txt'} is not {encoding}: {expected};" in str(caught.value)
    assert "data.errors to replace" in str(caught.value)
    assert entries(cache) == []


def test_a_bad_byte_after_the_first_mebibyte(tmp_path: Path) -> None:
    content = b"a" * ((1 << 20) - 1) + "é".encode() + b"b" * 9 + b"\xff"
    with pytest.raises(DataError, match=r"byte 0xff at offset 1,048,586"):
        load_corpus(sources_of(tmp_path, content))


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("replace", "a\ufffdbcd"),
        ("ignore", "abcd"),
        ("backslashreplace", "a\\xffbcd"),
        ("surrogateescape", "a\udcffbcd"),
    ],
)
def test_error_handling(tmp_path: Path, errors: str, expected: str) -> None:
    corpus = load_corpus(sources_of(tmp_path, b"a\xffbcd"), errors=errors)
    assert whole_text(corpus) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "utf-9"},
        {"encoding": "hex"},
        {"encoding": "a\0b"},
        {"errors": "shrug"},
        {"errors": "xmlcharrefreplace"},
    ],
)
def test_unknown_encodings_and_error_handling(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="unknown"):
        load_corpus(sources_of(tmp_path, b"ab\xffc"), **options)


def test_the_cache_is_hit(tmp_path: Path, cache: Path) -> None:
    first = load_corpus(sources_of(tmp_path, TEXTS["letters"]))
    (entry,) = (cache / "ids").iterdir()
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in entry.iterdir()}
    second = load_corpus(sources_of(tmp_path, TEXTS["letters"]))
    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in entry.iterdir()}
    assert before == after
    assert first.key == second.key == entry.name
    assert first.sha256 == second.sha256


def test_the_cache_goes_by_content_not_by_name(tmp_path: Path, cache: Path) -> None:
    load_corpus(sources_of(tmp_path, "some text", name="a"))
    load_corpus(sources_of(tmp_path, "some text", name="b"))
    assert len(entries(cache)) == 1


def test_an_edited_text_has_other_ids(tmp_path: Path) -> None:
    before = load_corpus(sources_of(tmp_path, "some text"))
    after = load_corpus(sources_of(tmp_path, "same text"))
    assert before.key != after.key
    assert whole_text(before) == "some text"
    assert whole_text(after) == "same text"


def test_everything_that_changes_the_ids_is_in_the_key(tmp_path: Path, cache: Path) -> None:
    one = sources_of(tmp_path, "abcabc")
    abcd, abcx = CharacterVocabulary("abcd"), CharacterVocabulary("abcx")
    keys = [
        load_corpus(one).key,
        load_corpus(one, encoding="latin-1").key,
        load_corpus(one, errors="replace").key,
        load_corpus(one, vocabulary="byte").key,
        load_corpus(one, vocabulary=abcd).key,
        load_corpus(one, vocabulary=abcx).key,
        load_corpus(one, vocabulary=abcd, unknown="skip").key,
        load_corpus(sources_of(tmp_path, "abc", "abc", name="halves")).key,
        load_corpus(sources_of(tmp_path, "abca", "bc", name="others")).key,
        load_corpus(
            sources_of(tmp_path, "abc", name="train"), sources_of(tmp_path, "abc", name="check")
        ).key,
    ]
    assert len(set(keys[:9])) == 9
    assert entries(cache) == sorted(set(keys))
    assert load_corpus(one, fractions=(0.5, 0.5)).key == keys[0]


DAMAGE: dict[str, dict[str, Any]] = {
    "ids too short": {"ids": b"\0"},
    "ids too long": {"ids": b"\0" * 1000},
    "no ids": {"ids": None},
    "no description": {"about": None},
    "an empty description": {"about": b""},
    "a description that is no JSON": {"about": b"{nonsense"},
    "a description that is not UTF-8": {"about": b"\xff\xfe"},
    "a description that is a list": {"about": b"[]"},
    "an unknown type": {"change": {"dtype": "no type"}},
    "an object type": {"change": {"dtype": "object"}},
    "no such count": {"change": {"count": -1}},
    "a count that is a text": {"change": {"count": "8"}},
    "no vocabulary": {"change": {"vocabulary": None}},
    "another vocabulary": {"change": {"vocabulary": {"kind": "word"}}},
    "no part ends": {"drop": "part_ends"},
    "no document starts": {"drop": "document_starts"},
    "no checksum": {"drop": "sha256"},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, cache: Path, damage: dict[str, Any]) -> None:
    sources = sources_of(tmp_path, TEXTS["letters"])
    whole = load_corpus(sources)
    (entry,) = (cache / "ids").iterdir()
    good = (entry / "about.json").read_bytes()
    about = json.loads(good) | damage.get("change", {})
    about.pop(damage.get("drop"), None)
    bad = damage.get("about", json.dumps(about).encode())
    # Deleted first: `whole` still reads the old file.
    for name, content in (("about.json", bad), ("ids.bin", damage.get("ids", whole.ids.tobytes()))):
        (entry / name).unlink()
        if content is not None:
            (entry / name).write_bytes(content)
    again = load_corpus(sources)
    assert whole_text(again) == TEXTS["letters"]
    assert (entry / "about.json").read_bytes() == good
    assert entries(cache) == [again.key]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = sources_of(tmp_path, "some text")
    monkeypatch.setenv("CHARRNN_CACHE_DIR", str(tmp_path / "text-0.txt" / "below"))
    with pytest.raises(StorageError, match=r"cannot write the id cache .*CHARRNN_CACHE_DIR"):
        load_corpus(sources)


def test_a_full_disk(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device; it needs up to 9 bytes"):
        load_corpus(sources_of(tmp_path, "some text"))
    assert entries(cache) == []


class Watched(Document):
    """A document that calls a function when it has been read `after` times."""

    after = 0

    def chunks(self) -> Iterator[bytes]:
        yield from super().chunks()
        type(self).after -= 1
        if type(self).after == 0:
            self.happen()

    def happen(self) -> None:
        raise NotImplementedError


def watched(sources: Sources, kind: type[Watched]) -> Sources:
    return replace(sources, documents=[kind(d.name, d.path) for d in sources.documents])


def test_a_cached_text_is_read_once_for_its_checksum(tmp_path: Path) -> None:
    class Counted(Watched):
        after = 0

    sources = watched(sources_of(tmp_path, "some text"), Counted)
    load_corpus(sources)
    assert Counted.after == -4
    load_corpus(sources)
    assert Counted.after == -5


@pytest.mark.parametrize("reads", [1, 2, 3])
@pytest.mark.parametrize("change", [b"abcabcab", b"abcdefgh", b"abcabcabcabc", b"", b"\xff"])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, cache: Path, reads: int, change: bytes
) -> None:
    class Changing(Watched):
        after = reads

        def happen(self) -> None:
            self.path.write_bytes(change)

    with pytest.raises(DataError):
        load_corpus(watched(sources_of(tmp_path, "abcabcac"), Changing))
    assert entries(cache) == []


def test_an_entry_that_another_process_finished_first_is_kept(tmp_path: Path, cache: Path) -> None:
    sources = sources_of(tmp_path, "some text")
    inodes = []

    class Overtaken(Watched):
        after = 3

        def happen(self) -> None:
            inodes.append(inode(load_corpus(sources)))

    def inode(corpus: Corpus) -> int:
        return (cache / "ids" / corpus.key / "ids.bin").stat().st_ino

    corpus = load_corpus(watched(sources, Overtaken))
    assert whole_text(corpus) == "some text"
    assert [inode(corpus)] == inodes
    assert entries(cache) == [corpus.key]


def test_processes_that_build_the_same_entry_at_once(tmp_path: Path, cache: Path) -> None:
    text = "the quick brown fox\n" * 20_000
    (tmp_path / "a.txt").write_text(text)
    program = (
        "import sys\n"
        "from charrnn.data.corpus import load_corpus\n"
        "from charrnn.data.sources import find_sources\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "corpus = load_corpus(find_sources([sys.argv[1]]))\n"
        "print(len(corpus.ids), int(corpus.ids.astype('int64').sum()))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "a.txt")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=30) for process in processes]
    corpus = load_corpus(find_sources([str(tmp_path / "a.txt")]))
    expected = f"{len(text)} {int(corpus.ids.astype(np.int64).sum())}\n"
    assert results == [(expected, "")] * 3
    assert entries(cache) == [corpus.key]


def cached(*part_ends: int) -> CachedIds:
    ids = np.zeros(part_ends[-1], np.uint8)
    starts = np.zeros(1, np.int64)
    return CachedIds(ids, CharacterVocabulary("a"), starts, list(part_ends), "", "")


@pytest.mark.parametrize(
    ("length", "fractions", "lengths"),
    [
        (1_115_394, (0.9, 0.1), [1_003_854, 111_540]),
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),
        (1000, (0.7, 0.2, 0.1), [700, 200, 100]),
        (10**12, (0.7, 0.2, 0.1), [7 * 10**11, 2 * 10**11, 10**11]),
        (10, (0.8, 0.1, 0.1), [8, 1, 1]),
        (100, (0.29, 0.71), [29, 71]),
        (3, (0.9, 0.1), [2, 1]),
        (19, (0.9, 0.1), [17, 2]),
    ],
)
def test_the_split_by_position_is_exact(
    length: int, fractions: tuple[float, ...], lengths: list[int]
) -> None:
    entry = replace(cached(1), part_ends=[length])
    splits = split_corpus(entry, fractions, False, False).splits
    assert [len(span) for span in splits.values()] == lengths
    assert list(splits) == ["train", "validation", "test"][: len(lengths)]
    stops = np.cumsum(lengths).tolist()
    assert [span.stop for span in splits.values()] == stops
    assert [span.start for span in splits.values()] == [0, *stops[:-1]]
    assert [span.has_context for span in splits.values()] == [False, True, True][: len(lengths)]


def test_separate_files(tmp_path: Path) -> None:
    main = sources_of(tmp_path, "abcab", "cabca", name="main")
    validation = sources_of(tmp_path, "xy", "z", name="validation")
    test = sources_of(tmp_path, "bye", name="test")
    corpus = load_corpus(main, validation, test)
    assert whole_text(corpus) == "abcabcabcaxyzbye"
    assert corpus.splits == {
        "train": Span(0, 10, False),
        "validation": Span(10, 13, False),
        "test": Span(13, 16, False),
    }
    assert corpus.document_starts.tolist() == [0, 5, 10, 12, 13]
    assert corpus.vocabulary.symbols == tuple("abcexyz")


def test_a_separate_test_file_leaves_the_fractions_alone(tmp_path: Path) -> None:
    main = sources_of(tmp_path, "abcde" * 2, name="main")
    corpus = load_corpus(main, test=sources_of(tmp_path, "xyz", name="test"))
    assert corpus.splits == {
        "train": Span(0, 9, False),
        "validation": Span(9, 10, True),
        "test": Span(10, 13, False),
    }


def test_documents_with_nothing_in_them(tmp_path: Path) -> None:
    corpus = load_corpus(sources_of(tmp_path, "", "abc", "", "de", ""))
    assert whole_text(corpus) == "abcde"
    assert corpus.document_starts.tolist() == [0, 0, 3, 3, 5]


@pytest.mark.parametrize("vocabulary", ["character", "byte", "word"])
@pytest.mark.parametrize("texts", [[""], ["", ""], ["a"], ["ab"]])
def test_texts_that_are_too_short(
    tmp_path: Path, cache: Path, texts: list[str], vocabulary: Any
) -> None:
    with pytest.raises(DataError, match=r"is empty|longer text"):
        load_corpus(sources_of(tmp_path, *texts), vocabulary=vocabulary)


@pytest.mark.parametrize("role", ["main", "validation", "test"])
def test_a_separate_file_that_is_empty(tmp_path: Path, role: str) -> None:
    texts = {"main": "abcdef", "validation": "abc", "test": "abc"} | {role: ""}
    parts = {name: sources_of(tmp_path, text, name=name) for name, text in texts.items()}
    with pytest.raises(DataError):
        load_corpus(**parts)


def test_bytes_are_read_as_they_are(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + bytes(range(256)) * 3
    corpus = load_corpus(sources_of(tmp_path, content), vocabulary="byte", encoding="ascii")
    assert bytes(corpus.ids) == content
    assert corpus.ids.dtype == np.uint8
    assert corpus.vocabulary.size == 256
    span = corpus.splits["validation"]
    assert corpus.byte_count(span) == len(span)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_byte_count(tmp_path: Path, text: str) -> None:
    corpus = load_corpus(sources_of(tmp_path, text))
    whole = Span(0, len(text), False)
    assert corpus.byte_count(whole) == len(text.encode())
    tail = Span(1, len(text) - 1, True)
    assert corpus.byte_count(tail) == len(text[1:-1].encode())


def test_byte_count_of_a_long_text() -> None:
    text = "é" * (1 << 22) + "ab☃"
    corpus = corpus_of_text(text, CharacterVocabulary("abé☃"))
    assert corpus.byte_count(corpus.splits["text"]) == (1 << 23) + 5


@pytest.mark.parametrize("chunk", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        "To be, or not\nto  be: don't ask \n\nthat is the <unk>.\r\n",
        " begins and ends ",
        "no.white.space,at_all",
        "caf\u00e9 cafe\u0301 \U0001f600\u2019s\xa0x",
    ],
)
def test_no_chunk_cuts_a_word(
    tmp_path: Path, text: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "CHUNK", chunk)
    corpus = load_corpus(sources_of(tmp_path, text), vocabulary="word", fractions=(1.0,))
    vocabulary = WordVocabulary.of([text])
    assert corpus.vocabulary.symbols == vocabulary.symbols
    assert np.array_equal(corpus.ids, vocabulary.encode(text))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.text(" a'\n,<unk>\u0301", min_size=1), st.integers(1, 7))
def test_words_read_in_any_chunks(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk: int
) -> None:
    sources = sources_of(tmp_path_factory.mktemp("words"), f"a\n{text}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources_module, "CHUNK", chunk)
        corpus = load_corpus(sources, vocabulary="word", fractions=(1.0,))
    assert np.array_equal(corpus.ids, WordVocabulary.of([f"a\n{text}"]).encode(f"a\n{text}"))


def test_rare_words_are_unknown_in_every_split(tmp_path: Path) -> None:
    main, validation = sources_of(tmp_path, "a cat a dog"), sources_of(tmp_path, "a cat", name="v")
    kept = load_corpus(main, validation, vocabulary="word", minimum_count=2)
    assert kept.vocabulary.symbols == (" cat", "a", "<unk>")
    assert kept.ids.tolist() == [1, 0, 2, 2, 1, 0]
    assert kept.byte_count(kept.splits["train"]) == len("a cat")  # Nothing for what is unknown.
    every = load_corpus(main, validation, vocabulary="word")  # The count is in the cache's key.
    assert (every.vocabulary.size, every.byte_count(every.splits["train"])) == (5, 11)


@pytest.mark.shared_data
def test_words_of_tiny_shakespeare_by_position(shared_data: Path) -> None:
    sources = find_sources([str(shared_data / "tinyshakespeare.txt")])
    corpus = load_corpus(sources, vocabulary="word", minimum_count=2)
    assert [len(span) for span in corpus.splits.values()] == [264_249, 29_362]
    assert corpus.vocabulary.size == 8_089


def test_a_given_vocabulary_is_kept(tmp_path: Path) -> None:
    vocabulary = CharacterVocabulary("zyxcba")
    corpus = load_corpus(sources_of(tmp_path, "abcabc"), vocabulary=vocabulary)
    assert corpus.vocabulary.symbols == tuple("zyxcba")
    assert corpus.ids.tolist() == [5, 4, 3, 5, 4, 3]


def test_unknown_characters_are_an_error(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"U\+00E9 'é' \(2 times\).*set data\.unknown to skip"):
        load_corpus(sources_of(tmp_path, "abcébé"), vocabulary=CharacterVocabulary("abc"))
    assert entries(cache) == []


def test_unknown_characters_are_left_out(tmp_path: Path) -> None:
    corpus = load_corpus(
        sources_of(tmp_path, "aéb", "☃c", "\U0010ffffab"),
        vocabulary=CharacterVocabulary("abc"),
        unknown="skip",
    )
    assert whole_text(corpus) == "abcab"
    assert corpus.document_starts.tolist() == [0, 2, 3]


def test_nothing_but_unknown_characters(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        load_corpus(
            sources_of(tmp_path, "xyz"), vocabulary=CharacterVocabulary("abc"), unknown="skip"
        )


def test_a_text_in_memory() -> None:
    corpus = corpus_of_text("abca", CharacterVocabulary("abc"))
    assert corpus.splits == {"text": Span(0, 4, False)}
    assert corpus.ids.tolist() == [0, 1, 2, 0]
    assert corpus_of_text("é", ByteVocabulary()).ids.tolist() == [0xC3, 0xA9]
    with pytest.raises(DataError):
        corpus_of_text("x", CharacterVocabulary("abc"))
    assert len(corpus_of_text("axb", CharacterVocabulary("abc"), "skip").ids) == 2


def test_the_ids_outlive_their_cache(tmp_path: Path, cache: Path) -> None:
    corpus = load_corpus(sources_of(tmp_path, TEXTS["letters"]))
    shutil.rmtree(cache / "ids")
    assert whole_text(corpus) == TEXTS["letters"]


def test_ids_of_a_long_text_stay_in_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(map(chr, range(300, 700))) * 5
    whole = load_corpus(sources_of(tmp_path, text)).ids
    monkeypatch.setattr("charrnn.data.id_cache.IN_MEMORY", 100)
    corpus = load_corpus(sources_of(tmp_path, text))
    ids = corpus.ids
    assert isinstance(whole, np.ndarray)
    assert isinstance(ids, IdFile)
    assert len(ids) == len(whole) == 2000
    assert ids[1999] == whole[1999]
    for piece in (slice(0, 0), slice(5, 9), slice(1990, 3000), slice(None)):
        assert ids[piece].tolist() == whole[piece].tolist()
        assert ids[piece].dtype == whole.dtype
    rows = np.clip(np.array([[0], [700], [1980]]) + np.arange(40), 0, 1999)
    assert ids[rows].tolist() == whole[rows].tolist()
    assert corpus.byte_count(corpus.splits["train"]) == 2 * len(corpus.splits["train"])


def test_a_cache_that_shrinks_while_it_is_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr("charrnn.data.id_cache.IN_MEMORY", 0)
    corpus = load_corpus(sources_of(tmp_path, "ab" * 5000))
    (file,) = cache.glob("ids/*/ids.bin")
    os.truncate(file, 4000)
    assert len(corpus.ids[:4000]) == 4000
    with pytest.raises(DataError, match="became shorter while it was read; resume the run"):
        corpus.ids[np.array([[3998, 3999, 4000]])]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "scratch-left"
    left.mkdir()
    (left / "text").write_text("half")
    mine = Scratch(tmp_path)
    (mine.path / "text").write_text("mine")
    other = Scratch(tmp_path)
    assert not left.exists()
    assert (mine.path / "text").read_text() == "mine"
    mine.discard()
    other.discard()
    assert list(tmp_path.iterdir()) == []
