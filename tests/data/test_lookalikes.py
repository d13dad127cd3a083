"""Characters that are written for one another."""

import pytest

from charrnn.data.lookalikes import nearest, replaced


@pytest.mark.parametrize(
    ("character", "known", "expected"),
    [
        ("\u2019", "ab'", "'"),
        ("'", "ab\u2019", "\u2019"),
        ("\u201c", '"', '"'),
        ('"', "\u201c\u201d", "\u201d"),
        ("\u2014", "a-", "-"),
        ("\u2026", "a.", "..."),
        ("\u00a0", "a ", " "),
        ("A", "abc", "a"),
        ("a", "ABC", "A"),
        ("\xe9", "abcde", "e"),
        ("\xc9", "abcde", "e"),
        ("\xc9", "abcd\xe9e", "\xe9"),
        ("e", "abc\xe9", "\xe9"),
        ("\ufb01", "fi", "fi"),
        ("\xdf", "abs", "ss"),
        ("\xe6", "abe", "ae"),
        ("\xc6", "ABE", "AE"),
        ("\xc6", "ABe", "Ae"),
        ("\u0142", "l", "l"),
        ("7", "abc", None),
        ("\u0442", "abc", None),
        ("\U0001f600", "abc", None),
    ],
)
def test_the_nearest_character(character: str, known: str, expected: str | None) -> None:
    assert nearest(character, known, known) == expected


def test_only_what_is_unknown_is_replaced() -> None:
    text, near = replaced("\u201cCaf\xe9\u201d \U0001f600", "\u201c\u201d\xe9\U0001f600", 'Cafe" ')
    assert text == '"Cafe" \U0001f600'
    assert near == {"\u201c": '"', "\u201d": '"', "\xe9": "e"}
