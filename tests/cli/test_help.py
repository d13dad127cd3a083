"""`charrnn help`, `-h` and `--help`, and the table of exit codes."""

import re
from importlib import resources
from pathlib import Path

import click
import pytest

from charrnn import errors
from charrnn.cli.help import read_glossary
from charrnn.cli.main import _add_commands, cli
from charrnn.errors import ExitCode
from tests.conftest import Run

ROOT = Path(__file__).parents[2]

_add_commands()


def paths(group: click.Group, *before: str) -> list[tuple[str, ...]]:
    """Yield the words that call each command of a group and of its subgroups."""
    found = []
    for name, command in group.commands.items():
        found.append((*before, name))
        if isinstance(command, click.Group):
            found += paths(command, *before, name)
    return found


@pytest.mark.parametrize("words", paths(cli), ids=" ".join)
def test_every_command_has_help_by_each_way(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: charrnn {' '.join(words)} ")
    assert "Examples:" in result.out or words[0] == "config"
    assert max(map(len, result.out.splitlines())) <= 80
    assert ("charrnn help TOPIC" in result.out) is (len(words) == 1)
    assert run(*words, "-h") == result
    assert run("help", *words).out.endswith(result.out)


def test_help_of_the_program(run: Run) -> None:
    top = run("--help")
    assert run("-h") == top
    assert "charrnn help TOPIC" in top.out
    assert run("--version").out.startswith("charrnn, version")


def test_topics_are_the_entries_of_the_glossary(run: Run) -> None:
    glossary = resources.files("charrnn.cli").joinpath("glossary.md").read_text("utf-8")
    topics = re.findall(r"^## (.+)$", glossary, re.M)
    assert list(read_glossary()) == topics
    listed = " ".join(run("help").out.split())
    for topic in topics:
        assert topic in listed
        shown = run("help", topic)
        assert shown.code == 0
        title, _, entry = shown.out.partition("\n\n")
        assert title == topic
        assert " ".join(read_glossary()[topic].split()) in " ".join(entry.split())
        assert max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "topic"),
    [
        (["lanes"], "lane"),
        (["NATS"], "nats"),
        (["dynamic", "evaluation"], "dynamic evaluation"),
        (["weight-decay"], "weight decay"),
        (["n_grams"], "n-gram"),
        (["bleu"], "BLEU"),
    ],
)
def test_a_topic_is_found_as_people_write_it(run: Run, words: list[str], topic: str) -> None:
    assert run("help", *words).out.startswith(f"{topic}\n\n")


def test_a_word_that_is_a_topic_and_a_command_shows_both(run: Run) -> None:
    shown = run("help", "resume").out
    assert shown.startswith("resume\n\n")
    assert "Usage: charrnn resume" in shown


def test_an_unknown_topic_is_refused(run: Run) -> None:
    refused = run("help", "perplexed")
    assert (refused.code, refused.out) == (2, "")
    assert "did you mean perplexity?" in refused.err
    assert "charrnn help lists the topics" in run("help", "zzzz").err


def test_exit_codes_are_the_same_everywhere(run: Run) -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    own = [kind.exit_code for kind in kinds if issubclass(kind, errors.CharrnnError)]
    assert sorted(own) == list(range(1, 8))
    shown = re.findall(r"^ +(\d+) +(\S.*)$", run("--help").out.partition("Exit codes:")[2], re.M)
    table = {code.value: code.meaning for code in ExitCode}
    assert {int(code): meaning for code, meaning in shown} == table
    page = (ROOT / "docs" / "use" / "runs.md").read_text("utf-8").partition("## Exit codes")[2]
    rows = re.findall(r"\| (\d+) \| ([^|]+?) (?=\|)", page)
    assert {int(code): meaning for code, meaning in rows} == table
