"""The pages of docs/ are true: their commands and snippets print what is shown, the options,
keys and files that they name exist, and the site builds without a warning."""

import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

import charrnn
from charrnn.cli.main import _add_commands, cli
from charrnn.config.merge import all_keys

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUN = runpy.run_path(str(DOCS / "run.py"))
PAGES = {
    str(path.relative_to(DOCS)): path.read_text("utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if "_build" not in path.parts
}


@pytest.mark.parametrize("folder", RUN["FOLDERS"])
def test_commands_and_snippets_print_what_the_pages_show(folder: str, tmp_path: Path) -> None:
    blocks, differ = 0, []
    for page, shown, now in RUN["run_folder"](folder, tmp_path):
        blocks += 1
        if not RUN["alike"](shown, now):
            differ.append(f"{page.name} shows\n{shown}\nand it prints\n{now}")
    assert not differ, "\n\n".join([*differ, "python docs/run.py writes what is printed now"])
    assert blocks == sum(
        len(RUN["BLOCK"].findall(p.read_text("utf-8"))) for p in RUN["pages"](folder)
    )
    assert blocks > 3


@pytest.mark.parametrize(
    ("now", "same"),
    [
        ("trained 100 steps in 7s, 6,660 characters/s\nloss 1.235 nats\n", True),
        ("trained 100 steps in 1m7s, 12 characters/s\nloss 1.28 nats\n", True),
        ("trained 100 steps in 7s, 6,660 characters/s\nloss 1.334 nats\n", False),
        ("trained 101 steps in 7s, 6,660 characters/s\nloss 1.234 nats\n", False),
        ("trained 100 steps in 7s, 6,660 characters/s\nloss 1.234 bits\n", False),
        ("trained 100 steps in 7s, 6,660 characters/s\n", False),
    ],
)
def test_a_difference_is_seen(now: str, same: bool) -> None:
    shown = "trained 100 steps in 3s, 9,001 characters/s\nloss 1.234 nats\n"
    assert RUN["alike"](f"```console\n{shown}```\n", f"```console\n{now}```\n") is same


def test_what_is_said_there_is_said_here_as_the_table_has_it() -> None:
    before, _, after = PAGES["use/python.md"].partition("| there | here |\n")
    block = re.findall(r"```python\n(.*?)```", before, re.S)[-1]
    rows = [row.split(" | ") for row in after.partition("\n\n")[0].splitlines()[1:]]
    assert len(rows) == 14
    for _, here in rows:
        names: dict[str, Any] = {"charrnn": charrnn}
        exec(compile(block, "python.md", "exec"), names)
        for code in re.findall(r"`([^`]+)`", here):
            exec(compile(code, "python.md", "exec"), names)


def options(command: click.Command) -> set[str]:
    named = {name for parameter in command.params for name in parameter.opts}
    for child in getattr(command, "commands", {}).values():
        named |= options(child)
    return named


@pytest.mark.parametrize("page", [name for name in PAGES if name.split("/")[0] in ("learn", "use")])
def test_options_keys_and_commands_that_are_named_exist(page: str) -> None:
    _add_commands()
    # From click, pip, docs/examples and TensorBoard.
    others = {"--help", "--version", "--index-url", "--count", "--logdir"}
    text = re.sub(r"^.*python benchmarks/.*$", "", PAGES[page], flags=re.M)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= options(cli) | others
    sections = {key.split(".")[0] for key in all_keys() if "." in key}
    for key in re.findall(r"--set '?([a-z_.]+)=|`([a-z]+\.[a-z_]+)(?:=[^`]*)?`", text):
        name = "".join(key)
        if name.split(".")[0] in sections and name != "training.learning_rat":  # Shown as an error.
            assert name in all_keys()
    assert set(re.findall(r"(?:`|^\$ )charrnn ([a-z]+)\b", text, re.M)) <= set(cli.commands)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    folders = "configs|benchmarks|scripts|data|docs|charrnn"
    elsewhere = {  # Files of another repository, and files that the reader makes.
        "data/tinyshakespeare/input.txt",
        "charrnn/nn/cells/mgu.py",
        "charrnn/tasks/counting.py",
    }
    for name in re.findall(rf"`(?:\./)?((?:{folders})/[\w./-]+\.\w+)", PAGES[page]):
        places = [ROOT / name, ROOT / "charrnn" / name]
        assert name in elsewhere or any(place.exists() for place in places), name
    for name in re.findall(
        r"`((?:nn|data|runs|training|inference|baselines)/[\w/]+\.py)`", PAGES[page]
    ):
        assert (ROOT / "charrnn" / name).exists(), name


def test_the_glossary_is_in_order_and_short() -> None:
    text = (ROOT / "charrnn" / "cli" / "glossary.md").read_text("utf-8")
    entries = dict(re.findall(r"^## (.+)\n\n(.+)\n", text, re.M))
    assert len(entries) == text.count("\n## ")
    assert [*entries] == sorted(entries, key=str.lower)
    for entry in entries.values():
        assert 1 <= len(re.findall(r"[.)](?: |$)", entry)) <= 4


@pytest.mark.skipif(find_spec("sphinx") is None, reason="needs pip install '.[docs]'")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "learn" / "attention.html").exists()
