"""`charrnn completion`, and what a shell offers for an argument or an option.

A shell calls `charrnn` at each press of Tab, so nothing here imports torch, numpy or pydantic. Keys
of the configuration and their values are read from `keys.json`, which `scripts/keys.py` writes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from charrnn.registry import CELLS, TASKS, Table

SUFFIX = ".safetensors"
DEVICES = ["auto", "cpu", "cuda", "mps"]
Items = list[CompletionItem[str]]

# Bash divides words at `=` and `:` and replaces only the last part, so the parts are joined before
# they are sent, and what stands before the last part is cut off each candidate.
BASH = """\
%(complete_func)s() {
    local words=("${COMP_WORDS[0]}") rest=${COMP_LINE#*"${COMP_WORDS[0]}"} i word
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $rest == [[:space:]]* ]]; then words+=("$word"); else words[-1]+=$word; fi
        rest=${rest#*"$word"}
    done
    local current=${words[-1]} before=${words[-1]%%"$word"} type value
    [[ $word == [=:] ]] && before=$current
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
        dir) compopt -o dirnames ;;
        file) compopt -o default ;;
        plain)
            [[ $current == [\\"\\']* ]] || printf -v value %%q "$value"
            [[ $value == *[=:/] ]] && compopt -o nospace
            COMPREPLY+=("${value#"$before"}")
            ;;
        esac
    done < <(IFS=$'\\n' && env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \\
        %(complete_var)s=bash_complete "$1" && echo)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

# No space follows a candidate that is only the beginning of a word.
ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a response ending shown
    local type value about
    (( $+commands[%(prog_name)s] )) || return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s)}")
    for type value about in "${response[@]}"; do
        ending=() shown=("$value")
        [[ $value == *[=:/] ]] && ending=(-S '')
        [[ $about == _ ]] || shown=("$value -- $about")
        case $type in
        dir) _path_files -/ ;;
        file) _path_files -f ;;
        plain) compadd -U -V charrnn -l -d shown "${ending[@]}" -- "$value" ;;
        esac
    done
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

FISH = """\
function %(complete_func)s
    set -l response (env COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) \\
        %(complete_var)s=fish_complete %(prog_name)s)
    for line in $response
        set -l candidate (string split --max 1 , $line)
        switch $candidate[1]
            case dir
                __fish_complete_directories $candidate[2]
            case file
                __fish_complete_path $candidate[2]
            case plain
                echo $candidate[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


@add_completion_class
class _Bash(BashComplete):
    source_template = BASH


@add_completion_class
class _Zsh(ZshComplete):
    source_template = ZSH


@add_completion_class
class _Fish(FishComplete):
    source_template = FISH


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


@click.command()
@click.argument("shell", type=click.Choice([*SHELLS]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes charrnn's arguments in SHELL.

    Afterwards, Tab completes commands, options, runs, checkpoints, corpora, and the keys of the
    configuration with their values.

    \b
    Examples:
      eval "$(charrnn completion bash)"       in ~/.bashrc
      eval "$(charrnn completion zsh)"        in ~/.zshrc, after compinit
      charrnn completion fish | source        in ~/.config/fish/config.fish
    """
    program = context.find_root()
    script = SHELLS[shell](program.command, {}, "charrnn", "_CHARRNN_COMPLETE").source()
    click.echo(script, nl=False)


# Candidates ---------------------------------------------------------------------------------------


def starting_with(incomplete: str, values: Iterable[str]) -> Items:
    """Make candidates of the values that begin with `incomplete`."""
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]


