"""Compress texts by a model's probabilities, which proves the model's score.

Symbol by symbol, the model's next-symbol probabilities drive an arithmetic coder (Witten, Neal and
Cleary 1987; here `constriction`'s range coder, Martin 1979), so that a symbol takes as many bits as
its surprisal, and a text about as many as its score. Compressing and decompressing run the very
same steps, one symbol at a time, and so agree bit for bit on one machine and build. On another,
numbers may be rounded differently and the text may come out wrong, which its SHA-256 reveals. Any
bytes are accepted: characters that the vocabulary lacks are escaped byte by byte, and the model
does not read them. A text in UTF-16 or with other line ends than the model's is coded as the model
would read it, if that can be undone byte for byte (`Form`).

The file, all integers little-endian::

    bytes    content
    8        `charrnn` and a 1
    4        CRC-32 of everything after it
    4        length of the header
    ...      the header, JSON (`Header`)
    ...      the coder's output, 32-bit words
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from charrnn.data.rules import Cleaning
from charrnn.data.vocabulary import Vocabulary, split_words
from charrnn.errors import CheckpointError, DataError, DivergedError, require_extra
from charrnn.inference.trained_model import TrainedModel
from charrnn.nn.state import leaves, replace_leaves

if TYPE_CHECKING:
    from charrnn.evaluation.dynamic import Rates

MAGIC = b"charrnn\x01"
ESCAPES = 1e-3  # the count of escapes before the first symbol
LEAST = 2.0**-22  # the least probability that the coder's 24 bits can hold

Encoding = Literal["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
Newline = Literal["\n", "\r\n", "\r"]
MARKS: dict[Encoding, bytes] = {  # longer ones first: UTF-32's begins with UTF-16's
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
START = len(MAGIC) + 8  # where the header begins

FOREIGN = "the file was not made by charrnn compress; name one that was"
DAMAGED = "the file is damaged (its checksum does not match); copy it again from its origin"
OTHERWISE = (
    "the text cannot be restored, because the file was made on a machine or with a build that "
    "rounds differently; decompress it there"
)

Progress = Callable[[int], None]
"""Takes the number of symbols done."""


def require_constriction() -> None:
    """Raise ConfigError without the package `constriction`."""
    require_extra("constriction", "compression", "compression")


def compress(model: TrainedModel, content: bytes, rates: Rates | None, progress: Progress) -> bytes:
    """Compress bytes with a model; with `rates`, the model learns while it reads.

    Raises DivergedError for predictions that are no longer finite.
    """
    from constriction import stream

    encoder = stream.queue.RangeEncoder()
    predictor = _Predictor(model, rates)
    count, vocabulary = 0, model.vocabulary
    form = Form() if vocabulary.kind == "byte" else Form.of(content, vocabulary.cleaning)
    for symbol, byte in _symbols(form.read(content), vocabulary):
        encoder.encode(symbol, stream.model.Categorical(predictor.probabilities(), perfect=False))
        if byte is not None:
            encoder.encode(byte, stream.model.Uniform(256))
        predictor.read(symbol)
        progress(count := count + 1)
    header = Header(
        model=fingerprint(model),
        symbols=count,
        rates=(rates.learning, rates.decay, rates.segment) if rates else None,
        sha256=hashlib.sha256(content).hexdigest(),
        form=form if form != Form() else None,
    )
    plain = {"form"} if header.form is None else None  # A plain text has the older header.
    text = header.model_dump_json(exclude=plain).encode()
    payload: bytes = encoder.get_compressed().astype("<u4").tobytes()
    return pack(text, payload)


def decompress(model: TrainedModel, packed: bytes, progress: Progress) -> bytes:
    """Restore the bytes that were compressed with the same model on this machine.

    Raises DataError for another kind of file and for bytes that cannot be restored, CheckpointError
    for a file of another model.
    """
    from constriction import stream

    header, payload = read_header(packed)
    if header.model != fingerprint(model):
        raise CheckpointError(
            "the file was compressed with another model; decompress it with that model"
        )
    rates = None
    if header.rates:
        from charrnn.evaluation.dynamic import Rates

        rates = Rates(*header.rates)
    decoder = stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    predictor = _Predictor(model, rates)
    pieces, size = [], model.vocabulary.size
    try:
        for i in range(header.symbols):
            table = stream.model.Categorical(predictor.probabilities(), perfect=False)
            if (symbol := decoder.decode(table)) < size:
                pieces.append(_bytes_of(model.vocabulary, symbol))
            else:
                pieces.append(bytes([decoder.decode(stream.model.Uniform(256))]))
            predictor.read(symbol)
            progress(i + 1)
    except (AssertionError, UnicodeEncodeError) as error:  # impossible symbols, or not text
        raise DataError(OTHERWISE) from error
    content = b"".join(pieces)
    if header.form is not None:
        with contextlib.suppress(UnicodeError):  # The checksum below reports it.
            content = header.form.write(content)
    if hashlib.sha256(content).hexdigest() != header.sha256:
        raise DataError(OTHERWISE)
    return content


class Form(BaseModel):
    """How the bytes of a file differ from the text that is coded in UTF-8.

    `encoding` is that of the file, `newline` its line end; with `decomposed`, its letters stand
    apart from their accents (Unicode's form NFD).
    """

    model_config = ConfigDict(frozen=True, strict=True)

    encoding: Encoding = "utf-8"
    newline: Newline = "\n"
    decomposed: bool = False

    @classmethod
    def of(cls, content: bytes, cleaning: Cleaning) -> Form:
        """Return a form that can be undone to the same bytes, or the plain form if none can."""
        if b"\r" not in content and content.isascii():
            return cls()
        for form in cls._candidates(content, cleaning):
            with contextlib.suppress(UnicodeError):
                if form.write(form.read(content)) == content:
                    return form
        return cls()

    @classmethod
    def _candidates(cls, content: bytes, cleaning: Cleaning) -> Iterator[Form]:
        marked = [name for name, mark in MARKS.items() if content.startswith(mark)]
        plain: Encoding = "utf-8"
        for name in marked or [plain]:
            with contextlib.suppress(UnicodeError):
                text, newline = content.decode(name), cls.newline_in(content.decode(name))
                if cleaning.newlines == "keep":
                    newline = "\n"
                if cleaning.normalize == "nfc" and not unicodedata.is_normalized("NFC", text):
                    yield cls(encoding=name, newline=newline, decomposed=True)
                yield cls(encoding=name, newline=newline)
                yield cls(encoding=name)

    @staticmethod
    def newline_in(text: str) -> Newline:
        """Return the line end of a text that has one kind of them."""
        if "\r\n" in text:
            return "\r\n"
        return "\r" if "\r" in text else "\n"

    def read(self, content: bytes) -> bytes:
        """Return the text to code, in UTF-8. Raises UnicodeError for bytes that are no text."""
        if self == Form():
            return content
        text = content.decode(self.encoding).removeprefix("\ufeff")
        if self.newline != "\n":
            text = text.replace(self.newline, "\n")
        return (unicodedata.normalize("NFC", text) if self.decomposed else text).encode()

    def write(self, content: bytes) -> bytes:
        """Return the bytes of the file."""
        if self == Form():
            return content
        text = content.decode()
        text = unicodedata.normalize("NFD", text) if self.decomposed else text
        mark = MARKS.get(self.encoding, b"")
        return mark + text.replace("\n", self.newline).encode(self.encoding)


class Header(BaseModel):
    """The header of a compressed file; `rates` are learning rate, decay and segment."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str
    symbols: Annotated[int, Field(ge=0, le=1 << 40)]
    rates: (
        Annotated[
            tuple[
                Annotated[float, Field(gt=0, lt=1e3)],
                Annotated[float, Field(ge=0, lt=1e3)],
                Annotated[int, Field(gt=0, lt=1 << 20)],
            ],
            Field(strict=False),
        ]
        | None
    )
    sha256: str
    form: Form | None = None


def pack(header: bytes, payload: bytes) -> bytes:
    """Make a file of a header and a payload."""
    rest = len(header).to_bytes(4, "little") + header + payload
    return MAGIC + zlib.crc32(rest).to_bytes(4, "little") + rest


def read_header(packed: bytes) -> tuple[Header, bytes]:
    """Return header and payload of a compressed file. Raises DataError for any other file."""
    if packed[: len(MAGIC)] != MAGIC:
        raise DataError(FOREIGN)
    rest = packed[START - 4 :]
    length = int.from_bytes(rest[:4], "little")
    if zlib.crc32(rest).to_bytes(4, "little") != packed[len(MAGIC) : START - 4] or len(rest) < 4:
        raise DataError(DAMAGED)
    payload = packed[START + length :]
    if len(payload) % 4:
        raise DataError(FOREIGN)
    try:
        return Header.model_validate_json(packed[START : START + length]), payload
    except ValidationError as error:
        raise DataError(FOREIGN) from error


def fingerprint(model: TrainedModel) -> str:
    """Return the SHA-256 of a model's weights and vocabulary."""
    digest = hashlib.sha256(json.dumps(model.vocabulary.to_data()).encode())
    for name, value in sorted(model.weights.items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


class _Predictor:
    """A model over V symbols and the escape; with `rates`, it learns from each segment."""

    def __init__(self, model: TrainedModel, rates: Rates | None) -> None:
        self._model = model
        self._size = model.vocabulary.size
        self._escapes, self._read = ESCAPES, 2 * ESCAPES
        self._row: NDArray[np.float64] = np.full(self._size, 1 / self._size)
        self._stepper: Any = model
        self._state = model.initial_state(1)
        self._adapting: Any = None
        if rates is not None:
            from charrnn.evaluation.dynamic import Adapting

            self._adapting = Adapting(model.model, model.moments, rates)
            self._segment: list[int] = []
            self._before = self._state

    def probabilities(self) -> NDArray[np.float64]:
        """Return the probabilities (V + 1,) of the next symbol; the last one is the escape's."""
        escape = max(LEAST, self._escapes / self._read)
        return np.append(self._row * (1 - escape), escape)

    def read(self, symbol: int) -> None:
        """Advance by `symbol`; the model does not read the symbol V, which is the escape."""
        self._read += 1
        if symbol == self._size:
            self._escapes += 1
            return
        with np.errstate(over="ignore", invalid="ignore"):  # Checked below.
            if self._adapting is not None:
                self._learn(symbol)
            logits, self._state = self._stepper.step(np.array([symbol]), self._state)
            row = logits[0].astype(np.float64)
            row = np.exp(row - row.max())
            self._row = row / row.sum()
        if not np.isfinite(self._row).all():
            lower = "a lower learning rate of dynamic evaluation"
            remedy = lower if self._adapting else "another checkpoint"
            raise DivergedError(
                f"the model's predictions are not finite after {self._read:,.0f} symbols; "
                f"use {remedy}"
            )

    def _learn(self, symbol: int) -> None:
        """Collect a segment and the symbol after it; when it is complete, learn from it."""
        self._segment.append(symbol)
        rates = self._adapting.rates
        if len(self._segment) <= rates.segment:
            return
        import torch
        from torch.nn import functional

        from charrnn.nn.fast.threads import use_threads

        ids = torch.tensor([self._segment])
        network = self._adapting.model
        before = (torch.as_tensor(leaf).clone() for leaf in leaves(self._before))
        state = replace_leaves(network.initial_state(1), before)
        with use_threads(1):
            logits, _ = network(ids[:, :-1], state)
            self._adapting.learn(functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum"))
        self._stepper = self._model.with_weights(network)
        self._before, self._segment = self._state, [symbol]


def _symbols(content: bytes, vocabulary: Vocabulary) -> Iterator[tuple[int, int | None]]:
    """Yield each id with None, and each escape (the size of the vocabulary) with its byte."""
    if vocabulary.kind == "byte":
        yield from ((byte, None) for byte in content)
        return
    text = content.decode("utf-8", "surrogateescape")
    # Special symbols such as <unk> are not text and have no bytes.
    real = np.flatnonzero(vocabulary.byte_lengths())
    ids = {vocabulary.symbols[i]: int(i) for i in real}
    for piece in split_words(text) if vocabulary.kind == "word" else text:
        if (known := ids.get(piece)) is not None:
            yield known, None
        else:
            for byte in piece.encode("utf-8", "surrogateescape"):
                yield vocabulary.size, byte


def _bytes_of(vocabulary: Vocabulary, symbol: int) -> bytes:
    if vocabulary.kind == "byte":
        return bytes([symbol])
    return vocabulary.symbols[symbol].encode("utf-8", "surrogateescape")
