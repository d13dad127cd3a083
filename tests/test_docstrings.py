"""The examples in docstrings give what they show."""

import doctest
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import charrnn

MODULES = [
    module.name
    for module in pkgutil.walk_packages(charrnn.__path__, "charrnn.")
    # The examples of charrnn.session.start train on a text, one after the other: see
    # tests/session/test_start.py.
    if not module.name.endswith(("__main__", "session.start"))
]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # An example may write a file.
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    reports: list[str] = []
    for test in examples(importlib.import_module(name)):
        runner.run(test, out=reports.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(reports)


def test_the_public_parts_of_a_network_have_an_example() -> None:
    public = [getattr(charrnn, name) for name in charrnn.__all__]
    parts = [part for part in public if part.__module__.startswith("charrnn.nn.")]
    assert parts
    assert [part.__name__ for part in parts if ">>>" not in (part.__doc__ or "")] == []
