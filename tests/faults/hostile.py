"""Files from a stranger: checkpoints, configurations and run directories made to do harm."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
import torch
import yaml
from hypothesis import strategies as st

import charrnn.config.schema
from charrnn.config.merge import (
    all_keys,
    build_config,
    config_from_data,
    dump_yaml,
    file_layer,
    flatten,
)
from charrnn.config.schema import Config
from charrnn.config.strict_yaml import parse_yaml
from charrnn.data.corpus import load_corpus
from charrnn.data.sources import find_sources
from charrnn.errors import CharrnnError, is_out_of_memory
from charrnn.inference.trained_model import TrainedModel
from charrnn.runs.checkpoint import load_checkpoint, save_checkpoint
from charrnn.runs.checkpoint_check import check_layout
from charrnn.runs.directory import Run, find_checkpoint
from charrnn.session.loop import Session
from charrnn.training.hardware import choose_device
from charrnn.training.planning import plan
from tests.faults.harness import (
    Effort,
    Ended,
    Result,
    check,
    cold,
    command,
    fork,
    side_by_side,
    tally,
    train,
)
from tests.test_imports import MODULES, RESOLVING, dangerous

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m"
GIB = 1 << 30
NOTHING: contextlib.AbstractContextManager[None] = contextlib.nullcontext()

# Crafted checkpoints -------------------------------------------------------------------------


def good_checkpoint(folder: Path, steps: int = 10) -> Path:
    """Train a run in `folder / "run"` and return its checkpoint."""
    ended = fork(train(folder, steps=steps)).wait()
    if ended.code:
        raise RuntimeError(ended.errors)
    return Run(folder / "run").checkpoint_path(steps)


def dissected(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return a checkpoint's header entries, its metadata as plain data, and its data."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:end])
    texts = entries.pop("__metadata__")
    del texts["sha256"]
    return entries, {name: json.loads(text) for name, text in texts.items()}, content[end:]


def framed(header: bytes, data: bytes = b"") -> bytes:
    """Return the bytes of a safetensors file."""
    return len(header).to_bytes(8, "little") + header + data


def signed(entries: Any, metadata: Any, data: bytes, more: str = "") -> bytes:
    """Return a file with our checksum (anyone can compute it); `more` goes into the header."""
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    texts["sha256"] = "0" * 64
    header = json.dumps({"__metadata__": texts, **entries}, separators=(",", ":"))
    content = framed((header[:-1] + more + "}").encode(), data)
    digest = hashlib.sha256(content).hexdigest().encode()
    return content.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest, 1)


def changed(data: Any, path: str, value: Any) -> Any:
    """Return a deep copy of plain data with the value at a dotted path replaced."""
    copy = json.loads(json.dumps(data))
    *parents, last = path.split(".")
    place = copy
    for parent in parents:
        place = place[parent]
    place[last] = value
    return copy


class Runs:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def archive(**members: bytes) -> bytes:
    """Return a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def array_file(save: Callable[..., None], harmful: Any) -> bytes:
    """Return what numpy's `save` or `savez` writes for an array of objects."""
    buffer = io.BytesIO()
    save(buffer, np.array([harmful], object))
    return buffer.getvalue()


