"""The map of the code holds: imports point one way, only the command line prints."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import charrnn

PACKAGE = Path(charrnn.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text("utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Layer by layer: a module imports only from those that come before it.
ORDER = [
    ["errors", "memory", "registry", "scan", "state", "tasks", "training", "cli", "__init__"],
    [
        "cells",
        "vocabulary",
        "checkpoint",
        "sampler",
        "pictures",
        "graphs",
        "kernels",
        "stepping",
        "ngram",
        "hmm",
        "mixture",
        "novelty",
        "batching",
        "metrics",
        "sources",
        "config",
        "tensorboard",
    ],
    ["layers", "beam", "corpus", "task", "layout"],
    ["attention", "runs", "team", "texts", "examples", "adaptation", "words"],
    ["evaluation", "models", "trainer", "planning"],
    ["training.text_windows", "training.example_batches"],
    ["experiment", "scoring"],
    ["trained"],
    ["experiments", "compression"],
    ["experiments.language_model", "experiments.examples"],
    ["experiments.labelled", "experiments.tagging", "experiments.translation"],
    ["experiments.classification", "experiments.generation"],
    ["session"],
    ["cli.display", "cli.options"],
    [
        "cli.config",
        "cli.look",
        "cli.predict",
        "cli.sample",
        "cli.train",
        "cli.evaluate",
        "cli.baseline",
        "cli.compress",
    ],
    ["cli.main"],
    ["__main__"],
]
FORBIDDEN = {
    "team": {"tasks", "vocabulary", "config", "corpus", "sources", "runs"},
    "trainer": {"tasks", "vocabulary", "config", "corpus", "sources", "runs"},
    "sampler": {"tasks", "vocabulary", "config", "corpus", "sources", "runs"},
    "batching": {"tasks", "vocabulary", "config", "corpus", "sources", "runs"},
    "metrics": {"tasks", "vocabulary", "config", "corpus", "sources", "runs"},
    "ngram": {"tasks", "vocabulary", "config", "corpus", "sources", "runs"},
    "cells": {"config"},
    "layers": {"config"},
    "words": {"config"},
    "models": {"config"},
    "training.text_windows": {"config"},
}


def imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("charrnn."):
            names.add(node.module.removeprefix("charrnn."))
    return names


def test_every_module_has_its_place() -> None:
    assert sorted(name for layer in ORDER for name in layer) == sorted(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    rank = {module: i for i, layer in enumerate(ORDER) for module in layer}
    assert not {m for m in imported(MODULES[name]) if rank[m] >= rank[name]}
    assert not {m.split(".")[0] for m in imported(MODULES[name])} & FORBIDDEN.get(name, set())


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli")])
def test_only_the_command_line_prints(name: str) -> None:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"print", "click.echo", "sys.stdout.write", "sys.stderr.write"}


UNPICKLERS = {"pickle", "_pickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"}
RUNNERS = {
    "eval",
    "exec",
    "compile",
    "builtins.eval",
    "builtins.exec",
    "torch.load",
    "torch.jit.load",
}


def dangerous(tree: ast.Module) -> list[str]:
    """What in a module could run code that a file holds.

    `yaml.load(text, _Loader)` is the one exception: config.py's `_Loader` is a yaml.SafeLoader.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found += [ast.unparse(node)] if UNPICKLERS & {m.split(".")[0] for m in modules} else []
        if isinstance(node, ast.Call):
            called, text = ast.unparse(node.func), ast.unparse(node)
            words = [ast.unparse(argument) for argument in node.args]
            words += [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords]
            loads_yaml = called.startswith("yaml.") and "load" in called and "_Loader" not in words
            imports = called in {"__import__", "import_module", "importlib.import_module"}
            imports &= "charrnn." not in text
            unpickles = "allow_pickle" in text and "allow_pickle=False" not in text
            found += [text] if called in RUNNERS or loads_yaml or imports or unpickles else []
    return found


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles_or_evaluates(name: str) -> None:
    assert not dangerous(MODULES[name])


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import charrnn",
        "import charrnn.cli.main as m; m._add_commands()",
        "import charrnn.checkpoint, charrnn.vocabulary, charrnn.sampler, charrnn.state",
        "import charrnn.ngram",
        "import charrnn.hmm",
        "import charrnn.examples, charrnn.batching, charrnn.metrics",
    ],
)
def test_these_do_without_torch_and_pydantic(statement: str) -> None:
    assert not {"torch", "pydantic"} & modules_after(statement)


def test_texts_are_read_and_scores_named_without_torch() -> None:
    modules = modules_after("import charrnn.texts, charrnn.evaluation, charrnn.trained")
    assert "torch" not in modules
