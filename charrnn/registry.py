"""The tables of cells, tasks and formats by name, and the one function that loads code by name.

`CELLS` and `TASKS` hold our own entries and those of installed packages. A package adds a cell or
a task with one line in its `pyproject.toml`::

    [project.entry-points."charrnn.cells"]
    mycell = "my_cells:MyCell"

    [project.entry-points."charrnn.tasks"]
    mytask = "my_tasks:MyTask"

Reading the tables imports neither torch nor pydantic: code is named by `package.module:Name` and
loaded by `resolve` when it is first used.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from charrnn.errors import ConfigError

Entry = TypeVar("Entry")


def resolve(reference: str) -> Any:
    """Load the object that `package.module:Name` names.

    Raises ConfigError if a reference of an installed package cannot be loaded.

    >>> resolve("charrnn.registry:one_of")(["lstm", "gru"])
    'lstm or gru'
    """
    try:
        return pkgutil.resolve_name(reference)
    except Exception as error:
        if reference.startswith("charrnn."):
            raise
        raise ConfigError(
            f"{reference} cannot be loaded ({type(error).__name__}: {error}); "
            f"reinstall or remove the package that provides it"
        ) from error


class Table(Mapping[str, Entry]):
    """Entries by name: our own, then those of installed packages.

    Installed packages are searched once, when a name is not one of ours or when all names are
    listed. A name of ours always means our entry. `entry` makes an installed entry from its name
    and its reference. Raises ConfigError if two packages provide the name that is looked up.
    """

    def __init__(
        self, group: str, own: Mapping[str, Entry], entry: Callable[[str, str], Entry]
    ) -> None:
        self.group = group
        self.own = own
        self._entry = entry

    def __getitem__(self, name: str) -> Entry:
        if name in self.own:
            return self.own[name]
        references = self._installed[name]
        if len(references) > 1:
            raise ConfigError(
                f"{name!r} of {self.group} is provided twice, by {' and by '.join(references)}; "
                f"uninstall one of the packages"
            )
        return self._entry(name, references[0])

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from (name for name in self._installed if name not in self.own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @cached_property
    def _installed(self) -> dict[str, list[str]]:
        """The references of installed entries by name, in alphabetical order."""
        from importlib.metadata import entry_points

        references: dict[str, set[str]] = {}
        for point in entry_points(group=self.group):
            reference = point.value.partition("[")[0].strip()  # Leave out the names of extras.
            references.setdefault(point.name, set()).add(reference)
        return {name: sorted(references[name]) for name in sorted(references)}


class CellEntry(NamedTuple):
    """One cell."""

    title: str
    """The name shown in a banner; settings of the section `model` are in braces."""
    cell: str
    """The reference of its class, a `charrnn.nn.cells.base.Cell` that is called with the input
    width, the hidden width and those settings of the section `model` that its constructor names."""
    fused: bool = False
    """Whether a kernel or a scan runs it over a whole sequence (`charrnn.nn.fast.fused.FUSED`)."""


CELLS: Table[CellEntry] = Table(
    "charrnn.cells",
    {
        "vanilla": CellEntry(
            "vanilla ({activation})", "charrnn.nn.cells.standard:VanillaCell", fused=True
        ),
        "lstm": CellEntry("LSTM", "charrnn.nn.cells.standard:LSTMCell", fused=True),
        "gru": CellEntry("GRU", "charrnn.nn.cells.standard:GRUCell", fused=True),
        "rhn": CellEntry("RHN (depth {recurrence_depth})", "charrnn.nn.cells.rhn:RHNCell"),
        "mlstm": CellEntry("mLSTM", "charrnn.nn.cells.mlstm:MultiplicativeLSTMCell"),
        "mingru": CellEntry("minGRU", "charrnn.nn.cells.minimal:MinGRUCell", fused=True),
        "minlstm": CellEntry("minLSTM", "charrnn.nn.cells.minimal:MinLSTMCell", fused=True),
    },
    lambda name, reference: CellEntry(name.replace("{", "{{").replace("}", "}}"), reference),
)


class FormatEntry(NamedTuple):
    """One format of `charrnn export`."""

    title: str
    """A sentence of the command's help."""
    export: str
    """The reference of the function that writes it, with a `charrnn.runs.checkpoint.Checkpoint` and
    the path of a new file or folder."""
    suffix: str
    """The end of the default name, after the name of the run."""


