"""The golden runs open, write, predict, score and resume as they did when they were made.

Where the fingerprint is that of the processor and versions that made them, scores agree to 1e-9 and
the resumed run ends in the same bits. Elsewhere kernels round otherwise, and the same comparisons
run with wider tolerances; texts, classes and tags must be equal everywhere.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden.cases import CASES, STOP
from tests.golden.make import best, fingerprint, metrics, parsed, tensors_sha256

HERE = Path(__file__).parent
RUNS = HERE / "runs"
SAME = json.loads((RUNS / "made.json").read_text("utf-8"))["fingerprint"] == fingerprint()
OF_A_CHECKPOINT = 1e-9 if SAME else 1e-4
OF_TRAINING = 1e-9 if SAME else 1e-3


def assert_close(actual: Any, expected: Any, tolerance: float, at: str) -> None:
    """Assert that two values from JSON are equal; numbers with a point need only be close."""
    if isinstance(expected, float) and isinstance(actual, (int, float)):
        close = math.isclose(actual, expected, rel_tol=tolerance, abs_tol=tolerance / 100)
        assert close, f"{at}: {actual!r} instead of {expected!r}"
    elif isinstance(expected, dict) and isinstance(actual, dict):
        assert expected.keys() <= actual.keys(), at
        for key, value in expected.items():
            assert_close(actual[key], value, tolerance, f"{at}.{key}")
    elif isinstance(expected, list) and isinstance(actual, list):
        assert len(actual) == len(expected), at
        for i, value in enumerate(expected):
            assert_close(actual[i], value, tolerance, f"{at}[{i}]")
    else:
        assert actual == expected, at


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CASES)
def test_a_run_gives_what_it_gave(
    name: str,
    run: Callable[..., Any],
    one_thread: None,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("compared", "bit for bit" if SAME else "closely, on another machine")
    expected = json.loads((RUNS / f"{name}.json").read_text("utf-8"))
    folder = tmp_path / "runs" / name  # `run` has made tmp_path the working folder.
    shutil.copytree(HERE / "texts", tmp_path / "texts")
    shutil.copytree(RUNS / name, folder)

    assert expected["commands"]
    for command in expected["commands"]:
        arguments = command["arguments"]
        result = run(*arguments)
        assert result.code == 0, result.err
        at = " ".join(arguments)
        assert_close(parsed(arguments, result.out), command["output"], OF_A_CHECKPOINT, at)

    resume = expected["resume"]
    last = folder / "checkpoints" / f"step-{resume['step']:08d}.safetensors"
    assert not last.exists()
    assert max(folder.glob("checkpoints/*")).stem == f"step-{STOP:08d}"
    result = run(*resume["arguments"])
    assert result.code == 0, result.err
    assert ("not bit for bit" in result.err) <= (not SAME), result.err
    if SAME:
        assert tensors_sha256(last) == resume["tensors_sha256"]
        assert_close(metrics(folder), resume["metrics"], OF_TRAINING, "metrics.jsonl")
        assert_close(best(folder), resume["best"], OF_TRAINING, "best.json")
    else:
        # Accuracies and the best step may differ where rounding decides; the loss may not.
        assert [line["step"] for line in metrics(folder)] == [
            line["step"] for line in resume["metrics"]
        ]
        for actual, wanted in zip(metrics(folder), resume["metrics"], strict=True):
            for key in wanted.keys() & {"train", "validation"}:
                nats = next(k for k in wanted[key] if k.startswith("nats_per_"))
                assert_close(actual[key][nats], wanted[key][nats], OF_TRAINING, f"{key}.{nats}")


def test_every_run_on_disk_is_tested() -> None:
    assert {path.stem for path in RUNS.glob("*.json")} == {*CASES, "made"}
    assert {path.name for path in RUNS.iterdir() if path.is_dir()} == {*CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_run_was_trained_as_its_case_says(name: str) -> None:
    expected = json.loads((RUNS / f"{name}.json").read_text("utf-8"))
    folder = f"runs/{name}"
    assert expected["training"] == CASES[name].training(folder)
    assert [c["arguments"] for c in expected["commands"]] == [*CASES[name].commands(folder)]
    assert expected["resume"]["arguments"] == CASES[name].resuming(folder)
