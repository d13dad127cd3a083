"""`charrnn sample`: parse, write, print. The writing itself is `inference.text.Writing`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import is_terminal, say, visible, warn
from charrnn.cli.options import Number, OptionalCount, clamp, dynamic_rates, naming_rate_flag

if TYPE_CHECKING:
    from charrnn.inference.sampler import Choice
    from charrnn.inference.text import Next, Request, Writing

REREAD = 2000  # characters at the end of the text of --adapt-to, read again for the hidden state
MANY = 64  # from this many samples on, a GPU is faster than a CPU
NEXT = 10  # symbols that --next lists


@dataclass(frozen=True)
class Options:
    """The command line of `charrnn sample`; the fields are named like the flags."""

    length: int
    prompt: str | None
    prompt_file: str | None
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    repetition_window: int
    greedy_inside_words: bool
    clamp: tuple[tuple[int, int, float], ...]
    beam: int | None
    next: int | None
    label: str | None
    stop: str | None
    num_samples: int
    separator: str | None
    no_separator: bool
    seed: int | None
    unknown: Any  # "error", "skip" or "nearest"
    write_unknown: bool
    step: int | None
    last: bool
    save_state: Path | None
    load_state: Path | None
    adapt_to: str | None
    dynamic_rate: float | None
    dynamic_decay: float | None
    interactive: bool
    device: str
    as_json: bool

    def check(self) -> None:
        """Raise ConfigError for flags that contradict each other."""
        from charrnn.errors import ConfigError

        if self.stop == "":
            raise ConfigError(
                "--stop is empty and would never end a sample; give it a TEXT, or leave it out"
            )
        if self.prompt is not None and self.prompt_file is not None:
            raise ConfigError("give either --prompt or --prompt-file, not both")
        if self.load_state is not None and self.adapt_to is not None:
            raise ConfigError(
                "--load-state and --adapt-to exclude each other, since a saved state fits only the "
                "model that saved it; leave one out"
            )
        if self.adapt_to is None and (self.dynamic_rate, self.dynamic_decay) != (None, None):
            raise ConfigError("--dynamic-rate and --dynamic-decay need --adapt-to; give it a FILE")
        if self.load_state is not None and self.num_samples != 1:
            raise ConfigError(
                "the state of --load-state sets the number of samples; leave out --num-samples"
            )
        if self.no_separator and self.separator is not None:
            raise ConfigError("--separator and --no-separator exclude each other; leave one out")
        self._check_ways_of_writing()

    def _check_ways_of_writing(self) -> None:
        """Raise ConfigError for flags that have no effect with --interactive, --next or --beam."""
        from charrnn.errors import ConfigError

        if self.interactive and (self.as_json or self.num_samples != 1):
            raise ConfigError(
                "--interactive continues one sample, as text; leave out --num-samples and --json"
            )
        if self.interactive and self.prompt_file == "-":
            raise ConfigError("--interactive reads standard input; give --prompt-file a file")
        ways = {"--interactive": self.interactive, "--next": self.next, "--beam": self.beam}
        chosen = [flag for flag, value in ways.items() if value]
        if len(chosen) > 1:
            raise ConfigError(f"{' and '.join(chosen)} exclude each other; leave one out")
        if self.next and (self.num_samples != 1 or self.save_state is not None):
            raise ConfigError(
                "--next writes nothing, it lists symbols; leave out --num-samples and --save-state"
            )
        if not self.beam:
            return
        filters = (self.top_k, self.top_p, self.min_p)
        penalised = self.repetition_penalty != 1 or self.greedy_inside_words
        if filters != (None, None, None) or self.temperature != 1 or penalised:
            raise ConfigError(
                "--beam searches for the likeliest text and draws nothing; leave out --temperature "
                "and the other options for drawing"
            )
        if self.num_samples > self.beam:
            raise ConfigError(
                f"a beam of {self.beam:,} ends with {self.beam:,} texts at most; raise --beam, or "
                f"lower --num-samples"
            )
        if self.save_state is not None:
            raise ConfigError("--beam has no state to save; leave out --save-state")

    def clamped(self, model: Any) -> Any:
        """Hold the units of --clamp at their values. Raises ConfigError."""
        clamps: dict[int, dict[int, float]] = {}
        for layer, unit, value in self.clamp:
            clamps.setdefault(layer, {})[unit] = value
        return model.clamped(clamps)

    def choice(self, vocabulary: Any) -> Choice:
        """Collect the options for drawing a symbol. Raises ConfigError."""
        from charrnn.inference.sampler import Choice
        from charrnn.inference.text import inside_words

        return Choice(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty,
            self.repetition_window, inside_words(vocabulary) if self.greedy_inside_words else None,
        )  # fmt: skip

    def request(self, vocabulary: Any, prompt: str, before: str) -> Request:
        """Collect the options for writing after a prompt. Raises ConfigError."""
        from charrnn.inference.text import Request

        return Request(
            prompt, self.length, self.choice(vocabulary), self.stop,
            1 if self.beam else self.num_samples, self.seed, self.label, self.unknown, before,
        )  # fmt: skip

    @property
    def wanted_abilities(self) -> dict[str, str]:
        """The abilities (`TrainedModel.abilities`) that a model must have, with the flags."""
        wanted = {
            "label": ("--label", self.label is not None),
            "clamp": ("--clamp", bool(self.clamp)),
            "adapt": ("--adapt-to", self.adapt_to is not None),
            "converse": ("--interactive", self.interactive),
            "load_state": ("--load-state", self.load_state is not None),
            "save_state": ("--save-state", self.save_state is not None),
            "write_unknown": ("--write-unknown", self.write_unknown),
        }
        return {ability: flag for ability, (flag, is_wanted) in wanted.items() if is_wanted}


@click.command()
@click.argument("run", metavar="[RUN]", required=False)
@click.option("-n", "--length", type=click.IntRange(min=0), default=500, show_default=True,
              help="Symbols to generate.")  # fmt: skip
@click.option("--prompt", default=None, metavar="TEXT", help="Text to read first.")
@click.option("--prompt-file", metavar="FILE", help="The same, from a file; - is standard input.")
@click.option("--temperature", type=Number(min=0), metavar="X", default=1.0, show_default=True,
              help="Below 1 is safer, above 1 wilder, 0 always takes the likeliest.")  # fmt: skip
@click.option("--top-k", type=click.IntRange(min=1), help="Only the k likeliest symbols.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True),
              help="Only the fewest symbols that together have this probability.")  # fmt: skip
@click.option("--min-p", type=click.FloatRange(min=0, max=1),
              help="Only symbols at least this fraction as likely as the likeliest.")  # fmt: skip
@click.option("--repetition-penalty", type=Number(min=1), metavar="X", default=1.0,
              show_default=True,
              help="Raises the probability p of each recent symbol to the power X, so that it is "
                   "less likely to come again; 1 changes nothing.")  # fmt: skip
@click.option("--repetition-window", type=click.IntRange(1, 256), metavar="N", default=64,
              show_default=True, help="Recent symbols are the last N.")  # fmt: skip
@click.option("--greedy-inside-words", is_flag=True,
              help="Draw the first symbol of a word, then take the likeliest ones.")  # fmt: skip
@click.option("--clamp", type=clamp, multiple=True, metavar="LAYER:UNIT=VALUE",
              help="Hold a unit of a layer at a value; both are counted from 0.")  # fmt: skip
@click.option("--beam", type=click.IntRange(1, 1000), metavar="N",
              help="Draw nothing: search for the likeliest text, with N hypotheses.")  # fmt: skip
@click.option("--next", type=OptionalCount(min=1), metavar="[N]", is_flag=False, flag_value=NEXT,
              help="List the N likeliest next symbols with their probabilities "
                   f"[{NEXT} without a number].")  # fmt: skip
@click.option("--label", metavar="CLASS", help="Class of the text, for a model with classes.")
@click.option("--stop", metavar="TEXT", help="End a sample when it has generated TEXT.")
@click.option("--num-samples", type=click.IntRange(1, 65536), default=1, show_default=True,
              help="Number of samples, generated in one batch.")  # fmt: skip
@click.option("--separator", metavar="TEXT",
              help="A line between samples, in place of their numbers.")  # fmt: skip
@click.option("--no-separator", is_flag=True, help="Nothing between samples.")
@click.option("--seed", type=click.IntRange(min=0), help="Repeats a sample; printed if chosen.")
@click.option("--unknown", type=click.Choice(["error", "skip", "nearest"]), default="error",
              show_default=True,
              help="What to do with characters that the vocabulary lacks; nearest takes another "
                   "form of the quote or dash, the other case, or no accent.")  # fmt: skip
@click.option("--write-unknown", is_flag=True,
              help="Let a model with rare characters write them, as U+FFFD.")  # fmt: skip
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--save-state", type=click.Path(path_type=Path), help="Save the hidden state after.")
@click.option("--load-state", type=click.Path(path_type=Path), help="Go on from a saved state.")
@click.option("--adapt-to", metavar="FILE",
              help="Learn from a text first (dynamic evaluation), then go on from it.")  # fmt: skip
@dynamic_rates("0.01", "0.001")
@click.option("--interactive", is_flag=True, help="Write in turns with the model; /help helps.")
@click.option("--device", default="auto", show_default=True,
              help="auto, cpu, cuda, cuda:N, mps; auto takes a GPU for many samples.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each sample.")
def sample(run: str | None, **flags: Any) -> None:
    """Generate text with the best checkpoint of RUN.

    RUN is a run directory, its name under runs/, or a checkpoint file; without RUN, the newest run
    under runs/ is taken. For each character, the cell takes one step from its hidden state.
    Without a prompt, sampling starts after a newline. A model of the task generation writes texts
    of a class. Without --label, the class of each text is drawn by its frequency in training and
    printed before the text. If the training texts have no line ends, each text is printed on one
    line.

    \b
    Examples:
      charrnn sample
      charrnn sample book-1 --prompt "Once upon a time" -n 1000 --temperature 0.7
      charrnn sample book-1 --num-samples 5 --stop "." --seed 1
      charrnn sample book-1 --prompt "Once upon a" --next
      charrnn sample book-1 --interactive
      charrnn sample names-1 --label Irish --num-samples 10 --temperature 0.8
    """
    from charrnn.cli.interactive import converse
    from charrnn.inference.saved_state import load_state
    from charrnn.inference.text import Writing

    options = Options(**flags)
    options.check()
    model, before = _adapted(_load_model(run or _newest(), options), options)
    if options.write_unknown:
        model.writes_unknown = True
    if options.clamp:
        model = options.clamped(model)
    request = options.request(model.vocabulary, _prompt(model.vocabulary, options), before)
    saved = load_state(options.load_state, model) if options.load_state else None
    writing = Writing(model, request, saved)
    _tell_of_unknown(writing)
    drawn = writing.is_drawn if not (options.beam or options.next) else _draws_class(writing)
    if options.seed is None and saved is None and drawn:
        say(f"seed {writing.seed}")
    if options.interactive:
        converse(writing, options, sample, Output())
    elif options.next:
        _print_next(writing, options)
    elif options.beam or options.as_json or len(writing.samples) > 1:
        _print_texts(writing, options)
    else:
        _stream(writing, "" if saved else writing.prompt)
    if options.save_state is not None:
        writing.save(options.save_state)
        say(f"saved the hidden state in {options.save_state}")


def _newest() -> str:
    """Return the path of the newest run, and say which it is."""
    from charrnn.runs.directory import newest_run

    run = newest_run()
    say(f"sampling from {run.path}, the newest run")
    return str(run.path)


def _load_model(run: str, options: Options) -> Any:
    """Load the model that writes, on the faster device; refuse flags that it does not support."""
    from charrnn.errors import ConfigError
    from charrnn.inference.trained_model import writer_of
    from charrnn.nn.fast.memory import keep_freed_memory
    from charrnn.runs.directory import find_checkpoint

    checkpoint = find_checkpoint(run, warn, options.step, options.last)
    writer = writer_of(checkpoint)
    for ability, flag in options.wanted_abilities.items():
        if ability not in writer.abilities:
            task = checkpoint.metadata["config"].get("task", "language_model")
            raise ConfigError(f"{flag} has no effect on a model of the task {task}; leave it out")
    device = options.device
    if device == "auto" and options.num_samples < MANY:
        device = "cpu"
    if device != "cpu":  # On a CPU, numpy takes the steps: torch is slow to import and not needed.
        from charrnn.training.hardware import choose_device

        device = str(choose_device(device))
    model = writer.from_checkpoint(checkpoint, device)
    keep_freed_memory()
    return model


def _adapted(model: Any, options: Options) -> tuple[Any, str]:
    """Return the model after it has learned from the text of --adapt-to, and that text's end."""
    if options.adapt_to is None:
        return model, ""
    from charrnn.evaluation.dynamic import Rates
    from charrnn.inference.text import readable
    from charrnn.tasks.data import read_for

    vocabulary = model.vocabulary
    kinds = model.config.data.kinds
    text = read_for(vocabulary, [options.adapt_to], warn=warn, kinds=kinds)
    text = readable(text, vocabulary, options.unknown)
    rates = Rates.of(options.dynamic_rate, options.dynamic_decay)
    unknown: Any = "skip" if options.unknown == "skip" else "error"
    with naming_rate_flag():
        return model.adapted_to(text, rates, unknown), text[-REREAD:]


