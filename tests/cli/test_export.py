"""`charrnn export`: where it writes, what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest

from charrnn.errors import StorageError
from charrnn.registry import FORMATS, FormatEntry
from tests.conftest import Run
from tests.golden.cases import CASES

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
CHECKPOINT = GOLDEN / "lstm" / "checkpoints" / "step-00000101.safetensors"


def test_the_paths_of_the_new_files_are_printed(run: Run) -> None:
    done = run("export", GOLDEN / "lstm", "--format", "torch", "--step", "101")
    names = ["load.py", "model.json", "model.safetensors"]
    assert (done.code, done.err) == (0, "")
    assert [Path(line) for line in done.out.splitlines()] == [Path("lstm-torch", n) for n in names]
    named = run("export", CHECKPOINT, "--format", "torch")
    assert named.out.splitlines()[0] == str(Path("step-00000101-torch", "load.py"))
    for one in names:
        assert Path("lstm-torch", one).read_bytes() == Path("step-00000101-torch", one).read_bytes()
    steps = {}
    for out, options in (("best", ()), ("one", ("--step", "101")), ("last", ("--last",))):
        run("export", GOLDEN / "lstm", "--format", "torch", "--out", out, *options)
        steps[out] = json.loads(Path(out, "model.json").read_text("utf-8"))["step"]
    assert steps == {"best": 90, "one": 101, "last": 101}


def test_nothing_is_overwritten_and_no_folder_is_made_up(run: Run, tmp_path: Path) -> None:
    (tmp_path / "lstm-torch").mkdir()
    refused = run("export", GOLDEN / "lstm", "--format", "torch")
    assert (refused.code, refused.out) == (2, "")
    assert "lstm-torch exists already; delete it, or choose another path" in refused.err
    assert not [*(tmp_path / "lstm-torch").iterdir()]
    refused = run("export", GOLDEN / "lstm", "--format", "torch", "--out", "no/where")
    assert (refused.code, "there is no folder no" in refused.err) == (2, True)


FULL = OSError(28, "No space left on device")
INCOMPLETE = StorageError("cannot write .writing-1/model.safetensors; the old file is unchanged")
INCOMPLETE.__cause__ = FULL


@pytest.mark.parametrize("error", [FULL, INCOMPLETE, KeyboardInterrupt()])
def test_an_export_that_fails_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def half_way(_: object, target: Path) -> None:
        target.mkdir()
        (target / "model.json").write_text("{", "utf-8")
        raise error

    monkeypatch.setattr("charrnn.sharing.torch_layers.export", half_way)
    failed = run("export", GOLDEN / "lstm", "--format", "torch")
    if isinstance(error, KeyboardInterrupt):
        code, says = 130, "\ncharrnn: interrupted\n"
    else:
        code, says = 7, "charrnn: cannot write lstm-torch: No space left on device\n"
    assert failed == (code, "", says)
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


def test_runs_steps_and_formats_that_do_not_exist(run: Run) -> None:
    for wrong, code, says in (
        (("nothing", "--format", "torch"), 4, "no run or checkpoint 'nothing'"),
        ((GOLDEN / "lstm", "--format", "torch", "--step", "7"), 4, "it has 90, 101"),
        ((CHECKPOINT, "--format", "torch", "--last"), 2, "is a single checkpoint"),
        ((GOLDEN / "lstm", "--format", "t7"), 2, "'t7' is not one of"),
        ((GOLDEN / "lstm",), 2, "Missing option '--format'"),
    ):
        refused = run("export", *wrong)
        assert (refused.code, says in refused.err) == (code, True), refused.err


@pytest.mark.parametrize("task", ["classification", "generation", "tagging", "translation"])
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_other_tasks_are_refused_in_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, task: str, form: str
) -> None:
    name = next(name for name, case in CASES.items() if case.task == task)
    monkeypatch.setattr("charrnn.sharing.onnx_step.require_extra", lambda *_: None)
    refused = run("export", GOLDEN / name, "--format", form)
    assert refused.code == 2
    assert f"the format {form} holds language models only" in refused.err
    assert refused.err.count("\n") == 1


def test_a_missing_package_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused = run("export", GOLDEN / "lstm", "--format", "onnx")
    assert refused.code == 2
    assert "needs the package onnx; run pip install 'charrnn-trainer[onnx]'" in refused.err


def test_weights_that_no_file_holds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.sharing.onnx_step.require_extra", lambda *_: None)
    monkeypatch.setattr("charrnn.sharing.onnx_step.MOST_BYTES", 1000)
    refused = run("export", GOLDEN / "lstm", "--format", "onnx")
    assert (refused.code, refused.out) == (2, "")
    assert "an ONNX file holds 2 GiB; use another format" in refused.err


def test_every_format_has_a_name_of_its_own() -> None:
    entries: list[FormatEntry] = [*FORMATS.values()]
    assert len({entry.suffix for entry in entries}) == len(entries)
