"""`charrnn eval`: parse, score, print. The scoring itself is `evaluation.score_network`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.classes import describe_classes, show_classes
from charrnn.cli.display import say, show_evaluation, visible, warn
from charrnn.cli.options import dynamic_rates, naming_rate_flag, quiet
from charrnn.cli.pictures import require_pictures, save_confusion

if TYPE_CHECKING:
    from charrnn.data.corpus import Corpus
    from charrnn.evaluation.choose_reading import WantedReading
    from charrnn.evaluation.score import Evaluation
    from charrnn.inference.trained_model import TrainedModel
    from charrnn.runs.checkpoint import Checkpoint

MOVED = "--data says where the run's own text is; leave out TEXT"
SHOWN = 200  # characters of a copied span that are printed
ORDER = 7  # symbols in the longest n-gram of --compare


@dataclass(frozen=True)
class Options:
    """The command line of `charrnn eval`; the fields are named like the flags."""

    text: tuple[str, ...]
    split: str | None
    data: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    step: int | None
    last: bool
    unknown: Any  # "error" or "skip"
    encoding: str | None
    errors: str | None
    per_character: bool
    dynamic: bool
    dynamic_rate: float | None
    dynamic_decay: float | None
    mix: str | None
    temperature: str
    novelty: Path | None
    compare: bool
    device: str
    per_line: bool
    picture: Path | None
    as_json: bool

    @property
    def moved(self) -> dict[str, tuple[str, ...]]:
        """The new places of the run's own texts, if they have moved."""
        return {"sources": self.data, "validation": self.validation, "test": self.test}

    @property
    def own_split(self) -> str:
        """The split of the run's own text to score."""
        return self.split or "validation"

    def reading(self) -> WantedReading:
        """Return the options of the score. Raises ConfigError for an impossible temperature."""
        from charrnn.evaluation.choose_reading import WantedReading

        rates = self.dynamic_rate, self.dynamic_decay
        dynamic = self.dynamic or rates != (None, None)
        return WantedReading(dynamic, *rates, self._temperature(), self.mix is not None)

    def check(self) -> None:
        """Raise ConfigError for flags that contradict each other."""
        from charrnn.errors import ConfigError

        if self.text and self.split:
            raise ConfigError("--split chooses a part of the run's own text; leave out TEXT")
        if self.compare and (self.text or self.per_character):
            raise ConfigError("--compare scores a split; leave out TEXT and --per-character")
        if self.per_line and (self.per_character or self.compare or self.picture):
            raise ConfigError(
                "--per-line scores each line; leave out --per-character, --compare and --picture"
            )
        self._temperature()
        rates = (self.dynamic_rate, self.dynamic_decay) != (None, None)
        scores = (self.text, self.split, self.per_character, self.per_line, self.picture, self.mix,
                  self.compare, self.dynamic)  # fmt: skip
        if self.novelty is not None and (any(scores) or rates):
            raise ConfigError(
                "--novelty only compares SAMPLE with the training text; leave out TEXT and the "
                "options for scores"
            )

    def _temperature(self) -> float | None:
        """The temperature; None if it is to be chosen."""
        from charrnn.errors import ConfigError

        if self.temperature == "auto":
            return None
        try:
            value = float(self.temperature)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise ConfigError(
                f"--temperature {self.temperature!r} is neither auto nor a number above 0; give "
                f"one of them (1 changes nothing)"
            )
        return value


@click.command("eval")
@click.argument("run", metavar="RUN")
@click.argument("text", nargs=-1, metavar="[TEXT]...")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default=None,
              help="A split of the run's own text [validation].")  # fmt: skip
@click.option("--data", multiple=True, metavar="DATA", help="The run's text, if it has moved.")
@click.option("--validation", multiple=True, metavar="DATA", help="Its validation text, if moved.")
@click.option(
    "--test", multiple=True, metavar="DATA", help="Its test text, if it has moved or is new."
)
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--unknown", type=click.Choice(["error", "skip"]), default="error", show_default=True,
              help="What to do with characters that the vocabulary lacks.")  # fmt: skip
