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
from charrnn.cli.options import Number, dynamic_rates, naming_rate_flag

if TYPE_CHECKING:
    from charrnn.inference.text import Writing

REREAD = 2000  # characters at the end of the text of --adapt-to, read again for the hidden state
MANY = 64  # from this many samples on, a GPU is faster than a CPU


@dataclass(frozen=True)
class Options:
    """The command line of `charrnn sample`; the fields are named like the flags."""

    length: int
    prompt: str | None
    prompt_file: Path | None
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    label: str | None
    stop: str | None
    num_samples: int
    seed: int | None
    unknown: Any  # "error" or "skip"
    step: int | None
    last: bool
    save_state: Path | None
    load_state: Path | None
    adapt_to: Path | None
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
        if self.interactive and (self.as_json or self.num_samples != 1):
            raise ConfigError(
                "--interactive continues one sample, as text; leave out --num-samples and --json"
            )

    @property
    def wanted_abilities(self) -> dict[str, str]:
        """The abilities that a model must have (`TrainedModel.abilities`), each with its flag."""
        wanted = {
            "label": ("--label", self.label is not None),
            "adapt": ("--adapt-to", self.adapt_to is not None),
            "converse": ("--interactive", self.interactive),
            "load_state": ("--load-state", self.load_state is not None),
            "save_state": ("--save-state", self.save_state is not None),
        }
        return {ability: flag for ability, (flag, is_wanted) in wanted.items() if is_wanted}


@click.command()
@click.argument("run", metavar="RUN")
@click.option("-n", "--length", type=click.IntRange(min=0), default=500, show_default=True,
              help="Symbols to generate.")  # fmt: skip
