"""`charrnn baseline`."""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import is_terminal, say, show_evaluation, visible, warn

if TYPE_CHECKING:
    from charrnn.corpus import Corpus
    from charrnn.ngram import NgramModel, Smoothing


@click.command()
@click.argument("text", nargs=-1, metavar="[TEXT]...")
@click.option("--order", type=click.IntRange(1, 20), default=7, show_default=True,
              help="Symbols in the longest n-gram.")  # fmt: skip
@click.option("--model", "smoothing", type=click.Choice(["kneser-ney", "witten-bell"]),
              default="kneser-ney", show_default=True,
              help="How n-grams leave a share to shorter ones.")  # fmt: skip
@click.option("--validation", multiple=True, metavar="DATA", help="Separate validation text.")
@click.option("--vocabulary", metavar="KIND", help="character or byte.")
@click.option("--encoding", metavar="NAME", help="Encoding of the text.")
@click.option("--errors", metavar="HOW", help="What to do with bad bytes: strict, replace, ...")
@click.option("--sample", "length", type=click.IntRange(min=0), metavar="LENGTH",
              help="Also generate so many symbols.")  # fmt: skip
@click.option("--prompt", metavar="TEXT", help="Text to read before them.")
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True,
              help="Below 1 is safer, above 1 wilder, 0 always takes the likeliest.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Repeats a sample; printed when chosen.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def baseline(
    text: tuple[str, ...],
    order: int,
    smoothing: Smoothing,
    validation: tuple[str, ...],
    vocabulary: str | None,
    encoding: str | None,
    errors: str | None,
    length: int | None,
    prompt: str | None,
    temperature: float,
    seed: int | None,
    as_json: bool,
) -> None:
    """Score a character n-gram model of TEXT: what a network has to beat, in seconds.

    TEXT is read and split as `charrnn train` does. The model counts the training split and is
    scored on validation, every character once, after the text before it. Also the scores of the
    first and the second half of validation, in nats per character, and how many different
    n-grams there are of each order.

    \b
    Examples:
      charrnn baseline book.txt
      charrnn baseline shakespeare --order 5 --model witten-bell --json
      charrnn baseline book.txt --sample 500 --prompt "Once " --seed 1
    """
    from charrnn.config import Layer, build_config, environment_layers
    from charrnn.errors import ConfigError
    from charrnn.evaluation import score_unbroken
    from charrnn.ngram import NgramModel
    from charrnn.texts import find_texts, read_corpus

    if length is None and (prompt is not None or seed is not None or temperature != 1):
        raise ConfigError("--prompt, --temperature and --seed are a sample's; give --sample LENGTH")
    if math.isnan(temperature):
        raise ConfigError("--temperature is not a number; 0.7 is a good one")
    layers: list[Layer] = environment_layers(os.environ)
    for flag, key, value in (
        ("TEXT", "sources", list(text)),
        ("--validation", "validation", list(validation)),
        ("--vocabulary", "vocabulary", vocabulary),
        ("--encoding", "encoding", encoding),
        ("--errors", "errors", errors),
    ):
        if value:
            layers.append((flag, {f"data.{key}": value}))
    config, _ = build_config(layers)
    with find_texts(config, warn) as texts:
        corpus = read_corpus(config, texts)
    train, described = corpus.splits["train"], texts["sources"].described
    began = time.monotonic()
    model = NgramModel(
        corpus.ids[train.start : train.stop], corpus.vocabulary.size, order, smoothing
    )
    fitted = time.monotonic()
    result, nats = score_unbroken(model, corpus, "validation", described)
    seconds = {"fit": fitted - began, "score": time.monotonic() - fitted}
    middle = len(nats) // 2
    halves = [float(half.mean()) if len(half) else None for half in (nats[:middle], nats[middle:])]
    sampled = {}
    if length is not None:
        sampled = {"sample": _sample(model, corpus, length, prompt or "", temperature, seed)}
    if as_json:
        about = {"model": smoothing, "order": order, "ngrams": model.counts, "seconds": seconds}
        record = {**about, **asdict(result), "nats_per_character_of_halves": halves, **sampled}
        click.echo(json.dumps(record))
        return
    show_evaluation(result)
    for name, half in zip(("first half", "second half"), halves, strict=True):
        click.echo(f"{name:20}{half:.4f}" if half is not None else f"{name:20}-")
    for k, count in enumerate(model.counts, 1):
        click.echo(f"{f'{k}-grams':20}{count:,}")
    if sampled:
        shown = sampled["sample"]["prompt"] + sampled["sample"]["text"]
        click.echo("\n" + (visible(shown) if is_terminal(sys.stdout) else shown))
    say(
        f"{described}: {result.split}, {result.protocol}; {smoothing} of order {order}, fitted on "
        f"{len(train):,} characters in {seconds['fit']:.1f}s, scored in {seconds['score']:.1f}s"
    )


def _sample(
    model: NgramModel,
    corpus: Corpus,
    length: int,
    prompt: str,
    temperature: float,
    seed: int | None,
) -> dict[str, Any]:
    """Text from the model, and what repeats it."""
    import numpy as np

    from charrnn.errors import DataError
    from charrnn.sampler import Choice, Draws, prime
    from charrnn.trained import generate_text, starting_id
    from charrnn.vocabulary import name_characters

    vocabulary, train = corpus.vocabulary, corpus.splits["train"]
    if missing := vocabulary.unknown_characters(prompt):
        raise DataError(f"the text has no {name_characters(missing)}; leave them out of the prompt")
    if seed is None:
        seed = secrets.randbits(32)
        if temperature > 0:
            say(f"seed {seed}")
    ids = vocabulary.encode(prompt).astype(np.int64)
    if not len(ids):
        most_frequent = int(np.bincount(corpus.ids[train.start : train.stop]).argmax())
        ids = np.array([starting_id(vocabulary, most_frequent)])
    choice, draws = Choice(temperature), Draws(seed, [0])
    pieces = generate_text(model, vocabulary, prime(model, ids[None]), choice, draws, length)
    return {"prompt": prompt, "text": "".join(pieces), "seed": seed}
