"""Checkpoints of other versions and other machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.directory import Run
from tests.faults.harness import (
    Effort,
    Result,
    check,
    command,
    fork,
    tally,
    tiny_arguments,
)
from tests.faults.killing import folder, patched
from tests.faults.texts import trained

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_score(path: Path, text: str, seed: int) -> dict[str, Any]:
    """Return the loss of a checkpoint on a text, and a sample with a fixed seed."""
    from charrnn.inference.trained_model import load

    model = load(path)
    return {
        "nats_per_character": model.evaluate(text).nats_per_character,
        "sample": model.sample_text(60, seed=seed),
    }


@check(
    "golden checkpoint of format 1, and one of a newer format",
    sabotage="one weight changed",
    ci=True,
)
def golden(effort: Effort, sabotaged: bool) -> Result:
    recorded = json.loads((GOLDEN / "format-1.json").read_text())
    path = GOLDEN / "format-1.safetensors"
    where = folder()
    original = load_checkpoint(path)
    if sabotaged:
        original.tensors["model/head.weight"][0, 0] += 0.01
        path = where / "changed.safetensors"
        save_checkpoint(path, original.tensors, original.metadata)
    ended = fork(lambda: print(json.dumps(golden_score(path, recorded["text"], 1)))).wait()
    found = json.loads(ended.output)
    (where / "text.txt").write_text(recorded["text"])
    again = fork(
        command("resume", path, "--data", where / "text.txt", "--out", where / "run",
                "--steps", recorded["step"] + 2)
    ).wait()  # fmt: skip
    newer = mock.patch("charrnn.runs.checkpoint.FORMAT", 99)
    with newer:
        save_checkpoint(where / "newer.safetensors", original.tensors, original.metadata)
    refused = fork(command("sample", where / "newer.safetensors")).wait()
    difference = abs(found["nats_per_character"] - recorded["nats_per_character"])
    return Result(
        difference < 1e-6
        and found["sample"] == recorded["sample"]
        and again.code == 0
        and refused.code == 4
        and "upgrade charrnn" in refused.errors,
        f"loss off by {difference:.1e}, resume exits {again.code}, newer exits {refused.code}",
    )


@check("a run from a GPU, from other threads, with another text", sabotage="differences unsaid")
def elsewhere(effort: Effort, sabotaged: bool) -> Result:
    where = trained()
    path = Run(where / "run").checkpoint_path(10)
    saved = load_checkpoint(path)
    metadata = json.loads(json.dumps(saved.metadata))
    metadata["config"]["device"] = metadata["environment"]["device"] = "cuda:0"
    metadata["environment"]["threads"] = 64
    metadata["environment"]["packages"]["torch"] = "9.9"
    save_checkpoint(path, saved.tensors, metadata)
    text = where / "other.txt"
    text.write_text((where / "text.txt").read_text()[::-1])
    with patched(
        mock.patch("charrnn.runs.environment.differences", return_value=[]), when=sabotaged
    ):
        codes = [
            fork(command(*arguments)).wait().code
            for arguments in (["sample", path, "-n", 5], ["eval", path], ["info", path])
        ]
        ended = fork(
            command("resume", path, "--data", text, "--out", where / "on", "--steps", 12)
        ).wait()
    said = [
        word in ended.errors
        for word in ("device: cuda:0 before, cpu now", "threads: 64 before", "torch': '9.9'",
                     "the text is not the one")
    ]  # fmt: skip
    return Result(
        codes == [0, 0, 0] and ended.code == 0 and all(said),
        f"exits {[*codes, ended.code]}, {sum(said)} of 4 differences said",
    )


@check(
    "a whole run directory from a GPU in bfloat16: every command, on this machine",
    sabotage="its device is taken as it is",
)
def run_from_a_gpu(effort: Effort, sabotaged: bool) -> Result:
    """Edit device and precision in checkpoints and config.yaml, as if a GPU had written the run."""
    import torch

    devices = ["cuda:77"] if Path("/dev/nvidia0").exists() else ["cuda", "cuda:0", "cuda:7"]
    good, problems, count = 0, [], 0
    for device in devices[: effort.of(3, 2)]:
        where = trained()
        run = Run(where / "run")
        for step in run.steps():
            saved = load_checkpoint(run.checkpoint_path(step))
            metadata = json.loads(json.dumps(saved.metadata))
            metadata["config"]["device"] = metadata["environment"]["device"] = device
            metadata["config"]["precision"] = "bfloat16"
            save_checkpoint(run.checkpoint_path(step), saved.tensors, metadata)
        config = (run.path / "config.yaml").read_text()
        (run.path / "config.yaml").write_text(config.replace("device: cpu", f"device: {device}"))
        text = where / "text.txt"
        cases: list[tuple[list[object], list[str]]] = [
            (["sample", run.path, "-n", 5], []),
            (["eval", run.path], []),
            (["info", run.path], []),
            (["vocab", run.path], []),
            (["list", where], []),
            (["train", text, "--from", run.path, "--out", where / "on", *tiny_arguments(2)], []),
            (
                ["resume", run.path, "--steps", 12],
                ["going on with device auto", f"{device} before"],
            ),
        ]
        as_it_is = mock.patch("charrnn.training.hardware.choose_device", torch.device)
        with patched(as_it_is, when=sabotaged):
            for arguments, words in cases:
                count += 1
                ended = fork(command(*arguments)).wait()
                fine = ended.code == 0 and all(word in ended.errors for word in words)
                good += fine and not ended.traceback
                problems += [] if fine else [
                    f"{arguments[0]}, {device}: exit {ended.code}, {ended.errors[-250:]}"
                ]  # fmt: skip
    return tally(good, count, "commands", problems)
