"""The examples in docstrings do what they show."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import charrnn

MODULES = [
    module.name
    for module in pkgutil.walk_packages(charrnn.__path__, "charrnn.")
    if not module.name.endswith("__main__")
]


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    reports: list[str] = []
    for test in examples(module):
        runner.run(test, out=reports.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(reports)


def test_there_are_examples() -> None:
    assert examples(importlib.import_module("charrnn.errors"))