def wide(metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a valid header of a model of 68 GB whose data is missing."""
    metadata = changed(metadata, "config.model.hidden_size", 65536)
    shapes = {
        "embedding.weight": [14, 8],
        "head.weight": [14, 65536],
        "head.bias": [14],
        "stack.layers.0.cell.weight_ih": [262144, 8],
        "stack.layers.0.cell.weight_hh": [262144, 65536],
        "stack.layers.0.cell.bias_ih": [262144],
        "stack.layers.0.cell.bias_hh": [262144],
    }
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        entries[f"model/{name}"] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    return entries, metadata


def malicious(good: Path, marker: Path) -> dict[str, bytes]:
    """Return files that every command must refuse as a checkpoint, by the fault in each."""
    entries, metadata, data = dissected(good)
    harmful = Runs(marker)
    pickled = pickle.dumps(harmful)
    name = "model/head.bias"
    twice = json.dumps(entries[name])
    escaped = "".join(f"\\u{ord(c):04x}" for c in "{},")
    commas = framed(b'{"__metadata__":{"config":"[' + escaped.encode() * 900_000 + b'0]"}}')

    def shaped(**values: Any) -> bytes:
        return signed(entries | {name: entries[name] | values}, metadata, data)

    def told(path: str, value: Any) -> bytes:
        return signed(entries, changed(metadata, path, value), data)

    return {
        "pickle": pickled,
        "torch archive": archive(archive__data__pkl=pickled, archive__version=b"3\n"),
        "zip bomb": archive(archive__data__pkl=bytes(100_000_000)),
        "npz of objects": array_file(np.savez, harmful),
        "npy of objects": array_file(np.save, harmful),
        "pickle behind a header": framed(b'{"__metadata__":{}}', pickled),
        "pickle in the metadata": told("config", pickled.hex()),
        "header of 2**63 bytes": struct.pack("<Q", 2**63) + data,
        "header of 17 MB": framed(b"{" + b" " * 17_000_000 + b"}"),
        "deep header": framed(b"[" * 400_000),
        "deep metadata": signed(entries, metadata | {"config": "["}, data).replace(
            b'\\"[\\"', b"[" * 400_000
        ),
        "250,000 keys": framed(
            b"{" + b",".join(b'"%d":0' % i for i in range(250_000)) + b',"__metadata__":{}}'
        ),
        "values escaped from counting": commas,
        "a key twice": signed(entries, metadata, data, f',"{name}":{twice}'),
        "metadata twice": signed(entries, metadata, data, ',"__metadata__":{}'),
        "negative shape": shaped(shape=[-14]),
        "huge shape": shaped(shape=[2**62]),
        "fractional shape": shaped(shape=[14.0]),
        "shape of another model": told("config.model.hidden_size", 64),
        "tensors of another model": signed(entries | {"model/more": entries[name]}, metadata, data),
        "overlapping offsets": shaped(data_offsets=entries["model/head.weight"]["data_offsets"]),
        "offsets out of range": shaped(data_offsets=[10**9, 10**9 + 56]),
        "data missing": signed(entries, metadata, data[:1000]),
        "width of 65,536 and no data": signed(*wide(metadata), b""),
        "a million layers": told("config.model.layers", 1_000_000),
        "integers for weights": shaped(dtype="I32"),
        "unknown type": shaped(dtype="PICKLE"),
        "cell os.system": told("config.model.cell", "os.system"),
        "config of a class": told("config", "!!python/object/apply:os.system [id]"),
        "key with ..": told("corpus.key", "../../../../etc/passwd"),
        "escapes in a name": signed({ESCAPE: entries[name]}, metadata, data),
        "escapes in the config": told("config.model.cell", ESCAPE),
        "escapes in a key": told(f"config.{ESCAPE.replace('.', '')}", 1),
        "NaN": told("progress.learning_rate_factor", float("nan")),
        "step of 5,000 digits": signed(
            entries, changed(metadata, "progress.step", "DIGITS"), data
        ).replace(b'\\"DIGITS\\"', b"9" * 5000),
        "vocabulary of numbers": told("vocabulary", {"kind": "character", "symbols": [1, 2]}),
        "vocabulary with one twice": told("vocabulary.symbols", "aa"),
        "newer format": told("charrnn.format", 99),
        "YAML that names a class": f"!!python/object/apply:os.system ['touch {marker}']".encode(),
        "nothing": b"",
        "one byte": b"\0",
        "the word of a text": b"once upon a time",
    }


EXTENSIONS = (
    ".safetensors", ".pt", ".pth", ".pkl", ".bin", ".npz", ".npy", ".ckpt", ".yaml", ".json",
    ".tar", ".zip", "",
)  # fmt: skip


def planted(folder: Path, content: dict[str, bytes]) -> dict[str, Path]:
    """Write these files into `folder` (with our extension), and things that are not files."""
    paths = {}
    for number, (what, data) in enumerate(content.items()):
        paths[what] = folder / f"{number:02}.safetensors"
        paths[what].write_bytes(data)
    for what in ("a folder", "a pipe", "an endless device", "a link to itself"):
        paths[what] = folder / f"{what.split()[-1]}.safetensors"
    paths["a folder"].mkdir()
    os.mkfifo(paths["a pipe"])
    paths["an endless device"].symlink_to("/dev/zero")
    paths["a link to itself"].symlink_to(paths["a link to itself"].name)
    return paths


def without_torch(folder: Path, marker: Path, sabotage: str = "") -> str:
    """Return a PYTHONPATH on which the import of torch leaves a mark and fails."""
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "torch.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nraise ImportError('torch')\n"
    )
    (place / "sitecustomize.py").write_text(sabotage)
    return os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")]))


def raw_control(text: str) -> bool:
    """Return whether a terminal would take some of the bytes for a command."""
    return any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in text)


def not_refused(ended: Ended, codes: Sequence[int] = (2, 4, 7)) -> str:
    """Return what is wrong with how a file was refused, apart from its cost; or ''."""
    lines = ended.errors.splitlines()
    if ended.code not in codes or ended.traceback:
        return f"exit {ended.code}: {' '.join(ended.errors[-300:].split())}"
    if raw_control(ended.errors + ended.output):
        return f"a raw control character: {ended.errors!r}"
    others = ("charrnn: ", "warning: ", "starting from ", "reading ")
    if not lines or not lines[-1].startswith("charrnn: ") or len(ended.errors) > 3000:
        return f"not one line: {ended.errors[:300]!r}"
    return "" if all(line.startswith(others) for line in lines) else f"not one line: {lines}"


SKIP_LAYOUT = (
    "import charrnn.runs.checkpoint_check as module\nmodule.check_layout = lambda *_: None\n"
)
SECONDS, BYTES = 1.0, 200_000_000


@check(
    "malicious files x extensions: refused in 1 s and 200 MB, torch not imported, no effect",
    sabotage="the layout is not checked before the model is built",
    ci=True,
)
def strangers_checkpoint(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    marker, imported = folder / "marker", folder / "torch-was-imported"
    good = good_checkpoint(folder)
    text = folder / "text.txt"
    path = without_torch(folder, imported, SKIP_LAYOUT if sabotaged else "")
    content = malicious(good, marker)
    kinds = planted(Path(tempfile.mkdtemp(dir=folder)), content)
    chosen = list(kinds)
    if sabotaged:
        chosen = ["shape of another model", "cell os.system"]
    elif effort.fast:
        chosen = ["pickle", "250,000 keys", "values escaped from counting",
                  "width of 65,536 and no data", "a pipe"]  # fmt: skip
    cases: list[list[object]] = []
    for number, what in enumerate(chosen):
        file = kinds[what]
        extensions = EXTENSIONS if not (effort.fast or sabotaged) else EXTENSIONS[:1]
        if number >= 20:
            extensions = EXTENSIONS[number % len(EXTENSIONS) :][:1]
        for extension in extensions:
            if extension != file.suffix:
                other = file.with_suffix(extension)
                if what == "a folder":
                    other.mkdir()
                else:
                    os.link(file, other, follow_symlinks=False)
            cases.append(["sample", file.with_suffix(extension)])
        others: list[list[object]] = [
            ["info", file],
            ["eval", file],
            ["resume", file, "--out", folder / "other"],
            ["train", text, "--from", file, "--out", folder / "other"],
        ]
        cases += [] if effort.fast else [others[number % len(others)]]
    before = everything_in(folder)

    def attempt(words: list[object]) -> Ended:
        return cold(*words, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")

    with ThreadPoolExecutor(2) as two:
        ended = list(two.map(attempt, cases))
    problems, slowest, most = [], 0.0, 0
    names = {file.stem: what for what, file in kinds.items()}
    for words, end in zip(cases, ended, strict=True):
        best = end
        for _ in range(3):
            if took(best) < SECONDS:
                break
            best = min(best, attempt(words), key=took)
        slowest, most = max(slowest, took(best)), max(most, best.peak)
        problem = not_refused(end)
        if not problem and (took(best) >= SECONDS or best.peak > BYTES):
            problem = f"{took(best):.2f} s, {best.peak / 1e6:.0f} MB"
        if problem:
            shown = next(
                (names[Path(str(w)).stem] for w in words if Path(str(w)).stem in names), ""
            )
            problems.append(f"{words[0]} {shown}: {problem}")
    good_ones = len(cases) - len(problems)
    if made := everything_in(folder) - before:
        good_ones, problems = 0, [*problems, f"made: {sorted(made)[:3]}"]
    return tally(
        good_ones,
        len(cases),
        f"({len(chosen)} files; slowest {slowest:.2f} s, peak {most / 1e6:.0f} MB)",
        problems,
    )


Change = Callable[[dict[str, Any], dict[str, Any]], object]

CHANGES: dict[str, Change] = {
    "a head of another size": lambda t, _: t.update({"model/head.bias": t["model/head.bias"][:1]}),
    "an embedding of fewer symbols": lambda t, _: t.update(
        {"model/embedding.weight": t["model/embedding.weight"][1:]}
    ),
    "no head": lambda t, _: t.pop("model/head.weight"),
    "a tensor more": lambda t, _: t.update({"model/other.weight": t["model/head.weight"]}),
    "a carried state": lambda t, _: t.update({"carry/0": t["model/head.bias"]}),
    "a class more": lambda _, m: m["vocabulary"]["label"]["symbols"].append("more"),
    "a class twice": lambda _, m: m["vocabulary"]["label"]["symbols"].insert(0, "late"),
    "a symbol more": lambda _, m: m["vocabulary"]["text"].update(
        symbols=m["vocabulary"]["text"]["symbols"] + "\U0001f600"
    ),
    "no classes": lambda _, m: m["vocabulary"].pop("label"),
    "a vocabulary more": lambda _, m: m["vocabulary"].update(other=m["vocabulary"]["label"]),
    "texts of tokens": lambda _, m: m["vocabulary"].update(text=m["vocabulary"]["label"]),
    "classes of characters": lambda _, m: m["vocabulary"].update(label=m["vocabulary"]["text"]),
    "wider": lambda _, m: m["config"]["model"].update(hidden_size=65536),
    "another task": lambda _, m: m["config"].update(task="language_model"),
    "no task": lambda _, m: m["config"].update(task="os.system"),
    "counts of a third class": lambda _, m: m["corpus"].update(label_counts=[1, 2, 3]),
    "counts of nothing": lambda _, m: m["corpus"].update(label_counts=[0, 0]),
    "counts that are none": lambda _, m: m["corpus"].update(label_counts=["many", None]),
}


@check(
    "a stranger's classifier or generator: shapes, vocabularies, counts of classes",
    sabotage="the layout is not checked before the model is built",
)
def strangers_examples(effort: Effort, sabotaged: bool) -> Result:
    good = count = 0
    problems = []
    for task, use in (("classification", ["predict", "abc"]), ("generation", ["sample"])):
        folder = Path(tempfile.mkdtemp())
        ended = fork(train(folder, steps=10, task=task)).wait()
        stored = load_checkpoint(Run(folder / "run").checkpoint_path(10))
        changed_one = folder / "changed.safetensors"
        chosen = dict(list(CHANGES.items())[:: effort.of(1, 4)])
        for what, change in {"nothing": lambda *_: None, **chosen}.items():
            tensors, metadata = dict(stored.tensors), json.loads(json.dumps(stored.metadata))
            change(tensors, metadata)
            save_checkpoint(changed_one, tensors, metadata)
            with mock.patch("charrnn.runs.directory.check_layout") if sabotaged else NOTHING:
                ended = fork(command(use[0], changed_one, *use[1:])).wait()
            fine = what == "nothing"
            problem = "" if fine and ended.code == 0 else not_refused(ended, [0] if fine else [4])
            good += not problem
            count += 1
            problems += [f"{task}, {what}: {problem}"] if problem else []
    return tally(good, count, "as they should be", problems)


def took(ended: Ended) -> float:
    """Return its seconds, but no more than its processor time if it took at most 5 s."""
    return ended.seconds if ended.seconds > 5 else min(ended.seconds, ended.processor)


def everything_in(folder: Path) -> set[str]:
    """Return the paths below a folder and in the working directory."""
    return {str(path) for path in (*folder.rglob("*"), *Path().iterdir())}


RECORDS = (
    '{"step": "40"}', '{"step": -1}', '{"step": 99999999999999999999999}', '{"step": true}',
    '{"step": 1e3}', '{"step": null}', "[]", "[[[]]]", "null", "NaN", '"text"', "{",
    "[" * 200_000, '{"a":' * 100_000, "9" * 5000,
    '{"step": 10, "score": "x"}', '{"step": 10, "score": {"nats_per_character": "x"}}',
    '{"step": 10, "score": []}', '{"step": 10, "nats_per_character": "x", "protocol": 5}',
    '{"step": 10, "nats_per_character": [], "protocol": {}}',
    '{"step": 10, "nats_per_character": 1e999, "protocol": "\\u001b[2J"}',
    '{"pid": "\\u001b[2J\\u009b", "host": "\\u001b]0;owned\\u0007\\n\\n"}',
    '{"pid": [], "host": {}}',
    '{"step": 5}\n{"step": 5}\n', '{"step": 5, "final": 1}\n', '{"step": 1e400}\n', "\x00" * 1000,
    "\ufeff{}", "\\ud800", '{"step": 5, "train": "\\ud800"}\n',
)  # fmt: skip
FILES = ("best.json", "owner.json", "environment.json", "metrics.jsonl", "checkpoint", "state")


@check(
    "malicious files and records as files of a run, as --load-state: no harm, no traceback",
    sabotage="records are read without minding what is wrong with them",
)
def strangers_run(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    marker = folder / "marker"
    good = good_checkpoint(folder)
    kinds = planted(Path(tempfile.mkdtemp(dir=folder)), malicious(good, marker))
    for number, text in enumerate(RECORDS):
        kinds[f"record {text[:70]}"] = folder / f"record-{number}"
        kinds[f"record {text[:70]}"].write_text(text)
    chosen = list(kinds.items())[:: effort.of(1, 45)]
    if sabotaged:
        chosen = [item for item in kinds.items() if item[0] in ("record {", "pickle")]

    def work(cases: list[tuple[str, Path]]) -> list[str]:
        return [problem for what, path in cases for problem in placed(what, path)]

    def placed(what: str, path: Path) -> Iterator[str]:
        for name in FILES:
            for words, codes in uses(name):
                run = Path(tempfile.mkdtemp(dir=folder)) / "run"
                shutil.copytree(folder / "run", run)
                target = run / {"checkpoint": f"checkpoints/{good.name}"}.get(name, name)
                ended = fork(started(words(run), run, target, path), LIMITS).wait(10)
                yield wrong(ended, codes, f"{what} as {name}, {words(run)[0]}")
                shutil.rmtree(run.parent)

    with unminding() if sabotaged else NOTHING:
        found = side_by_side(work, chosen)
    problems = [problem for problem in found if problem]
    if marker.exists():
        problems = ["a pickle was loaded"] * len(found)
    return tally(len(found) - len(problems), len(found), "commands", problems)


LIMITS = {resource.RLIMIT_AS: 6 * GIB}
Words = Callable[[Path], list[object]]


def uses(name: str) -> list[tuple[Words, tuple[int, ...]]]:
    """Return the commands that read a file of a run, and the exit codes each may have."""
    go_on: Words = lambda run: ["resume", run, "--steps", 12]  # noqa: E731
    look: Words = lambda run: ["info", run]  # noqa: E731
    every: Words = lambda run: ["list", run.parent]  # noqa: E731
    give: Words = lambda run: ["sample", run, "-n", 3]  # noqa: E731
    match name:
        case "best.json":
            return [(look, (0, 4, 7)), (every, (0, 4, 7)), (give, (0, 4, 7)), (go_on, (0, 7))]
        case "owner.json":
            return [(go_on, (5,))]
        case "checkpoint":
            return [(give, (0, 4, 7)), (go_on, (0, 4, 7))]
        case "state":
            return [(lambda run: ["sample", run, "--load-state", run / "state"], (4, 7))]
    return [(go_on, (0, 7))]


def started(words: list[object], run: Path, target: Path, source: Path) -> Callable[[], object]:
    """Wrap the command: put `source` in place of `target` first; for owner.json, hold the lock."""

    def place() -> None:
        if target.exists():
            target.unlink()
        if source.is_dir() and not source.is_symlink():
            target.mkdir()
        elif source.is_symlink():
            target.symlink_to(os.readlink(source))
        else:
            os.link(source, target)

    def start() -> object:
        if target.name != "owner.json":
            place()
            return command(*words)()
        with Run(run).lock():
            place()
            ended = fork(command(*words)).wait(5)  # Less than the caller waits.
        print(ended.output, end="")
        print(ended.errors, end="", file=sys.stderr)
        return ended.code

    return start


def wrong(ended: Ended, codes: Sequence[int], what: str) -> str:
    """Return what is wrong with how a command ended; or ''."""
    if ended.code not in codes or ended.traceback:
        return f"{what}: exit {ended.code}: {' '.join(ended.errors[-200:].split())}"
    if raw_control(ended.errors) or (what.endswith(("info", "list")) and raw_control(ended.output)):
        return f"{what}: a raw control character: {ended.errors[-200:]!r}"
    return ""


def unminding() -> Any:
    """Take away the check of `_read_json` that a file is valid JSON."""
    return mock.patch(
        "charrnn.runs.directory._read_json", lambda path: json.loads(path.read_text("utf-8"))
    )


# Names and other strings ---------------------------------------------------------------------

TRAVERSAL = (
    "..", ".", "../..", "../../../../tmp/owned", "/tmp/owned", "//tmp//owned", "~", "~root",
    "~/owned", "$HOME/owned", "${HOME}", "`id`", "$(touch owned)", "owned; touch owned",
    "owned\n../owned", "owned\0/etc/passwd", "..\\..\\owned", "C:\\owned", "\\\\host\\owned", "con",
    "nul.txt", "....//....//owned", "%2e%2e%2fowned", "..%c0%afowned", "\u2025/owned",
    "\uff0e\uff0e\uff0fowned", "owned/../../owned", "-rf", "--out=/tmp/owned",
    ".ssh/authorized_keys", " ", "", "x" * 300, "x/" * 100, "runs/text-1", "*", "?", "{a,b}", "file:///etc/passwd",
)  # fmt: skip
ESCAPES = (
    "\x1b[2J", "\x1b[31mred", "\x1b]0;owned\x07", "\x1b]8;;http://owned\x1b\\text", "\x1bP+q\x1b\\",
    "\x1bc", "\x9b2J", "\x9d0;owned\x9c", "\x90owned\x9c", "\x07", "\x08\x08\x08", "\r", "\r\n",
    "owned\rreal", "\x7f", "\x85", "\x0e", "\x00", "\v\f", "\x1b[1A\x1b[2K", "\x1b[6n",
    "\x1b[?1049h", "\x1b]52;c;b3duZWQ=\x07", "\ud800\x1b[0m", "\x1b%G", "\x1b#8",
)  # fmt: skip


@check(
    "path traversal and terminal escapes in metadata: nothing written outside, nothing raw shown",
    sabotage="names are not cleaned, messages not made visible",
)
def strangers_strings(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    entries, metadata, data = dissected(good_checkpoint(folder))
    text = folder / "text.txt"
    strings = [*TRAVERSAL, *ESCAPES]
    strings = ["../../../../tmp/owned", "\x1b[2J", *strings][
        : 2 if effort.fast or sabotaged else 99
    ]

    def described(string: str) -> dict[str, Any]:
        told = metadata
        for path in ("corpus.name", "corpus.described", "environment.python", "environment.device",
                     "environment.platform", "environment.processor",
                     "session.best.protocol"):  # fmt: skip
            told = changed(told, path, string)
        return changed(told, "environment.packages", {string: string})

    def work(strings: list[str]) -> list[str]:
        return [problem for string in strings for problem in attempts(string)]

    def attempts(string: str) -> Iterator[str]:
        place = Path(tempfile.mkdtemp(dir=folder))
        files = {
            "names": described(string),
            "key": changed(metadata, "corpus.key", string),
            "sha256": changed(metadata, "corpus.sha256", string),
            "source": changed(metadata, "config.data.sources", [string]),
            "encoding": changed(metadata, "config.data.encoding", string),
            "errors": changed(metadata, "config.data.errors", string),
        }
        for name, told in files.items():
            (place / name).write_bytes(signed(entries, told, data))
        cases: list[tuple[str, tuple[object, ...], tuple[int, ...]]] = [
            ("names", ("info",), (0,)),
            ("names", ("eval", "--data", text), (0,)),
            ("names", ("resume", "--data", text, "--steps", 12), (0, 7)),
            ("key", ("info",), (4,)),
            ("sha256", ("resume", "--data", text), (4,)),
            ("source", ("resume", "--steps", 12), (0, 2, 3, 7)),
            ("encoding", ("eval", "--data", text), (0, 2, 3)),
            ("errors", ("eval", "--data", text), (0, 2, 3)),
        ]
        if os.path.isdir(os.path.expanduser(string)):
            del cases[5]  # This case would rightly read every file in that folder.
        for name, (word, *rest), codes in cases:
            before = set(place.iterdir())
            home = place / f"home-{name}-{word}"
            ended = fork(moved_to(home, command(word, place / name, *rest))).wait(30)
            made = {path.name for path in set(place.iterdir()) - before - {home}}
            made |= {path.name for path in home.iterdir()} - {"runs"}
            problem = wrong(ended, codes, f"{string[:30]!r} as {name}, {word}")
            if raw_control(ended.output):
                problem = f"{string[:30]!r} as {name}, {word}: raw on standard output"
            if made:
                problem = f"{string[:30]!r} as {name}, {word}: made {sorted(made)[:3]}"
            yield problem
        shutil.rmtree(place)

    with unclean() if sabotaged else NOTHING:
        found = side_by_side(work, strings)
    problems = [problem for problem in found if problem]
    if stray := [*folder.parent.rglob("*owned*"), *Path("/tmp").glob("owned*")]:
        problems = [f"made: {stray[:3]}"] * len(found)
    what = f"commands ({len(strings)} strings)"
    return tally(len(found) - len(problems), len(found), what, problems)


def moved_to(folder: Path, function: Callable[[], object]) -> Callable[[], object]:
    """Wrap the function: run it with a new folder as the working directory."""

    def run() -> object:
        folder.mkdir()
        os.chdir(folder)
        return function()

    return run


def claim_uncleaned(name: str, root: Path = Path("runs")) -> Run:
    """Do as `claim_run`, but take a name without cleaning it."""
    path = root / f"{name}-1"
    path.mkdir(parents=True, exist_ok=True)
    return Run(path)


@contextlib.contextmanager
def unclean() -> Iterator[None]:
    """Take away the cleaning of names and of messages."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("charrnn.session.opening.claim_run", claim_uncleaned))
        for module in ("display", "inspect", "progress", "sample", "evaluate", "predict"):
            target = f"charrnn.cli.{module}.visible"
            stack.enter_context(mock.patch(target, lambda text: text))
        yield


# YAML ----------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join([f'*{chr(97 + i)}'] * 9)}]}}\n"
    for i in range(9)
)
NOT_YAML: dict[str, str | bytes] = {
    "billion laughs": LAUGHS,
    "merge bomb": MERGES,
    "anchor and alias": "model: &m {layers: 1}\ntraining: *m\n",
    "alias to itself": "a: &a [*a]\n",
    "unknown alias": "a: *b\n",
    "key twice": "model:\n  layers: 1\n  layers: 2\n",
    "section twice": "model: {layers: 1}\nmodel: {layers: 2}\n",
    "python object": "model: !!python/object/apply:os.system ['touch owned']\n",
    "python new": "model: !!python/object/new:os.system ['touch owned']\n",
    "python name": "model: {cell: !!python/name:os.system }\n",
    "python module": "model: !!python/module:os\n",
    "python tuple": "model: {hidden_size: !!python/tuple [1, 2]}\n",
    "custom tag": "model: !mine {layers: 1}\n",
    "tag by directive": "%TAG ! tag:yaml.org,2002:python/\n---\nmodel: !object/new:int [1]\n",
    "no boolean": "model: {tie_embeddings: !!bool maybe}\n",
    "no integer": "model: {layers: !!int many}\n",
    "no number": "training: {clip: !!float x}\n",
    "no time": "training: {max_time: !!timestamp now}\n",
    "deep list": "a: " + "[" * 100_000,
    "deep and closed": "a: " + "[" * 500 + "]" * 500,
    "deep mapping": "".join(f"{' ' * i}a:\n" for i in range(400)),
    "deep flow": "a: " + "{a: " * 5000,
    "deep dashes": "- " * 20_000,
    "1e999": "training: {clip: 1e999}\n",
    "infinity by tag": "training: {clip: !!float .inf}\n",
    "NUL": "model: {layers: 1}\n\0",
    "escape": "model: {cell: '\x1b[2J'}\n",
    "bell in a key": "\x07: 1\n",
    "tab": "model:\n\tlayers: 1\n",
    "two documents": "model: {layers: 1}\n---\nmodel: {layers: 2}\n",
    "open quote": "model: {cell: 'lstm}\n",
    "open bracket": "model: {hidden_size: [1, 2\n",
    "key that is a list": "? [a, b]\n: 1\n",
    "key that is a mapping": "{a: 1}: 2\n",
    "key that is a number": "1: 2\n",
    "key that is true": "true: 2\n",
    "key that is nothing": "~: 2\n",
    "20,000 values": "a: [" + "1," * 20_000 + "]\n",
    "20,000 keys": "".join(f"k{i}: 1\n" for i in range(20_000)),
    "directive of another version": "%YAML 3.0\n---\nmodel: {layers: 1}\n",
    "bad escape": 'model: {cell: "\\q"}\n',
    "bad indentation": "model:\n  layers: 1\n dropout: 0\n",
    "surrogate": 'model: {cell: "\\ud800"}\nx: [\n',
}
NOT_OURS: dict[str, str | bytes] = {
    "merge key": "model: {<<: {layers: 1}}\n",
    "set": "model: !!set {layers}\n",
    "ordered map": "model: !!omap [layers: 1]\n",
    "binary": "model: {cell: !!binary '%%%'}\n",
    "infinity": "training: {clip: .inf}\n",
    "not a number": "training: {clip: .nan}\n",
    "no for false": "model: {tie_embeddings: no}\n",
    "yes for true": "model: {tie_embeddings: yes}\n",
    "off for false": "deterministic: off\n",
    "sexagesimal": "training: {max_time: 1:30:00}\n",
    "timestamp": "training: {steps: 2024-01-01}\n",
    "hexadecimal": "training: {steps: 0x10}\n",
    "octal": "training: {steps: 0o10}\n",
    "binary number": "training: {steps: 0b10}\n",
    "5,000 digits": f"training: {{steps: {'9' * 5000}}}\n",
    "5,000 digits and a tag": f"training: {{steps: !!int {'9' * 5000}}}\n",
    "5,000 digits of a fraction": f"training: {{clip: 0.{'1' * 5000}e{'9' * 5000}}}\n",
    "number for text": "model: {cell: 1}\n",
    "text for number": "training: {clip: '1e-3'}\n",
    "class for a cell": "model: {cell: os.system}\n",
    "list": "- model\n",
    "word": "model\n",
    "number": "1\n",
    "unknown section": "modle: {layers: 1}\n",
    "unknown key": "model: {layer: 1}\n",
    "section of a section": "model: {model: {layers: 1}}\n",
    "escape in a value": 'model: {cell: "\\e[2J"}\n',
    "escape in a key": '"\\e[2J": 1\n',
    "10 MB": "# " + "x" * 10_000_000,
    "latin-1": b"model: {cell: '\xe9'}\n",
    "utf-16": "model: {layers: 1}\n".encode("utf-16"),
    "surrogate in a value": 'model: {cell: "\\ud800"}\n',
    "long key": f"{'k' * 1000}: 1\n",
}
NUMBERS: dict[str, float | int | bool | None] = {
    "1e-3": 1e-3, "1E-3": 1e-3, ".001": 0.001, "1.": 1.0, "1.5e+3": 1500.0, "2e5": 2e5,
    "-.5": -0.5, "+1e3": 1000.0, "1_000": 1000, "010": 10, "0": 0, "true": True, "False": False,
    "~": None, "null": None,
}  # fmt: skip


