"""Which cells there are, by name, and what is known of each without making one; knows no torch.

A cell's entry in `CELLS` is all that the rest of the package reads of it: the configuration takes
its name, `models` makes it, `layout` judges checkpoints by its shapes, the commands show its title.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Shapes = dict[str, tuple[int, ...]]


class CellEntry(NamedTuple):
    """One cell."""

    title: str
    """How it is shown; options stand in braces."""
    home: str
    """Its module in this package and its class there, as `cells.LSTMCell`, which is called with
    the input width, the hidden width and the options."""
    shapes: Callable[[int, int, Mapping[str, Any]], Shapes]
    """The shapes of its weights from the input width D, the hidden width H and the options."""
    states: int = 1
    """Of how many tensors (N, H) its state consists."""
    options: tuple[str, ...] = ()
    """The keys of the section `model` that its class takes, by the same names."""
    fused: bool = False
    """Whether a kernel or a scan runs it over a sequence (`layers.FUSED`)."""
    normed: str = ""
    """The home of the same cell with layer normalisation inside, where there is one."""
    norms: Mapping[str, int] = {}
    """Of that one, its further weights: how many times H each is long."""


def standard(gates: int) -> Callable[[int, int, Mapping[str, Any]], Shapes]:
    """The shapes of `cells.TorchLayoutCell` with so many gates."""
    return lambda d, h, _: {
        "weight_ih": (gates * h, d),
        "weight_hh": (gates * h, h),
        "bias_ih": (gates * h,),
        "bias_hh": (gates * h,),
    }


def linear(gates: int) -> Callable[[int, int, Mapping[str, Any]], Shapes]:
    """The shapes of `cells.LinearCell` with so many gates."""
    return lambda d, h, _: {"weight_ih": (gates * h, d), "bias_ih": (gates * h,)}


CELLS: dict[str, CellEntry] = {
    "vanilla": CellEntry(
        "vanilla ({activation})",
        "nn.cells.standard.VanillaCell",
        standard(1),
        options=("activation",),
        fused=True,
        normed="nn.cells.layer_norm.LayerNormVanillaCell",
        norms={"norm.weight": 1, "norm.bias": 1},
    ),
    "lstm": CellEntry(
        "LSTM",
        "nn.cells.standard.LSTMCell",
        standard(4),
        states=2,
        options=("forget_bias",),
        fused=True,
        normed="nn.cells.layer_norm.LayerNormLSTMCell",
        norms={
            "norm_ih.weight": 4,
            "norm_hh.weight": 4,
            "norm_cell.weight": 1,
            "norm_cell.bias": 1,
        },
    ),
    "gru": CellEntry(
        "GRU",
        "nn.cells.standard.GRUCell",
        standard(3),
        fused=True,
        normed="nn.cells.layer_norm.LayerNormGRUCell",
        norms={
            "norm_ih.weight": 2,
            "norm_hh.weight": 2,
            "norm_in.weight": 1,
            "norm_hn.weight": 1,
        },
    ),
    "rhn": CellEntry(
        "RHN (depth {recurrence_depth})",
        "nn.cells.rhn.RHNCell",
        lambda d, h, options: {
            "weight_ih": (2 * h, d),
            "weight_hh": (2 * options["recurrence_depth"] * h, h),
            "bias_hh": (2 * options["recurrence_depth"] * h,),
        },
        options=("recurrence_depth", "transform_bias"),
    ),
    "mlstm": CellEntry(
        "mLSTM",
        "nn.cells.mlstm.MultiplicativeLSTMCell",
        lambda d, h, options: (
            standard(4)(d, h, options) | {"weight_mx": (h, d), "weight_mh": (h, h)}
        ),
        states=2,
        options=("forget_bias",),
    ),
    "mingru": CellEntry("minGRU", "nn.cells.minimal.MinGRUCell", linear(2), fused=True),
    "minlstm": CellEntry(
        "minLSTM", "nn.cells.minimal.MinLSTMCell", linear(3), options=("forget_bias",), fused=True
    ),
}


def one_of(names: Iterable[str]) -> str:
    """The names as a message lists them: `vanilla, lstm or gru`."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


class TaskEntry(NamedTuple):
    """Where in this package the parts of a task stand."""

    read: str
    """What reads its data: a configuration, the texts it names and a vocabulary or none."""
    layout: str
    """What must stand in its checkpoints: a configuration and the vocabularies."""
    experiment: str
    """What a session runs (`tasks.task.Task`)."""
    writer: str | None = None
    """What writes for `charrnn sample`, in the way of `trained.TrainedModel`, if it writes."""
    traits: tuple[str, ...] = ()
    """The traits of the task (`config.schema.TRAITS`). A key of the configuration that needs a
    trait is refused for a task without it."""


TASKS = {
    "language_model": TaskEntry(
        "tasks.data.read_corpus",
        "runs.checkpoint_check.language_model_layout",
        "tasks.language_model.LanguageModelling",
        "inference.trained_model.TrainedModel",
        traits=("running text", "composed words", "vocabulary", "embedding dropout"),
    ),
    "classification": TaskEntry(
        "tasks.labelled.read",
        "tasks.task.built_layout",
        "tasks.classification.Classification",
        traits=(
            "examples",
            "classes",
            "one class",
            "both directions",
            "composed words",
            "vocabulary",
        ),
    ),
    "generation": TaskEntry(
        "tasks.generation.read",
        "tasks.task.built_layout",
        "tasks.generation.Generation",
        "tasks.generation.Generator",
        traits=("examples", "classes", "vocabulary", "embedding dropout"),
    ),
    "tagging": TaskEntry(
        "tasks.tagging.read",
        "tasks.task.built_layout",
        "tasks.tagging.Tagging",
        traits=("examples", "both directions", "composed words"),
    ),
    "translation": TaskEntry(
        "tasks.translation.read",
        "tasks.task.built_layout",
        "tasks.translation.Translation",
        traits=("examples", "both directions", "vocabulary", "attention"),
    ),
}


def resolve(place: str) -> Any:
    """What stands in this package under a dotted name."""
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(f"charrnn.{module}"), name)
