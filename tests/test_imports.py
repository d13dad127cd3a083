"""The map of the code holds: imports point one way, only the command line prints."""

import ast
import re
import subprocess
import sys
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
# Floor by floor: a room imports only from itself and from rooms that come before it.
FLOORS = [
    ["errors", "registry"],
    ["config", "data", "nn"],
    ["baselines", "runs"],
    ["training"],
    ["evaluation"],
    ["inference"],
    ["tasks"],
    ["session"],
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
NAMED = re.compile(r"[a-z_]+(?:\.[a-z_]+)+\.[A-Za-z_]\w*")


def room(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def imported(tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports, by a statement or by a name in a string."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition(".")
            if package == "charrnn":
                names |= {module} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            modules = (alias.name.partition(".") for alias in node.names)
            names |= {module for package, _, module in modules if package == "charrnn" and module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            home = node.value.rpartition(".")[0]
            names |= {home} if NAMED.fullmatch(node.value) and home in MODULES else set()
    return names


def test_every_room_has_its_floor() -> None:
    rooms = {room(name) for name in MODULES}
    assert sorted(name for floor in FLOORS for name in floor) == sorted(rooms)
    assert len(FLOORS) <= 10
    assert len([path for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"]) <= 12
    assert len(list(PACKAGE.glob("*.py"))) <= 4


# These name what is loaded when it is first used.
LOAD_BY_NAME = {"registry", "__init__", "__main__", "config.schema", "runs.checkpoint_check"}


@pytest.mark.parametrize("name", [name for name in MODULES if name not in LOAD_BY_NAME])
def test_imports_point_one_way(name: str) -> None:
    floors = {one: i for i, floor in enumerate(FLOORS) for one in floor}
    others = {module for module in imported(MODULES[name]) if room(module) != room(name)}
    assert not {m for m in others if floors[room(m)] >= floors[room(name)]}
    assert not {room(m) for m in others} & FORBIDDEN.get(name, set())


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli")])
def test_only_the_command_line_prints(name: str) -> None:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"print", "click.echo", "sys.stdout.write", "sys.stderr.write"}


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
    """What in a module could run code that a file holds.

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
            imports = called in {"__import__", "import_module", "importlib.import_module"}
            imports &= "charrnn." not in text
            unpickles = "allow_pickle" in text and "allow_pickle=False" not in text
            found += [text] if called in RUNNERS or loads_yaml or imports or unpickles else []
    return found


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles_or_evaluates(name: str) -> None:
    assert not dangerous(MODULES[name])


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
