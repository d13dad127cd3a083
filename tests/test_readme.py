"""What the documents say is true: the Python examples run, the named options exist."""

import re
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import charrnn
from charrnn.cli.main import _add_commands, cli, main
from charrnn.config.merge import all_keys

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [README, (ROOT / "data" / "README.md").read_text("utf-8")]


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(README, "utf-8")
    monkeypatch.setattr(
        sys,
        "argv",
        ["charrnn", "train", "book.txt", "--steps", "3", "--hidden-size", "8", "--batch-size", "4"],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_what_is_said_there_is_said_here_as_the_table_has_it() -> None:
    before, _, after = README.partition("| there | here |\n")
    block = re.findall(r"```python\n(.*?)```", before, re.S)[-1]
    rows = [row.split(" | ") for row in after.partition("\n\n")[0].splitlines()[1:]]
    assert len(rows) == 14
    for _, here in rows:
        names: dict[str, Any] = {"charrnn": charrnn}
        exec(compile(block, "README.md", "exec"), names)
        for code in re.findall(r"`([^`]+)`", here):
            exec(compile(code, "README.md", "exec"), names)


def options(command: click.Command) -> set[str]:
    found = {name for parameter in command.params for name in parameter.opts}
    for child in getattr(command, "commands", {}).values():
        found |= options(child)
    return found


def test_every_option_and_key_that_is_named_exists() -> None:
    _add_commands()
    known = options(cli) | {"--help", "--version", "--index-url"}
    for text in DOCUMENTS:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known
        for key in re.findall(r"--set '?([a-z_.]+)=", text):
            assert key in all_keys()
    assert set(re.findall(r"(?:`|^)charrnn ([a-z]+)\b", README, re.M)) <= set(cli.commands)
