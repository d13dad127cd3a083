"""The examples in the docstrings of `charrnn.nn` give what they show."""

import doctest
import importlib
import pkgutil

import pytest

import charrnn.nn

MODULES = [module.name for module in pkgutil.walk_packages(charrnn.nn.__path__, "charrnn.nn.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_the_public_classes_and_functions_have_an_example() -> None:
    public = [getattr(charrnn, name) for name in charrnn.__all__]
    documented = [thing for thing in public if thing.__module__.startswith("charrnn.nn.")]
    assert documented
    without = [thing.__name__ for thing in documented if ">>>" not in (thing.__doc__ or "")]
    assert without == []
