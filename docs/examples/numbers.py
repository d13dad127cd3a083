"""Write numbers in words, as small data: `python numbers.py languages|digits [--count N]`.

`languages` prints the numbers from 0 to 99 in English, German, French and Spanish, each with a tab
and the language: texts and their classes. `digits` prints English numbers below 1,000, each with a
tab and its digits: pairs to translate.
"""

# ruff: noqa: SIM905 -- a list of words is easier to read as one string
from __future__ import annotations

import argparse
import random
import sys

ENGLISH = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
GERMAN = (
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn "
    "fünfzehn sechzehn siebzehn achtzehn neunzehn"
).split()
GERMAN_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
FRENCH = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize "
    "dix-sept dix-huit dix-neuf"
).split()
FRENCH_TENS = "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()
SPANISH = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciséis diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro "
    "veinticinco veintiséis veintisiete veintiocho veintinueve"
).split()
SPANISH_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()


def english(number: int) -> str:
    """Write a number from 0 to 999."""
    if number >= 100:
        rest = f" and {english(number % 100)}" if number % 100 else ""
        return f"{ENGLISH[number // 100]} hundred{rest}"
    if number < 20:
        return ENGLISH[number]
    tens = ENGLISH_TENS[number // 10 - 2]
    return f"{tens}-{ENGLISH[number % 10]}" if number % 10 else tens


def german(number: int) -> str:
    """Write a number from 0 to 99."""
    if number < 20:
        return GERMAN[number]
    ones, tens = GERMAN[number % 10].removesuffix("s"), GERMAN_TENS[number // 10 - 2]
    ones = "sechs" if number % 10 == 6 else ones
    return f"{ones}und{tens}" if number % 10 else tens


def french(number: int) -> str:
    """Write a number from 0 to 99."""
    if number < 20:
        return FRENCH[number]
    tens, ones = FRENCH_TENS[number // 10 - 2], number % 10
    if number // 10 in (7, 9):
        ones += 10
    if number == 80:
        return "quatre-vingts"
    joint = "-et-" if ones in (1, 11) and number < 80 else "-"
    return f"{tens}{joint}{FRENCH[ones]}" if ones else tens


def spanish(number: int) -> str:
    """Write a number from 0 to 99."""
    if number < 30:
        return SPANISH[number]
    tens = SPANISH_TENS[number // 10 - 3]
    return f"{tens} y {SPANISH[number % 10]}" if number % 10 else tens


def main() -> None:
    """Print the rows, in an order drawn from the seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["languages", "digits"])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.what == "languages":
        kinds = {"English": english, "German": german, "French": french, "Spanish": spanish}
        rows = [(write(n), name) for name, write in kinds.items() for n in range(100)]
    else:
        rows = [(english(n), str(n)) for n in range(1000)]
    random.Random(options.seed).shuffle(rows)  # noqa: S311
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    for text, answer in rows[: options.count]:
        sys.stdout.write(f"{text}\t{answer}\n")


if __name__ == "__main__":
    main()
