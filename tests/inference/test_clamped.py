"""Clamped units: held in every step, read by all that comes after, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest

import charrnn
from charrnn.errors import ConfigError
from charrnn.inference.numpy_stepper import NumpyModel
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.nn.state import leaves

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
NAMES = [
    "vanilla-tanh",
    "gru",
    "lstm",
    "lstm-zoneout",
    "gru-norm",
    "rhn",
    "mlstm",
    "mingru",
    "minlstm",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_clamped_unit_has_its_value_after_every_step(name: str) -> None:
    plain = charrnn.load(GOLDEN / name)
    last = len(plain.config.model.widths) - 1
    model = plain.clamped({last: {1: 0.25, 3: -0.5}})
    state, free = model.initial_state(2), plain.initial_state(2)
    for token in (1, 2, 3):
        logits, state = model.step(np.array([token, 0]), state)
        expected, free = plain.step(np.array([token, 0]), free)
        hidden = next(leaves(state[last]))
        assert np.asarray(hidden)[:, [1, 3]].tolist() == [[0.25, -0.5]] * 2
        if token == 1 and last:  # Lower layers do not read clamped units.
            for mine, other in zip(leaves(state[0]), leaves(free[0]), strict=True):
                np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
        assert not np.allclose(logits, expected)
    text = "the light"
    assert model.evaluate(text).nats == plain.evaluate(text).nats
    assert model.clamped({}).sample_text(20, seed=1) == plain.sample_text(20, seed=1)


def test_numpy_and_torch_clamp_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    clamps = {0: {2: 0.9}, 1: {0: -1.5}}
    fast = charrnn.load(GOLDEN / "lstm").clamped(clamps)
    assert isinstance(fast._stepper, NumpyModel)
    monkeypatch.setattr("charrnn.inference.numpy_stepper.MOST_TABLE", 1)
    slow = charrnn.load(GOLDEN / "lstm").clamped(clamps)
    assert isinstance(slow._stepper, TorchStepper)
    ours, theirs = fast.initial_state(3), slow.initial_state(3)
    for token in range(6):
        logits, ours = fast.step(np.array([token, 3, 1]), ours)
        expected, theirs = slow.step(np.array([token, 3, 1]), theirs)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("clamps", "message"),
    [({2: {0: 1.0}}, "no layer 2; its layers are 0 to 1"),
     ({-1: {0: 1.0}}, "no layer -1"),
     ({0: {8: 1.0}}, "no unit 8; its units are 0 to 7"),
     ({0: {-1: 1.0}}, "no unit -1")],
)  # fmt: skip
def test_what_the_model_lacks_cannot_be_clamped(
    clamps: dict[int, dict[int, float]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        charrnn.load(GOLDEN / "lstm").clamped(clamps)