@check(
    "hostile YAML: one line with its place within a second, exit 2; 1e-3, 1E-3, .001 are numbers",
    sabotage="PyYAML's own safe loader",
    ci=True,
)
def strangers_yaml(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    documents = {**NOT_YAML, **NOT_OURS}
    chosen = list(documents)[:: effort.of(1, 4)]
    if sabotaged:
        chosen = ["billion laughs", "key twice", "merge key", "no for false"]

    def work(names: list[str]) -> list[str]:
        return [refused(name) for name in names]

    def refused(name: str) -> str:
        path = folder / f"{list(documents).index(name)}.yaml"
        content = documents[name]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        ended = fork(command("config", "show", path), LIMITS).wait(5)
        where = rf"{re.escape(str(path))}:\d+:\d+: " if name in NOT_YAML else re.escape(str(path))
        if problem := not_refused(ended, (2,)):
            return f"{name}: {problem}"
        if len(ended.errors.splitlines()) != 1 or not re.search(where, ended.errors):
            return f"{name}: no place: {ended.errors[:200]}"
        return "" if took(ended) < SECONDS else f"{name}: {took(ended):.1f} s"

    with (
        mock.patch("charrnn.config.strict_yaml._Loader", yaml.SafeLoader) if sabotaged else NOTHING
    ):
        problems = [problem for problem in side_by_side(work, chosen) if problem]
        for text, value in NUMBERS.items():
            found = parse_yaml(f"x: {text}", "numbers")["x"]
            if type(found) is not type(value) or found != value:
                problems.append(f"{text} is read as {found!r}")
    colds = [] if sabotaged else ["billion laughs", "deep list", "python object", "20,000 keys"]
    for name in colds[: effort.of(4, 1)]:
        ended = cold("config", "show", folder / f"{list(documents).index(name)}.yaml")
        if problem := not_refused(ended, (2,)):
            problems.append(f"{name}, cold: {problem}")
    count = len(chosen) + len(NUMBERS) + len(colds[: effort.of(4, 1)])
    return tally(count - len(problems), count, "documents and numbers", problems)


# What the package itself calls ---------------------------------------------------------------

PLANTED = """
import torch, numpy as np, yaml
torch.load(path)
np.load(path, allow_pickle=True)
yaml.load(text, yaml.Loader)
yaml.unsafe_load(text)
from joblib import load
__import__("pickle")
importlib.import_module("dill")
eval(text)
builtins.exec(text)
"""


@check(
    "calls in the package that can run what a file says (torch.load, pickle, yaml.load, eval): 0",
    sabotage="nine of them in one module more",
    ci=True,
)
def harmless_source(effort: Effort, sabotaged: bool) -> Result:
    trees = dict(MODULES) | ({"planted": ast.parse(PLANTED)} if sabotaged else {})
    allowed = {"registry": RESOLVING}
    found = [
        f"{name}: {call}"
        for name, tree in trees.items()
        for call in dangerous(tree)
        if call not in allowed.get(name, [])
    ]
    strict = "; one yaml.load, with a loader that is a yaml.SafeLoader; names resolved in registry"
    if not issubclass(charrnn.config.strict_yaml._Loader, yaml.SafeLoader):
        found.append("the configuration's loader is no yaml.SafeLoader")
    shown = f": {', '.join(found)}"[:150] if found else strict
    return Result(not found, f"{len(found)} in {len(trees)} modules{shown}")


# Fuzzing -------------------------------------------------------------------------------------

SLOW = 5.0
leaf = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([0, 1, -1, 2**31, 2**62, 2**63, 2**64, 10**30, 1e308, "auto", "", "byte"]),
)  # fmt: skip
value = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


