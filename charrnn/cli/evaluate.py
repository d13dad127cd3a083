"""`charrnn eval`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from charrnn.cli.display import say, show_evaluation, warn


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
    compare: bool,
    device: str,
    as_json: bool,
) -> None:
    """Score RUN's best checkpoint on its own validation split, or on any TEXT.

    The score is one unbroken pass from the zero state with every character scored once, in nats
    and bits per character, and in bits per byte, which compares across vocabularies. TEXT is
    whatever `charrnn train` reads; `-` is standard input.

    \b
    Examples:
      charrnn eval book-1
      charrnn eval book-1 --split test --compare
      charrnn eval book-1 other.txt --json
      echo "To be, or not to be" | charrnn eval book-1 - --per-character
    """
    from charrnn.corpus import read_text
    from charrnn.errors import ConfigError
    from charrnn.evaluation import score_unbroken
    from charrnn.ngram import NgramModel
    from charrnn.runs import find_checkpoint
    from charrnn.sources import find_sources
    from charrnn.vocabulary import name_characters

    if text and (split or data or validation or test):
        raise ConfigError("--split and --data are about the run's own text; leave TEXT out")
    if compare and (text or per_character):
        raise ConfigError("--compare scores a split; leave TEXT and --per-character out")
    checkpoint = find_checkpoint(run, warn, step, last)  # Judged before torch is imported.
    from charrnn.planning import choose_device
    from charrnn.texts import corpus_of_checkpoint
    from charrnn.trained import TrainedModel

    model = TrainedModel.from_checkpoint(checkpoint, str(choose_device(device)))
    policy: Any = unknown
    compared: dict[str, Any] = {}
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
        if per_character:
            for character, nats in model.surprisals(content, policy):
                click.echo(json.dumps({"character": character, "nats": nats}))
            return
        result = model.evaluate(content, policy)
    else:
        moved = {"sources": data, "validation": validation, "test": test}
        _, corpus = corpus_of_checkpoint(model.config, checkpoint, moved, warn)
        wanted = split or "validation"
        if per_character:
            for character, nats in model.surprisals_of(corpus, wanted):
                click.echo(json.dumps({"character": character, "nats": nats}))
            return
        result = model.evaluate_split(corpus, wanted)
        if compare:
            train = corpus.splits["train"]
            ngram = NgramModel(corpus.ids[train.start : train.stop], corpus.vocabulary.size)
            baseline, _ = score_unbroken(ngram, corpus, wanted, result.text)
            about = {"model": ngram.smoothing, "order": ngram.order}
            compared = {"baseline": {**about, **asdict(baseline)}}
    if as_json:
        click.echo(json.dumps({**asdict(result), **compared}))
        return
    show_evaluation(result)
    if compare:
        click.echo(f"{ngram.smoothing} order {ngram.order}  {baseline.nats_per_character:.4f}")
        say(f"{ngram.smoothing}: an n-gram model of the training split, in nats per character")
    say(f"{result.split}, {result.protocol}, checkpoint of step {result.step:,}")
