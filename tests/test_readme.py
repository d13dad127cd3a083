"""README is short and true: its commands run, and its figures are those that were measured."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from charrnn.cli.main import _add_commands, cli
from charrnn.config.merge import all_keys

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [README, (ROOT / "data" / "README.md").read_text("utf-8")]
RUN = runpy.run_path(str(ROOT / "docs" / "run.py"))
FIRST, INSTALL = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)


def test_it_has_at_most_700_words() -> None:
    assert len(README.split()) <= 700


def test_every_block_is_executed() -> None:
    """Apart from the blocks that docs/run.py executes, there are the two that are executed here."""
    assert RUN["BLOCK"].findall(README)
    assert re.findall(r"^```(.+)$", RUN["BLOCK"].sub("", README), re.M) == ["sh", "sh"]


def test_the_first_two_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = RUN["Session"](tmp_path)
    (tmp_path / "book.txt").write_text(README, "utf-8")
    monkeypatch.setenv("CHARRNN_TRAINING__STEPS", "12")
    monkeypatch.setenv("CHARRNN_MODEL__HIDDEN_SIZE", "8")
    train, sample = FIRST.splitlines()
    assert "best    step 12" in session.command(train)
    assert len(session.command(sample)) > 100


@pytest.mark.slow
def test_it_installs_as_it_says(tmp_path: Path) -> None:
    """Install a copy of the checkout from the network, torch included, which takes minutes."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    script = INSTALL.replace("python3", shlex.quote(sys.executable), 1)
    done = subprocess.run(
        ["bash", "-e", "-c", script + "charrnn --version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("charrnn")  # pip prints before it


def test_its_figures_stand_where_they_were_measured() -> None:
    table = README.partition("## How it compares")[2].partition("## From Python")[0]
    pages = [ROOT / "benchmarks" / "results.md", *(ROOT / "docs" / "experiments").glob("*.md")]
    measured = "".join(page.read_text("utf-8") for page in pages)
    figures = re.findall(r"\b\d+,\d{3}\b|\b\d\.\d{4}\b", table)
    assert len(figures) > 5
    for figure in figures:
        assert figure in measured, figure


def options(command: click.Command) -> set[str]:
    names = {name for parameter in command.params for name in parameter.opts}
    for child in getattr(command, "commands", {}).values():
        names |= options(child)
    return names


def test_every_option_and_key_that_is_named_exists() -> None:
    _add_commands()
    known = options(cli) | {"--help", "--version", "--index-url"}
    for text in DOCUMENTS:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known
        for key in re.findall(r"--set '?([a-z_.]+)=", text):
            assert key in all_keys()
    assert set(re.findall(r"(?:`|^)charrnn ([a-z]+)\b", README, re.M)) <= set(cli.commands)
