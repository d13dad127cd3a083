"""`charrnn baseline`."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import Bar, is_terminal, say, show_evaluation, visible, warn
from charrnn.cli.options import Number, quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from charrnn.baselines.hmm import HiddenMarkovModel
    from charrnn.baselines.ngram import NgramModel, Smoothing
    from charrnn.data.corpus import Corpus


@click.command()
@click.argument("text", nargs=-1, metavar="[TEXT]...")
@click.option("--order", type=click.IntRange(1, 20), help="Symbols in the longest n-gram [7].")
@click.option("--model", "kind", type=click.Choice(["kneser-ney", "witten-bell", "hmm"]),
              default="kneser-ney", show_default=True,
              help="N-grams with this smoothing, or a hidden Markov model.")  # fmt: skip
@click.option("--states", type=click.IntRange(1, 4096), help="Hidden states of an hmm [32].")
@click.option("--iterations", type=click.IntRange(min=1),
              help="Most iterations of Baum-Welch for an hmm [30].")  # fmt: skip
@click.option("--validation", multiple=True, metavar="DATA", help="Separate validation text.")
@click.option("--vocabulary", metavar="KIND", help="character, byte or word.")
@click.option("--minimum-count", type=click.IntRange(min=1), metavar="N",
              help="Read words that occur less often as <unk>.")  # fmt: skip
@click.option("--encoding", metavar="NAME", help="Encoding of the text.")
@click.option("--errors", metavar="HOW", help="What to do with bad bytes: strict, replace, ...")
@click.option("--sample", "length", type=click.IntRange(min=0), metavar="LENGTH",
              help="Also generate text of this many symbols.")  # fmt: skip
@click.option("--prompt", metavar="TEXT", help="Text to start the sample with.")
@click.option("--temperature", type=Number(min=0), metavar="X", default=1.0, show_default=True,
              help="Below 1 is safer, above 1 wilder; 0 takes the likeliest.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), help="Seed of the sample; printed if it was chosen."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@quiet
def baseline(
    text: tuple[str, ...],
    order: int | None,
    kind: str,
    states: int | None,
    iterations: int | None,
    validation: tuple[str, ...],
    vocabulary: str | None,
    minimum_count: int | None,
    encoding: str | None,
    errors: str | None,
    length: int | None,
    prompt: str | None,
    temperature: float,
    seed: int | None,
    as_json: bool,
) -> None:
    """Score n-grams or a hidden Markov model of TEXT.

    A network should beat this score. TEXT is read and split as in `charrnn train`. N-grams are
    counted in the training split; a hidden Markov model is fitted to it by Baum-Welch. Both are
    scored on every symbol of the validation split, given all the text before the symbol. This
    takes seconds.

    \b
    Examples:
      charrnn baseline book.txt
      charrnn baseline book.txt --model hmm --states 64
      charrnn baseline shakespeare --order 5 --model witten-bell --json
      charrnn baseline book.txt --sample 500 --prompt "Once " --seed 1
    """
    from charrnn.evaluation.score import score_unbroken

    sampling = prompt is not None or seed is not None or temperature != 1
    _check_options(kind, order, states or iterations, sampling and length is None)
    corpus, described = _read(
        ("TEXT", "sources", list(text)),
        ("--validation", "validation", list(validation)),
        ("--vocabulary", "vocabulary", vocabulary),
        ("--minimum-count", "minimum_count", minimum_count),
        ("--encoding", "encoding", encoding),
        ("--errors", "errors", errors),
    )
    began = time.monotonic()
    model, about = _fit(corpus, kind, order or 7, states or 32, iterations or 30)
    fitted = time.monotonic()
    result = score_unbroken(model, corpus, "validation", described)
    seconds = {"fit": fitted - began, "score": time.monotonic() - fitted}
    record = {"model": kind, **about, "seconds": seconds, **result.record()}
    if length is not None:
        record["sample"] = _sample(model, corpus, length, prompt or "", temperature, seed)
    if as_json:
        click.echo(json.dumps(record))
    else:
        show_evaluation(result)
        _show(record, corpus, described)


def _check_options(
    kind: str, order: int | None, of_hmm: int | None, samples_without_length: bool
) -> None:
    """Refuse options that the chosen model does not use. Raises ConfigError."""
    from charrnn.errors import ConfigError

    if samples_without_length:
        raise ConfigError(
            "--prompt, --temperature and --seed are for a sample; add --sample LENGTH"
        )
    if kind == "hmm" and order is not None:
        raise ConfigError("--order is for n-grams; leave it out, or leave out --model hmm")
    if kind != "hmm" and of_hmm is not None:
        raise ConfigError("--states and --iterations are for an hmm; add --model hmm")


def _read(*options: tuple[str, str, Any]) -> tuple[Corpus, str]:
    """Read the text that options (flag, key, value) describe; return it with its description."""
    from charrnn.config.merge import Layer, build_config, environment_layers
    from charrnn.tasks.data import find_texts, read_corpus, with_corpus_settings

    layers: list[Layer] = environment_layers(os.environ)
    layers += [(flag, {f"data.{key}": value}) for flag, key, value in options if value]
    config, _ = build_config(with_corpus_settings(layers))
    with find_texts(config, warn) as texts:
        return read_corpus(config, texts), texts["sources"].described


def _fit(
    corpus: Corpus, kind: str, order: int, states: int, iterations: int
) -> tuple[NgramModel | HiddenMarkovModel, dict[str, Any]]:
    """Fit a model to the training split; return it with its record for `--json`."""
    from charrnn.baselines.ngram import NgramModel

    train = corpus.splits["train"]
    ids, size = corpus.ids[train.start : train.stop], corpus.vocabulary.size
    if kind == "hmm":
        return _fit_hmm(ids, size, states, iterations)
    smoothing: Smoothing = "witten-bell" if kind == "witten-bell" else "kneser-ney"
    model = NgramModel(ids, size, order, smoothing)
    return model, {"order": order, "ngrams": model.counts}


def _show(record: dict[str, Any], corpus: Corpus, described: str) -> None:
    """Print the scores and the sample as data, and how the model was fitted as progress."""
    for k, count in enumerate(record.get("ngrams", []), 1):
        click.echo(f"{f'{k}-grams':20}{count:,}")
    if "sample" in record:
        shown = record["sample"]["prompt"] + record["sample"]["text"]
        click.echo("\n" + (visible(shown) if is_terminal(sys.stdout) else shown))
    kind, seconds = record["model"], record["seconds"]
    size = f"{record['states']} states" if kind == "hmm" else f"order {record['order']}"
    say(
        f"{described}: {record['split']}, {record['protocol']}; {kind} of {size}, fitted on "
        f"{len(corpus.splits['train']):,} {corpus.unit}s in {seconds['fit']:.1f}s, "
        f"scored in {seconds['score']:.1f}s"
    )


def _fit_hmm(
    ids: NDArray[Any], size: int, states: int, iterations: int
) -> tuple[HiddenMarkovModel, dict[str, Any]]:
    """Fit a hidden Markov model; return it with the training loss (nats) of each iteration."""
    from charrnn.baselines.hmm import HiddenMarkovModel

    bar, nats = Bar(shown=True, unit="iteration"), []
    bar.start(iterations, 0)
    model = HiddenMarkovModel.random(ids, size, states)
    for iteration in model.fit(ids, iterations):
        model = iteration.model
        nats.append(-iteration.log_likelihood / len(ids))
        bar.advance()
    bar.close()
    return model, {"states": states, "train_nats": nats}


def _sample(
    model: NgramModel | HiddenMarkovModel,
    corpus: Corpus,
    length: int,
    prompt: str,
    temperature: float,
    seed: int | None,
) -> dict[str, Any]:
    """Generate text; return it with the seed that repeats it. Raises DataError for a bad prompt."""
    import numpy as np

    from charrnn.data.vocabulary import name_characters
    from charrnn.errors import DataError
    from charrnn.inference.sampler import Choice, Draws, prime
    from charrnn.inference.text import generate_text, starting_id

    vocabulary, train = corpus.vocabulary, corpus.splits["train"]
    if missing := vocabulary.unknown_characters(prompt):
        raise DataError(
            f"the text lacks symbols of the prompt: {name_characters(missing)}; leave them out"
        )
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
