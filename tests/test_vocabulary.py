"""Text to ids and back, by character and by byte."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.errors import CheckpointError, DataError
from charrnn.vocabulary import ByteVocabulary, CharacterVocabulary, id_type, read_vocabulary

PROPERTY = settings(deadline=None, derandomize=True, max_examples=80)
any_text = st.text(st.integers(0, 0x10FFFF).map(chr) | st.sampled_from("aé\n\0😀\ud800\udfff"))
clean_text = st.text()


def vocabulary_of(text: str) -> CharacterVocabulary:
    return CharacterVocabulary(sorted(set(text)))


@PROPERTY
@given(any_text)
def test_any_text_survives_characters(text: str) -> None:
    vocabulary = vocabulary_of(text)
    ids = vocabulary.encode(text)
    assert len(ids) == len(text)
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode(ids.tolist()) == text
    assert not vocabulary.unknown_characters(text)


@PROPERTY
@given(any_text, st.data())
def test_any_ids_survive_characters(text: str, data: st.DataObject) -> None:
    vocabulary = vocabulary_of(text + "a")
    ids = data.draw(st.lists(st.integers(0, vocabulary.size - 1)))
    assert vocabulary.encode(vocabulary.decode(ids)).tolist() == ids


@PROPERTY
@given(clean_text)
def test_any_text_survives_bytes(text: str) -> None:
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode(text)
    assert ids.tobytes() == text.encode("utf-8")
    assert ids.dtype == np.uint8
    assert vocabulary.decode(ids) == text


@PROPERTY
@given(st.binary())
def test_any_bytes_survive_decoding(raw: bytes) -> None:
    vocabulary = ByteVocabulary()
    assert vocabulary.encode(vocabulary.decode(raw)).tobytes() == raw


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize(
    "vocabulary", [vocabulary_of("Abé"), ByteVocabulary()], ids=lambda v: v.kind
)
def test_decode_takes_ids_of_any_integer_type(
    vocabulary: CharacterVocabulary | ByteVocabulary, dtype: type
) -> None:
    ids = vocabulary.encode("Abé")
    assert vocabulary.decode(ids.astype(dtype)) == "Abé"
    assert vocabulary.decode(ids.tolist()) == "Abé"
    assert vocabulary.decode(iter(ids.astype(dtype))) == "Abé"


def test_ids_follow_the_code_points() -> None:
    vocabulary = vocabulary_of("zebra\n😀é")
    assert vocabulary.symbols == ("\n", "a", "b", "e", "r", "z", "é", "😀")
    assert vocabulary.encode("\nz😀").tolist() == [0, 5, 7]
    assert vocabulary.size == 8


@pytest.mark.parametrize("symbols", ["aa", ["ab"], ["a", ""], ["a", "bc", "d"]], ids=str)
def test_symbols_are_distinct_single_characters(symbols: Any) -> None:
    with pytest.raises(ValueError, match="distinct single characters"):
        CharacterVocabulary(symbols)


@pytest.mark.parametrize(
    ("size", "name"),
    [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")],
)
def test_ids_have_the_smallest_type_that_holds_them(size: int, name: str) -> None:
    assert id_type(size).name == name


@pytest.mark.parametrize(("size", "name"), [(256, "uint8"), (257, "uint16")])
def test_encoded_ids_are_exact_at_the_border_of_a_type(size: int, name: str) -> None:
    vocabulary = CharacterVocabulary(chr(0x4E00 + i) for i in range(size))
    ids = vocabulary.encode("".join(vocabulary.symbols))
    assert ids.dtype.name == name
    assert ids.tolist() == list(range(size))
    assert vocabulary.encode(chr(0x4E00 + size), "skip").tolist() == []


def test_unknown_characters_are_named_with_counts_and_the_remedy() -> None:
    with pytest.raises(DataError) as caught:
        vocabulary_of("abc").encode("aéb\u200bcéé😀")
    message = str(caught.value)
    assert "vocabulary of 3 characters" in message
    assert "U+00E9 'é' (3 times)" in message
    assert "U+200B '\\u200b'" in message
    assert "U+1F600 '😀'" in message
    assert message.index("U+00E9") < message.index("U+200B") < message.index("U+1F600")
    assert message.count("times") == 1
    assert "--unknown skip" in message
    assert caught.value.exit_code == 3


def test_many_unknown_characters_are_counted_rather_than_listed() -> None:
    with pytest.raises(DataError, match="and 12 more") as caught:
        vocabulary_of("a").encode("bcdefghijklmnopqrstu")
    assert str(caught.value).count("U+") == 8


def test_unknown_lone_surrogate_can_be_printed() -> None:
    with pytest.raises(DataError, match=r"U\+D800") as caught:
        vocabulary_of("a").encode("\ud800")
    assert str(caught.value).isascii()


def test_unknown_characters_are_never_taken_for_an_id() -> None:
    vocabulary = vocabulary_of("bd")
    assert vocabulary.unknown_characters("abcde\U0010ffffa") == {
        "a": 2,
        "c": 1,
        "e": 1,
        "\U0010ffff": 1,
    }
    assert vocabulary.encode("abcde\U0010ffffa", "skip").tolist() == [0, 1]


@PROPERTY
@given(any_text, any_text)
def test_skip_leaves_out_exactly_the_unknown(known: str, text: str) -> None:
    vocabulary = vocabulary_of(known)
    kept = "".join(character for character in text if character in known)
    assert vocabulary.decode(vocabulary.encode(text, "skip")) == kept
    assert vocabulary.unknown_characters(text).total() == len(text) - len(kept)


def test_bytes_know_every_text_but_a_surrogate_that_stands_for_no_byte() -> None:
    vocabulary = ByteVocabulary()
    assert not vocabulary.unknown_characters("é😀")
    assert vocabulary.encode("\udc80").tolist() == [0x80]
    with pytest.raises(DataError, match=r"U\+D800"):
        vocabulary.encode("a\ud800b")


def test_character_stream_gives_each_character() -> None:
    vocabulary = vocabulary_of("né😀")
    stream = vocabulary.stream()
    assert [stream.feed(int(i)) for i in vocabulary.encode("😀né")] == ["😀", "n", "é"]
    assert stream.finish() == ""


def test_byte_stream_holds_a_character_back_until_it_is_whole() -> None:
    stream = ByteVocabulary().stream()
    assert [stream.feed(b) for b in "aé😀".encode()] == ["a", "", "é", "", "", "", "😀"]
    assert stream.finish() == ""


def test_byte_stream_shows_an_incomplete_character() -> None:
    stream = ByteVocabulary().stream()
    assert [stream.feed(b) for b in "😀".encode()[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"


def test_byte_stream_shows_bad_bytes_and_goes_on() -> None:
    stream = ByteVocabulary().stream()
    assert "".join(stream.feed(b) for b in b"a\xff\xc3b") + stream.finish() == "a\ufffd\ufffdb"


@PROPERTY
@given(st.binary() | clean_text.map(lambda text: text.encode("utf-8")))
def test_byte_stream_is_the_whole_decoded_at_once(raw: bytes) -> None:
    stream = ByteVocabulary().stream()
    text = "".join([stream.feed(b) for b in raw]) + stream.finish()
    assert text == raw.decode("utf-8", "replace")


def test_streams_are_independent() -> None:
    vocabulary = ByteVocabulary()
    first, second = vocabulary.stream(), vocabulary.stream()
    assert first.feed(0xC3) == ""
    assert second.feed(0x61) == "a"
    assert first.feed(0xA9) == "é"


def test_byte_lengths() -> None:
    assert vocabulary_of("aé€😀").byte_lengths().tolist() == [1, 2, 3, 4]
    assert ByteVocabulary().byte_lengths().tolist() == [1] * 256


@PROPERTY
@given(clean_text)
def test_byte_lengths_sum_to_the_size_of_the_text(text: str) -> None:
    for vocabulary in (vocabulary_of(text), ByteVocabulary()):
        lengths = vocabulary.byte_lengths()
        assert lengths[vocabulary.encode(text)].sum() == len(text.encode("utf-8"))


@PROPERTY
@given(clean_text.filter(bool))
def test_a_character_vocabulary_survives_json(text: str) -> None:
    vocabulary = vocabulary_of(text)
    restored = read_vocabulary(json.loads(json.dumps(vocabulary.to_data())))
    assert isinstance(restored, CharacterVocabulary)
    assert restored.symbols == vocabulary.symbols
    assert np.array_equal(restored.encode(text), vocabulary.encode(text))


def test_a_byte_vocabulary_survives_json() -> None:
    restored = read_vocabulary(json.loads(json.dumps(ByteVocabulary().to_data())))
    assert isinstance(restored, ByteVocabulary)


@pytest.mark.parametrize(
    "junk",
    [
        None,
        3,
        "character",
        [],
        {},
        {"kind": "word"},
        {"kind": "character"},
        {"kind": "character", "symbols": ""},
        {"kind": "character", "symbols": "aba"},
        {"kind": "character", "symbols": ["a", "b"]},
        {"kind": "character", "symbols": 5},
        {"kind": ["byte"]},
        {"symbols": "abc"},
    ],
    ids=str,
)
def test_junk_is_no_vocabulary(junk: Any) -> None:
    with pytest.raises(CheckpointError, match="vocabulary"):
        read_vocabulary(junk)