def _prompt(vocabulary: Any, options: Options) -> str:
    """Return the text of --prompt or --prompt-file, read by the rules for any text."""
    if options.prompt_file is None:
        return (options.prompt or "").removeprefix("\ufeff")
    from charrnn.tasks.data import read_for

    return read_for(vocabulary, [options.prompt_file], warn=warn)


def _tell_of_unknown(writing: Writing) -> None:
    """Name the characters that --unknown leaves out of the prompt, or show how it was read."""
    from charrnn.data.vocabulary import name_characters, shortened

    request = writing.request
    missing = writing.model.vocabulary.unknown_characters(request.prompt)
    if missing and request.unknown == "skip":
        warn(f"left out of the prompt: {name_characters(missing)}")
    elif missing:
        say(f"the prompt was read as {shortened(writing.prompt, 200)}")


def _draws_class(writing: Writing) -> bool:
    """Whether the classes of the texts were drawn."""
    return bool(writing.labels) and writing.request.label is None


def _stream(writing: Writing, prompt: str) -> None:
    """Print the prompt and one text, character by character; a class that was drawn comes first."""
    write = Output()
    write(f"{writing.labels[0]}\t{prompt}" if _draws_class(writing) else prompt)
    (last_piece,) = writing.write(write)
    if not last_piece.endswith("\n"):
        click.echo()


