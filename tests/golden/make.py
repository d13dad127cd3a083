"""Make the golden runs: tiny runs stopped half-way, and the results they must always give.

    python -m tests.golden.make --package CHECKOUT [NAME ...]

trains every run of `cases.CASES` (or the named ones) with the package `charrnn` in CHECKOUT and
replaces `tests/golden/runs`. The committed runs come from commit 79a4a40, the last one before the
package was rearranged into rooms:

    git worktree add ../before 79a4a40
    python -m tests.golden.make --package ../before

Make them again only when a change of the numbers is intended, and say so in the commit.

Only the command line is used, so the maker does not depend on names inside the package. Each
command runs as `python -m charrnn ...` does, in a process of its own. To save the seconds that
importing torch takes, that process is forked from this one, which has imported torch but nothing of
charrnn. The work happens in a fixed folder, so that no path of the maker's machine is recorded.

Each run trains its whole budget without a stop. Then the checkpoints after step `STOP` are deleted,
and `metrics.jsonl` and `best.json` are cut back to what they held at that step, as if the process
had been killed right after saving it. `runs/NAME.json` holds the command lines, their output, and
the tensors' hash and the metrics at the end of the unbroken training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from tests.golden.cases import CASES, STEPS, STOP, Case

HERE = Path(__file__).parent
WORK = Path("/tmp/charrnn-golden")
VOLATILE = {"characters_per_second", "seconds"}  # timings
NAMED = {"text"}  # `resume --data` may describe the same text in other words; its hash stays


def fingerprint() -> dict[str, str]:
    """Return what the last bits of a result depend on: versions, processor, instruction set."""
    import torch

    lines = []
    if (info := Path("/proc/cpuinfo")).exists():
        lines = info.read_text("utf-8").splitlines()
    about = {}
    for line in reversed(lines):  # The first processor's lines win.
        key, _, value = line.partition(":")
        about[key.strip()] = value.strip()
    flags = " ".join(sorted(about.get("flags", about.get("Features", "")).split()))
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": about.get("model name", platform.processor()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "flags": hashlib.sha256(flags.encode()).hexdigest(),
    }


def tensors_sha256(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    with safe_open(path, "numpy") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl` without times and the text's description."""
    path = run / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [_without(json.loads(line), VOLATILE | NAMED) for line in lines]


def best(run: Path) -> dict[str, Any]:
    """Return a run's `best.json` without the text's description."""
    return _without(json.loads((run / "best.json").read_text("utf-8")), NAMED)


def _without(record: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    """Return a record without some keys, and the records in it likewise."""
    return {
        key: _without(value, keys) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in keys
    }


def parsed(arguments: list[str], output: str) -> Any:
    """Parse a command's output: a list of JSON values if its lines are JSON, else the text."""
    if {"--json", "--per-character"} & set(arguments):
        return [json.loads(line) for line in output.splitlines()]
    return output


def charrnn(*arguments: str) -> str:
    """Run one command line in a forked process and return its standard output.

    Raises RuntimeError with standard error where the command fails.
    """
    out, err = WORK / "stdout", WORK / "stderr"
    child = os.fork()
    if child == 0:
        code: Any = 1
        try:
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["charrnn", *arguments]
            runpy.run_module("charrnn", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise RuntimeError(f"{' '.join(arguments)} ended with {status}:\n{err.read_text()}")
    return out.read_text("utf-8")


def stop_at(run: Path, step: int) -> None:
    """Bring a finished run back to what it was right after the checkpoint of `step`."""
    folder = run / "checkpoints"
    with safe_open(folder / f"step-{step:08d}.safetensors", "numpy") as file:
        header = file.metadata()
    best_so_far = json.loads(header["session"])["best"]
    kept = {step} | ({best_so_far["step"]} if best_so_far else set())
    for path in folder.iterdir():
        if int(path.stem.removeprefix("step-")) not in kept:
            path.unlink()
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    before = [line for line in lines if json.loads(line)["step"] <= step]
    (run / "metrics.jsonl").unlink()
    (run / "best.json").unlink()
    if before:
        (run / "metrics.jsonl").write_text("".join(before), "utf-8")
    if best_so_far:
        text = json.dumps(best_so_far | {"score": None}, indent=2) + "\n"
        (run / "best.json").write_text(text, "utf-8")
    (run / "lock").unlink()


def make(name: str, case: Case) -> dict[str, Any]:
    """Train one run, stop it half-way, and return what it must give."""
    run = Path("runs") / name
    training = case.training(str(run))
    charrnn(*training)
    end = run / "checkpoints" / f"step-{STEPS:08d}.safetensors"
    resumed = {
        "arguments": case.resuming(str(run)),
        "step": STEPS,
        "tensors_sha256": tensors_sha256(end),
        "metrics": metrics(run),
        "best": best(run),
    }
    stop_at(run, STOP)
    commands = [
        {"arguments": arguments, "output": parsed(arguments, charrnn(*arguments))}
        for arguments in case.commands(str(run))
    ]
    return {"training": training, "commands": commands, "resume": resumed}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the golden runs.")
    parser.add_argument("--package", type=Path, required=True, help="the checkout to take")
    parser.add_argument("names", nargs="*", help="only these runs")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CHARRNN_CACHE_DIR": str(WORK / "cache")}
    import torch

    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=options.package,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    shutil.rmtree(WORK, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(options.package / "charrnn", WORK / "charrnn", ignore=ignored)
    shutil.copytree(HERE / "texts", WORK / "texts")
    os.chdir(WORK)
    sys.path.insert(0, str(WORK))
    target = HERE / "runs"
    if not options.names:
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(exist_ok=True)
    for name in options.names or CASES:
        expected = make(name, CASES[name])
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(Path("runs") / name, target / name)
        text = json.dumps(expected, indent=1, ensure_ascii=False)
        (target / f"{name}.json").write_text(f"{text}\n", "utf-8")
        print(f"made {name}", file=sys.stderr)
    about = {"commit": commit, "fingerprint": fingerprint()}
    (target / "made.json").write_text(f"{json.dumps(about, indent=1)}\n", "utf-8")


if __name__ == "__main__":
    main()
