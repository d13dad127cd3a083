"""A checkpoint is checked by its header, and refused before its data is read if it does not fit."""

import copy
import itertools
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config.merge import build_config
from charrnn.data.vocabulary import CharacterVocabulary
from charrnn.errors import CheckpointError, ConfigError
from charrnn.inference import numpy_stepper
from charrnn.nn.state import leaves
from charrnn.registry import CELLS
from charrnn.runs.checkpoint import Arrays, load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import (
    NUMPY_CELLS,
    check_layout,
    expected_tensors,
    numpy_tensors,
)
from charrnn.training.build import build_model
from tests.tiny import drive, start, tiny_config, tiny_corpus

RESOLVED: dict[str, Any] = {
    "model.embedding_size": 4,
    "model.embedding_scale": 1.0,
    "model.dropout": 0.0,
    "model.input_dropout": 0.0,
    "model.output_dropout": 0.0,
    "training.batch_size": 4,
    "training.window": 8,
    "training.learning_rate": 1e-3,
    "training.weight_decay": 0.0,
    "training.epochs": None,
    "training.max_time": None,
}
SEVEN = CharacterVocabulary("abcdefg")
EITHER = [False, True]
# Skip connections, tied embeddings and layer normalisation count where the shapes are known by
# heart; what is built is what it is.
COMBINATIONS = [
    *itertools.product(NUMPY_CELLS, [[5], [5, 3]], [4, "one_hot"], EITHER, EITHER, EITHER),
    *itertools.product(
        CELLS.keys() - NUMPY_CELLS, [[5, 3]], [4, "one_hot"], [True], [False], [False]
    ),
]


@pytest.mark.parametrize(
    ("cell", "widths", "embedding", "skips", "tied", "normed"),
    sorted(COMBINATIONS, key=str),
    ids=str,
)
def test_the_shapes_are_those_of_the_model(
    cell: str, widths: list[int], embedding: Any, skips: bool, tied: bool, normed: bool
) -> None:
    if tied:
        embedding = sum(widths) if skips else widths[-1]
    values = {
        "model.cell": cell,
        "model.hidden_size": widths,
        "model.skip_connections": skips,
        "model.tie_embeddings": tied,
        "model.layer_norm": normed,
        "model.recurrence_depth": 3,
        **RESOLVED,
        "model.embedding_size": embedding,
    }
    config, _ = build_config([("test", values)])
    model = build_model(config, SEVEN)
    expected = expected_tensors(config, {"text": SEVEN})
    assert expected.weights == {n: tuple(value.shape) for n, value in model.state_dict().items()}
    assert expected.trained == {name for name, _ in model.named_parameters()}
    assert expected.carry == [tuple(leaf.shape) for leaf in leaves(model.initial_state(4))]
    by_heart = numpy_tensors(config, {"text": SEVEN})
    assert (by_heart is not None) == (cell in {"vanilla", "lstm", "gru"} and not normed)


def test_numpy_steps_the_cells_that_are_known_by_heart() -> None:
    assert {cell for cell, _ in numpy_stepper.CELLS} == NUMPY_CELLS.keys()
    parts = {cell: parts for (cell, _), (*_, parts) in numpy_stepper.CELLS.items()}
    assert parts == {cell: parts for cell, (_, parts) in NUMPY_CELLS.items()}


