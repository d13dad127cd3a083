"""`charrnn sample --interactive`: write in turns with the model; commands change settings."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import is_terminal, say, warn

if TYPE_CHECKING:
    from charrnn.cli.sample import Options, Output
    from charrnn.inference.text import Next, Writing

GREETING = (
    "type the beginning of a text, and the model goes on where it ends; /help lists the commands, "
    "Ctrl-C stops a text, Ctrl-D ends"
)
HELP = """\
TEXT               the model reads TEXT and goes on from there; //TEXT for a text that begins with /
(an empty line)    the model goes on
/retry             write the last text again, in another way
/next [N]          list the N likeliest next symbols
/take N            go on with number N of that list
/newline on|off    whether a line that you type ends with a line end
/settings          the settings as they are
/SETTING VALUE     change one, such as /temperature 0.7; /SETTING off sets it back
                   {settings}
/quit              end; so does Ctrl-D"""
SETTINGS = (
    "length", "temperature", "top-k", "top-p", "min-p", "repetition-penalty", "repetition-window",
    "greedy-inside-words", "stop", "unknown", "clamp",
)  # fmt: skip


def converse(writing: Writing, options: Options, command: click.Command, write: Output) -> None:
    """Take turns until the input ends: the user types a text or a command, the model writes on.

    The commands that change settings are the flags of `command`.
    """
    from charrnn.errors import CharrnnError, ConfigError

    if len(writing.samples) != 1:
        raise ConfigError(
            "--interactive continues one sample, but the saved state has several; use another state"
        )
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 -- input() then edits lines and remembers them
    say(GREETING)
    turns = _Turns(writing, options, command, write)
    while not turns.is_over:
        try:
            turns.take(_read_line())
        except EOFError:
            return
        except KeyboardInterrupt:
            if not is_terminal(sys.stdin):
                raise
            say("\n(Ctrl-D ends)")
        except (CharrnnError, click.UsageError) as error:
            warn(error.format_message() if isinstance(error, click.UsageError) else str(error))


class _Turns:
    """The state of a conversation: the settings and the last list of symbols."""

    def __init__(
        self, writing: Writing, options: Options, command: click.Command, write: Output
    ) -> None:
        self.writing, self.options, self.command, self.output = writing, options, command, write
        self.defaults = command.make_context(command.name, []).params
        self.ends_lines = False
        self.is_over = False
        self.listed: list[Next] = []

    def take(self, line: str) -> None:
        """Run a command, or read a text and let the model continue it. Raises CharrnnError."""
        if line.startswith("/") and not line.startswith("//"):
            name, _, value = line[1:].partition(" ")
            self._obey(name, value)
            return
        text = line.removeprefix("/") if line.startswith("//") else line
        if self.ends_lines:
            text += "\n"
        self.writing.read(text)
        self._let_write(self.writing.write)

    def _let_write(self, writes: Callable[[Any], list[str]]) -> None:
        """Print a text as it is written; Ctrl-C ends it after a symbol."""
        last = ""
        with _asked_to_stop() as asked:

            def write(piece: str) -> None:
                nonlocal last
                last = piece
                self.output(piece)
                if asked():
                    raise KeyboardInterrupt

            try:
                writes(write)
            except KeyboardInterrupt:
                say("\n(stopped)")
                return
        click.echo(nl=not last.endswith("\n"))  # click.echo also flushes.

    def _obey(self, name: str, value: str) -> None:
        """Run one command. Raises CharrnnError or UsageError if it is unknown or wrong."""
        from charrnn.errors import ConfigError, did_you_mean

        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: say(HELP.format(settings=", ".join(SETTINGS))),
            "retry": lambda _: self._let_write(self.writing.rewrite),
            "next": self._list_next,
            "take": self._take_symbol,
            "newline": self._set_newline,
            "settings": lambda _: say("\n".join(map(self._described, SETTINGS))),
            "quit": self._quit,
        }
        if name in commands:
            commands[name](value.strip())
        elif name in SETTINGS:
            self._change(name, value)
            say(self._described(name))
        else:
            hint = did_you_mean(name, [*commands, *SETTINGS])
            raise ConfigError(
                f"no command /{name}; {hint.replace('mean ', 'mean /') or '/help lists them'}"
            )

    def _list_next(self, value: str) -> None:
        """Number the likeliest next symbols."""
        from charrnn.cli.sample import NEXT, quoted

        self.listed = self.writing.next(_number(value, NEXT))
        for i, symbol in enumerate(self.listed, 1):
            say(f"{i:3}  {symbol.probability:7.2%}  {quoted(symbol, self.writing)}")

    def _take_symbol(self, value: str) -> None:
        """Continue with a symbol of the last list, and list those that come next."""
        from charrnn.errors import ConfigError

        number = _number(value, 0)
        if not 1 <= number <= len(self.listed):
            raise ConfigError(
                f"/take {value} is not in the list; give a number from 1 to {len(self.listed)}"
                if self.listed
                else "nothing is listed yet; type /next first"
            )
        self.output(self.writing.take(self.listed[number - 1].id))
        click.echo()
        self._list_next(str(len(self.listed)))

    def _set_newline(self, value: str) -> None:
        """Choose whether each line that is typed ends with a line end."""
        from charrnn.errors import ConfigError
        from charrnn.inference.text import has_line_ends

        if value == "on" and not has_line_ends(self.writing.model.vocabulary):
            raise ConfigError("the model knows no line ends; leave /newline off")
        self.ends_lines = _switch("newline", value)

    def _change(self, name: str, value: str) -> None:
        """Change a setting as the flag of this name would. Raises UsageError, ConfigError."""
        flag = self._flag(name)
        context = click.get_current_context()
        chosen: Any
        if value == "off":
            chosen = self.defaults[str(flag.name)]
        elif flag.is_flag:
            chosen = _switch(name, value)
        elif not value:
            return
        else:
            chosen = flag.type.convert(value.strip(), flag, context)
        if flag.multiple and value != "off":  # A new clamp is added to the others.
            chosen = (*getattr(self.options, str(flag.name)), chosen)
        options = dataclasses.replace(self.options, **{str(flag.name): chosen})
        options.check()
        if options.clamp != self.options.clamp:
            self.writing.model = options.clamped(self.writing.model)
        self.writing.request = dataclasses.replace(
            self.writing.request,
            choice=options.choice(self.writing.model.vocabulary),
            length=options.length,
            stop=options.stop,
            unknown=options.unknown,
        )
        self.options = options

    def _described(self, name: str) -> str:
        """Return the value of a setting, as it would be typed."""
        value = getattr(self.options, str(self._flag(name).name))
        if isinstance(value, bool):
            shown = "on" if value else "off"
        elif isinstance(value, tuple):
            shown = " ".join(f"{layer}:{unit}={held}" for layer, unit, held in value) or "off"
        else:
            shown = "off" if value is None else str(value)
        return f"{name:22}{shown}"

    def _flag(self, name: str) -> click.Option:
        return next(
            parameter
            for parameter in self.command.params
            if isinstance(parameter, click.Option) and f"--{name}" in parameter.opts
        )

    def _quit(self, _: str) -> None:
        self.is_over = True


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed; a second Ctrl-C interrupts at once."""
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _number(text: str, default: int) -> int:
    """Read a whole number of at least 1. Raises ConfigError."""
    from charrnn.errors import ConfigError

    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{text!r} is not a number from 1 up; write one such as 5")
    return int(text)


def _switch(name: str, value: str) -> bool:
    """Read on or off. Raises ConfigError."""
    from charrnn.errors import ConfigError

    if value not in ("on", "off"):
        raise ConfigError(f"/{name} takes on or off, not {value!r}; write one of them")
    return value == "on"


def _read_line() -> str:
    """Read a line without its end, with line editing on a terminal. Raises EOFError."""
    if sys.stdin is None:
        raise EOFError
    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        return input("> ")
    if is_terminal(sys.stdin):  # input() would write its prompt to standard output.
        click.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")