def _print_texts(writing: Writing, options: Options) -> None:
    """Write texts or search for them, and print them as JSON lines or one below the other."""
    from charrnn.runs.checkpoint import SCHEMA

    texts: Sequence[str]
    labels: Sequence[str]
    more: list[dict[str, Any]]
    if options.beam:
        found = writing.search(options.beam, options.num_samples)
        texts, more = [one.text for one in found], [{"nats": -one.log_probability} for one in found]
        numbers, labels = list(range(len(found))), writing.labels[:1] * len(found)
    else:
        texts, numbers, labels = writing.write(), writing.samples, writing.labels
        more = [{} for _ in texts]
    if not options.as_json:
        _print_as_text(writing, options, [writing.prompt + text for text in texts], numbers, labels)
        return
    named: Sequence[str | None] = labels or [None] * len(texts)
    for i, text, label, facts in zip(numbers, texts, named, more, strict=True):
        record = {"schema": SCHEMA, "sample": i, "seed": writing.seed, "text": text,
                  "prompt": writing.prompt, "step": writing.model.training_step}  # fmt: skip
        click.echo(json.dumps(record | ({} if label is None else {"label": label}) | facts))


def _print_as_text(
    writing: Writing,
    options: Options,
    texts: Sequence[str],
    numbers: Sequence[int],
    labels: Sequence[str],
) -> None:
    """Print texts as they are, with a line above or between them if there are several.

    Texts that end by themselves and have no line ends are printed one per line. A class that
    was drawn stands before its text.
    """
    model, write = writing.model, Output()
    one_a_line = model.end is not None and not model.has_lines
    numbered = len(texts) > 1 and not (
        one_a_line or options.no_separator or options.separator is not None
    )
    for i, text in enumerate(texts):
        label = labels[i] if _draws_class(writing) else None
        if numbered:
            write(f"--- sample {numbers[i]}" + ("" if label is None else f", {label}") + "\n")
        else:
            if i and options.separator is not None:
                write(options.separator + "\n")
            write("" if label is None else f"{label}\t")
        write(text if text.endswith("\n") else text + "\n")