@pytest.mark.parametrize("cell", ["lstm", "rhn"])
def test_nothing_is_allocated_for_an_enormous_model(cell: str) -> None:
    values = {
        "model.cell": cell,
        "model.hidden_size": [65_536] * 64,
        "model.embedding_size": 65_536,
        "model.recurrence_depth": 64,
        "training.batch_size": 2**61,
    }
    config, _ = build_config([("test", RESOLVED | values)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    expected = expected_tensors(config, {"text": SEVEN})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert expected.weights["head.weight"] == (7, 64 * 65_536)
    assert expected.carry[0] == (2**61, 65_536)


def test_judging_draws_no_random_numbers() -> None:
    config, _ = build_config([("test", {"model.cell": "rhn", "model.hidden_size": 5, **RESOLVED})])
    before = torch.get_rng_state()
    expected_tensors(config, {"text": SEVEN})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_configuration_sets_the_options_of_its_cells() -> None:
    common = {"model.hidden_size": 5, **RESOLVED}
    for values, name, expected in (
        ({"model.cell": "rhn", "model.transform_bias": -3.5}, "bias_hh", -3.5),
        ({"model.cell": "lstm", "model.forget_bias": 2.5}, "bias_ih", 2.5),
        ({"model.cell": "minlstm", "model.forget_bias": 2.5}, "bias_ih", 2.5),
    ):
        config, _ = build_config([("test", common | values)])
        bias = build_model(config, SEVEN).state_dict()[f"stack.layers.0.cell.{name}"]
        assert (bias == expected).sum() >= 5


def test_another_recurrence_depth_is_refused(tmp_path: Path) -> None:
    config = tiny_config(training__steps=2, model__cell="rhn", model__recurrence_depth=2)
    session = start(tmp_path / "run", config, tiny_corpus(tmp_path))
    drive(session)
    checkpoint = load_checkpoint(session.run.checkpoint_path(2), check_layout)
    metadata = copy.deepcopy(checkpoint.metadata)
    metadata["config"]["model"]["recurrence_depth"] = 3
    refused(tmp_path, checkpoint.tensors, metadata, "is not one that its config implies")


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Arrays, dict[str, Any]]:
    session = start(tmp_path / "run", tiny_config(training__steps=4), tiny_corpus(tmp_path))
    drive(session)
    checkpoint = load_checkpoint(session.run.checkpoint_path(4), check_layout)
    return checkpoint.tensors, checkpoint.metadata


def refused(path: Path, tensors: Arrays, metadata: dict[str, Any], why: str) -> None:
    save_checkpoint(path / "changed.safetensors", tensors, metadata)
    with pytest.raises(CheckpointError, match=why):
        load_checkpoint(path / "changed.safetensors", check_layout)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("progress.step", -1),
        ("progress.step", "1"),
        ("progress.step", 1.5),
        ("progress.learning_rate_factor", 0.0),
        ("session.best", {"step": 1}),
        ("session.score_at_end", 1),
        ("session.trained_seconds", -1.0),
        ("corpus.key", "../../etc"),
        ("corpus.splits", {"../x": 1}),
        ("corpus.most_frequent", 10_000),
        ("environment.packages", []),
        ("config.model.cell", "os.system"),
        ("config.model.hidden_size", 9),
        ("config.model.hidden_size", 65_536),
        ("config.model.hidden_size", "auto"),
        ("config.model.cell", "gru"),
        ("config.model.cell", "rhn"),
        ("config.model.recurrence_depth", 65),
        ("config.model.transform_bias", "low"),
        ("config.training.batch_size", 5),
        ("config.training.batch_size", "auto"),
        ("config.extra", 1),
        ("config", []),
        ("vocabulary", {"kind": "word"}),
        ("vocabulary.symbols", "abc"),
    ],
)
def test_metadata_that_cannot_be_used(
    tmp_path: Path, whole: tuple[Arrays, dict[str, Any]], place: str, value: Any
) -> None:
    tensors, metadata = whole[0], copy.deepcopy(whole[1])
    *parents, last = place.split(".")
    at = metadata
    for parent in parents:
        at = at[parent]
    assert last in at or last == "extra"
    at[last] = value
    refused(tmp_path, tensors, metadata, "is not a usable checkpoint")


@pytest.mark.parametrize("part", ["progress", "session", "corpus", "environment", "config"])
def test_a_missing_part_is_named(
    tmp_path: Path, whole: tuple[Arrays, dict[str, Any]], part: str
) -> None:
    metadata = {name: value for name, value in whole[1].items() if name != part}
    refused(tmp_path, whole[0], metadata, part)


def test_tensors_that_the_config_does_not_imply(
    tmp_path: Path, whole: tuple[Arrays, dict[str, Any]]
) -> None:
    tensors, metadata = whole
    for name in tensors:
        other = {key: value for key, value in tensors.items() if key != name}
        wider = np.zeros((*tensors[name].shape, 2), np.float32)
        refused(tmp_path, other | {name: wider}, metadata, f"the tensor {name} ")
        integers = np.zeros(tensors[name].shape, np.int32)
        refused(tmp_path, other | {name: integers}, metadata, f"the tensor {name} ")
        if name.startswith("model/"):
            refused(tmp_path, other, metadata, f"{name} that its config implies is missing")
    for name in ("model/x", "optimizer/x/y", "carry/9", "carry/x", "../x", "x"):
        extra = {name: np.zeros(3, np.float32)}
        refused(tmp_path, tensors | extra, metadata, "is not one that its config implies")


def test_weight_dropout_without_a_recurrent_matrix_is_refused() -> None:
    values = {"model.cell": "mingru", "model.weight_dropout": 0.5, "model.hidden_size": 5}
    config, _ = build_config([("test", RESOLVED | values)])
    with pytest.raises(ConfigError, match="MinGRUCell does not have; set it to 0, or use another"):
        expected_tensors(config, {"text": SEVEN})


@pytest.mark.parametrize(("key", "name"), [("task", "elsewhere"), ("cell", "elsewhere")])
def test_what_is_not_installed_is_named(
    tmp_path: Path, whole: tuple[Arrays, dict[str, Any]], key: str, name: str
) -> None:
    metadata = copy.deepcopy(whole[1])
    section = metadata["config"] if key == "task" else metadata["config"]["model"]
    section[key] = name
    why = f"{key} '{name}' is not installed; pip install the package that provides it"
    refused(tmp_path, whole[0], metadata, why)
