"""`charrnn eval`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import say, show_evaluation, visible, warn
from charrnn.cli.options import dynamic_rates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from charrnn.evaluation.score import Evaluation
    from charrnn.runs.checkpoint import Checkpoint

SHOWN = 200  # characters of a span that stands verbatim in the training text


@click.command("eval")
@click.argument("run", metavar="RUN")
@click.argument("text", nargs=-1, metavar="[TEXT]...")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default=None,
              help="A split of the run's own text [validation].")  # fmt: skip
@click.option("--data", multiple=True, metavar="DATA", help="The run's text, where it has moved.")
@click.option("--validation", multiple=True, metavar="DATA", help="Likewise, the validation text.")
@click.option("--test", multiple=True, metavar="DATA", help="Likewise, the test text.")
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--unknown", type=click.Choice(["error", "skip"]), default="error", show_default=True,
              help="Characters of TEXT that the vocabulary lacks.")  # fmt: skip
@click.option("--encoding", default="utf-8", show_default=True, help="Encoding of TEXT.")
@click.option("--errors", default="strict", show_default=True, help="What to do with bad bytes.")
@click.option("--per-character", is_flag=True, help="Each character's surprisal, as JSON lines.")
@click.option("--dynamic", is_flag=True,
              help="Learn from the text while reading it (dynamic evaluation).")  # fmt: skip
@dynamic_rates("chosen on validation's first half", "likewise")
@click.option("--mix", type=click.Choice(["ngram"]),
              help="Mix in n-grams that count as they read.")  # fmt: skip
@click.option("--temperature", metavar="X", default="1", show_default=True,
              help="Divides the logits; auto chooses it on validation's first half.")  # fmt: skip
@click.option("--novelty", type=click.Path(path_type=Path), metavar="SAMPLE",
              help="How much of a sample stands verbatim in the training text.")  # fmt: skip
@click.option("--compare", is_flag=True,
              help="Beside it a Kneser-Ney 7-gram model of the training split.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def evaluate(
    run: str,
    text: tuple[str, ...],
    split: str | None,
    data: tuple[str, ...],
    validation: tuple[str, ...],
    test: tuple[str, ...],
    step: int | None,
    last: bool,
    unknown: str,
    encoding: str,
    errors: str,
    per_character: bool,
    dynamic: bool,
    dynamic_rate: float | None,
    dynamic_decay: float | None,
    mix: str | None,
    temperature: str,
    novelty: Path | None,
    compare: bool,
    device: str,
    as_json: bool,
) -> None:
    """Score RUN's best checkpoint on its own validation split, or on any TEXT.

    The score is one unbroken pass from the zero state with every character scored once, in nats
    and bits per character, and in bits per byte, which compares across vocabularies. TEXT is
    whatever `charrnn train` reads; `-` is standard input. With --dynamic or --mix every character
    is scored before anything is learned from it.

    \b
    Examples:
      charrnn eval book-1
      charrnn eval book-1 --dynamic --mix ngram
      charrnn eval book-1 --split test --compare
      charrnn eval book-1 other.txt --json
      charrnn sample book-1 -n 5000 > sample.txt
      charrnn eval book-1 --novelty sample.txt
      echo "To be, or not to be" | charrnn eval book-1 - --per-character
    """
    from charrnn.baselines.ngram import NgramModel
    from charrnn.data.corpus import read_text
    from charrnn.data.sources import find_sources
    from charrnn.data.vocabulary import name_characters
    from charrnn.errors import ConfigError
    from charrnn.evaluation.score import score_unbroken
    from charrnn.runs.directory import find_checkpoint

    if text and split:
        raise ConfigError("--split is about the run's own text; leave TEXT out")
    if compare and (text or per_character):
        raise ConfigError("--compare scores a split; leave TEXT and --per-character out")
    dynamic = dynamic or dynamic_rate is not None or dynamic_decay is not None
    heat = _temperature(temperature)
    if novelty is not None and (text or split or per_character or dynamic or mix or compare):
        raise ConfigError("--novelty is about SAMPLE alone; leave out TEXT and what is scored")
    moved = {"sources": data, "validation": validation, "test": test}
    checkpoint = find_checkpoint(run, warn, step, last)  # Judged before torch is imported.
    if novelty is not None:
        _novelty(checkpoint, novelty, moved, as_json)
        return
    if not (text or dynamic or mix or per_character or compare) and heat == 1:
        _score(checkpoint, moved, split or "validation", device, as_json)
        return
    from charrnn.evaluation.dynamic import Rates
    from charrnn.evaluation.score_network import NGRAM_ORDER, Reading, choose_reading
    from charrnn.inference.trained_model import TrainedModel
    from charrnn.tasks.data import data_of_checkpoint
    from charrnn.training.hardware import choose_device

    model = TrainedModel.from_checkpoint(checkpoint, str(choose_device(device)))
    chosen = {
        "choose_learning": dynamic and dynamic_rate is None,
        "choose_decay": dynamic and dynamic_decay is None,
        "choose_temperature": heat is None,
    }
    needs_own = any(chosen.values()) or mix or not text
    if text and any(moved.values()) and not needs_own:
        raise ConfigError("--data is about the run's own text; leave TEXT out")
    corpus = data_of_checkpoint(model.config, checkpoint, moved, warn)[1] if needs_own else None

    def ngrams(order: int = 7) -> NgramModel:
        assert corpus is not None
        train = corpus.splits["train"]
        return NgramModel(corpus.ids[train.start : train.stop], corpus.vocabulary.size, order)

    rates = Rates.of(dynamic_rate, dynamic_decay) if dynamic else None
    reading = Reading(heat or 1.0, rates, ngrams(NGRAM_ORDER) if mix else None)
    if any(chosen.values()) and corpus is not None:
        say("choosing on the first half of validation")
        reading = choose_reading(
            model.model, model.config, corpus, "validation", reading, model.moments,
            **chosen,
        )  # fmt: skip
    policy: Any = unknown
    content = ""
    if text:
        sources = find_sources(text)
        try:
            if model.vocabulary.kind == "byte":
                encoding, errors = "utf-8", "surrogateescape"
            content = read_text(sources, encoding, errors)
        finally:
            sources.discard()
        missing = model.vocabulary.unknown_characters(content)
        if missing and unknown == "skip":
            warn(f"neither fed nor scored: {name_characters(missing)}")
    wanted = split or "validation"
    if per_character:
        scores = (
            model.surprisals(content, policy, reading)
            if text or corpus is None
            else model.surprisals_of(corpus, wanted, reading)
        )
        unit = "word" if model.vocabulary.kind == "word" else "character"
        for symbol, nats in scores:
            click.echo(json.dumps({unit: symbol, "nats": nats}))
        return
    compared: dict[str, Any] = {}
    if text or corpus is None:
        result = model.evaluate(content, policy, reading)
    else:
        result = model.evaluate_split(corpus, wanted, reading=reading)
        if compare:
            ngram = ngrams()
            baseline = score_unbroken(ngram, corpus, wanted, result.text)
            about = {"model": ngram.smoothing, "order": ngram.order}
            compared = {"baseline": {**about, **baseline.record()}}
    _show(result, as_json, compared)
    if compare and not as_json:
        click.echo(f"{ngram.smoothing} order {ngram.order}  {baseline.nats:.4f}")
        say(f"{ngram.smoothing}: an n-gram model of the training split, in nats per {result.unit}")


def _show(result: Evaluation, as_json: bool, more: Mapping[str, Any] = {}) -> None:
    """A score, with `more` in JSON."""
    if as_json:
        click.echo(json.dumps({**result.record(), **more}))
        return
    show_evaluation(result)
    say(f"{result.split}, {result.protocol}, checkpoint of step {result.step:,}")


def _score(
    checkpoint: Checkpoint,
    moved: dict[str, tuple[str, ...]],
    split: str,
    device: str,
    as_json: bool,
) -> None:
    """A split by the protocol of the run's own task."""
    from charrnn.config.merge import config_from_data, with_values
    from charrnn.errors import DataError
    from charrnn.tasks.data import data_of_checkpoint
    from charrnn.tasks.task import task_of
    from charrnn.training.hardware import choose_device

    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    config, own = data_of_checkpoint(config, checkpoint, moved, warn)
    if split not in own.splits:
        raise DataError(f"the run has no {split!r} split; it has {', '.join(own.splits)}")
    config = with_values(config, {"device": str(choose_device(device))})
    _show(task_of(config.task).score(checkpoint, config, own, split), as_json)


