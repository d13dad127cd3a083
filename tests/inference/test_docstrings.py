"""The examples in the docstrings of three rooms give what they show."""

import doctest
import importlib
import pkgutil

import pytest

import charrnn.evaluation
import charrnn.inference
import charrnn.tasks

MODULES = [
    module.name
    for room in (charrnn.evaluation, charrnn.inference, charrnn.tasks)
    for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