class Enough(KeyboardInterrupt):
    """Raised when the time is up. (Hypothesis does not catch a KeyboardInterrupt.)"""


def fuzzed(
    examples: st.SearchStrategy[Any], judge: Callable[[Any], object], seconds: float
) -> tuple[int, int, str]:
    """Fuzz `judge` for some seconds; count examples and accepted ones; return a failure or ''."""
    began, count, taken, slowest = 0.0, 0, 0, 0.0

    def once(example: Any) -> None:
        nonlocal began, count, taken, slowest
        start = time.monotonic()
        began = began or start  # Hypothesis takes seconds before the first example.
        if start - began > seconds:
            raise Enough
        count += 1
        try:
            judge(example)
            taken += 1
        except CharrnnError:
            pass
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        slowest = max(slowest, time.monotonic() - start)

    for number in itertools.count():
        run = hypothesis.seed(number)(
            hypothesis.settings(
                max_examples=1000, deadline=None, database=None, report_multiple_bugs=False,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )(hypothesis.given(examples)(once))
        )  # fmt: skip
        try:
            run()
        except Enough:
            return count, taken, f"{slowest:.1f} s for one" if slowest > SLOW else ""
        except Exception as error:
            return count, taken, "".join(traceback.format_exception(error))[-3000:]
    raise AssertionError("unreachable")


