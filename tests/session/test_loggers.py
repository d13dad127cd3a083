"""Publishing a run to other programs: one curve after a kill, and failures that cost a warning."""

import importlib.util
import json
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from charrnn.config.merge import build_config, config_from_data, flatten
from charrnn.errors import require_extra
from charrnn.runs.directory import Run
from charrnn.session import loggers
from charrnn.session.loggers import KINDS, Line, Loggers, new_values
from tests.faults.harness import fork, resume, train
from tests.faults.killing import dies_at
from tests.tiny import drive, start, tiny_config, tiny_corpus


class Recorder:
    """A logger that keeps what it gets."""

    def __init__(self, run: Run, config: Mapping[str, Any], identity: str | None) -> None:
        self.identity = identity or "new"
        opened.append(self.identity)

    def log(self, lines: Sequence[Line]) -> None:
        got.extend(lines)

    def close(self) -> None:
        opened.append("closed")


class Raising(Recorder):
    def log(self, lines: Sequence[Line]) -> None:
        raise OSError("no such\n  server")


class Hanging(Recorder):
    def log(self, lines: Sequence[Line]) -> None:
        forever.wait()


got: list[Line] = []
opened: list[str] = []
forever = threading.Event()


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    got.clear()
    opened.clear()
    monkeypatch.setattr(loggers, "require_extra", lambda *_: None)
    monkeypatch.setattr(loggers, "PATIENCE", 0.3)
    for name, kind in {"tensorboard": Recorder, "wandb": Raising, "mlflow": Hanging}.items():
        monkeypatch.setitem(KINDS, name, kind)


def trained(folder: Path, names: list[str], until: int | None = None) -> list[str]:
    """Train or resume a tiny run that is published to loggers; return the warnings."""
    said: list[str] = []
    folder.mkdir(exist_ok=True)
    session = start(folder / "run", tiny_config(logging=names), tiny_corpus(folder))
    session.warn = said.append
    if session.run.steps():
        session.restore(session.run.latest(pytest.fail))
        session.run.cut_metrics(session.trainer.progress.step)
    drive(session, until)
    return said


def test_what_is_published_is_what_the_files_say(tmp_path: Path) -> None:
    assert trained(tmp_path, ["tensorboard"]) == []
    run = Run(tmp_path / "run")
    steps = [line["step"] for line in run.records("steps")]
    assert [step for step, _ in got] == steps == list(range(1, 15))
    values = dict(got)
    for line in run.metrics():
        if line["kind"] == "evaluation":
            nats = line["validation"]["nats_per_character"]
            assert values[line["step"]]["validation/nats_per_character"] == nats
            assert values[line["step"]]["learning_rate"] == line["learning_rate"]
    assert {"steps/nats_per_character", "steps/gradient_norm"} <= values[3].keys()
    assert opened == ["new", "closed"]


@pytest.mark.parametrize("stop", [3, 4, 6, 9])
def test_a_resumed_run_goes_on_with_the_same_curve(tmp_path: Path, stop: int) -> None:
    trained(tmp_path / "straight", ["tensorboard"])
    straight = list(got)
    got.clear()
    opened.clear()
    trained(tmp_path / "stopped", ["tensorboard"], until=stop)
    trained(tmp_path / "stopped", ["tensorboard"])
    assert [step for step, _ in got] == [step for step, _ in straight]
    clock = {"characters_per_second"}
    for (_, one), (_, other) in zip(got, straight, strict=True):
        assert {k: v for k, v in one.items() if k not in clock} == {
            k: v for k, v in other.items() if k not in clock
        }
    assert opened in (["new", "closed", "new", "closed"], ["new", "closed"])


def test_a_logger_that_is_added_later_gets_the_whole_curve(tmp_path: Path) -> None:
    trained(tmp_path, [], until=9)
    trained(tmp_path, ["tensorboard"])
    assert [step for step, _ in got] == list(range(1, 15))


@pytest.mark.parametrize(
    ("name", "said"), [("wandb", "no such server"), ("mlflow", "did not answer")]
)
def test_a_failing_logger_costs_one_warning(tmp_path: Path, name: str, said: str) -> None:
    began = time.monotonic()
    (warning,) = trained(tmp_path, [name, "tensorboard"])
    assert said in warning
    assert name in warning
    assert Run(tmp_path / "run").steps()[-1] == 14
    assert [step for step, _ in got] == list(range(1, 15))
    assert time.monotonic() - began < 20
    if name == "wandb":  # What failed is published by the next start that succeeds.
        assert json.loads((tmp_path / "run/loggers.json").read_bytes())["wandb"]["step"] == 0


