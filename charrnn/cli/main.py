"""The command `charrnn`: its subcommands, and their errors as one line and an exit code.

No module of `charrnn.cli` imports torch, numpy or pydantic at its top, so that `--help` is quick.
Commands import other modules only when they run.
"""

from __future__ import annotations

import io
import os
import sys
import time
from typing import Any

import click

from charrnn.cli.completion import Items, add_candidates, starting_with
from charrnn.cli.display import (
    accept_all_text,
    alert,
    download_display,
    one_line,
    warn_of_unshown,
)
from charrnn.cli.flags import in_flags
from charrnn.errors import CharrnnError, ExitCode, did_you_mean, is_out_of_memory
from charrnn.registry import resolve

WORDS = "charrnn help TOPIC explains a word of the messages, such as nats or lane."


def _epilog() -> str:
    """Say where words are explained, and what the exit codes mean."""
    codes = "\n".join(f"  {code:<5}{code.meaning}" for code in ExitCode)
    return f"{WORDS}\n\n\b\nExit codes:\n{codes}\n"


# The commands in the order in which a user needs them. Each is loaded when it is first used.
COMMANDS = {
    "train": "charrnn.cli.train:train",
    "resume": "charrnn.cli.train:resume",
    "sample": "charrnn.cli.sample:sample",
    "eval": "charrnn.cli.evaluate:evaluate",
    "predict": "charrnn.cli.predict:predict",
    "baseline": "charrnn.cli.baseline:baseline",
    "compress": "charrnn.cli.compress:compress",
    "decompress": "charrnn.cli.compress:decompress",
    "export": "charrnn.cli.export:export",
    "info": "charrnn.cli.inspect:info",
    "list": "charrnn.cli.inspect:list_runs",
    "plot": "charrnn.cli.plot:plot",
    "compare": "charrnn.cli.compare:compare",
    "config": "charrnn.cli.config:config",
    "data": "charrnn.cli.data:data",
    "vocab": "charrnn.cli.inspect:vocab",
    "completion": "charrnn.cli.completion:completion",
    "help": "charrnn.cli.help:help_command",
}

# Other names of commands, and the command to suggest for them.
USUAL = {
    "classify": "predict",
    "continue": "resume",
    "convert": "export",
    "curves": "plot",
    "diff": "compare",
    "corpora": "data list",
    "datasets": "data list",
    "download": "data fetch",
    "evaluate": "eval",
    "fit": "train",
    "generate": "sample",
    "graph": "plot",
    "glossary": "help",
    "infer": "predict",
    "inspect": "info",
    "ls": "list",
    "ngram": "baseline",
    "onnx": "export",
    "perplexity": "eval",
    "runs": "list",
    "score": "eval",
    "show": "info",
    "tag": "predict",
    "test": "eval",
    "translate": "predict",
    "validate": "eval",
    "vocabulary": "vocab",
}


class Commands(click.Group):
    """The subcommands, which are loaded when they are first used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which a user needs them; click would sort them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Load the command of a name; None if there is none."""
        if name in COMMANDS and name not in self.commands:
            command = resolve(COMMANDS[name])
            command.epilog = WORDS
            add_candidates(command)
            self.add_command(command)
        return self.commands.get(name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> Items:
        """Complete the name of a command; its help would take the time to load it."""
        names = starting_with(incomplete, COMMANDS)
        return names or click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names; suggest one if it is mistyped."""
        name = "" if ctx.resilient_parsing or not args else args[0]  # A shell shows no errors.
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = did_you_mean(name, COMMANDS, USUAL) or "charrnn --help lists them"
            raise click.UsageError(f"no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of the library then name settings by the command's flags."""
        from charrnn.data.download import watch

        watch.set(download_display())
        try:
            return super().invoke(ctx)
        except CharrnnError as error:
            if command := self.get_command(ctx, ctx.invoked_subcommand or ""):
                error.args = (in_flags(str(error), command),)
            raise


@click.group(
    cls=Commands,
    epilog=_epilog(),
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="charrnn-trainer", prog_name="charrnn")
def cli() -> None:
    """Train, resume, sample and evaluate character-level recurrent networks.

    \b
    Examples:
      charrnn train book.txt             train on a text; all settings are chosen for you
      charrnn sample book-1              text from the best checkpoint
      charrnn train shakespeare --max-time 5m --cell gru
      charrnn eval book-1 other.txt      nats and bits per character
    """


def _add_commands() -> None:
    """Load every command."""
    for name in COMMANDS:
        cli.get_command(click.Context(cli), name)


def main(began: float | None = None) -> None:
    """Run the command that the arguments name, and leave with its exit code.

    `began` is when the command began, by `time.monotonic`; a time budget counts from there.
    """
    began = time.monotonic() if began is None else began
    accept_all_text()
    try:
        code = _run(began)
        warn_of_unshown()
    except BrokenPipeError:
        # The reader has closed the pipe. The interpreter must not try to flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = ExitCode.DONE
    sys.exit(code)


def _run(began: float) -> int:
    """Run the command; print an error as one line, and return the exit code."""
    try:
        code: Any = cli.main(prog_name="charrnn", standalone_mode=False, obj=began)
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit:
        return ExitCode.DONE  # Click exits this way when the reader has closed the pipe.
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        alert(shown.getvalue().rstrip("\n"))
        return error.exit_code
    except CharrnnError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", ExitCode.STORAGE)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "use a smaller --batch-size, --window or --hidden-size, or fewer --num-samples"
        return _fail(f"out of memory; {remedy}", ExitCode.ERROR)
    return code if isinstance(code, int) else ExitCode.DONE


def _fail(message: str, code: int) -> int:
    alert(f"charrnn: {one_line(message)}")
    return code