def header_examples(content: bytes) -> st.SearchStrategy[bytes]:
    """Generate checkpoints with edited bytes, and with made-up header entries."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    edit = st.tuples(st.integers(0, end + 20), st.integers(0, 40), st.binary(max_size=20))

    def edited(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = bytearray(content)
        for start, length, replacement in edits:
            changed[start : start + length] = replacement
        return bytes(changed)

    def entered(entries: dict[str, Any]) -> bytes:
        text = json.dumps(header | entries, separators=(",", ":"))
        return resigned(framed(text.encode(), content[end:]))

    shape = st.lists(st.integers(-3, 2**65) | leaf, max_size=4)
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F64", "I64", "U8", "BOOL", "BF16"]) | leaf,
            "shape": shape | leaf,
            "data_offsets": shape | leaf,
        }
    )
    names = st.sampled_from([*header, "model/", "optimizer/x", "carry/9"]) | st.text(max_size=9)
    entries = st.dictionaries(names, entry | value, max_size=3).map(entered)
    lengths = st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=200))
    return (
        st.lists(edit, min_size=1, max_size=4).map(edited)
        | entries
        | lengths.map(lambda given: given[0].to_bytes(8, "little") + given[1])
        | st.text(max_size=300).map(lambda text: framed(text.encode("utf-8", "replace")))
    )


def resigned(content: bytes) -> bytes:
    """Return the file with a correct checksum, if its header has a place for one."""
    blank = re.sub(rb'"sha256":"[0-9a-f]{64}"', b'"sha256":"' + b"0" * 64 + b'"', content, count=1)
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest, 1)


def metadata_examples(metadata: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Generate metadata with some values replaced, removed or added."""
    places = [key for key in paths_of(metadata) if key]
    replaced = st.tuples(st.sampled_from(places), value | nearby | st.just(GONE))

    def edited(edits: list[tuple[str, Any]]) -> dict[str, Any]:
        told: Any = json.loads(json.dumps(metadata))
        for path, new in edits:
            *parents, last = path.split(".")
            place = told
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if isinstance(place, dict) and new is GONE:
                place.pop(last, None)
            elif isinstance(place, dict):
                place[last] = new
        return told

    return st.lists(replaced, min_size=1, max_size=3).map(edited)


