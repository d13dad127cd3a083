"""An exported model gives the numbers and the texts of the run that it comes from."""

import getpass
import logging
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import charrnn
from charrnn.errors import ConfigError
from charrnn.inference.torch_stepper import TorchStepper
from charrnn.nn.cells.standard import GRUCell
from charrnn.nn.layers import Recurrent, Stack
from charrnn.nn.models import LanguageModel
from charrnn.sharing.onnx_step import _compare, _exported, _Step
from tests.golden.cases import CASES
from tests.tiny import TINY

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "runs"
SCRIPT = ROOT / "docs" / "examples" / "exported" / "sample_onnx.py"
RUNS = [name for name, case in CASES.items() if case.task == "language_model"]
CELLS = ("rhn", "mlstm", "mingru", "minlstm", "norm", "zoneout")
NOT_IN_TORCH = [name for name in RUNS if any(cell in name for cell in CELLS)]
PROMPT = "the "

Array = np.ndarray[Any, Any]
Step = Callable[[Array], Array]
"""Reads ids (N,) and returns logits (N, V); it keeps its own state."""


def assert_equal_numbers(run: str, begin: Callable[[int], Step], steps: int) -> None:
    """Follow the model of a golden run for `steps` symbols, with one lane and with three."""
    model = charrnn.load(GOLDEN / run)
    reference = TorchStepper(model.model)
    draw = np.random.default_rng(1)
    for lanes in (1, 3):
        step, state = begin(lanes), reference.initial_state(lanes)
        for _ in range(steps):
            ids = draw.integers(0, model.vocabulary.size, lanes)
            expected, state = reference.step(ids, state)
            np.testing.assert_allclose(step(ids), expected, rtol=0, atol=1e-5)


def greedy(run: Path) -> str:
    return charrnn.load(run).sample_text(200, PROMPT, temperature=0)


def content_of(files: list[Path]) -> bytes:
    return b"".join(file.read_bytes() for file in files)


def assert_nothing_of_this_machine(content: bytes) -> None:
    text = b"\n".join(re.findall(rb"[ -~]{8,}", content))  # Short names occur in the weights.
    names = [str(ROOT), str(Path.home()), sys.prefix, "site-packages", ".py", "optimizer", "data/"]
    for name in [*names, socket.gethostname(), f"/{getpass.getuser()}"]:
        assert name.encode() not in text, name


# The format torch -------------------------------------------------------------------------------


def export_torch(run: Path, folder: Path) -> tuple[dict[str, Any], nn.Module, dict[str, Any]]:
    """Export a run; return the names of its script, and what the script loads."""
    charrnn.export(run, "torch", folder)
    script = runpy.run_path(str(folder / "load.py"))
    model, about = script["load"]()
    return script, model, about


