"""Recognise a file by its first bytes: compressed, an archive, a model, or no text at all."""

from __future__ import annotations

import re
from typing import NamedTuple

HEAD = 8192  # bytes at the start of a file by which it is recognised

COMPRESSIONS = {
    "gzip": rb"\x1f\x8b\x08",
    "bz2": rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\0",
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
}


class Kind(NamedTuple):
    """A kind of file that cannot be read: its name, and a remedy for the user."""

    name: str
    remedy: str


_PICTURE = "name a text"
_WORDS = "save it as plain text in its program, and name that file"
_UNPACK = "unpack it, and name the texts"
ZIP, TAR = Kind("a zip archive", _UNPACK), Kind("a tar archive", _UNPACK)
NOT_TEXTS: list[tuple[bytes, Kind]] = [
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", ZIP),
    (rb".{257}ustar", TAR),
    (rb"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _UNPACK)),
    (rb"Rar!\x1a\x07", Kind("a RAR archive", _UNPACK)),
    (rb"%PDF-", Kind("a PDF", "extract its text, for instance with pdftotext, and name that file")),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Office document", _WORDS)),
    (rb"\{\\rtf", Kind("an RTF document", _WORDS)),
    (rb"\x89PNG\r\n", Kind("a picture (PNG)", _PICTURE)),
    (rb"\xff\xd8\xff", Kind("a picture (JPEG)", _PICTURE)),
    (rb"GIF8[79]a(?=.*\0)", Kind("a picture (GIF)", _PICTURE)),
    (rb"BM.{4}\0{4}", Kind("a picture (BMP)", _PICTURE)),
    (rb"II\*\0|MM\0\*", Kind("a picture (TIFF)", _PICTURE)),
    (rb"RIFF.{4}WEBP", Kind("a picture (WebP)", _PICTURE)),
    (rb".{4}ftyp(?:heic|heix|mif1|avif)", Kind("a picture", _PICTURE)),
    (rb"RIFF.{4}(?:WAVE|AVI )|ID3(?=.*\0)|OggS\0|fLaC\0|.{4}ftyp", Kind("sound or film", _PICTURE)),
]
_CHECKPOINT = "name a run, or a checkpoint that charrnn has saved (.safetensors)"
_ZIPPED = rb"PK\x03\x04.{26}"  # The name of the first file follows.
MODELS: list[tuple[bytes, Kind]] = [
    (
        # First the type of the object (3 or 4), then its number, 1.
        rb"[\x03\x04]\0\0\0\x01\0\0\0|4\n1\n\d+\nV \d",
        Kind("a model of Torch7 (.t7)", _CHECKPOINT),
    ),
    (rb"GGUF", Kind("a GGUF model", _CHECKPOINT)),
    (
        _ZIPPED + rb"[^/\0]+/(?:data\.pkl|data/|\.format_version|\.data|byteorder|version|code/)",
        Kind("a pickled model of PyTorch (.pt, .pth, .ckpt)", _CHECKPOINT),
    ),
    (rb"\x80[\x02-\x05]|\([dl]p\d|ccopy_reg\n", Kind("a pickle (.pkl, .pt, .pth)", _CHECKPOINT)),
    (rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]", Kind("an ONNX model", _CHECKPOINT)),
    (
        _ZIPPED + rb"(?:metadata\.json|config\.json|model\.weights\.h5)",
        Kind("a Keras model (.keras)", _CHECKPOINT),
    ),
    (rb"\x89HDF\r\n\x1a\n", Kind("an HDF5 file, such as a Keras model (.h5)", _CHECKPOINT)),
]
_COMPRESSIONS = {name: re.compile(pattern, re.DOTALL) for name, pattern in COMPRESSIONS.items()}
_NOT_TEXTS = [(re.compile(pattern, re.DOTALL), kind) for pattern, kind in NOT_TEXTS]
_MODELS = [(re.compile(pattern, re.DOTALL), kind) for pattern, kind in MODELS]
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def compression_of(head: bytes) -> str | None:
    """Return how a file is compressed (gzip, bz2, xz or zstd), or None."""
    return next((name for name, each in _COMPRESSIONS.items() if each.match(head)), None)


def kind_of(head: bytes) -> Kind | None:
    """Return the kind of a file that is known to be no text, or None.

    >>> kind_of(b"%PDF-1.7").name
    'a PDF'
    """
    return next((kind for each, kind in _NOT_TEXTS if each.match(head)), None)


def kind_of_model(head: bytes) -> Kind | None:
    """Return the kind of a model of another program, or None.

    >>> kind_of_model(b"GGUF\\x03").name
    'a GGUF model'
    """
    return next((kind for each, kind in _MODELS if each.match(head)), None)


def marked_encoding(head: bytes) -> str | None:
    """Return `utf-16` or `utf-32` if a byte order mark says so, else None."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


def unmarked_encoding(head: bytes) -> str | None:
    r"""Recognise UTF-16 or UTF-32 without a byte order mark by its zero bytes.

    >>> unmarked_encoding("some text".encode("utf-16-le"))
    'utf-16-le'
    """
    if len(head) < 8 or b"\0" not in head:
        return None
    shares = [head[i::4].count(0) / len(head[i::4]) for i in range(4)]
    for name, zeros, others in (
        ("utf-32-le", (2, 3), (0,)), ("utf-32-be", (0, 1), (3,)),
        ("utf-16-le", (1, 3), (0, 2)), ("utf-16-be", (0, 2), (1, 3)),
    ):  # fmt: skip
        least = 0.9 if "32" in name else 0.4
        if all(shares[i] >= least for i in zeros) and all(shares[i] < 0.1 for i in others):
            return name
    return None


def looks_binary(head: bytes) -> bool:
    """Whether a file is no text: as for `grep` and `git`, it has a zero byte near its start."""
    return b"\0" in head and marked_encoding(head) is None
