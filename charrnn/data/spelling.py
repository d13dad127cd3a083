"""The characters of words as ids, for networks that compose words. Works without torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from charrnn.data.batching import pad
from charrnn.data.vocabulary import SPECIALS, CharacterVocabulary, Ids, WordVocabulary, id_type

LONGEST = 40  # characters: the rest is not read, since one long address would pad a whole batch


def characters_of(words: Iterable[str]) -> CharacterVocabulary:
    """Collect the characters of words, and the special symbols, into a vocabulary."""
    return CharacterVocabulary.of(words, specials=SPECIALS)


def word_characters(words: WordVocabulary) -> CharacterVocabulary:
    """Collect the characters of a vocabulary's words; special symbols are not spelled."""
    return characters_of(words.symbols[: words.unknown])


def spell(word: str, characters: CharacterVocabulary) -> Ids:
    """Encode the characters of a word between `<s>` and `</s>`.

    Of a word with more than 40 characters, the first 20 and the last 20 are read.

    >>> spell("cab", characters_of(["ab", "c"])).tolist()
    [4, 2, 0, 1, 5]
    """
    if len(word) > LONGEST:
        word = word[: LONGEST // 2] + word[-LONGEST // 2 :]
    return np.array(
        [characters.start, *characters.encode(word), characters.end], id_type(characters.size)
    )


def spellings(
    words: WordVocabulary, characters: CharacterVocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spell a vocabulary: ids (V, L), padded with 0, and lengths (V,).

    A word and the same word after a space differ in one character. `<unk>`, the last symbol, is
    spelled as a word without characters.
    """
    return pad([*(spell(word, characters) for word in words.symbols[: words.unknown]),
                spell("", characters)])  # fmt: skip
