"""Compare the perplexity after rare words with that after frequent ones.

`python benchmarks/rare_words.py RUN RUN TEXT`

Each RUN is a language model of words that was trained on the first part of TEXT. The validation
split of TEXT is scored in one unbroken pass. The scores are grouped by how often the input word
(the word before the predicted one) occurs in training. Words outside the vocabulary are read as
`<unk>`.
"""

from __future__ import annotations

import argparse

import numpy as np

import charrnn
from charrnn.data.sources import find_sources
from charrnn.tasks.data import read_corpus

RARE = 5


def main() -> None:
    """Score both runs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs=2, metavar="RUN")
    parser.add_argument("text", metavar="TEXT")
    arguments = parser.parse_args()
    print(f"{'run':30}{'input word':>26}{'words':>9}{'perplexity':>12}")
    for run in arguments.runs:
        model = charrnn.load(run)
        texts = {"sources": find_sources([arguments.text])}
        corpus = read_corpus(model.config, texts, model.vocabulary.to_data())
        if corpus.vocabulary.kind != "word" or corpus.sha256 != model.metadata["corpus"]["sha256"]:
            parser.error(f"{run} is not a word model of {arguments.text}; name a run trained on it")
        train, validation = corpus.splits["train"], corpus.splits["validation"]
        nats = np.array([nats for _, nats in model.surprisals_of(corpus, "validation")])
        inputs = corpus.ids[validation.start - 1 : validation.stop - 1]
        counts = np.bincount(corpus.ids[train.start : train.stop], minlength=model.vocabulary.size)
        seen, unknown = counts[inputs], inputs == corpus.vocabulary.unknown
        for name, where in (
            (f"seen fewer than {RARE} times", (seen < RARE) & ~unknown),
            ("seen more often", (seen >= RARE) & ~unknown),
            ("<unk>", unknown),
            ("any", seen >= 0),
        ):
            perplexity = f"{np.exp(nats[where].mean()):.2f}" if where.any() else "-"
            print(f"{run:30}{name:>26}{where.sum():>9,}{perplexity:>12}")


if __name__ == "__main__":
    main()
