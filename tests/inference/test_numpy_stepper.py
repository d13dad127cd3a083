"""The numpy stepper computes what the torch model computes, from the same weights and states."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charrnn
from charrnn.errors import CheckpointError
from charrnn.inference.numpy_stepper import NumpyModel
from charrnn.inference.saved_state import SavedState, load_state, save_state
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.inference.trained_model import TrainedModel
from charrnn.nn.dropout import Dropouts
from charrnn.nn.models import language_model
from charrnn.nn.state import leaves, map_state
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from tests.tiny import drive, start, tiny_config, tiny_corpus

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
CELLS = [("vanilla", "tanh"), ("vanilla", "relu"), ("lstm", "tanh"), ("gru", "tanh")]


def both(
    cell: Any, activation: Any, skips: bool, **options: Any
) -> tuple[TorchStepper, NumpyModel]:
    torch.manual_seed(1)
    model = language_model(
        11,
        cell=cell,
        activation=activation,
        hidden_sizes=[9, 6, 5],
        skip_connections=skips,
        dropouts=Dropouts(input=0.5, layers=0.5, output=0.5),
        **options,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.4)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    assert NumpyModel.fits(weights, cell, activation)
    return TorchStepper(model), NumpyModel(weights, cell, activation, skips)


@pytest.mark.parametrize(("cell", "activation"), CELLS)
@pytest.mark.parametrize(("skips", "lanes"), list(itertools.product([False, True], [1, 4])))
@pytest.mark.parametrize("embedding", [None, 7])
def test_logits_and_states_are_those_of_torch(
    cell: str, activation: str, skips: bool, lanes: int, embedding: int | None
) -> None:
    reference, stepper = both(cell, activation, skips, embedding_size=embedding)
    state, expected_state = stepper.initial_state(lanes), reference.initial_state(lanes)
    token = np.arange(lanes) % 11
    for _ in range(40):
        before = map_state(lambda leaf: leaf.copy(), state)
        logits, after = stepper.step(token, state)
        assert all(map(np.array_equal, leaves(before), leaves(state)))  # Not changed by the step.
        expected, expected_state = reference.step(token, expected_state)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-5)
        for mine, theirs in zip(leaves(after), leaves(expected_state), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        state, token = after, (token + logits.argmax(1) + 1) % 11


def test_tied_embeddings() -> None:
    reference, stepper = both("gru", "tanh", True, embedding_size=20, tie_embeddings=True)
    token = np.array([3])
    logits, _ = stepper.step(token, stepper.initial_state(1))
    np.testing.assert_allclose(
        logits, reference.step(token, reference.initial_state(1))[0], atol=1e-5
    )


def test_what_numpy_does_not_know_goes_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = start(tmp_path / "run", tiny_config(training__steps=2), tiny_corpus(tmp_path))
    drive(session)
    assert isinstance(session.experiment.trained()._stepper, NumpyModel)
    sampled = session.experiment.trained().sample_text(50, seed=3)
    monkeypatch.setattr("charrnn.inference.numpy_stepper.MOST_TABLE", 10)
    trained = session.experiment.trained()
    assert isinstance(trained._stepper, TorchStepper)
    assert trained.sample_text(50, seed=3) == sampled


def test_a_saved_state_goes_on_in_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = start(tmp_path / "run", tiny_config(training__steps=2), tiny_corpus(tmp_path))
    drive(session)
    numpy_model = session.experiment.trained()
    monkeypatch.setattr("charrnn.inference.numpy_stepper.MOST_TABLE", 10)
    torch_model: TrainedModel = session.experiment.trained()
    for name, (writer, reader) in {
        "a": (numpy_model, torch_model),
        "b": (torch_model, numpy_model),
    }.items():
        cursor = writer.begin("ab", 2)
        save_state(tmp_path / name, writer, SavedState(cursor, 1, [0, 1]))
        loaded, seed, samples = load_state(tmp_path / name, reader)
        assert (seed, samples, loaded.token.tolist()) == (1, [0, 1], cursor.token.tolist())
        expected, _ = writer.step(cursor.token, cursor.state)
        np.testing.assert_allclose(reader.step(loaded.token, loaded.state)[0], expected, atol=1e-5)


def test_a_saved_state_remembers_the_last_symbols(tmp_path: Path) -> None:
    model = charrnn.load(GOLDEN / "lstm")
    cursor = model.begin("the light", 2)
    path = tmp_path / "state"
    save_state(path, model, SavedState(cursor, 1, [0, 1]))
    remembered = [ids.tolist() for ids in load_state(path, model).cursor.recent]
    assert remembered == [[i, i] for i in model.vocabulary.encode("the light").tolist()]
    stored = load_checkpoint(path, lambda metadata, layout: None)
    # A state as older versions wrote it, then damaged ones.
    without = {name: array for name, array in stored.tensors.items() if name != "recent"}
    save_checkpoint(path, without, stored.metadata)
    assert [ids.tolist() for ids in load_state(path, model).cursor.recent] == remembered[-1:]
    for recent in (np.zeros((2, 0)), np.zeros((1, 3)), np.zeros(2), np.full((2, 3), 999)):
        save_checkpoint(path, without | {"recent": recent.astype(np.int64)}, stored.metadata)
        with pytest.raises(CheckpointError):
            load_state(path, model)


def test_sampling_imports_no_torch(tmp_path: Path) -> None:
    session = start(tmp_path / "run", tiny_config(training__steps=2), tiny_corpus(tmp_path))
    drive(session)
    (tmp_path / "poison").mkdir()
    (tmp_path / "poison" / "torch.py").write_text("raise SystemExit('torch was imported')")
    result = subprocess.run(
        [sys.executable, "-m", "charrnn", "sample", str(tmp_path / "run"), "-n", "20"],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "poison")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) >= 20