GONE = object()
nearby = st.one_of(
    st.integers(0, 70_000), st.floats(0, 1), st.sampled_from(
        ["character", "byte", "vanilla", "gru", "relu", "sgd", "rmsprop", "adam", "plateau",
         "linear", "constant", "one_hot", "auto", "cuda", "mps", "cpu", "\x00", "-", "skip"]
    ), st.text("\nabcdefghijklmnop", max_size=20), st.lists(st.integers(1, 64), max_size=3),
)  # fmt: skip


def paths_of(data: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of all values in plain data."""
    yield prefix.removesuffix(".")
    for key, inner in data.items() if isinstance(data, dict) else ():
        yield from paths_of(inner, f"{prefix}{key}.")


WORDS = """
1e-3 .5 1_0 0x1 no yes ~ .inf .nan [1,2] {a: 1} &a *a !!int !!python/none '' "\\e" | > <<: - ? : #
--- ... %YAML 10m 1h 1:30 2024-01-01 auto byte gru 0.9 true -1 1e400
"""


def config_examples() -> st.SearchStrategy[bytes]:
    """Generate YAML: made up, our keys with made-up values, and edits of a file of ours."""
    ours = dump_yaml(Config()).encode()
    edit = st.tuples(st.integers(0, len(ours)), st.integers(0, 30), st.binary(max_size=12))

    def edited(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = bytearray(ours)
        for start, length, replacement in edits:
            changed[start : start + length] = replacement
        return bytes(changed)

    def lines(chosen: list[tuple[str, str]]) -> bytes:
        sections: dict[str, list[str]] = {}
        for key, shown in chosen:
            section, _, name = key.rpartition(".")
            sections.setdefault(section, []).append(f"{name}: {shown}")
        return "\n".join(
            f"{section}:\n  " + "\n  ".join(inner) if section else "\n".join(inner)
            for section, inner in sections.items()
        ).encode("utf-8", "surrogatepass")

    word = st.sampled_from(WORDS.split())
    text = st.lists(word | st.text(max_size=6), max_size=6).map(" ".join)
    shown = text | value.map(json.dumps)
    pairs = st.lists(
        st.tuples(st.sampled_from(all_keys()) | st.text(max_size=8), shown), max_size=6
    )
    return (
        st.lists(edit, min_size=1, max_size=4).map(edited)
        | pairs.map(lines)
        | text.map(lambda text: text.encode("utf-8", "surrogatepass"))
        | st.binary(max_size=60)
    )


@check(
    "fuzzing header, metadata and configuration (hypothesis): 0 crashes, nothing slow",
    sabotage="refusals are KeyErrors",
)
def fuzzing(effort: Effort, sabotaged: bool) -> Result:
    folder = Path(tempfile.mkdtemp())
    good = good_checkpoint(folder)
    seconds = 2 if sabotaged else effort.of(300, 3)
    entries, metadata, data = dissected(good)
    corpus_of = find_sources([str(folder / "text.txt")])

    def headers() -> None:
        path = folder / "header.safetensors"

        def judge(content: bytes) -> None:
            path.write_bytes(content)
            load_checkpoint(path, check_layout)

        print(json.dumps(fuzzed(header_examples(good.read_bytes()), judge, seconds)))

    def metadatas() -> None:
        path = folder / "metadata.safetensors"
        corpus = load_corpus(corpus_of)

        def judge(told: dict[str, Any]) -> None:
            path.write_bytes(signed(entries, told, data))
            checkpoint = find_checkpoint(str(path), lambda _: None)
            TrainedModel.from_checkpoint(checkpoint).sample_text(2)
            config = config_from_data(checkpoint.metadata["config"], "it")
            choose_device(config.device)
            config = plan(
                config, len(corpus.splits["train"]), corpus.vocabulary.size, torch.device("cpu")
            )
            session = Session(config, corpus, {}, time.monotonic)
            session.restore(checkpoint)
            next(session.trainer.run(1))

        print(json.dumps(fuzzed(metadata_examples(metadata), judge, seconds)))

    def configurations() -> None:
        path = folder / "config.yaml"

        def judge(content: bytes) -> None:
            path.write_bytes(content)
            config, _ = build_config([file_layer(path)])
            again = build_config([("again", flatten(parse_yaml(dump_yaml(config), "again")))])[0]
            if again != config:
                raise AssertionError(f"{config} is read back as {again}")

        print(json.dumps(fuzzed(config_examples(), judge, seconds)))

    parts = {"header": headers, "metadata": metadatas, "configuration": configurations}
    with refusing_badly() if sabotaged else NOTHING:
        children = {name: fork(part, LIMITS) for name, part in parts.items()}
    counts, problems = [], []
    for name, child in children.items():
        ended = child.wait(seconds + 100)
        if ended.code:
            problems.append(f"{name}: exit {ended.code}: {ended.errors[-500:]}")
            continue
        count, taken, broken = json.loads(ended.output.splitlines()[-1])
        counts.append(f"{name} {count:,} ({taken:,} valid)")
        problems += [f"{name}: {broken}"] if broken else []
    total = f"{', '.join(counts)} examples in {seconds} s each"
    if problems:
        last = " | ".join(problems[0].strip().splitlines()[-8:])
        return Result(False, f"{len(problems)} of 3 broke; {total}; {last[-400:]}")
    return Result(len(counts) == 3, f"0 crashes, {total}")


@contextlib.contextmanager
def refusing_badly() -> Iterator[None]:
    """Make refusals of checkpoints and configurations raise an unexpected error instead."""
    with (
        mock.patch("charrnn.runs.checkpoint.CheckpointError", KeyError),
        mock.patch("charrnn.config.schema.ConfigError", KeyError),
    ):
        yield
