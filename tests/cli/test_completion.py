"""`charrnn completion`: the candidates, driven as the shells do, and the shells themselves."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from charrnn.cli.completion import ARGUMENTS, OPTIONS, SHELLS
from charrnn.cli.main import COMMANDS, cli
from charrnn.registry import CELLS, FORMATS, TASKS
from scripts.keys import KEYS, written
from tests.conftest import Run

ROOT = Path(__file__).parents[2]
Complete = Callable[..., list[str]]


@pytest.fixture
def complete(run: Run, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """Complete the last word of a line as bash asks for it, in a folder with runs and texts."""
    for name in ("runs/book-1", "runs/my poems", "elsewhere/a:b"):
        Path(name, "checkpoints").mkdir(parents=True)
    Path("runs/book-1/checkpoints/step-00000500.safetensors").touch()
    Path("my text.txt").touch()
    Path(".hidden").touch()

    def call(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_CHARRNN_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        result = run()
        assert (result.code, result.err) == (0, "")
        return [one.removeprefix("plain,") for one in result.out.splitlines() if one]

    return call


def test_commands_and_options(complete: Complete) -> None:
    assert complete("charrnn ") == list(COMMANDS)
    assert complete("charrnn tr") == ["train"]
    assert complete("charrnn --ver") == ["--version"]
    assert complete("charrnn data ") == ["fetch", "list", "remove", "verify"]
    assert "--learning-rate" in complete("charrnn resume book-1 --l")
    assert "nats" in complete("charrnn help na")
    assert complete("charrnn trian --l") == []


def test_runs_and_checkpoints(complete: Complete) -> None:
    assert complete("charrnn sample ") == ["book-1", "my poems", "elsewhere/", "runs/"]
    assert complete("charrnn resume my") == ["my poems"]
    assert complete("charrnn info elsewhere/") == ["elsewhere/a:b"]
    assert complete("charrnn train --from runs/b") == ["runs/book-1"]
    assert complete("charrnn eval runs/book-1/checkpoints/") == [
        "runs/book-1/checkpoints/step-00000500.safetensors"
    ]
    assert complete("charrnn sample missing/") == []


def test_texts_and_corpora(complete: Complete, cache: Path) -> None:
    assert {"enwik8", "gutenberg:", "book.txt", "my text.txt"} <= {*complete("charrnn train ")}
    assert ".hidden" not in complete("charrnn train ")
    assert complete("charrnn train .h") == [".hidden"]
    assert complete("charrnn data fetch enw") == ["enwik8"]
    assert complete("charrnn eval book-1 book") == ["book.txt"]


def test_keys_and_values(complete: Complete) -> None:
    keys = complete("charrnn train --set training.s")
    assert keys == ["training.steps=", "training.schedule=", "training.seed="]
    assert complete("charrnn config show --set training.optimizer=ad") == [
        "training.optimizer=adam",
        "training.optimizer=adamw",
    ]
    assert complete("charrnn train --set model.cell=mi") == [
        "model.cell=mingru",
        "model.cell=minlstm",
    ]
    assert complete("charrnn train --set no.such=") == []
    assert complete("charrnn train --set training.seed=") == []


def test_names_of_options(complete: Complete) -> None:
    assert complete("charrnn train --cell ") == [*CELLS]
    assert complete("charrnn train --task t") == [name for name in TASKS if name[0] == "t"]
    assert complete("charrnn train --vocabulary ") == ["character", "byte", "word"]
    assert complete("charrnn train --bad-rows s") == ["skip"]
    assert complete("charrnn sample --device c") == ["cpu", "cuda"]
    assert complete("charrnn train --parameters b") == ["book-1"]
    assert complete("charrnn export book-1 --format ") == [*FORMATS]


def test_cells_of_installed_packages_are_offered(
    complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site/a_package-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Name: a-package\nVersion: 1.0\n", "utf-8")
    (folder / "entry_points.txt").write_text("[charrnn.cells]\nmine = my.cells:Mine\n", "utf-8")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.delitem(CELLS.__dict__, "_installed", raising=False)
    assert complete("charrnn train --cell mine") == ["mine"]
    del CELLS.__dict__["_installed"]


def parameters(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    for child in getattr(command, "commands", {}).values():
        yield from parameters(child)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_run_text_and_setting_is_completed(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for parameter in parameters(command):
        table = ARGUMENTS if isinstance(parameter, click.Argument) else OPTIONS
        if str(parameter.metavar).strip("[].") in table or "__" in str(parameter.name):
            assert "shell_complete" in vars(parameter)


def test_the_table_of_keys_agrees_with_the_schema() -> None:
    assert KEYS.read_text("utf-8") == written(), "run: python scripts/keys.py"


# The shells ---------------------------------------------------------------------------------------


@pytest.fixture
def shell(complete: Complete, tmp_path: Path) -> Callable[[str, str], list[str]]:
    """Run a script in a shell that has `charrnn` as a command; skip if the shell is missing."""

    def call(name: str, script: str) -> list[str]:
        program = shutil.which(name)
        if program is None:
            pytest.skip(f"{name} is not installed")
        command = tmp_path / "bin/charrnn"
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m charrnn "$@"\n', "utf-8")
        command.chmod(0o755)
        environment = os.environ | {
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
        }
        environment.pop("_CHARRNN_COMPLETE", None)
        quiet = {"zsh": ["-f"], "fish": ["--no-config"], "bash": ["--norc"]}[name]
        done = subprocess.run(
            [program, *quiet, "-c", script],
            env=environment, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert not done.stderr
        return done.stdout.splitlines()

    return call


def test_bash(shell: Callable[[str, str], list[str]]) -> None:
    # Bash gives COMP_WORDS as it divides the line, at `=` and `:` as well.
    lines = shell(
        "bash",
        """
        eval "$(charrnn completion bash)"
        compopt() { echo "compopt $2"; }
        press_tab() {
            COMP_LINE=$1; shift
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            COMP_POINT=${#COMP_LINE}
            _charrnn_completion charrnn
            printf '%s\\n' "${COMPREPLY[@]}" --
        }
        press_tab 'charrnn sample my' charrnn sample my
        press_tab 'charrnn sample "my' charrnn sample '"my'
        press_tab 'charrnn train --set training.optimizer=ad' \\
            charrnn train --set training.optimizer = ad
        press_tab 'charrnn train --set model.activation=' charrnn train --set model.activation =
        press_tab 'charrnn info elsewhere/a:' charrnn info elsewhere/a :
        press_tab 'charrnn train --set model.ti' charrnn train --set model.ti
        """,
    )
    assert lines == [
        *(r"my\ poems", "--"),
        *("my poems", "--"),
        *("adam", "adamw", "--"),
        *("tanh", "relu", "--"),
        *("b", "--"),
        *("compopt nospace", "model.tie_embeddings=", "--"),
    ]


def test_zsh(shell: Callable[[str, str], list[str]]) -> None:
    lines = shell(
        "zsh",
        """
        compdef() {}
        eval "$(charrnn completion zsh)"
        compadd() { print -r -- "${@[-1]}" "${${@[(r)-S]}:+open}" }
        words=(charrnn sample my) CURRENT=3 && _charrnn_completion
        words=(charrnn info 'elsewhere/') CURRENT=3 && _charrnn_completion
        words=(charrnn train --set model.ti) CURRENT=4 && _charrnn_completion
        """,
    )
    assert [line.rstrip() for line in lines] == [
        "my poems",
        "elsewhere/a:b",
        "model.tie_embeddings= open",
    ]


def test_fish(shell: Callable[[str, str], list[str]]) -> None:
    lines = shell(
        "fish",
        """
        charrnn completion fish | source
        complete -C 'charrnn sample my'
        complete -C 'charrnn info elsewhere/'
        complete -C 'charrnn train --set data.val'
        """,
    )
    assert lines[:2] == ["my poems", "elsewhere/a:b"]
    assert lines[2].startswith("data.validation=\tSeparate texts for validation")


def test_scripts_are_printed(run: Run) -> None:
    for name in SHELLS:
        assert "_CHARRNN_COMPLETE" in run("completion", name).out
    assert run("completion", "csh").code == 2


HEAVY = {"torch", "numpy", "pydantic", "yaml", "fsspec"}
LINES = ["charrnn train ", "charrnn train --set model.cell="]


@pytest.mark.parametrize("line", LINES)
def test_completion_imports_nothing_heavy(line: str, tmp_path: Path) -> None:
    code = (
        "import atexit, sys; from charrnn.__main__ import main;"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    )
    environment = os.environ | asked(line)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert not HEAVY & {*done.stderr.split()}


def asked(line: str) -> dict[str, str]:
    return {
        "_CHARRNN_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "PYTHONPATH": str(ROOT),
    }


@pytest.mark.slow  # It needs an idle machine.
@pytest.mark.parametrize("line", [*LINES, "charrnn "])
def test_completion_takes_at_most_150_milliseconds(line: str, tmp_path: Path) -> None:
    def seconds(*arguments: str) -> float:
        times = []
        for _ in range(7):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, *arguments], env=os.environ | asked(line), cwd=tmp_path,
                capture_output=True, check=True,
            )  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    assert seconds("-m", "charrnn") - seconds("-c", "pass") <= 0.150
