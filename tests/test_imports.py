"""The architecture of the code: imports point one way, and only the command line prints."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import charrnn

PACKAGE = Path(charrnn.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text("utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
# From the lowest floor up: a room imports only from itself and from lower floors.
FLOORS = [
    ["errors"],
    ["registry"],
    ["config", "data", "nn"],
    ["baselines", "runs"],
    ["training"],
    ["evaluation"],
    ["inference"],
    ["tasks"],
    ["session", "sharing"],
    ["cli", "__init__", "__main__"],
]
# The trainer and the sampler know no task, no vocabulary and no configuration.
FORBIDDEN = {
    "training.trainer": {"tasks", "data", "config", "runs"},
    "training.lane_processes": {"tasks", "data", "config", "runs"},
    "training.text_windows": {"config"},
    "inference.sampler": {"tasks", "data", "config", "runs"},
    "evaluation.metrics": {"tasks", "data", "config", "runs"},
}
REFERENCE = re.compile(r"charrnn\.([a-z_]+(?:\.[a-z_]+)*):[A-Za-z_][\w.]*")
DOTTED = re.compile(r"(?:charrnn\.)?([a-z_]+(?:\.[a-z_]+)+)\.[A-Za-z_]\w*")


def room(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def imported(tree: ast.Module, by_name: bool = True) -> set[str]:
    """Return the modules of the package that a module imports: by a statement and, if `by_name`, by
    a name in a string, as `charrnn.nn.layers:Stack` or `nn.layers.Stack`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition(".")
            if package == "charrnn":
                names |= {module} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            modules = (alias.name.partition(".") for alias in node.names)
            names |= {module for package, _, module in modules if package == "charrnn" and module}
        elif by_name and isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = REFERENCE.fullmatch(node.value) or DOTTED.fullmatch(node.value)
            names |= {match.group(1)} & MODULES.keys() if match else set()
    return names


def test_every_room_has_its_floor() -> None:
    rooms = {room(name) for name in MODULES}
    assert sorted(name for floor in FLOORS for name in floor) == sorted(rooms)
    assert len(FLOORS) <= 10
    assert len([path for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"]) <= 12
    assert len(list(PACKAGE.glob("*.py"))) <= 4


# The tables of names, which are loaded when they are first used.
TABLES = {"registry", "__init__"}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_imports_point_one_way(name: str) -> None:
    floors = {one: i for i, floor in enumerate(FLOORS) for one in floor}
    modules = imported(MODULES[name], by_name=name not in TABLES)
    others = {module for module in modules if room(module) != room(name)}
    assert not {m for m in others if floors[room(m)] >= floors[room(name)]}
    assert not {room(m) for m in others} & FORBIDDEN.get(name, set())


def test_imports_by_name_are_seen() -> None:
    tree = ast.parse("load('charrnn.tasks.task:Experiment.build'); load('tasks.data.read_corpus')")
    assert imported(tree) == {"tasks.task", "tasks.data"}
    assert not imported(tree, by_name=False)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli")])
def test_only_the_command_line_prints(name: str) -> None:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"print", "click.echo", "sys.stdout.write", "sys.stderr.write"}


LOADERS = {"__import__", "import_module", "resolve_name", "run_module", "run_path", "entry_points"}
UNPICKLERS = {"pickle", "_pickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"}
RUNNERS = {
    "eval",
    "exec",
    "compile",
    "builtins.eval",
    "builtins.exec",
    "torch.load",
    "torch.jit.load",
}


def dangerous(tree: ast.Module) -> list[str]:
    """Return the calls and imports of a module that could run code from a file.

    `yaml.load(text, _Loader)` is the one exception: `_Loader` is a yaml.SafeLoader.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found += [ast.unparse(node)] if UNPICKLERS & {m.split(".")[0] for m in modules} else []
        if isinstance(node, ast.Call):
            called, text = ast.unparse(node.func), ast.unparse(node)
            words = [ast.unparse(argument) for argument in node.args]
            words += [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords]
            loads_yaml = called.startswith("yaml.") and "load" in called and "_Loader" not in words
            imports = called.rpartition(".")[2] in LOADERS
            unpickles = "allow_pickle" in text and "allow_pickle=False" not in text
            found += [text] if called in RUNNERS or loads_yaml or imports or unpickles else []
    return found


# Only the registry may load code by name, for its tables.
RESOLVING = ["pkgutil.resolve_name(reference)", "entry_points(group=self.group)"]


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles_or_evaluates(name: str) -> None:
    assert dangerous(MODULES[name]) == (RESOLVING if name == "registry" else [])


def declared() -> set[str]:
    """The distributions that pyproject.toml names, with the extras but those for development."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    users = [lines for name, lines in extras.items() if name not in ("dev", "docs", "benchmarks")]
    lines = [*project["dependencies"], *itertools.chain.from_iterable(users)]
    return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}


# Modules whose distributions have another name.
DISTRIBUTIONS = {"yaml": "pyyaml", "pydantic_core": "pydantic"}


def test_what_is_imported_is_declared() -> None:
    modules = set()
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    foreign = modules - sys.stdlib_module_names - {"charrnn"}
    names = {DISTRIBUTIONS.get(name, name).replace("_", "-") for name in foreign}
    assert {"torch", "click", "matplotlib"} <= names
    assert names <= declared()


def test_the_types_are_published() -> None:
    assert (PACKAGE / "py.typed").is_file()


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import charrnn",
        "import charrnn.cli.main as m; m._add_commands()",
        "import charrnn.runs.checkpoint, charrnn.data.vocabulary",
        "import charrnn.inference.sampler, charrnn.nn.state",
        "import charrnn.baselines.ngram",
        "import charrnn.baselines.hmm",
        "import charrnn.data.formats, charrnn.data.batching, charrnn.evaluation.metrics",
    ],
)
def test_these_do_without_torch_and_pydantic(statement: str) -> None:
    assert not {"torch", "pydantic"} & modules_after(statement)


def test_texts_are_read_and_scores_named_without_torch() -> None:
    modules = modules_after(
        "import charrnn.tasks.data, charrnn.evaluation.score, charrnn.inference.trained_model"
    )
    assert "torch" not in modules
