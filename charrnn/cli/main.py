"""The command group, and how every error and signal becomes one line and an exit code.

Nothing at the top of the modules of this package imports torch, numpy or pydantic: `--help` shows
at once. Commands import what they need when they run.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from typing import Any

import click

from charrnn.cli.display import one_line, say
from charrnn.cli.flags import in_flags
from charrnn.errors import CharrnnError, did_you_mean, is_out_of_memory

EXIT_CODES = """\b
Exit codes:
  0    done                      6    training diverged
  1    error                     7    input or output failed
  2    usage or config           130  interrupted (Ctrl-C)
  3    data                      143  terminated
  4    checkpoint
  5    another trainer is at work in the run
"""


# Other names of commands, and the command to suggest for them.
USUAL = {
    "compare": "eval --compare",
    "continue": "resume",
    "evaluate": "eval",
    "classify": "predict",
    "fit": "train",
    "generate": "sample",
    "infer": "predict",
    "inspect": "info",
    "ls": "list",
    "ngram": "baseline",
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
    """Commands in the order a user meets them, with a suggestion for a mistyped one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = did_you_mean(name, self.commands, USUAL) or "charrnn --help lists them"
            raise click.UsageError(f"no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of the library then name settings by the command's flags."""
        try:
            return super().invoke(ctx)
        except CharrnnError as error:
            if command := self.commands.get(ctx.invoked_subcommand or ""):
                error.args = (in_flags(str(error), command),)
            raise


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"max_content_width": 100})
@click.version_option(package_name="charrnn-trainer", prog_name="charrnn")
def cli() -> None:
    """Train, resume, sample and evaluate character-level recurrent networks.

    \b
    Examples:
      charrnn train book.txt             train on a text; everything else is chosen for you
      charrnn sample book-1              text from the best checkpoint
      charrnn train shakespeare --max-time 5m --cell gru
      charrnn eval book-1 other.txt      nats and bits per character
    """


def _add_commands() -> None:
    from charrnn.cli.baseline import baseline
    from charrnn.cli.compress import compress, decompress
    from charrnn.cli.config import config
    from charrnn.cli.evaluate import evaluate
    from charrnn.cli.inspect import info, list_runs, vocab
    from charrnn.cli.predict import predict
    from charrnn.cli.sample import sample
    from charrnn.cli.train import resume, train

    for command in (
        train,
        resume,
        sample,
        evaluate,
        predict,
        baseline,
        compress,
        decompress,
        info,
        list_runs,
        config,
        vocab,
    ):
        cli.add_command(command)


def main() -> None:
    """Run the command line and leave with its exit code."""
    began = time.monotonic()
    # A model may write what the locale cannot, and lone surrogates stand for bytes of no text.
    for stream, errors in (
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
        (sys.stdin, "surrogateescape"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    code: Any = 0
    try:
        _add_commands()
        code = cli.main(prog_name="charrnn", standalone_mode=False, obj=began)
        _flush()
    except SystemExit:
        code = 0  # Click leaves this way when whoever reads a pipe has read enough.
    except click.ClickException as error:
        with contextlib.suppress(OSError):  # As in `say`.
            error.show()
        code = error.exit_code
    except CharrnnError as error:
        code = _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever reads has read enough. The interpreter must not try to flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 7)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "use a smaller --batch-size, --window or --hidden-size, or fewer --num-samples"
        code = _fail(f"out of memory; {remedy}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _fail(message: str, code: int) -> int:
    say(f"charrnn: {one_line(message)}")
    return code
