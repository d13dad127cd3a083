"""Characters that people write for one another: curly and straight quotes, case, accents."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterable, Iterator

# Marks in several forms: apostrophes and single quotes, double quotes, hyphens and dashes, spaces,
# dots, line ends. The usual form comes first.
GROUPS = (
    "'\u2019\u2018\u201b\u2032\u00b4`\u02bc",
    '"\u201d\u201c\u201e\u201f\u2033\u00ab\u00bb',
    "-\u2013\u2014\u2010\u2011\u2012\u2015\u2212",
    " \t\u00a0\u2002\u2003\u2009\u200a\u202f\u3000",
    ".\u2026",
    "\n\u2028\u2029\u0085\x0b\x0c",
)
LETTERS = {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "þ": "th", "ß": "ss"}
MARKS = {"\u2026": "...", "\u00a0": " "}


def nearest(character: str, known: Container[str], symbols: Iterable[str] = ()) -> str | None:
    r"""Return the replacement of a character among the `known` ones, or None.

    The first of these that is known: the same mark in another form, the other case, the letter
    without accents (which may be two letters), and the first of `symbols` that is the same letter
    with another accent.

    >>> nearest("\u2019", "abc'"), nearest("É", "abcde"), nearest("œ", "abcdeo")
    ("'", 'e', 'oe')
    >>> nearest("e", "abcé", symbols="abcé"), nearest("7", "abc")
    ('é', None)
    """
    for form in _forms(character):
        if form and form != character and all(part in known for part in form):
            return form
    plain = _plain(character)
    same = (s for s in symbols if len(s) == 1 and s.isalpha() and _plain(s) == plain)
    return next(same, None) if character.isalpha() else None


def replaced(
    text: str, unknown: Iterable[str], symbols: Iterable[str]
) -> tuple[str, dict[str, str]]:
    """Replace the `unknown` characters of a text by their nearest ones among `symbols`.

    Returns the text and the replacement of each character; a character without one stays.
    """
    known = [str(symbol) for symbol in symbols]
    among = set(known)
    near = {c: form for c in sorted(unknown) if (form := nearest(c, among, known)) is not None}
    return "".join([near.get(character, character) for character in text]), near


def _forms(character: str) -> Iterator[str]:
    """Yield other forms of a character, the nearest first."""
    yield MARKS.get(character, "")
    for group in GROUPS:
        if character in group:
            yield from group
    for base in (character, _without_accents(character)):
        yield base
        yield base.lower()
        yield base.upper()


def _without_accents(text: str) -> str:
    """Return letters without accents, ligatures taken apart."""
    lower = LETTERS.get(text.lower())
    if lower is not None:
        return lower if text.islower() else lower.capitalize()
    parts = unicodedata.normalize("NFKD", text)
    return "".join(c for c in parts if not unicodedata.combining(c))


def _plain(character: str) -> str:
    return _without_accents(character).casefold()