def _temperature(given: str) -> float | None:
    """A temperature, None for one that is to be chosen."""
    from charrnn.errors import ConfigError

    if given == "auto":
        return None
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(
            f"--temperature {given!r} is neither auto nor a number above 0; 1 is none"
        )
    return value


def _novelty(
    checkpoint: Checkpoint, path: Path, moved: dict[str, tuple[str, ...]], as_json: bool
) -> None:
    """How much of a sample stands verbatim in what the model was trained on."""
    import numpy as np

    from charrnn.config.merge import config_from_data
    from charrnn.data.corpus import read_text
    from charrnn.data.sources import find_sources
    from charrnn.data.vocabulary import code_points
    from charrnn.evaluation.novelty import novelty
    from charrnn.inference.trained_model import check_language_model
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.tasks.data import data_of_checkpoint

    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    check_language_model(config, checkpoint.path)
    _, corpus = data_of_checkpoint(config, checkpoint, moved, warn)
    span = corpus.splits["train"]
    ids = corpus.ids[span.start : span.stop]
    sources = find_sources([str(path)])
    try:
        is_bytes = corpus.vocabulary.kind == "byte"
        text = read_text(sources, "utf-8", "surrogateescape" if is_bytes else "strict")
    finally:
        sources.discard()
    if corpus.vocabulary.kind == "byte":
        sample, train = corpus.vocabulary.encode(text).astype(np.uint32), ids.astype(np.uint32)
    else:
        sample = code_points(text)
        train = code_points(corpus.vocabulary.decode(ids))
    found = novelty(sample, train)
    verbatim = sample[found.start : found.start + found.longest]
    span_text = (
        corpus.vocabulary.decode(verbatim.tolist())
        if corpus.vocabulary.kind == "byte"
        else "".join(map(chr, verbatim))
    )
    if as_json:
        record = {"schema": SCHEMA, "characters": len(sample), "longest": found.longest,
                  "span": span_text, "shares": found.shares}  # fmt: skip
        click.echo(json.dumps(record))
        return
    shown = span_text if len(span_text) <= SHOWN else f"{span_text[:SHOWN]}…"
    click.echo(f"longest verbatim    {found.longest:,} characters: {visible(repr(shown))}")
    for length, share in found.shares.items():
        click.echo(f"{f'{length} characters':20}{share:.2%}")
    say(f"shares of the spans of {path} that stand in the {len(train):,} characters of training")