FORMATS = {
    "onnx": FormatEntry(
        "one step of the network, for ONNX Runtime and others",
        "charrnn.sharing.onnx_step:export",
        ".onnx",
    ),
    "torch": FormatEntry(
        "weights of torch.nn layers, with a script that samples",
        "charrnn.sharing.torch_layers:export",
        "-torch",
    ),
    "hub": FormatEntry(
        "a folder for the Hugging Face Hub, with a model card, which charrnn reads as well",
        "charrnn.sharing.hub:export",
        "-hub",
    ),
}

LAYER_NORM_CELLS = {
    "vanilla": "charrnn.nn.cells.layer_norm:LayerNormVanillaCell",
    "lstm": "charrnn.nn.cells.layer_norm:LayerNormLSTMCell",
    "gru": "charrnn.nn.cells.layer_norm:LayerNormGRUCell",
}
"""The references of the cells' variants with layer normalisation."""


def one_of(names: Iterable[str]) -> str:
    """Join names for a message: `vanilla, lstm or gru`."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


class TaskEntry(NamedTuple):
    """One task. If a field is left out, the task's class has it as an attribute."""

    task: str
    """The reference of its class (`charrnn.tasks.task.Task`)."""
    read: str = ""
    """The reference of the function that reads its data. It takes a configuration, the texts that
    the configuration names, and a vocabulary or None."""
    writer: str = ""
    """The reference of the class that writes for `charrnn sample`, as
    `charrnn.inference.trained_model.TrainedModel` does; a reference to None if the task writes no
    text."""
    traits: tuple[str, ...] = ()
    """Its traits (`charrnn.config.schema.TRAITS`): a key of the configuration that needs a trait is
    refused for a task without it."""
    shapes: str = ""
    """The reference of a function that lists the tensors of its checkpoints without torch, such as
    `charrnn.runs.checkpoint_check.numpy_tensors`; empty if there is none."""


TASKS: Table[TaskEntry] = Table(
    "charrnn.tasks",
    {
        "language_model": TaskEntry(
            "charrnn.tasks.language_model:LanguageModelling",
            "charrnn.tasks.data:read_corpus",
            "charrnn.inference.trained_model:TrainedModel",
            traits=(
                "running text",
                "composed words",
                "vocabulary",
                "embedding dropout",
                "separated texts",
            ),
            shapes="charrnn.runs.checkpoint_check:numpy_tensors",
        ),
        "classification": TaskEntry(
            "charrnn.tasks.classification:Classification",
            "charrnn.tasks.labelled:read",
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
            "charrnn.tasks.generation:Generation",
            "charrnn.tasks.generation:read",
            "charrnn.tasks.generation:Generator",
            traits=("examples", "classes", "vocabulary", "embedding dropout", "separated texts"),
        ),
        "tagging": TaskEntry(
            "charrnn.tasks.tagging:Tagging",
            "charrnn.tasks.tagging:read",
            traits=("examples", "tags", "both directions", "composed words"),
        ),
        "translation": TaskEntry(
            "charrnn.tasks.translation:Translation",
            "charrnn.tasks.translation:read",
            traits=("examples", "pairs", "both directions", "vocabulary", "attention"),
        ),
    },
    lambda name, reference: TaskEntry(reference),
)


def reader_of(task: str) -> Callable[..., Any]:
    """Load the function that reads the data of a task. Raises ConfigError."""
    entry = TASKS[task]
    read: Callable[..., Any] = resolve(entry.read or f"{entry.task}.read")
    return read


def writer_of_task(task: str) -> Any:
    """Load the class that writes texts for a task, or None. Raises ConfigError."""
    entry = TASKS[task]
    return resolve(entry.writer or f"{entry.task}.writer")


def traits_of(task: str) -> tuple[str, ...]:
    """List the traits of a task. Raises ConfigError."""
    entry = TASKS[task]
    traits: tuple[str, ...] = entry.traits or resolve(f"{entry.task}.traits")
    return traits


def not_installed(kind: str, name: str) -> str:
    """Write the message that no installed package provides a cell or a task."""
    return f"{kind} {name!r} is not installed; pip install the package that provides it"
