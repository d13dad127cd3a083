"""The format `onnx`: one step of a language model, with its state as inputs and outputs."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charrnn.errors import ConfigError, require_extra
from charrnn.inference.trained_model import TrainedModel
from charrnn.nn.models import LanguageModel
from charrnn.nn.state import leaves, replace_leaves
from charrnn.runs.checkpoint import Checkpoint
from charrnn.sharing.description import description, language_model_of

OPSET = 18  # of 2022, which every runtime in use reads
MOST_BYTES = (1 << 31) - (1 << 20)  # of weights: a protobuf file has at most 2 GiB
ABOUT = (
    "One step of a language model of charrnn. The ids (lanes,) of the symbols read and the state "
    "give the logits (lanes, symbols) of the next symbols, in nats, and the next state. A text "
    "starts with zeros in every part of the state. The metadata describes vocabulary and sampling."
)


def export(checkpoint: Checkpoint, target: Path) -> None:
    """Write a file with the inputs `token`, `state_0`, ... and the outputs `logits`, `next_0`, ...

    Every part of the state is (lanes, width), and the number of lanes is free. The metadata are the
    parts of `description`, each as JSON. Raises ConfigError if a package is missing, for a model
    that is no language model or is too large, and for a cell that torch cannot export.
    """
    for package in ("onnx", "onnxscript"):
        require_extra(package, "onnx", "the format onnx")
    model = language_model_of(checkpoint, "onnx")
    if (size := sum(weight.nbytes for weight in model.weights.values())) > MOST_BYTES:
        raise ConfigError(
            f"the weights have {size / 2**30:.1f} GiB, and an ONNX file holds 2 GiB; use another "
            f"format"
        )
    import onnx

    step, cell = _Step(_looking_up(model)).eval(), model.config.model.cell
    proto = _exported(step, cell)
    proto.doc_string = ABOUT
    onnx.helper.set_model_props(
        proto, {name: json.dumps(part) for name, part in description(model).items()}
    )
    onnx.checker.check_model(proto, full_check=True)
    _compare(proto, step, cell)
    target.write_bytes(proto.SerializeToString())


class _Step(nn.Module):
    """A language model's step with the leaves of its state as separate arguments and results."""

    def __init__(self, network: LanguageModel) -> None:
        super().__init__()
        self.network = network
        self.zero = network.initial_state(2)  # 2 lanes: torch would take 1 for a constant

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, after = self.network.step(token, replace_leaves(self.zero, iter(state)))
        return logits, *leaves(after)


def _looking_up(model: TrainedModel) -> LanguageModel:
    """Return the network with a table of vectors in place of composed words."""
    weights = model.looked_up()
    if weights is model.weights:
        return model.model
    network = copy.deepcopy(model.model)
    table = torch.from_numpy(weights["embedding.weight"])
    network.embedding = nn.Embedding.from_pretrained(table)  # type: ignore[no-untyped-call]
    return network


def _exported(step: _Step, cell: str) -> Any:
    """Export a step with a free number of lanes. Raises ConfigError."""
    state = [*leaves(step.zero)]
    lanes = {0: torch.export.Dim("lanes")}
    try:
        with _quiet():
            program = torch.onnx.export(
                step,
                (torch.zeros(len(state[0]), dtype=torch.int64), *state),
                input_names=["token", *(f"state_{i}" for i in range(len(state)))],
                output_names=["logits", *(f"next_{i}" for i in range(len(state)))],
                dynamic_shapes=(lanes, tuple(lanes for _ in state)),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ConfigError(
            f"torch cannot export the cell {cell} as ONNX; use another format"
        ) from error
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    # The exporter adds the lines of source code behind each node, with their paths.
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info,
                 *graph.initializer):  # fmt: skip
        part.ClearField("metadata_props")
    return proto


def _compare(proto: Any, step: _Step, cell: str) -> None:
    """Take one step with the exported network. Raises ConfigError if its numbers are others.

    A cell of an installed package may compute something that torch does not see.
    """
    from onnx.reference import ReferenceEvaluator

    state = [torch.linspace(-1, 1, 3 * leaf[0].numel()).view(3, -1) for leaf in leaves(step.zero)]
    head: Any = step.network.head
    inputs = [torch.arange(3) % head.out_features, *state]
    with torch.inference_mode():
        expected = step(*inputs)
    named = {one.name: value.numpy() for one, value in zip(proto.graph.input, inputs, strict=True)}
    computed = ReferenceEvaluator(proto).run(None, named)
    for one, other in zip(expected, computed, strict=True):
        if not torch.allclose(one, torch.from_numpy(other), rtol=1e-4, atol=1e-4):
            raise ConfigError(
                f"as ONNX, the cell {cell} gives other numbers than in torch; use another format"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter tells its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
