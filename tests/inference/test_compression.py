"""Compressed files come back byte for byte, and have about as many bits as the score says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.data.corpus import load_corpus
from charrnn.data.rules import AS_BEFORE, Cleaning, Rules
from charrnn.data.sources import find_sources
from charrnn.errors import CheckpointError, DataError
from charrnn.evaluation.dynamic import Rates
from charrnn.evaluation.score_network import Reading
from charrnn.inference.compression import MAGIC, compress, decompress, pack, read_header
from charrnn.inference.trained_model import TrainedModel
from tests.tiny import TEXT, drive, start, tiny_config

CHANGES: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru": {"model__cell": "gru"},
    "layer norm": {"model__layer_norm": True},
    "bytes": {},
    "accents": {},
    "modern": {},
}
MODERN = Rules(Cleaning("join", "nfc"), "natural", "content")


def quietly(_: int) -> None:
    pass


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedModel]:
    made = {}
    for name, changes in CHANGES.items():
        folder = tmp_path_factory.mktemp("run")
        text = TEXT if name != "accents" else TEXT.replace("a", "é").replace("b", "😀")
        (folder / "text.txt").write_text(text, "utf-8")
        kind: Any = "byte" if name == "bytes" else "character"
        rules = MODERN if name == "modern" else AS_BEFORE
        sources = find_sources([str(folder / "text.txt")], rules=rules)
        corpus = load_corpus(sources, vocabulary=kind)
        session = start(folder / "run", tiny_config(training__steps=40, **changes), corpus)
        drive(session)
        made[name] = TrainedModel.from_checkpoint(session.run.load(40))
    return made


@pytest.mark.parametrize("rates", [None, Rates(0.02, 0.001, 6)], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_text_comes_back(models: dict[str, TrainedModel], name: str, rates: Rates | None) -> None:
    for content in (b"", b"a", TEXT.encode(), b"\x00\xff" + TEXT.encode() + "é😀\n".encode()):
        packed = compress(models[name], content, rates, quietly)
        assert decompress(models[name], packed, quietly) == content


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=60))
def test_any_bytes_come_back(models: dict[str, TrainedModel], content: bytes) -> None:
    for name in ("lstm", "bytes", "accents", "modern"):
        assert (
            decompress(models[name], compress(models[name], content, None, quietly), quietly)
            == content
        )


WINDOWS = TEXT.replace("\n", "\r\n")
CLEANED = {
    "CR LF": WINDOWS.encode(),
    "CR": TEXT.replace("\n", "\r").encode(),
    "UTF-16 LE": b"\xff\xfe" + WINDOWS.encode("utf-16-le"),
    "UTF-16 BE": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
}
OTHER = {
    "mixed line ends": WINDOWS.replace("\r\n", "\n", 5).encode() + b"\r\r\n",
    "decomposed": (TEXT + "e\u0301" * 9).encode(),
    "composed and decomposed": (TEXT + "\u00e9e\u0301").encode(),
    "CR LF and decomposed": (WINDOWS + "e\u0301" * 9).encode(),
    "half a UTF-16 symbol": b"\xff\xfe" + TEXT.encode("utf-16-le") + b"a",
    "a mark within UTF-16": b"\xff\xfe\xff\xfe" + TEXT.encode("utf-16-le"),
    "Latin-1": (TEXT + "\xe9").encode("latin-1"),
    "binary": bytes(range(256)) * 3,
    "a mark": b"\xef\xbb\xbf" + WINDOWS.encode(),
}


@pytest.mark.parametrize("kind", [*CLEANED, *OTHER])
def test_every_form_of_a_text_comes_back(models: dict[str, TrainedModel], kind: str) -> None:
    content = (CLEANED | OTHER)[kind]
    plain = compress(models["modern"], TEXT.encode(), None, quietly)
    for name in ("lstm", "bytes", "modern"):
        packed = compress(models[name], content, None, quietly)
        assert decompress(models[name], packed, quietly) == content
    if kind in CLEANED:  # It takes as much as the text that the model reads.
        assert len(read_header(packed)[1]) == len(read_header(plain)[1])


def test_a_plain_text_is_packed_as_ever(models: dict[str, TrainedModel]) -> None:
    for text in (TEXT, TEXT + "é"):
        assert b"form" not in compress(models["modern"], text.encode(), None, quietly)


# At a higher rate this small model learns chaotically: how sums are rounded, which differs between
# stepping and whole segments and between processors, then decides the fourth digit.
@pytest.mark.parametrize("rates", [None, Rates(0.003, 0.001)], ids=["static", "dynamic"])
def test_the_payload_is_the_score(models: dict[str, TrainedModel], rates: Rates | None) -> None:
    model, text = models["lstm"], TEXT * (200 if rates is None else 20)
    packed = compress(model, text.encode(), rates, quietly)
    _, payload = read_header(packed)
    score = model.evaluate(text, reading=Reading(rates=rates))
    bits = score.nats_per_character * len(text) / math.log(2)
    assert 8 * len(payload) == pytest.approx(bits, rel=0.002, abs=64)


def test_unknown_bytes_become_cheap(models: dict[str, TrainedModel]) -> None:
    packed = compress(models["lstm"], bytes(range(128, 256)) * 20, None, quietly)
    _, payload = read_header(packed)
    assert len(payload) < 1.05 * 128 * 20 + 20


def test_another_model_is_refused(models: dict[str, TrainedModel]) -> None:
    packed = compress(models["lstm"], b"abc", None, quietly)
    with pytest.raises(CheckpointError, match="compressed with another model"):
        decompress(models["gru"], packed, quietly)


def test_damage_is_told(models: dict[str, TrainedModel]) -> None:
    packed = compress(models["lstm"], TEXT.encode(), None, quietly)
    start = len(MAGIC)
    for at in range(len(packed)):
        damaged = packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :]
        with pytest.raises(
            DataError, match="not made by charrnn compress" if at < start else "is damaged"
        ):
            decompress(models["lstm"], damaged, quietly)
    for cut in range(len(packed)):
        with pytest.raises(
            DataError, match="not made by charrnn compress" if cut < start else "is damaged"
        ):
            decompress(models["lstm"], packed[:cut], quietly)
    with pytest.raises(DataError, match="is damaged"):
        decompress(models["lstm"], packed + bytes(4), quietly)


def test_other_rounding_is_told(models: dict[str, TrainedModel]) -> None:
    packed = compress(models["lstm"], TEXT.encode(), None, quietly)
    header, payload = read_header(packed)
    for seed in range(20):
        drawn = np.random.default_rng(seed).bytes(len(payload))
        other = pack(header.model_dump_json().encode(), drawn)
        with pytest.raises(DataError, match="rounds differently; decompress it there"):
            decompress(models["lstm"], other, quietly)


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{}", b"[]", b"null", b'{"model":"a","symbols":-1,"rates":null,"sha256":"b"}',
        b'{"model":"a","symbols":1e400,"rates":null,"sha256":"b"}',
        b'{"model":"a","symbols":1,"rates":[0.1],"sha256":"b"}',
        b'{"model":"a","symbols":1,"rates":[NaN,0.0,20],"sha256":"b"}',
        b'{"model":"a","symbols":1,"rates":[0.1,0.0,0],"sha256":"b"}',
    ],
)  # fmt: skip
def test_headers_that_do_not_fit_are_refused(header: bytes) -> None:
    with pytest.raises(DataError, match="not made by charrnn compress"):
        read_header(pack(header, b""))
    with pytest.raises(DataError, match="not made by charrnn compress"):
        read_header(pack(b"{}", b"123"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"charrnn", b"PK\x03\x04"):
        with pytest.raises(DataError, match="not made by charrnn compress"):
            read_header(content)
    for content in (MAGIC, MAGIC + b"\xff\xff\xff\xff", MAGIC + b"\xff" * 40):
        with pytest.raises(DataError, match="is damaged"):
            read_header(content)