@click.option("--encoding", help="Encoding of TEXT [as in training].")
@click.option("--errors", help="What to do with bad bytes [as in training].")
@click.option("--per-line", is_flag=True,
              help="Each line's (or example's) score, as JSON lines.")  # fmt: skip
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Classes and tags: draw the confusion matrix (.png, .svg or .pdf).")  # fmt: skip
@click.option("--per-character", is_flag=True, help="Each character's surprisal, as JSON lines.")
@click.option("--dynamic", is_flag=True,
              help="Learn from the text while reading it (dynamic evaluation).")  # fmt: skip
@dynamic_rates("chosen on validation's first half", "likewise")
@click.option("--mix", type=click.Choice(["ngram"]),
              help="Mix in n-grams that count as they read.")  # fmt: skip
@click.option("--temperature", metavar="X", default="1", show_default=True,
              help="Divides the logits; auto chooses it on validation's first half.")  # fmt: skip
@click.option("--novelty", type=click.Path(path_type=Path), metavar="SAMPLE",
              help="How much of a sample is copied from the training text.")  # fmt: skip
@click.option("--compare", is_flag=True,
              help="Also score a Kneser-Ney 7-gram model of the training split.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@quiet
def evaluate(run: str, **flags: Any) -> None:
    """Score RUN's best checkpoint on its own validation split, or on any (labelled) TEXT.

    The score is in nats and bits per character, and in bits per byte, which can be compared across
    vocabularies. The text is read once, from the zero state and without a break, and every
    character is scored once. TEXT is anything that `charrnn train` reads; `-` is standard input.
    With --dynamic or --mix, the model learns from each character after scoring it. Classes
    and tags are also measured one by one, with the confusion matrix.

    \b
    Examples:
      charrnn eval book-1
      charrnn eval book-1 --dynamic --mix ngram
      charrnn eval book-1 --split test --compare
      charrnn eval book-1 other.txt --json
      charrnn eval book-1 other.txt --per-line
      charrnn eval sms-1 labelled.tsv --picture confusion.png
      charrnn sample book-1 -n 5000 > sample.txt
      charrnn eval book-1 --novelty sample.txt
      echo "To be, or not to be" | charrnn eval book-1 - --per-character
    """
    from charrnn.runs.directory import find_checkpoint

    options = Options(**flags)
    options.check()
    # The checkpoint is checked before torch is imported.
    checkpoint = find_checkpoint(run, warn, options.step, options.last)
    if options.novelty is not None:
        _print_novelty(checkpoint, options.novelty, options)
    elif _is_for_its_task(checkpoint, options):
        _print_task_score(checkpoint, options)
    else:
        reading = options.reading()
        with naming_rate_flag() if reading.dynamic else nullcontext():
            _print_reading(checkpoint, options, reading)


def _is_for_its_task(checkpoint: Checkpoint, options: Options) -> bool:
    """Return whether the options ask for nothing but the score of the run's own task."""
    from charrnn.config.merge import config_from_data
    from charrnn.registry import traits_of

    task = config_from_data(checkpoint.metadata["config"], str(checkpoint.path)).task
    changed = options.dynamic or options.mix or options.per_character
    if "running text" in traits_of(task):
        changed = changed or bool(options.text) or options.per_line
    rates = options.dynamic_rate is not None or options.dynamic_decay is not None
    heated = options.temperature == "auto" or float(options.temperature) != 1
    return not (changed or rates or heated or options.compare)


def _print_task_score(checkpoint: Checkpoint, options: Options) -> None:
    """Score a split, or other labelled texts, by the protocol of the run's own task."""
    from charrnn.errors import ConfigError
    from charrnn.runs.directory import Run
    from charrnn.tasks.task import split_to_score, texts_to_score
    from charrnn.training.hardware import choose_device

    device = str(choose_device(options.device))
    if options.picture:
        require_pictures(options.picture)
    if options.text:
        if any(options.moved.values()):
            raise ConfigError(MOVED)
        reading = {"encoding": options.encoding, "errors": options.errors}
        part = texts_to_score(checkpoint, options.text, warn, device, **reading)
    else:
        part = split_to_score(
            checkpoint, options.own_split, options.moved, warn, device, options.unknown
        )
    for note in getattr(part.data, "notes", ()):
        if options.text or note.startswith(f"{part.split}: ") or f" in {part.split} only" in note:
            say(note)
    if options.per_line:
        for record in part.score_each(checkpoint):
            click.echo(json.dumps(record))
        return
    result = part.score(checkpoint)
    if options.picture and result.confusion is None:
        raise ConfigError("--picture draws the confusion of classes or tags; leave it out")
    _print_score(checkpoint, result, options.as_json, describe_classes(result))
    if options.picture and result.confusion is not None:
        save_confusion(options.picture, result.confusion)
    if options.text:
        return
    is_own = result.text_sha256 == checkpoint.metadata["corpus"]["sha256"]
    owner = Run(checkpoint.path.parent.parent)
    if options.own_split == "validation" and is_own and owner.record_score(result.record()):
        say(f"recorded the score in {owner.path}; charrnn list shows it")


def _print_reading(checkpoint: Checkpoint, options: Options, wanted: WantedReading) -> None:
    """Score a text or a split with a language model, read as the options say."""
    from charrnn.errors import ConfigError
    from charrnn.inference.trained_model import TrainedModel
    from charrnn.tasks.data import data_of_checkpoint, read_for
    from charrnn.training.hardware import choose_device

    model = TrainedModel.from_checkpoint(checkpoint, str(choose_device(options.device)))
    corpus: Any = None
    if wanted.needs_corpus or not options.text:
        corpus = data_of_checkpoint(model.config, checkpoint, options.moved, warn)[1]
    elif any(options.moved.values()):
        raise ConfigError(MOVED)
    if wanted.is_open:
        say("choosing on the first half of validation")
    reading = wanted.settled(model.model, model.config, corpus, model.moments)
    content = ""
    if options.text:
        data = model.config.data
        content = read_for(
            model.vocabulary, options.text, options.encoding or data.encoding,
            options.errors or data.errors, warn, data.kinds,
        )  # fmt: skip
        _warn_of_unknown(model, content, options)
    if options.per_character or options.per_line:
        if options.text:
            scores = model.surprisals(content, options.unknown, reading)
        else:
            scores = model.surprisals_of(corpus, options.own_split, reading)
        (_print_lines if options.per_line else _print_surprisals)(model, scores)
    elif options.text:
        result = model.evaluate(content, options.unknown, reading)
        names = ["standard input" if name == "-" else name for name in options.text]
        result = replace(result, text=", ".join(names))
        _print_score(checkpoint, result, options.as_json)
    else:
        result = model.evaluate_split(corpus, options.own_split, reading)
        if options.compare:
            _print_comparison(checkpoint, result, corpus, options.as_json)
        else:
            _print_score(checkpoint, result, options.as_json)


def _warn_of_unknown(model: TrainedModel, text: str, options: Options) -> None:
    """Name the characters that --unknown skip leaves out."""
    from charrnn.data.vocabulary import name_characters

    missing = model.vocabulary.unknown_characters(text)
    if missing and options.unknown == "skip":
        warn(f"left out, since the model's vocabulary lacks them: {name_characters(missing)}")


def _print_surprisals(model: TrainedModel, scores: Iterable[tuple[str, float]]) -> None:
    """Print each symbol with its surprisal as JSON lines."""
    from charrnn.data.vocabulary import unit_of
    from charrnn.evaluation.score import key_unit

    key = key_unit(unit_of(model.vocabulary))
    for symbol, nats in scores:
        click.echo(json.dumps({key: symbol, "nats": nats}))


def _print_lines(model: TrainedModel, scores: Iterable[tuple[str, float]]) -> None:
    """Print each line with its total surprisal, line end included, as JSON lines."""
    from charrnn.data.vocabulary import unit_of
    from charrnn.evaluation.score import key_unit

    key = f"{key_unit(unit_of(model.vocabulary))}s"
    symbols: list[str] = []
    nats, number = 0.0, 1

    def show() -> None:
        text = "".join(symbols).encode("utf-8", "surrogateescape")
        text_shown = text.decode("utf-8", "replace").removesuffix("\n")
        record = {"line": number, "text": text_shown, key: len(symbols), "nats": nats}
        click.echo(json.dumps(record))

    for symbol, cost in scores:
        symbols.append(symbol)
        nats += cost
        if symbol.endswith("\n"):
            show()
            symbols, nats, number = [], 0.0, number + 1
    if symbols:
        show()


def _print_comparison(
    checkpoint: Checkpoint, result: Evaluation, corpus: Corpus, as_json: bool
) -> None:
    """Print a score and that of n-grams of the training split, and say which is better."""
    from charrnn.evaluation.choose_reading import training_ngrams
    from charrnn.evaluation.score import score_unbroken

    ngrams = training_ngrams(corpus, ORDER)
    baseline = score_unbroken(ngrams, corpus, result.split, result.text)
    name, gain = ngrams.smoothing, baseline.nats - result.nats
    better = "network" if gain > 0 else "baseline" if gain < 0 else "neither"
    record = {"model": name, "order": ngrams.order, **baseline.record()}
    _print_score(checkpoint, result, as_json, {"baseline": record, "better": better})
    if as_json:
        return
    click.echo(f"{name} order {ngrams.order}  {baseline.nats:.4f}")
    winner = {"network": "the network", "baseline": name, "neither": "neither"}[better]
    click.echo(f"{'better':20}{winner}, by {abs(gain):.4f} nats per {result.unit}")
    say(f"{name}: n-grams of the training split, in nats per {result.unit}; less is better")


def _print_score(
    checkpoint: Checkpoint, result: Evaluation, as_json: bool, more: Mapping[str, Any] = {}
) -> None:
    """Print a score; in JSON, also a description of the model and the fields of `more`."""
    from charrnn.evaluation.score import describe_scored

    if as_json:
        model = {**describe_scored(checkpoint), "unit": result.unit}
        click.echo(json.dumps({**result.record(), **model, **more}))
        return
    show_evaluation(result)
    show_classes(result)
    say(f"{result.split}, {result.protocol}, checkpoint of step {result.step:,}")


def _print_novelty(checkpoint: Checkpoint, path: Path, options: Options) -> None:
    """Print how much of a sample is copied from the text that the model was trained on."""
    from charrnn.config.merge import config_from_data
    from charrnn.evaluation.novelty import novelty_in
    from charrnn.inference.trained_model import check_language_model
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.tasks.data import data_of_checkpoint, read_for

    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    check_language_model(config, checkpoint.path)
    _, corpus = data_of_checkpoint(config, checkpoint, options.moved, warn)
    copied = novelty_in(read_for(corpus.vocabulary, [str(path)]), corpus)
    novelty = copied.novelty
    if options.as_json:
        record = {"schema": SCHEMA, "characters": copied.sample_length,
                  "longest": novelty.longest, "span": copied.span, "shares": novelty.shares,
                  "held_out": {"characters": copied.held_out_length, "shares": copied.held_out},
                  "verdict": copied.verdict}  # fmt: skip
        click.echo(json.dumps(record))
        return
    unit = "byte" if corpus.vocabulary.kind == "byte" else "character"
    span = copied.span if len(copied.span) <= SHOWN else f"{copied.span[:SHOWN]}…"
    click.echo(f"longest verbatim    {novelty.longest:,} {unit}s: {visible(repr(span))}")
    if copied.held_out:
        click.echo(f"{'':20}{'sample':8}{'held-out':>12}")
    for length, share in novelty.shares.items():
        beside = f"{copied.held_out[length]:12.2%}" if copied.held_out else ""
        click.echo(f"{f'{length} {unit}s':20}{share:<8.2%}{beside}".rstrip())
    click.echo(f"{'verdict':20}{copied.verdict}")
    say(
        f"each share counts the spans of {path}, or of held-out text (validation), that also occur "
        f"in the {copied.train_length:,} {unit}s of the training text"
    )
