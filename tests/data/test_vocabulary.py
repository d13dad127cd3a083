"""Text to ids and back, by character, by byte and by word; tokens to ids and back."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.data.vocabulary import (
    END,
    MOST_TOKENS,
    SPECIALS,
    START,
    UNKNOWN,
    ByteVocabulary,
    CharacterVocabulary,
    TokenVocabulary,
    WordVocabulary,
    id_type,
    name_tokens,
    read_tokens,
    read_vocabulary,
    split_words,
)
from charrnn.data.vocabulary import vocabulary_of as made_for_others
from charrnn.errors import CheckpointError, DataError

PROPERTY = settings(deadline=None, derandomize=True, max_examples=80)
any_text = st.text(st.integers(0, 0x10FFFF).map(chr) | st.sampled_from("aé\n\0😀\ud800\udfff"))
clean_text = st.text()


def vocabulary_of(text: str) -> CharacterVocabulary:
    return CharacterVocabulary(sorted(set(text)))


def tokens_of(text: str) -> list[str]:
    return text.split()


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
    assert "set data.unknown to skip" in message
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
        {"kind": "character", "symbols": "ab", "specials": "<unk>"},
        {"kind": "character", "symbols": "ab", "specials": ["<unk>", "<unk>"]},
        {"kind": "character", "symbols": "ab", "specials": ["<pad>"]},
        {"kind": "character", "symbols": "ab", "specials": [["<unk>"]]},
        {"kind": "character", "symbols": "ab", "specials": None},
        {"kind": "token", "symbols": ["a"], "specials": []},
        {"kind": "word", "symbols": "ab"},
        {"kind": "word", "symbols": []},
        {"kind": "word", "symbols": ["a", "a"]},
        {"kind": "word", "symbols": ["a", 5]},
        {"kind": "word", "symbols": ["a b"]},
        {"kind": "word", "symbols": ["<unk>"]},
        {"kind": "word", "symbols": ["a"], "specials": ["<s>", "</s>"]},
        {"kind": "byte", "specials": ["<unk>"]},
        {"kind": "byte", "specials": ["<s>", "<s>"]},
    ],
    ids=str,
)
def test_junk_is_no_vocabulary(junk: Any) -> None:
    with pytest.raises(CheckpointError, match="vocabulary"):
        read_vocabulary(junk)


def test_characters_with_special_symbols_read_any_text() -> None:
    vocabulary = CharacterVocabulary("abc", SPECIALS)
    assert (vocabulary.unknown, vocabulary.start, vocabulary.end) == (3, 4, 5)
    assert vocabulary.size == 6
    assert vocabulary.symbols == ("a", "b", "c", "<unk>", "<s>", "</s>")
    assert vocabulary.encode("cab\U0010ffffé").tolist() == [2, 0, 1, 3, 3]
    assert vocabulary.encode("caéb", "skip").tolist() == [2, 0, 1]
    assert vocabulary.unknown_characters("aéé") == {"é": 2}


@pytest.mark.parametrize("kind", ["character", "byte", "word"])
def test_ends_are_symbols_of_every_kind_and_stand_for_no_text(kind: Any) -> None:
    text = "né à pied\n<s>"
    plain = made_for_others(kind, [text])
    vocabulary = made_for_others(kind, [text], ends=[START, END])
    assert vocabulary.size == plain.size + 2
    assert (vocabulary.start, vocabulary.end) == (plain.size, plain.size + 1)
    assert (plain.start, plain.end) == (None, None)
    ids = vocabulary.encode(text)
    assert np.array_equal(ids, plain.encode(text))
    within = [vocabulary.start, *ids, vocabulary.end]
    assert vocabulary.decode(within) == text
    stream = vocabulary.stream()
    assert "".join(map(stream.feed, within)) + stream.finish() == text
    lengths = vocabulary.byte_lengths()
    assert len(lengths) == vocabulary.size
    assert lengths[within].sum() == len(text.encode())
    restored = read_vocabulary(json.loads(json.dumps(vocabulary.to_data())))
    assert (restored.symbols, restored.end) == (vocabulary.symbols, vocabulary.end)
    assert "specials" not in made_for_others("word", [text]).to_data()


def test_characters_without_special_symbols_have_none() -> None:
    vocabulary = CharacterVocabulary("abc", [START])
    assert (vocabulary.unknown, vocabulary.start, vocabulary.end) == (None, 3, None)
    with pytest.raises(DataError, match=r"U\+00E9"):
        vocabulary.encode("é")
    assert "specials" not in CharacterVocabulary("abc").to_data()


def test_special_symbols_are_shown_as_no_text_that_was_read() -> None:
    vocabulary = CharacterVocabulary("abc", [END, UNKNOWN])
    assert vocabulary.decode([0, 3, 4, 2]) == "a\ufffdc"
    stream = vocabulary.stream()
    assert [stream.feed(i) for i in (0, 3, 4)] == ["a", "", "\ufffd"]
    assert vocabulary.byte_lengths().tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("name", SPECIALS)
def test_no_text_is_taken_for_a_special_symbol(name: str) -> None:
    characters = CharacterVocabulary.of([name], specials=SPECIALS)
    assert characters.encode(name).max() < characters.size - len(SPECIALS)
    tokens = TokenVocabulary.of(["a", name, name], specials=SPECIALS)
    assert tokens.encode([name]).tolist() == [tokens.unknown]


@pytest.mark.parametrize("specials", [["<pad>"], ["<s>", "<s>"], [""]], ids=str)
def test_special_symbols_are_known_ones(specials: list[str]) -> None:
    for make in (CharacterVocabulary, TokenVocabulary):
        with pytest.raises(ValueError, match="special symbols"):
            make(["a"], specials)


def test_characters_of_texts_that_are_frequent_enough() -> None:
    vocabulary = CharacterVocabulary.of(["zzab", "za", "q"], 2, [UNKNOWN])
    assert vocabulary.symbols == ("a", "z", "<unk>")
    assert vocabulary.encode("zebra").tolist() == [1, 2, 2, 2, 0]
    assert CharacterVocabulary.of(["ba", "c"]).symbols == ("a", "b", "c")
    with pytest.raises(DataError, match="no character occurs 9 times"):
        CharacterVocabulary.of(["abc"], 9)


@PROPERTY
@given(clean_text.filter(bool), st.sets(st.sampled_from(SPECIALS)))
def test_special_symbols_survive_json(text: str, specials: set[str]) -> None:
    vocabulary = CharacterVocabulary.of([text], specials=sorted(specials))
    restored = read_vocabulary(json.loads(json.dumps(vocabulary.to_data())))
    assert isinstance(restored, CharacterVocabulary)
    assert restored.symbols == vocabulary.symbols
    assert restored.specials == vocabulary.specials
    assert restored.decode(restored.encode(text)) == text


def test_tokens_come_by_frequency_and_then_by_spelling() -> None:
    vocabulary = TokenVocabulary.of(tokens_of("NOUN VERB ADJ NOUN DET ADJ NOUN VERB"))
    assert vocabulary.symbols == ("NOUN", "ADJ", "VERB", "DET")
    assert vocabulary.size == 4
    assert vocabulary.encode(["DET", "NOUN"]).tolist() == [3, 0]
    assert vocabulary.encode(["DET"]).dtype == np.uint8
    assert vocabulary.decode([3, 0]) == ["DET", "NOUN"]
    assert vocabulary.encode([]).tolist() == []
    assert TokenVocabulary.of(tokens_of("DET ADJ ADJ NOUN NOUN NOUN VERB VERB")).symbols == (
        vocabulary.symbols
    )


def test_rare_tokens_become_unknown() -> None:
    vocabulary = TokenVocabulary.of(tokens_of("a a a b b c"), 2, [UNKNOWN, START])
    assert vocabulary.symbols == ("a", "b", "<unk>", "<s>")
    assert (vocabulary.unknown, vocabulary.start, vocabulary.end) == (2, 3, None)
    assert vocabulary.encode(["b", "c", "never"]).tolist() == [1, 2, 2]
    assert vocabulary.decode([1, 2, 3]) == ["b", "<unk>", "<s>"]
    assert vocabulary.unknown_tokens(tokens_of("a c d d")) == {"c": 1, "d": 2}


def test_unknown_tokens_are_named_with_counts_and_the_remedy() -> None:
    vocabulary = TokenVocabulary.of(["Dutch", "Irish"])
    with pytest.raises(DataError) as caught:
        vocabulary.encode(["Dutch", "Elvish", "Klingon", "Klingon"])
    message = str(caught.value)
    assert "vocabulary of 2 tokens lacks 'Klingon' (2 times), 'Elvish'; leave" in message


def test_names_of_tokens_are_short_and_can_be_printed() -> None:
    assert name_tokens(Counter({"x" * 100: 1})) == repr("x" * 37 + "...")
    assert name_tokens(Counter(map(str, range(20)))).endswith("and 12 more")
    assert name_tokens(Counter(["\ud800\n"])) == r"'\ud800\n'"


def test_tokens_too_rare_or_too_many_are_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"no token occurs 3 times; .* lower data\.minimum_count"):
        TokenVocabulary.of(["a", "a", "b"], 3)
    with pytest.raises(DataError, match=r"65,537 different tokens .* raise data\.minimum_count"):
        TokenVocabulary.of(map(str, range(MOST_TOKENS + 1)))
    assert TokenVocabulary.of(map(str, range(MOST_TOKENS))).size == MOST_TOKENS


@pytest.mark.parametrize("tokens", [["a", "a"], [""], [], ["<unk>"]], ids=str)
def test_tokens_are_distinct_texts(tokens: list[str]) -> None:
    with pytest.raises(ValueError, match="distinct texts"):
        TokenVocabulary(tokens, [UNKNOWN])


@PROPERTY
@given(st.lists(st.text(min_size=1), min_size=1), st.sets(st.sampled_from(SPECIALS)))
def test_tokens_survive_json(tokens: list[str], specials: set[str]) -> None:
    vocabulary = TokenVocabulary.of(tokens, specials=sorted(specials))
    restored = read_tokens(json.loads(json.dumps(vocabulary.to_data())))
    assert restored.symbols == vocabulary.symbols
    assert restored.specials == vocabulary.specials
    assert restored.decode(restored.encode(tokens)) == tokens


@pytest.mark.parametrize(
    "junk",
    [
        None,
        [],
        {},
        {"kind": "byte"},
        {"kind": "token"},
        {"kind": "token", "symbols": ["a"]},
        {"kind": "token", "symbols": "a", "specials": []},
        {"kind": "token", "symbols": [], "specials": []},
        {"kind": "token", "symbols": [""], "specials": []},
        {"kind": "token", "symbols": ["a", "a"], "specials": []},
        {"kind": "token", "symbols": ["a", None], "specials": []},
        {"kind": "token", "symbols": [["a"]], "specials": []},
        {"kind": "token", "symbols": ["a"], "specials": ["<pad>"]},
        {"kind": "token", "symbols": ["a"], "specials": [{}]},
        {"kind": "token", "symbols": ["<unk>"], "specials": ["<unk>"]},
        {"kind": "token", "symbols": list(map(str, range(MOST_TOKENS + 1))), "specials": []},
    ],
    ids=lambda junk: str(junk)[:70],
)
def test_junk_is_no_vocabulary_of_tokens(junk: Any) -> None:
    with pytest.raises(CheckpointError, match="vocabulary"):
        read_tokens(junk)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("To be, or\n", ["To", " be", ",", " or", "\n"]),
        ("don't 'tis th' o\u2019er", ["don't", " '", "tis", " th", "'", " o\u2019er"]),
        ("a  b\n\n c \n", ["a", " ", " b", "\n", "\n", " c", " ", "\n"]),
        ("x-ray: 3.5%", ["x", "-", "ray", ":", " 3", ".", "5", "%"]),
        ("\tone\r\ntwo\xa0!", ["\t", "one", "\r", "\n", "two", "\xa0", "!"]),
        ("cafe\u0301 e\u0301te\u0301", ["cafe\u0301", " e\u0301te\u0301"]),
        ("the <unk> of <unk>s", ["the", " <unk>", " of", " <unk>", "s"]),
        ("snake_case \U0001f600\U0001f600", ["snake_case", " \U0001f600", "\U0001f600"]),
        ("", []),
        (" ", [" "]),
    ],
)
def test_words_marks_and_white_space(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@PROPERTY
@given(any_text | st.text(" ab'\n,<unk>é\u0301"))
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(split_words(text)) == text


@PROPERTY
@given((any_text | st.text(" ab'\n,é")).filter(bool))
def test_any_text_survives_words(text: str) -> None:
    vocabulary = WordVocabulary.of([text])
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == vocabulary.decode(ids.tolist()) == text
    stream = vocabulary.stream()
    assert "".join([stream.feed(int(i)) for i in ids]) + stream.finish() == text
    lengths = vocabulary.byte_lengths()
    assert lengths[ids].sum() == len(text.encode("utf-8", "surrogatepass"))


def test_rare_words_become_unknown_and_nothing_else_is_lost() -> None:
    vocabulary = WordVocabulary.of(["the cat\nthe dog\n", "the cat ran\n"], 2)
    assert vocabulary.symbols == ("\n", "the", " cat", "<unk>")
    assert vocabulary.unknown == 3
    ids = vocabulary.encode("the bird\nthe cat\n")
    assert ids.tolist() == [1, 3, 0, 1, 2, 0]
    assert vocabulary.decode(ids) == "the <unk>\nthe cat\n"
    assert vocabulary.encode("the bird\n", "skip").tolist() == [1, 0]
    assert vocabulary.byte_lengths().tolist() == [1, 3, 4, 0]
    assert not vocabulary.unknown_characters("bird")


def test_the_unknown_words_of_a_prepared_text_are_unknown() -> None:
    vocabulary = WordVocabulary.of(["the <unk> of <unk>\n<unk>"])
    assert vocabulary.symbols == ("\n", " of", "the", "<unk>")
    assert vocabulary.encode("<unk> <unk>").tolist() == [3, 3]


def test_a_text_of_rare_words_only_is_refused() -> None:
    with pytest.raises(DataError, match=r"lower data\.minimum_count"):
        WordVocabulary.of(["one two three"], 2)
    with pytest.raises(DataError, match="more text"):
        WordVocabulary.of([""])


@PROPERTY
@given(clean_text.filter(bool))
def test_a_word_vocabulary_survives_json(text: str) -> None:
    vocabulary = WordVocabulary.of([text])
    restored = read_vocabulary(json.loads(json.dumps(vocabulary.to_data())))
    assert isinstance(restored, WordVocabulary)
    assert restored.symbols == vocabulary.symbols
    assert np.array_equal(restored.encode(text), vocabulary.encode(text))


@pytest.mark.shared_data
def test_words_of_tiny_shakespeare(shared_data: Path) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_text("utf-8")
    vocabulary = WordVocabulary.of([text], 2)
    ids = vocabulary.encode(text)
    assert (len(ids), vocabulary.size) == (293_611, 8_089)
    assert np.mean(ids == vocabulary.unknown) == pytest.approx(0.02703, abs=1e-5)
    whole = WordVocabulary.of([text])
    assert (whole.size, whole.decode(whole.encode(text))) == (16_026, text)
