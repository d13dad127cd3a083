"""`charrnn help`: entries of the glossary, and the help of commands."""

from __future__ import annotations

import re
import sys
from importlib import resources

import click

from charrnn.cli.display import columns_of, show
from charrnn.errors import ConfigError, did_you_mean

WIDEST = 80


def read_glossary() -> dict[str, str]:
    """Read the glossary that is installed with the package: each entry by its heading.

    >>> print(read_glossary()["nats"])
    The unit of surprisal with the natural logarithm: an event of probability p costs -ln p nats. \
One nat is 1.44 bits.
    """
    text = resources.files("charrnn.cli").joinpath("glossary.md").read_text("utf-8")
    _, *parts = re.split(r"^## +(.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], (entry.strip() for entry in parts[1::2]), strict=True))


@click.command("help")
@click.argument("topic", nargs=-1, metavar="[TOPIC]...")
@click.pass_context
def help_command(context: click.Context, topic: tuple[str, ...]) -> None:
    """Explain TOPIC, a word of the messages or a command, or list all topics.

    \b
    Examples:
      charrnn help
      charrnn help nats
      charrnn help dynamic evaluation
      charrnn help config show
    """
    glossary = read_glossary()
    if not topic:
        _list_topics(list(glossary))
        return
    asked = " ".join(topic)
    entry = _entry_named(asked, glossary)
    command = _command_named(context, topic)
    if entry is None and command is None:
        program = context.find_root()
        names = [*glossary, *_program(context).list_commands(program)]
        hint = did_you_mean(asked, names, cutoff=0.6) or "charrnn help lists the topics"
        raise ConfigError(f"there is no help on {asked!r}; {hint}")
    if entry is not None:
        show(f"{entry}\n\n{_wrap(glossary[entry], indent='  ')}")
    if command is not None:
        show(("\n" if entry else "") + command.get_help())


def _list_topics(topics: list[str]) -> None:
    show("Topics, each explained by charrnn help TOPIC:\n")
    show(_wrap(", ".join(topics), indent="  "))
    show("\ncharrnn help COMMAND and charrnn COMMAND -h print the help of a command.")


def _wrap(text: str, indent: str) -> str:
    width = min(columns_of(sys.stdout) or WIDEST, WIDEST)
    return click.wrap_text(
        text, width, initial_indent=indent, subsequent_indent=indent, preserve_paragraphs=True
    )


def _entry_named(name: str, glossary: dict[str, str]) -> str | None:
    """Find the heading that equals this name, apart from case, hyphens and a plural."""
    headings = {_plain(heading): heading for heading in glossary}
    plain = _plain(name)
    return headings.get(plain) or headings.get(plain.removesuffix("s"))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _program(context: click.Context) -> click.Group:
    program = context.find_root().command
    assert isinstance(program, click.Group)
    return program


def _command_named(context: click.Context, words: tuple[str, ...]) -> click.Context | None:
    """Make the click context of the command that the words name, such as `config show`."""
    current = context.find_root()
    for word in words:
        group = current.command
        command = group.get_command(current, word) if isinstance(group, click.Group) else None
        if command is None:
            return None
        current = click.Context(command, info_name=word, parent=current)
    return current
