"""Training from Python gives the same as the command and leaves the process as it was."""

import doctest
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charrnn
from charrnn.errors import ConfigError, DataError
from charrnn.runs.directory import Run
from charrnn.session import opening, start
from charrnn.session.events import Evaluated, Finished, Planned, Stepped
from tests.tiny import TEXT

SMALL: dict[str, Any] = {
    "cell": "gru",
    "hidden_size": 8,
    "batch_size": 4,
    "window": 8,
    "warmup_steps": 10,
    "dropout": 0.3,
    "steps": 12,
    "device": "cpu",
    "threads": 1,
}
FLAGS = [
    "--cell", "gru", "--hidden-size", "8", "--batch-size", "4", "--window", "8",
    "--set", "training.warmup_steps=10", "--dropout", "0.3", "--steps", "12", "--device", "cpu",
    "--set", "threads=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working directory with nothing but a text."""
    monkeypatch.chdir(tmp_path)
    # A shell starts background commands with Ctrl-C ignored, and Python then leaves it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    (tmp_path / "book.txt").write_text(TEXT, "utf-8")
    return tmp_path


def same_checkpoints(one: Path, other: Path) -> None:
    """Assert that both runs have the same steps, tensors, configuration, progress and losses."""
    left, right = Run(one), Run(other)
    assert left.steps() == right.steps() != []
    for step in left.steps():
        mine, theirs = left.load(step), right.load(step)
        assert mine.tensors.keys() == theirs.tensors.keys()
        for name, value in mine.tensors.items():
            assert np.array_equal(value, theirs.tensors[name]), name
        for part in ("config", "vocabulary", "progress", "corpus"):
            assert mine.metadata[part] == theirs.metadata[part]
    losses = [
        [line.get("validation") or line["final"]["nats_per_character"] for line in run.metrics()]
        for run in (left, right)
    ]
    assert losses[0] == losses[1]


def test_train_and_resume_do_what_the_commands_do(folder: Path, run: Callable[..., Any]) -> None:
    (folder / "book.txt").write_text(TEXT, "utf-8")  # `run` has written another.
    assert run("train", "book.txt", *FLAGS, "--out", "runs/command").code == 0
    ours = charrnn.train("book.txt", out="runs/python", **SMALL)
    same_checkpoints(folder / "runs/command", ours.path)
    assert run("resume", "runs/command", "--steps", "20").code == 0
    again = charrnn.resume(ours, steps=20)
    assert (again.step, again.path) == (20, ours.path)
    same_checkpoints(folder / "runs/command", again.path)


@pytest.mark.skipif(
    not (find_spec("ipykernel") and find_spec("nbclient")), reason="needs ipykernel and nbclient"
)
def test_a_notebook_trains_the_same_and_can_be_interrupted(folder: Path) -> None:
    import nbclient
    import nbformat

    arguments = ", ".join(f"{name}={value!r}" for name, value in SMALL.items())
    trains = f"""
import charrnn
run = charrnn.train('book.txt', out='runs/notebook', {arguments})
print(run.step, len(run.model.sample_text(3, 'a', seed=1)))
"""
    is_interrupted = f"""
import os, signal
from charrnn.training.trainer import Trainer
step = Trainer._step
def interrupted(trainer, batch):
    if trainer.progress.step == 4:
        os.kill(os.getpid(), signal.SIGINT)
    return step(trainer, batch)
Trainer._step = interrupted
charrnn.train('book.txt', out='runs/interrupted', {arguments})
"""
    resumes = """
Trainer._step = step
print(charrnn.resume('runs/interrupted').step)
"""
    cells = [nbformat.v4.new_code_cell(text) for text in (trains, is_interrupted, resumes)]
    cells[1].metadata["tags"] = ["raises-exception"]
    nbclient.NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    printed = ["".join(part.get("text", "") for part in cell.outputs) for cell in cells]
    assert (printed[0], printed[2]) == ("12 3\n", "12\n")
    raised = cells[1].outputs[-1]
    assert raised.ename == "KeyboardInterrupt"
    assert raised.evalue.startswith("stopped at step 5 and saved; charrnn.resume(")
    ours = charrnn.train("book.txt", out="runs/script", **SMALL)
    same_checkpoints(folder / "runs/notebook", ours.path)
    assert (
        Run(folder / "runs/interrupted").load(12).tensors.keys() == ours.run.load(12).tensors.keys()
    )
    for name, value in Run(folder / "runs/interrupted").load(12).tensors.items():
        assert np.array_equal(value, ours.run.load(12).tensors[name]), name


def state_of_the_process() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_as_it_was_before(fails: bool) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(123)
    before = state_of_the_process()
    during: list[tuple[Any, ...]] = []
    try:
        with start.begin("book.txt", deterministic=True, **SMALL) as session:
            for event in session.events():
                if isinstance(event, Stepped):
                    during.append(state_of_the_process())
                    if fails:
                        raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    after = state_of_the_process()
    torch.set_num_threads(threads)
    assert after == before
    assert during[0][:4] == (1, True, False, ":4096:8")
    assert during[0][6] != before[6]


def test_events_are_seen_as_they_happen() -> None:
    with start.begin("book.txt", settings={"evaluation.every": 6}, **SMALL) as session:
        kinds = [type(event) for event in session.events()]
    assert kinds.count(Stepped) == 12
    assert kinds.count(Evaluated) == 2
    assert (kinds[0], kinds[-1]) == (Planned, Finished)
    run = session.run.path
    with start.begin_again(run, steps=14) as session:
        assert session.trainer.progress.step == 12
        end = list(session.events())[-1]
    assert isinstance(end, Finished)
    assert end.step == 14


def test_the_run_has_its_model_and_its_score() -> None:
    run = charrnn.train("book.txt", **SMALL)
    assert os.fspath(run) == "runs/book-1"
    assert run.score is not None
    assert run.score.nats == run.metrics()[-1]["final"]["nats_per_character"]
    assert run.model.sample_text(9, "a", seed=1) == charrnn.load(run).sample_text(9, "a", seed=1)
    assert repr(run).startswith("TrainedRun('runs/book-1', step 12, validation ")


def at_step(step: int, action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `action` during a training step."""
    from charrnn.training.trainer import Trainer

    original = Trainer._step

    def stepped(trainer: Any, batch: Any) -> Any:
        if trainer.progress.step + 1 == step:
            action()
        return original(trainer, batch)

    monkeypatch.setattr(Trainer, "_step", stepped)


def test_ctrl_c_finishes_the_step_and_saves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = charrnn.train("book.txt", out="runs/straight", **SMALL)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        at_step(5, lambda: os.kill(os.getpid(), signal.SIGINT), patched)
        with pytest.raises(KeyboardInterrupt, match=r"step 5 .* charrnn.resume\('runs/stopped'\)"):
            charrnn.train("book.txt", out="runs/stopped", **SMALL)
    assert signal.getsignal(signal.SIGINT) is handler
    assert max(Run(folder / "runs/stopped").steps()) == 5
    again = charrnn.resume("runs/stopped")
    assert again.score == straight.score


def test_a_second_ctrl_c_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(5, twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt) as caught:
        charrnn.train("book.txt", **SMALL)
    assert not caught.value.args


def test_training_works_in_another_thread() -> None:
    runs: list[Any] = []
    thread = threading.Thread(target=lambda: runs.append(charrnn.train("book.txt", **SMALL)))
    thread.start()
    thread.join()
    assert runs[0].step == 12


def test_keywords_name_settings() -> None:
    layers = start.keyword_layers(
        {"max_time": "2m", "validation": Path("v.txt"), "hidden_size": (8, 4), "window": 5}
    )
    values = {key: value for _, layer in layers for key, value in layer.items()}
    assert values == {
        "training.steps": None,
        "training.epochs": "auto",
        "training.max_time": "2m",
        "training.earlier": [],
        "data.validation": ["v.txt"],
        "model.hidden_size": [8, 4],
        "training.window": 5,
    }
    with pytest.raises(ConfigError, match="evaluation__every or checkpoints__every"):
        start.keyword_layers({"every": 5})
    with pytest.raises(ConfigError, match=r"did you mean training\.max_time"):
        charrnn.train("book.txt", max_tim="2m")
    with pytest.raises(ConfigError, match=r"argument max_time: training\.max_time"):
        charrnn.train("book.txt", max_time="soon")


def test_keywords_win_over_settings_the_environment_and_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.yaml").write_text("model: {layers: 3, cell: gru}\ntraining: {epochs: 5, clip: 2}")
    monkeypatch.setenv("CHARRNN_MODEL__LAYERS", "4")
    monkeypatch.setenv("CHARRNN_TRAINING__CLIP", "3")
    layers = [("settings", {"training.clip": 4.0}), *start.keyword_layers({"steps": 7})]
    with pytest.warns(UserWarning, match="names no text"):
        config = opening.merge_settings(layers, folder / "a.yaml", None, start.warn_in_python)
    assert (config.model.cell, config.model.layers, config.training.clip) == ("gru", 4, 4.0)
    assert (config.training.steps, config.training.epochs) == (7, "auto")


def test_a_text_that_moved_is_asked_for(folder: Path) -> None:
    run = charrnn.train("book.txt", **SMALL)
    (folder / "book.txt").rename(folder / "moved.txt")
    with pytest.raises(DataError, match=r"if the run's text has moved, name it with data\.sources"):
        charrnn.resume(run, steps=14)
    assert charrnn.resume(run, steps=14, data="moved.txt").step == 14


def test_what_cannot_be_done_is_refused(folder: Path) -> None:
    run = charrnn.train("book.txt", **SMALL)
    with pytest.raises(ConfigError, match=r"reached its budget of 12 steps; give more with "):
        charrnn.resume(run)
    with pytest.raises(ConfigError, match="its own directory"):
        charrnn.resume(run, steps=14, out="elsewhere")
    with pytest.raises(ConfigError, match="exists already"):
        charrnn.train("book.txt", out=run, **SMALL)
    with pytest.raises(ConfigError, match=r"leave out data\.unknown"):
        charrnn.train("book.txt", start_from=run, unknown="skip", **SMALL)
    fitting = {key: SMALL[key] for key in ("batch_size", "window", "steps", "device")}
    grown = charrnn.train("book.txt", start_from=run, warmup_steps=10, **fitting)
    assert grown.model.config.model.cell == "gru"


def test_a_mistyped_path_is_refused_before_torch_is_imported() -> None:
    program = (
        "import sys, charrnn\n"
        "try: charrnn.train('bok.txt')\n"
        "except charrnn.errors.DataError as error: print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "did you mean book.txt? False" in done.stdout


def test_the_examples_of_the_docstrings() -> None:
    examples = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    finder = doctest.DocTestFinder(recurse=False)
    for function in (start.train, start.resume, start.keyword_layers):
        for test in finder.find(function, globs={"keyword_layers": start.keyword_layers}):
            examples.run(test)
    assert examples.summarize(verbose=False) == (0, 8)