def _entries(incomplete: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the paths that begin with `incomplete`; hidden ones only if their dot was typed."""
    folder, name = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
            yield os.path.join(folder, entry.name), entry


def _is_run(path: str | os.PathLike[str]) -> bool:
    return os.path.isdir(os.path.join(path, "checkpoints"))


def _paths(incomplete: str, suffixes: tuple[str, ...] = ("",)) -> Items:
    """List the folders, and the files with one of these suffixes; a folder's path ends with `/`."""
    items: Items = []
    for path, entry in _entries(incomplete):
        if entry.is_dir():
            items.append(CompletionItem(f"{path}/"))
        elif path.endswith(suffixes):
            items.append(CompletionItem(path))
    return items


def runs(ctx: click.Context, incomplete: str) -> Items:
    """Complete a run by its name under runs/ or its path, or a checkpoint file."""
    names = [entry.name for _, entry in _entries("runs/") if _is_run(entry)]
    paths = []
    for item in _paths(incomplete, (SUFFIX,)):
        is_run = item.value.endswith("/") and _is_run(item.value)
        paths += [CompletionItem(item.value.rstrip("/"))] if is_run else [item]
    return [*starting_with(incomplete, names), *paths]


def corpora(ctx: click.Context, incomplete: str) -> Items:
    """Complete the name of a corpus."""
    from charrnn.data.corpora import BOOK, NAMED, cached_books

    books = [book.name for book in cached_books()]
    return starting_with(incomplete, [*NAMED, BOOK, *books])


def texts(ctx: click.Context, incomplete: str) -> Items:
    """Complete a file, a folder or a named corpus."""
    return [*corpora(ctx, incomplete), *_paths(incomplete)]


class Key(TypedDict):
    """A key of the configuration: the names that it accepts, and the sentence that explains it."""

    values: list[str]
    help: str


def _keys() -> dict[str, Key]:
    keys: dict[str, Key] = json.loads(Path(__file__).with_name("keys.json").read_text("utf-8"))
    return keys


def _names(table: Table[Any]) -> list[str]:
    """List the names of a table. The installed packages are first searched for the words alone,
    because reading what each of them provides takes long."""
    files = (Path(path).glob("*-info/entry_points.txt") for path in sys.path)
    heading = f"[{table.group}]"
    is_extended = any(heading in file.read_text("utf-8") for file in chain.from_iterable(files))
    return [*table] if is_extended else [*table.own]


def values_of(key: str) -> list[str]:
    """List the names that a key of the configuration accepts; none if it takes numbers or text."""
    tables: dict[str, Table[Any]] = {"model.cell": CELLS, "cell": CELLS, "task": TASKS}
    if key in tables:
        return _names(tables[key])
    if key == "device":
        return DEVICES
    about = _keys().get(key)
    return about["values"] if about else []


def settings(ctx: click.Context, incomplete: str) -> Items:
    """Complete KEY=VALUE: the key, and then its value if it has a few possible ones."""
    key, equals, value = incomplete.partition("=")
    if equals:
        return [
            CompletionItem(f"{key}={name}") for name in values_of(key) if name.startswith(value)
        ]
    return [
        CompletionItem(f"{name}=", help=about["help"])
        for name, about in _keys().items()
        if name.startswith(incomplete)
    ]


def topics(ctx: click.Context, incomplete: str) -> Items:
    """Complete a command or an entry of the glossary."""
    from charrnn.cli.help import read_glossary

    program = ctx.find_root()
    assert isinstance(program.command, click.Group)
    return starting_with(incomplete, [*program.command.list_commands(program), *read_glossary()])


def sort_keys(ctx: click.Context, incomplete: str) -> Items:
    """Complete a key of `list --sort`."""
    from charrnn.cli.inspect import SORTED_BY

    return starting_with(incomplete, [*SORTED_BY, *(f"-{key}" for key in SORTED_BY)])


# The function that completes an argument or an option, by its metavar: its name in the help.
ARGUMENTS = {"RUN": runs, "DATA": texts, "TEXT": texts, "NAME": corpora, "TOPIC": topics}
OPTIONS = {"RUN": runs, "N|RUN": runs, "DATA": texts, "KEY=VALUE": settings, "KEY": sort_keys}


def add_candidates(command: click.Command) -> None:
    """Let a command and its subcommands complete their arguments and options.

    An option that is named like a key of the configuration, as `training__steps`, offers the key's
    values. All others complete as click decides by their type.
    """
    for child in getattr(command, "commands", {}).values():
        add_candidates(child)
    for parameter in command.params:
        table = ARGUMENTS if isinstance(parameter, click.Argument) else OPTIONS
        key = str(parameter.name).replace("__", ".")
        if complete := table.get(str(parameter.metavar).strip("[].")):
            parameter.shell_complete = complete  # type: ignore[method-assign]
        elif "." in key or key in ("task", "device", "cell"):
            parameter.shell_complete = partial(_values, key)  # type: ignore[method-assign]


def _values(key: str, ctx: click.Context, incomplete: str) -> Items:
    return starting_with(incomplete, values_of(key))
