"""Checkpoint files read back as they were written; any other file is refused."""

import ast
import hashlib
import io
import json
import os
import pickle
import random
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from charrnn.errors import CheckpointError, StorageError
from charrnn.runs import checkpoint
from charrnn.runs.checkpoint import (
    load_checkpoint,
    read_metadata,
    save_checkpoint,
    write_atomically,
)

METADATA: dict[str, Any] = {
    "config": {"training": {"learning_rate": 0.1, "steps": None, "betas": [0.9, 0.99]}},
    "vocabulary": {"kind": "character", "symbols": '\n "\\é☃👩\u200d\udc80'},
    "progress": {"step": 2**53 + 1, "exact": 0.1 + 0.2},
    "trap": '"sha256":"' + "0" * 64 + '"',
}


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(1)
    return {
        "float32": generator.standard_normal((3, 4)).astype(np.float32),
        "float64": np.array([np.nan, -0.0, np.inf, 5e-324]),
        "float16": generator.standard_normal(5).astype(np.float16),
        "int64": np.array([2**63 - 1, -(2**63)]),
        "uint8": np.arange(256, dtype=np.uint8),
        "bool": np.array([[True], [False]]),
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "transposed": generator.standard_normal((3, 4)).T,
        "strided": np.arange(20)[::3],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "step-00000001.safetensors"


@pytest.fixture
def tiny(path: Path) -> bytes:
    save_checkpoint(path, {"w": np.arange(3, dtype=np.float32)}, {"progress": {"step": 1}})
    return path.read_bytes()


def test_the_round_trip_is_exact(path: Path) -> None:
    save_checkpoint(path, arrays(), METADATA)
    loaded = load_checkpoint(path)
    assert loaded.path == path
    assert loaded.metadata == METADATA == read_metadata(path)
    assert loaded.tensors.keys() == arrays().keys()
    for name, value in arrays().items():
        assert loaded.tensors[name].dtype == value.dtype, name
        assert loaded.tensors[name].shape == value.shape, name
        assert loaded.tensors[name].tobytes() == value.tobytes(), name


def test_a_checkpoint_without_tensors(path: Path) -> None:
    save_checkpoint(path, {}, {})
    loaded = load_checkpoint(path)
    assert (loaded.tensors, loaded.metadata) == ({}, {})


def test_metadata_that_is_no_number_is_refused_before_anything_is_written(path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, {}, {"score": float("nan")})
    assert list(path.parent.iterdir()) == []


def test_the_checksum_is_that_of_the_file_with_its_digits_as_zeros(path: Path, tiny: bytes) -> None:
    length = int.from_bytes(tiny[:8], "little")
    digits = json.loads(tiny[8 : 8 + length])["__metadata__"]["sha256"]
    assert tiny.count(digits.encode()) == 1
    assert hashlib.sha256(tiny.replace(digits.encode(), b"0" * 64)).hexdigest() == digits


def test_every_truncation_is_refused(path: Path, tiny: bytes) -> None:
    for length in range(len(tiny)):
        path.write_bytes(tiny[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_flipped_bits_are_refused(path: Path, tiny: bytes) -> None:
    for bit in random.Random(1).sample(range(8 * len(tiny)), 200):
        damaged = bytearray(tiny)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        with pytest.raises(CheckpointError):
            read_metadata(path)


def test_appended_bytes_are_refused(path: Path, tiny: bytes) -> None:
    path.write_bytes(tiny + b"\0")
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(path)


def pickled() -> bytes:
    return pickle.dumps({"w": [1.0]})


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled())
    return buffer.getvalue()


FOREIGN = {
    "pickle": pickled(),
    "zip": zipped(),
    "text": b"learning_rate: 1e-3\n" * 20,
    "empty": b"",
    "zeros": bytes(100),
    "header longer than the file": (1000).to_bytes(8, "little") + b"{}",
    "header of 2**63 bytes": (2**63).to_bytes(8, "little") + b"{}" * 50,
    "header of all ones": b"\xff" * 8 + b"{}" * 50,
    "no metadata": (2).to_bytes(8, "little") + b"{}",
    "no JSON": (4).to_bytes(8, "little") + b"\xff\xfe{}",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=path.name):
        load_checkpoint(path)


def keras_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", "{}")
    return buffer.getvalue()


OF_OTHERS = {
    "a table of Torch7": (
        b"\3\0\0\0\1\0\0\0\2\0\0\0\2\0\0\0\5\0\0\0model",
        r"a model of Torch7 \(\.t7\)",
    ),
    "Torch7 as text": (b"4\n1\n3\nV 1\n17\ntorch.FloatTensor\n", r"a model of Torch7 \(\.t7\)"),
    "GGUF": (b"GGUF" + (3).to_bytes(4, "little") + bytes(16), "a GGUF model"),
    "PyTorch": (zipped(), r"a pickled model of PyTorch \(\.pt, \.pth, \.ckpt\)"),
    "old PyTorch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "a pickle"),
    **{
        f"pickle {protocol}": (pickle.dumps({"w": [1.0] * 9}, protocol), "a pickle")
        for protocol in (0, 2, 3, 4, 5)
    },
    "ONNX": (b"\x08\x0a\x12\x07pytorch\x1a\x0a2.13.0+cpu", "an ONNX model"),
    "Keras": (keras_zip(), r"a Keras model \(\.keras\)"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), r"an HDF5 file, such as a Keras model \(\.h5\)"),
}


@pytest.mark.parametrize(("content", "kind"), OF_OTHERS.values(), ids=OF_OTHERS)
def test_models_of_other_programs_are_refused_by_name(
    path: Path, content: bytes, kind: str
) -> None:
    path.write_bytes(content)
    sentence = f"it is {kind}[^;]*, which charrnn does not read; name a run, or a checkpoint"
    with pytest.raises(CheckpointError, match=sentence) as refused:
        load_checkpoint(path)
    assert "\n" not in str(refused.value)
    # In a file that is larger than the header's length that its first bytes would be, too.
    with path.open("ab") as file:
        file.truncate(1 << 31)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_of_other_programs(path: Path, metadata: dict[str, str] | None) -> None:
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(3, np.float32)}, metadata))
    with pytest.raises(CheckpointError, match="the weights of another program, or exported ones"):
        load_checkpoint(path)


