"""Sentences of a toy grammar: `python sentences.py text|conllu [--count N] [--seed S]`.

Many words can be two parts of speech: in "the old man the boats ." the word "man" is a verb, in
"the old man rings the bell ." it is a noun, and only the words after it show which. `text` prints
one sentence on each line, `conllu` the same sentences with tags. The program knows the probability
of everything that it draws. So it prints to standard error how many nats per word the text costs a
model that knows the grammar; no model can be expected to do better.
"""

# ruff: noqa: SIM905 -- a list of words is easier to read as one string
from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator

Tagged = tuple[str, str]
ADJECTIVES = "old light grey heavy clean wet cold long".split()
SINGULAR = "keeper man light lamp bell ship boat watch oil ring old stair window storm".split()
PLURAL = "keepers lights lamps bells ships boats watches rings stairs windows storms old".split()
VERBS = "man light ring watch ship oil clean see hear like count".split()
THIRD = "mans lights rings watches ships oils cleans sees hears likes counts".split()
PLACES = "in on by near under".split()


class Grammar:
    """Draw sentences, and add up the surprisal of every choice, in nats."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)  # noqa: S311
        self.nats = 0.0

    def sentence(self) -> Iterator[Tagged]:
        """Draw a subject, a verb, an object and, one time in four, a place."""
        plural = self.happens(0.5)
        yield from self.noun_phrase(plural)
        yield self.one_of(VERBS if plural else THIRD), "VERB"
        yield from self.noun_phrase(self.happens(0.5))
        if self.happens(0.25):
            yield self.one_of(PLACES), "ADP"
            yield from self.noun_phrase(self.happens(0.5))
        yield ".", "PUNCT"

    def noun_phrase(self, plural: bool) -> Iterator[Tagged]:
        """Draw a determiner, one time in three an adjective, and a noun."""
        yield self.one_of(["the", "the", "some"] if plural else ["the", "the", "a"]), "DET"
        if self.happens(1 / 3):
            yield self.one_of(ADJECTIVES), "ADJ"
        yield self.one_of(PLURAL if plural else SINGULAR), "NOUN"

    def happens(self, probability: float) -> bool:
        """Return True with this probability."""
        happened = self.draw.random() < probability
        self.nats -= math.log(probability if happened else 1 - probability)
        return happened

    def one_of(self, words: list[str]) -> str:
        """Draw one of the words; a word that is listed twice is twice as likely."""
        word = self.draw.choice(words)
        self.nats -= math.log(words.count(word) / len(words))
        return word


def main() -> None:
    """Print the sentences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", choices=["text", "conllu"])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    grammar, symbols = Grammar(options.seed), 0
    for _ in range(options.count):
        words = [*grammar.sentence()]
        symbols += len(words) + 1  # The end of the line is a symbol.
        if options.form == "text":
            sys.stdout.write(" ".join(word for word, _ in words) + "\n")
        else:
            for number, (word, tag) in enumerate(words, 1):
                row = [str(number), word, "_", tag, *"______"]
                sys.stdout.write("\t".join(row) + "\n")
            sys.stdout.write("\n")
    sys.stderr.write(f"the grammar itself: {grammar.nats / symbols:.3f} nats per word\n")


if __name__ == "__main__":
    main()