def test_a_logger_that_is_not_installed_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loggers, "require_extra", lambda _, *others: require_extra("no_such_package", *others)
    )
    (warning,) = trained(tmp_path, ["trackio"])
    assert "pip install 'charrnn-trainer[trackio]'" in warning


@pytest.mark.parametrize("content", [b"", b"[]", b'{"tensorboard": 3}', b'{"tensorboard": {"ste'])
def test_a_damaged_record_of_the_loggers_begins_anew(tmp_path: Path, content: bytes) -> None:
    trained(tmp_path, [])
    (tmp_path / "run/loggers.json").write_bytes(content)
    said: list[str] = []
    publishing = Loggers(["tensorboard"], Run(tmp_path / "run"), {}, said.append)
    publishing.publish()
    publishing.close()
    assert said == []
    assert len(got) == 14


def test_the_key_of_older_runs_still_works() -> None:
    config = build_config([("old", {"tensorboard": True})])[0]
    assert config.logging == ["tensorboard"]
    data = {**flatten(config.model_dump()), "tensorboard": False}
    del data["logging"]
    assert build_config([("old", data)])[0].logging == []
    assert config_from_data({"tensorboard": True}, "old").logging == ["tensorboard"]
    assert build_config([("new", {"logging": "wandb"})])[0].logging == ["wandb"]


# The programs themselves --------------------------------------------------------------------------


def of_tensorboard(folder: Path) -> dict[str, list[int]]:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder / "run"))
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [event.step for event in accumulator.Scalars(name)] for name in names}


def of_wandb(folder: Path) -> dict[str, list[int]]:
    from wandb.proto import wandb_internal_pb2

    steps: dict[str, list[int]] = {}
    identities = set()
    for path in sorted((folder / "run/wandb").glob("offline-run-*/*.wandb")):
        identities.add(path.stem)
        for content in records_of_leveldb(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                steps.setdefault(name, []).append(record.history.step.num)
    assert len(identities) == 1
    return {name: at for name, at in steps.items() if not name.startswith("_")}


def records_of_leveldb(content: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format: blocks of 32 KiB, in them pieces of records.

    A piece is a checksum of 4 bytes, a length of 2, a kind (whole 1, first 2, middle 3, last 4) and
    its bytes. The file begins with 7 bytes of its own, which belong to the first block.
    """
    at, record = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        if kind == 0 or at + 7 + length > len(content):
            return  # The tail that a kill cut off.
        record = (b"" if kind in (1, 2) else record) + content[at + 7 : at + 7 + length]
        if kind in (1, 4):
            yield record
        at += 7 + length


def of_mlflow(folder: Path) -> dict[str, list[int]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("charrnn")
    (run,) = client.search_runs([experiment.experiment_id])
    return {
        name: sorted(point.step for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def of_trackio(folder: Path) -> dict[str, list[int]]:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("charrnn")
    steps: dict[str, list[int]] = {}
    for line in SQLiteStorage.get_logs("charrnn", run):
        for name, value in line.items():
            if isinstance(value, float):
                steps.setdefault(name, []).append(line["step"])
    return steps


READERS = {
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "mlflow": of_mlflow,
    "trackio": of_trackio,
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", READERS)
def test_a_killed_run_gives_one_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Kill the process in mid-run, resume it, and read what the program itself has recorded."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (the extra {name})")
    monkeypatch.undo()
    monkeypatch.setattr(loggers, "PATIENCE", 90.0)  # MLflow makes a database at its first start.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))

    def begin() -> object:
        warnings.resetwarnings()
        return train(tmp_path, steps=60, logging=[name])()

    killed = fork(dies_at(begin, 37)).wait(120)
    assert killed.code == -9, killed.errors
    ended = fork(lambda: (warnings.resetwarnings(), resume(tmp_path)())).wait(120)
    assert ended.code == 0, ended.errors
    assert "warning: logging" not in ended.errors
    assert ended.output == f"{tmp_path}/run\n"
    steps = READERS[name](tmp_path)
    lines = new_values(Run(tmp_path / "run"), 0)
    for metric in ("validation/nats_per_character", "steps/gradient_norm"):
        assert steps[metric] == [step for step, values in lines if metric in values]