def _print_next(writing: Writing, options: Options) -> None:
    """Print the likeliest next symbols with their probabilities."""
    from charrnn.runs.checkpoint import SCHEMA

    symbols, write = writing.next(options.next or NEXT), Output()
    label = {"label": writing.labels[0]} if writing.labels else {}
    if options.as_json:
        listed = [{"symbol": s.symbol, "probability": s.probability} for s in symbols]
        record = {"schema": SCHEMA, "prompt": writing.prompt, "step": writing.model.training_step}
        click.echo(json.dumps(record | label | {"next": listed}))
        return
    if _draws_class(writing):
        say(f"class {writing.labels[0]}")
    for symbol in symbols:
        write(f"{symbol.probability:.4f}\t{quoted(symbol, writing)}\n")


def quoted(symbol: Next, writing: Writing) -> str:
    """Quote a symbol as Python would; a special symbol, such as </s>, stands without quotes."""
    from charrnn.data.vocabulary import shortened

    vocabulary = writing.model.vocabulary
    if symbol.symbol in vocabulary.specials:
        return symbol.symbol
    is_escape = vocabulary.kind == "byte" and len(symbol.symbol) > 1
    return f"'{symbol.symbol}'" if is_escape else shortened(symbol.symbol)


class Output:
    """Writes text to standard output.

    A terminal gets it at once, with control characters escaped. Any other output is flushed ten
    times a second.
    """

    def __init__(self) -> None:
        self._terminal = is_terminal(sys.stdout)
        self._flushed = time.monotonic()

    def __call__(self, text: str) -> None:
        if self._terminal:
            click.echo(visible(text), nl=False)
        elif sys.stdout is not None:
            sys.stdout.write(text)
            if (now := time.monotonic()) - self._flushed > 0.1:
                sys.stdout.flush()
                self._flushed = now