@pytest.mark.parametrize("steps", [8, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("run", [name for name in RUNS if name not in NOT_IN_TORCH])
def test_torch_layers(run: str, steps: int, tmp_path: Path) -> None:
    script, model, about = export_torch(GOLDEN / run, tmp_path / "m")

    def begin(lanes: int) -> Step:
        states = None

        def step(ids: Array) -> Array:
            nonlocal states
            with torch.inference_mode():
                logits, states = model(torch.from_numpy(ids)[:, None], states)
            return logits[:, 0].numpy()

        return step

    assert_equal_numbers(run, begin, steps)
    assert script["sample"](model, about, PROMPT, 200, 0) == greedy(GOLDEN / run)
    files = [tmp_path / "m" / name for name in ("model.safetensors", "model.json")]
    assert_nothing_of_this_machine(content_of(files))


@pytest.mark.parametrize("run", NOT_IN_TORCH)
def test_torch_has_no_such_layers(run: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"torch\.nn has vanilla, lstm and gru layers") as refused:
        charrnn.export(GOLDEN / run, "torch", tmp_path / "m")
    assert str(refused.value).endswith("use the format onnx")
    assert not [*tmp_path.iterdir()]


def test_the_script_of_the_folder_is_a_command_that_needs_no_charrnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    charrnn.export(GOLDEN / "gru", "torch", tmp_path / "m")
    script = tmp_path / "m" / "load.py"
    lines = script.read_text("utf-8").splitlines()
    imports = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    packages = {name for name in imports if name.split(".")[0] not in sys.stdlib_module_names}
    assert packages == {"torch", "safetensors.torch"}
    arguments = [str(script), PROMPT, "--length", "200", "--temperature", "0", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out == PROMPT + greedy(GOLDEN / "gru") + "\n"


def test_texts_with_an_end_and_rare_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\nthree\nfour q\xc3\xa9\n\n" * 8 + b"x")
    run = charrnn.train(
        tmp_path / "a.txt",
        out=tmp_path / "run",
        settings={key: TINY[key] for key in TINY if key != "training.steps"},
        steps=30,
        separator="blank",
        minimum_count=2,
        warn=lambda _: None,
    )
    script, model, about = export_torch(run.path, tmp_path / "m")
    vocabulary = run.model.vocabulary
    assert about["sampling"]["end"] == about["sampling"]["first"] == vocabulary.end is not None
    assert about["sampling"]["unwritten"] == [vocabulary.unknown]
    for prompt in ("", "one\r\nz", "q", "qe\u0301\r"):
        expected = run.model.sample_text(50, prompt, temperature=0)
        assert script["sample"](model, about, prompt, 50, 0) == expected
        assert script["encode"](prompt, about["vocabulary"]) == vocabulary.encode(prompt).tolist()
    torch.manual_seed(1)
    drawn = [script["sample"](model, about, "", 50) for _ in range(50)]
    assert "\ufffd" not in "".join(drawn)
    assert min(map(len, drawn)) < 50


# The format onnx --------------------------------------------------------------------------------

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="needs pip install onnx onnxscript onnxruntime",
)
FEW = [("mlstm", 60), ("words-beside", 20)]


@needs_onnx
@pytest.mark.parametrize(
    ("run", "steps"),
    [*FEW, *[pytest.param(run, 1000, marks=pytest.mark.slow) for run in RUNS]],
)
def test_one_step_in_onnx(
    run: str,
    steps: int,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnx
    import onnxruntime

    monkeypatch.setattr(logging.getLogger("torch"), "handlers", [caplog.handler])
    (file,) = charrnn.export(GOLDEN / run, "onnx", tmp_path / "m.onnx")
    # The exporter's own messages are for its developers.
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert_nothing_of_this_machine(file.read_bytes())
    session = onnxruntime.InferenceSession(file)
    names = [one.name for one in session.get_inputs()]
    assert names == ["token", *(f"state_{i}" for i in range(len(names) - 1))]

    def begin(lanes: int) -> Step:
        state = [np.zeros((lanes, one.shape[1]), np.float32) for one in session.get_inputs()[1:]]

        def step(ids: Array) -> Array:
            nonlocal state
            logits, *state = session.run(None, dict(zip(names, [ids, *state], strict=True)))
            return np.asarray(logits)

        return step

    assert_equal_numbers(run, begin, steps)
    assert sampled(file, temperature=0) == PROMPT + greedy(GOLDEN / run)
    drawn = charrnn.load(GOLDEN / run).sample_text(200, PROMPT, temperature=0.8, seed=3)
    assert sampled(file, temperature=0.8) == PROMPT + drawn
    other = _Step(charrnn.load(GOLDEN / run).model).eval()
    other.network.head.bias.data += 0.01
    with pytest.raises(ConfigError, match="gives other numbers than in torch"):
        _compare(onnx.load(file), other, run)


def sampled(file: Path, temperature: float) -> str:
    """Return what the script of the documentation prints, which needs neither torch nor charrnn."""
    code = (
        f"import runpy, sys; sys.argv = {['', str(file), PROMPT, '200', str(temperature), '3']}\n"
        f"runpy.run_path({str(SCRIPT)!r}); assert not {{'charrnn', 'torch'}} & {{*sys.modules}}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.removesuffix("\n")


class Branching(GRUCell):
    """A cell that looks at the numbers in its state."""

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(inputs, state / 2 if state.sum().item() > 0 else state)


@needs_onnx
@pytest.mark.slow
def test_a_cell_that_cannot_be_exported(capfd: pytest.CaptureFixture[str]) -> None:
    stack = Stack([Recurrent(Branching(4, 3))])
    step = _Step(LanguageModel(nn.Embedding(5, 4), stack, nn.Linear(3, 5))).eval()
    with pytest.raises(ConfigError, match="torch cannot export the cell odd as ONNX; use another"):
        _exported(step, "odd")
    assert capfd.readouterr() == ("", "")


def test_the_script_for_onnx_has_30_lines() -> None:
    assert len(SCRIPT.read_text("utf-8").splitlines()) <= 30
