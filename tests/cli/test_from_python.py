"""The functions of `charrnn` for Python do what the commands do."""

import numpy as np
import pytest

import charrnn
from tests.conftest import TEXT, Run


def test_the_python_surface(run: Run, trained: str) -> None:
    model = charrnn.load(trained)
    text = model.sample_text(30, "the ", seed=1)
    assert text == "".join(charrnn.load("a").sample(30, "the ", seed=1))
    assert len(text) == 30
    state = model.initial_state(2)
    logits, state = model.step(np.array([0, 1]), state)
    assert logits.shape == (2, model.vocabulary.size)
    assert model.evaluate(TEXT).count == len(TEXT)
    assert set(charrnn.__all__) <= set(dir(charrnn))
    with pytest.raises(AttributeError):
        _ = charrnn.nothing  # type: ignore[attr-defined]
