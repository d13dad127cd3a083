"""The examples in the docstrings of `charrnn.training` give what they show."""

import doctest
import importlib
import pkgutil

import pytest

import charrnn.training

MODULES = [
    module.name for module in pkgutil.walk_packages(charrnn.training.__path__, "charrnn.training.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