@click.option("--prompt", default=None, metavar="TEXT", help="Text to read first.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="The same, from a file.")
@click.option("--temperature", type=Number(min=0), metavar="X", default=1.0, show_default=True,
              help="Below 1 is safer, above 1 wilder, 0 always takes the likeliest.")  # fmt: skip
@click.option("--top-k", type=click.IntRange(min=1), help="Only the k likeliest symbols.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True),
              help="Only the fewest symbols that together have this probability.")  # fmt: skip
@click.option("--min-p", type=click.FloatRange(min=0, max=1),
              help="Only symbols at least this fraction as likely as the likeliest.")  # fmt: skip
@click.option("--label", metavar="CLASS", help="Class of the text, for a model with classes.")
@click.option("--stop", metavar="TEXT", help="End a sample when it has generated TEXT.")
@click.option("--num-samples", type=click.IntRange(1, 65536), default=1, show_default=True,
              help="Number of samples, generated in one batch.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Repeats a sample; printed if chosen.")
@click.option("--unknown", type=click.Choice(["error", "skip"]), default="error", show_default=True,
              help="What to do with characters that the vocabulary lacks.")  # fmt: skip
@click.option("--step", type=click.IntRange(min=0), help="The checkpoint of this step.")
@click.option("--last", is_flag=True, help="The last checkpoint instead of the best.")
@click.option("--save-state", type=click.Path(path_type=Path), help="Save the hidden state after.")
@click.option("--load-state", type=click.Path(path_type=Path), help="Go on from a saved state.")
@click.option("--adapt-to", type=click.Path(path_type=Path), metavar="FILE",
              help="Learn from a text first (dynamic evaluation), then go on from it.")  # fmt: skip
@dynamic_rates("0.01", "0.001")
@click.option("--interactive", is_flag=True, help="A prompt that keeps the state between turns.")
@click.option("--device", default="auto", show_default=True,
              help="auto, cpu, cuda, cuda:N, mps; auto takes a GPU for many samples.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each sample.")
def sample(run: str, **flags: Any) -> None:
    """Generate text with the best checkpoint of RUN.

    RUN is a run directory, its name under runs/, or a checkpoint file. Each character is one step
    of the cell from the carried hidden state. Without a prompt, sampling starts after a newline. A
    model of the task generation writes texts of a class, one a line; without --label, classes are
    drawn with their frequency in training, and each text follows its class and a tab.

    \b
    Examples:
      charrnn sample book-1
      charrnn sample book-1 --prompt "Once upon a time" -n 1000 --temperature 0.7
      charrnn sample book-1 --num-samples 5 --stop "." --seed 1
      charrnn sample book-1 --interactive
      charrnn sample names-1 --label Irish --num-samples 10 --temperature 0.8
    """
    from charrnn.inference.sampler import Choice
    from charrnn.inference.saved_state import load_state
    from charrnn.inference.text import Request, Writing

    options = Options(**flags)
    options.check()
    prompt = options.prompt or ""
    if options.prompt_file is not None:
        prompt = _read(options.prompt_file, "prompt file")
    model, before = _adapted(_load_model(run, options), options)
    _warn_of_unknown(model, prompt, options)
    request = Request(
        prompt, options.length,
        Choice(options.temperature, options.top_k, options.top_p, options.min_p),
        options.stop, options.num_samples, options.seed, options.label, options.unknown, before,
    )  # fmt: skip
    saved = load_state(options.load_state, model) if options.load_state else None
    writing = Writing(model, request, saved)
    if options.seed is None and saved is None and writing.is_drawn:
        say(f"seed {writing.seed}")
    if options.interactive:
        _converse(writing)
    elif len(writing.samples) == 1 and not options.as_json and model.end is None:
        _stream(writing, "" if saved else prompt)
    else:
        _print_samples(writing, model, options.as_json)
    if options.save_state is not None:
        writing.save(options.save_state)
        say(f"saved the hidden state in {options.save_state}")


def _load_model(run: str, options: Options) -> Any:
    """Load the model that writes, on the device that suits; refuse flags that it cannot serve."""
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
    """Let the model learn from the text of --adapt-to; return it with the end of that text."""
    if options.adapt_to is None:
        return model, ""
    from charrnn.evaluation.dynamic import Rates

    is_bytes = model.vocabulary.kind == "byte"
    text = _read(options.adapt_to, "text", "surrogateescape" if is_bytes else "strict")
    rates = Rates.of(options.dynamic_rate, options.dynamic_decay)
    with naming_rate_flag():
        return model.adapted_to(text, rates, options.unknown), text[-REREAD:]


def _warn_of_unknown(model: Any, prompt: str, options: Options) -> None:
    """Name the characters that --unknown skip leaves out of the prompt."""
    missing = model.vocabulary.unknown_characters(prompt)
    if missing and options.unknown == "skip":
        from charrnn.data.vocabulary import name_characters

        warn(f"left out of the prompt: {name_characters(missing)}")


def _stream(writing: Writing, prompt: str) -> None:
    """Print the prompt and one text, character by character."""
    write = _Output()
    write(prompt)
    (last_piece,) = writing.write(write)
    if not last_piece.endswith("\n"):
        click.echo()


def _print_samples(writing: Writing, model: Any, as_json: bool) -> None:
    """Print finished texts as JSON lines, as lines that begin with the class, or below headings."""
    from charrnn.runs.checkpoint import SCHEMA

    write, request = _Output(), writing.request
    labels: Sequence[str | None] = writing.labels or [None] * len(writing.samples)
    for i, text, label in zip(writing.samples, writing.write(), labels, strict=True):
        if as_json:
            record = {"schema": SCHEMA, "sample": i, "seed": writing.seed, "text": text,
                      "prompt": request.prompt, "step": model.training_step}  # fmt: skip
            click.echo(json.dumps(record | ({} if label is None else {"label": label})))
        elif model.end is None:
            click.echo(f"--- sample {i}")
            write(request.prompt + text + "\n")
        else:
            first = f"{label}\t" if label is not None and request.label is None else ""
            write(f"{first}{request.prompt}{text}".replace("\n", " ") + "\n")


def _converse(writing: Writing) -> None:
    """Take turns: read a line from the user into the state, then let the model write on."""
    from charrnn.errors import ConfigError, DataError

    if len(writing.samples) != 1:
        raise ConfigError(
            "--interactive continues one sample, but the saved state has several; use another state"
        )
    say("type a line for the model to go on from; end with Ctrl-D")
    write, vocabulary = _Output(), writing.model.vocabulary
    while True:
        try:
            line = _read_line()
        except EOFError:
            return
        if vocabulary.unknown_characters("\n"):
            line = line.removesuffix("\n")
        try:
            writing.read(line)
        except DataError as error:
            warn(str(error))
            continue
        (last_piece,) = writing.write(write)
        click.echo(nl=not last_piece.endswith("\n"))  # click.echo also flushes.


class _Output:
    """Writes text to standard output.

    A terminal gets it at once, with control characters escaped. Elsewhere it is flushed ten times
    a second.
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


def _read(path: Path, what: str, errors: str = "strict") -> str:
    from charrnn.errors import DataError

    try:
        return path.read_bytes().decode("utf-8", errors)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DataError(f"cannot read the {what} {path}: {reason}") from error


def _read_line() -> str:
    if sys.stdin is None:
        raise EOFError
    if is_terminal(sys.stdin):
        click.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
