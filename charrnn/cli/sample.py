"""`charrnn sample`."""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import is_terminal, say, visible, warn
from charrnn.cli.options import Number, dynamic_rates

if TYPE_CHECKING:
    from charrnn.inference.sampler import Choice, Cursor
    from charrnn.inference.trained_model import TrainedModel

REREAD = 2000  # characters at the end of a text that was learned from, for the hidden state
MANY = 64  # samples that a GPU, where there is one, steps faster than a CPU


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
@click.option("--label", metavar="CLASS", help="What to write a text of, where it was learned.")
@click.option("--stop", metavar="TEXT", help="End a sample when it has generated TEXT.")
@click.option("--num-samples", type=click.IntRange(1, 65536), default=1, show_default=True,
              help="Samples, stepped together as one batch.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Repeats a sample; printed when chosen.")
@click.option("--unknown", type=click.Choice(["error", "skip"]), default="error", show_default=True,
              help="Characters of the prompt that the vocabulary lacks.")  # fmt: skip
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
@click.option("--json", "as_json", is_flag=True, help="One JSON object a sample.")
def sample(
    run: str,
    length: int,
    prompt: str | None,
    prompt_file: Path | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    label: str | None,
    stop: str | None,
    num_samples: int,
    seed: int | None,
    unknown: str,
    step: int | None,
    last: bool,
    save_state: Path | None,
    load_state: Path | None,
    adapt_to: Path | None,
    dynamic_rate: float | None,
    dynamic_decay: float | None,
    interactive: bool,
    device: str,
    as_json: bool,
) -> None:
    """Generate text with the best checkpoint of RUN.

    RUN is a run directory, its name under runs/, or a checkpoint file. Each character is one step
    of the cell from the carried hidden state. Without a prompt, sampling starts after a newline. A
    model that writes texts of a class writes each to its end, one a line, after its class and a tab
    where no --label is given; classes are then drawn as often as they were trained on.

    \b
    Examples:
      charrnn sample book-1
      charrnn sample book-1 --prompt "Once upon a time" -n 1000 --temperature 0.7
      charrnn sample book-1 --num-samples 5 --stop "." --seed 1
      charrnn sample book-1 --interactive
      charrnn sample names-1 --label Irish --num-samples 10 --temperature 0.8
    """
    from charrnn.errors import ConfigError
    from charrnn.inference.sampler import Choice, Draws, prime
    from charrnn.inference.text import generate_texts
    from charrnn.inference.trained_model import writer_of
    from charrnn.nn.fast.memory import keep_freed_memory
    from charrnn.runs.checkpoint import SCHEMA
    from charrnn.runs.directory import find_checkpoint

    if prompt is not None and prompt_file is not None:
        raise ConfigError("give either --prompt or --prompt-file, not both")
    if load_state is not None and adapt_to is not None:
        raise ConfigError("--load-state is of the model before --adapt-to; leave one of them out")
    if adapt_to is None and (dynamic_rate is not None or dynamic_decay is not None):
        raise ConfigError("--dynamic-rate and --dynamic-decay are for --adapt-to; give it a FILE")
    if load_state is not None and num_samples != 1:
        raise ConfigError("--load-state has its own samples; leave out --num-samples")
    if interactive and (as_json or num_samples != 1):
        raise ConfigError("--interactive keeps one state; leave out --num-samples and --json")
    if prompt_file is not None:
        prompt = _read(prompt_file, "prompt file")
    checkpoint = find_checkpoint(run, warn, step, last)
    kind = writer_of(checkpoint)
    special = {"--label": label, "--adapt-to": adapt_to, "--interactive": interactive or None,
               "--load-state": load_state, "--save-state": save_state}  # fmt: skip
    for option, value in special.items():
        if value is not None and option not in kind.options:
            task = checkpoint.metadata["config"]["task"]
            raise ConfigError(f"{option} says nothing to a model of the task {task}; leave it out")
    if device == "auto" and num_samples < MANY:
        device = "cpu"
    if device != "cpu":  # numpy steps on a CPU; torch, which is slow to import, is not needed.
        from charrnn.training.hardware import choose_device

        device = str(choose_device(device))
    model = kind.from_checkpoint(checkpoint, device)
    keep_freed_memory()
    policy: Any = unknown
    before = ""
    if adapt_to is not None:
        from charrnn.evaluation.dynamic import Rates

        is_bytes = model.vocabulary.kind == "byte"
        text = _read(adapt_to, "text", "surrogateescape" if is_bytes else "strict")
        model = model.adapted_to(text, Rates.of(dynamic_rate, dynamic_decay), policy)
        before = text[-REREAD:]
    missing = model.vocabulary.unknown_characters(prompt or "")
    if missing and unknown == "skip":
        from charrnn.data.vocabulary import name_characters

        warn(f"left out of the prompt: {name_characters(missing)}")
    choice = Choice(temperature, top_k, top_p, min_p)
    chosen_seed = secrets.randbits(32) if seed is None else seed
    samples = list(range(num_samples))
    cursor = None
    if load_state is not None:
        cursor, stored_seed, samples = model.load_cursor(load_state)
        chosen_seed = stored_seed if seed is None else seed
        if prompt:
            ids = model.vocabulary.encode(prompt, policy).astype("int64")
            cursor = prime(model, ids[None].repeat(len(samples), 0), cursor)
    draws = Draws(chosen_seed, samples)
    about = {"labels": model.labels(draws, label)} if "--label" in kind.options else {}
    if cursor is None:
        cursor = model.begin(before + (prompt or ""), num_samples, policy, **about)
    if seed is None and load_state is None and (temperature > 0 or (about and label is None)):
        say(f"seed {chosen_seed}")
    write = Writer()
    if interactive:
        if len(samples) != 1:
            raise ConfigError("--interactive keeps one state; this one has several samples")
        _converse(model, cursor, choice, draws, length, stop, policy, write)
    else:
        streamed = len(samples) == 1 and not as_json and model.end is None
        if streamed and prompt and load_state is None:
            write(prompt)
        texts = generate_texts(
            model, model.vocabulary, cursor, choice, draws, length, stop, model.end,
            write if streamed else None,
        )  # fmt: skip
        if streamed and not texts[0].endswith("\n"):
            click.echo()
        for i, text in zip(samples, texts, strict=True) if not streamed else ():
            if as_json:
                record = {"schema": SCHEMA, "sample": i, "seed": chosen_seed, "text": text,
                          "prompt": prompt or "", "step": model.training_step}  # fmt: skip
                more = {"label": about["labels"][i]} if about else {}
                click.echo(json.dumps(record | more))
            elif model.end is None:
                click.echo(f"--- sample {i}")
                write((prompt or "") + text + "\n")
            else:
                first = "" if label is not None else f"{about['labels'][i]}\t"
                line = f"{first}{prompt or ''}{text}".replace("\n", " ")
                write(f"{line}\n")
    if save_state is not None:
        model.save_cursor(save_state, cursor, chosen_seed, samples)
        say(f"saved the hidden state in {save_state}")


def _converse(
    model: TrainedModel,
    cursor: Cursor,
    choice: Choice,
    draws: Any,
    length: int,
    stop: str | None,
    unknown: Any,
    write: Writer,
) -> None:
    """Turns: a line from the user is read into the state, then the model writes on."""
    from charrnn.errors import DataError
    from charrnn.inference.sampler import prime
    from charrnn.inference.text import generate_texts

    say("type a line for the model to go on from; end with Ctrl-D")
    while True:
        try:
            line = _read_line()
        except EOFError:
            return
        if model.vocabulary.unknown_characters("\n"):
            line = line.removesuffix("\n")
        try:
            ids = model.vocabulary.encode(line, unknown).astype("int64")
        except DataError as error:
            warn(str(error))
            continue
        if len(ids):
            moved = prime(model, ids[None], cursor)
            cursor.token, cursor.state = moved.token, moved.state
        texts = generate_texts(
            model, model.vocabulary, cursor, choice, draws, length, stop, model.end, write
        )
        click.echo(nl=not texts[0].endswith("\n"))  # Flushes as well.


class Writer:
    """Text on standard output as it is made: character by character on a terminal, where control
    characters are escaped, and a few times a second elsewhere."""

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