def signed(header: Any, data: bytes = b"") -> bytes:
    """Return a file with any header and a correct checksum."""
    text = json.dumps(header, separators=(",", ":")).encode()
    content = len(text).to_bytes(8, "little") + text + data
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode())


ODD_HEADERS: dict[str, Any] = {
    "no format": {"__metadata__": {"sha256": "0" * 64}},
    "format is no mapping": {"__metadata__": {"sha256": "0" * 64, "charrnn": "1"}},
    "metadata that is no JSON": {
        "__metadata__": {"sha256": "0" * 64, "charrnn": '{"format": 1}', "x": "{"}
    },
    "metadata nested too deeply": {
        "__metadata__": {"sha256": "0" * 64, "charrnn": '{"format": 1}', "x": "[" * 100_000}
    },
    "checksum elsewhere": {"sha256": "0" * 64},
    "a header that is a list": ["sha256", {"sha256": "0" * 64}],
    "tensor past the end": {
        "__metadata__": {"sha256": "0" * 64, "charrnn": '{"format":1}'},
        "w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
    },
    "tensor of an unknown type": {
        "__metadata__": {"sha256": "0" * 64, "charrnn": '{"format":1}'},
        "w": {"dtype": "X9", "shape": [1], "data_offsets": [0, 1]},
    },
    "two checksums": {
        "__metadata__": {"sha256": "0" * 64, "charrnn": '{"format":1}'},
        "other": {"sha256": "1" * 64},
    },
}


@pytest.mark.parametrize("header", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_a_right_checksum_over_a_wrong_header(path: Path, header: Any) -> None:
    path.write_bytes(signed(header, b"\0"))
    with pytest.raises(CheckpointError, match=path.name):
        load_checkpoint(path)


def test_the_forged_header_would_be_read_were_it_right(path: Path) -> None:
    metadata = {"sha256": "0" * 64, "charrnn": '{"format":1}', "x": "[1]"}
    tensor = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    path.write_bytes(signed({"__metadata__": metadata, "w": tensor}, b"\7"))
    loaded = load_checkpoint(path)
    assert loaded.metadata == {"x": [1]}
    assert loaded.tensors["w"].tolist() == [7]


def test_a_newer_format(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
        save_checkpoint(path, {}, {})
    with pytest.raises(CheckpointError, match="newer version"):
        load_checkpoint(path)


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(path)


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        load_checkpoint(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(StorageError) as caught:
            save_checkpoint(path, {"w": np.zeros(1000)}, {})
    message = str(caught.value)
    assert str(path) in message
    assert "No space left on device" in message
    size = re.search(r"\(([\d,]+) bytes\)", message)
    assert size
    assert int(size[1].replace(",", "")) > 8000
    assert path.read_bytes() == tiny
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_reads_back_wrong_never_gets_its_name(
    path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def flip_a_byte(descriptor: int) -> None:
        sync(descriptor)
        os.pwrite(descriptor, b"\xff", os.fstat(descriptor).st_size - 1)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", flip_a_byte)
        with pytest.raises(CheckpointError, match="checksum"):
            save_checkpoint(path, {"w": np.zeros(10)}, {})
    assert path.read_bytes() == tiny
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(
    path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, {}, {})
    assert path.read_bytes() == tiny
    assert list(path.parent.iterdir()) == [path]


def test_the_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "missing" / "x", b"")


def test_the_order_of_the_calls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def recorded_sync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append(f"fsync {kind}")
        sync(descriptor)

    def recorded_replace(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent
        calls.append("replace")
        replace(source, target)

    def verify(written: Path) -> None:
        assert written.read_bytes() == b"content"
        calls.append("verify")

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_atomically(path, b"content", verify)
    assert calls == ["fsync file", "verify", "replace", "fsync folder"]


def test_reading_needs_neither_torch_nor_pydantic() -> None:
    program = "import sys, charrnn.runs.checkpoint; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"torch", "pydantic", "yaml"} & set(result.stdout.split())


def test_the_package_never_unpickles() -> None:
    package = Path(checkpoint.__file__).parent
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            forbidden = {"pickle", "marshal", "shelve", "dill", "torch.load", "np.load"}
            assert not forbidden & set(names), file


def test_loading_never_unpickles(path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert load_checkpoint(path).metadata == {"progress": {"step": 1}}
    path.write_bytes(FOREIGN["pickle"])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
