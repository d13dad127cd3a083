"""Finding texts: every kind of argument, and every way in which a transfer can fail."""

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from charrnn.data.cache import cache_folder
from charrnn.data.rules import Rules
from charrnn.data.sources import Sources, builtin_corpus, find_sources
from charrnn.errors import DataError, StorageError
from tests.server import Server

TEXT = "To be, or not to be: that is the question. ☃\n".encode() * 50
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: zstandard.ZstdCompressor(write_checksum=True).compress(content),
}


def contents(sources: Sources) -> list[bytes]:
    return [b"".join(document.chunks()) for document in sources.documents]


def incoming(cache: Path) -> list[Path]:
    return sorted((cache / "incoming").glob("*"))


def give_standard_input(monkeypatch: pytest.MonkeyPatch, buffer: io.BufferedIOBase) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=buffer))


def test_a_file(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "hamlet.act1.txt"
    path.write_bytes(TEXT)
    sources = find_sources([str(path)])
    assert contents(sources) == [TEXT]
    assert sources.name == "hamlet"
    assert sources.described == str(path)
    assert sources.temporary == []
    assert not cache.joinpath("incoming").exists()


def test_a_relative_file_is_remembered_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    monkeypatch.chdir(tmp_path)
    assert find_sources(["a.txt"]).arguments == [str(tmp_path / "a.txt")]


def test_a_document_can_be_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    sources = find_sources([str(tmp_path / "a.txt")])
    assert contents(sources) == contents(sources) == [TEXT]


def test_a_pipe_is_read_once_and_copied(tmp_path: Path) -> None:
    """As of `charrnn train <(zcat book.txt.gz)` in a shell."""
    reading, writing = os.pipe()
    os.write(writing, gzip.compress(TEXT))
    os.close(writing)
    sources = find_sources([f"/dev/fd/{reading}"], rules=Rules(kinds="content"))
    os.close(reading)
    assert contents(sources) == contents(sources) == [TEXT]
    sources.discard()


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"\x1f\x8bno", "gzip"), (b"\x28\xb5no", "zstd"), (b"BZ\0", "bz2")],
)
def test_a_damaged_start_of_a_compressed_file(tmp_path: Path, content: bytes, kind: str) -> None:
    """Nobody is told to give the encoding of such a file."""
    suffix = {"gzip": "gz", "zstd": "zst"}.get(kind, kind)
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"damaged {kind} file"):
        find_sources([str(path)], rules=Rules(kinds="content"))
    path.write_bytes(TEXT)  # A text that was renamed by mistake is read.
    assert contents(find_sources([str(path)], rules=Rules(kinds="content"))) == [TEXT]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(COMPRESSORS[suffix](TEXT))
    assert contents(find_sources([str(path)])) == [TEXT]


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("damage", ["truncated", "not compressed", "flipped"])
def test_a_damaged_compressed_file(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"a.txt.{suffix}"
    whole = COMPRESSORS[suffix](TEXT)
    middle = len(whole) // 2
    path.write_bytes(
        {
            "truncated": whole[:-6],
            "not compressed": TEXT,
            "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
        }[damage]
    )
    sources = find_sources([str(path)])
    with pytest.raises(DataError, match=re.escape(str(path))):
        contents(sources)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_file_in_several_parts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(COMPRESSORS[suffix](TEXT) + COMPRESSORS[suffix](b"and more"))
    assert contents(find_sources([str(path)])) == [TEXT + b"and more"]


def test_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "books"
    for name in ["b.txt", "a/z.txt", "a/b/c.txt", "a.txt", ".hidden.txt", ".git/config", "Z.md"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.txt").write_bytes(b"x")
    (root / "picture.png").write_bytes(b"\x89PNG\0\0")
    (root / "a" / "late.bin").write_bytes(b"a" * 8000 + b"\0")
    (root / "packed.txt.gz").write_bytes(gzip.compress(b"packed"))
    sources = find_sources([str(root)])
    expected = ["Z.md", "a.txt", "a/b/c.txt", "a/z.txt", "b.txt", "packed.txt.gz"]
    assert [document.name for document in sources.documents] == [str(root / n) for n in expected]
    assert contents(sources)[-1] == b"packed"
    assert sources.skipped == 2
    assert sources.name == "books"
    assert "6 documents" in sources.described


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_whose_own_name_is_hidden(tmp_path: Path, slash: str) -> None:
    root = tmp_path / ".notes"
    root.mkdir()
    (root / "a.txt").write_bytes(TEXT)
    assert contents(find_sources([str(root) + slash])) == [TEXT]


def test_a_folder_without_texts(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"no text files in the folder .*1 binary files"):
        find_sources([str(tmp_path)])


def test_a_pattern(tmp_path: Path) -> None:
    for name in ["b.txt", "a.txt", "c.md", "below/d.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert contents(find_sources([str(tmp_path / "*.txt")])) == [b"a.txt", b"b.txt"]
    recursive = contents(find_sources([str(tmp_path / "**" / "*.txt")]))
    assert recursive == [b"a.txt", b"b.txt", b"below/d.txt"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_bytes(TEXT)
    assert contents(find_sources([str(tmp_path / "a[1].txt")])) == [TEXT]


def test_several_arguments_keep_their_order(tmp_path: Path) -> None:
    for name in ["b", "a", "c"]:
        (tmp_path / name).write_bytes(name.encode())
    sources = find_sources([str(tmp_path / name) for name in ["b", "c", "a"]])
    assert contents(sources) == [b"b", b"c", b"a"]
    assert sources.name == "b"
    assert "and 2 more (3 documents)" in sources.described


def test_standard_input(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    give_standard_input(monkeypatch, io.BytesIO(TEXT))
    sources = find_sources(["-"])
    assert contents(sources) == contents(sources) == [TEXT]
    assert sources.name == "stdin"
    assert incoming(cache) == [scratch.path for scratch in sources.temporary]
    sources.discard()
    assert incoming(cache) == []
    sources.discard()


def test_closed_standard_input(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        find_sources(["-"])
    assert incoming(cache) == []


def test_standard_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    class Folder(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise IsADirectoryError(errno.EISDIR, "Is a directory")

    give_standard_input(monkeypatch, Folder())
    with pytest.raises(DataError, match="standard input"):
        find_sources(["-"])
    assert incoming(cache) == []


def test_nothing_is_left_behind_when_a_later_argument_fails(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    give_standard_input(monkeypatch, io.BytesIO(TEXT))
    with pytest.raises(DataError, match="no file, folder or pattern"):
        find_sources(["-", "no-such-text"])
    assert incoming(cache) == []


def test_a_cache_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CHARRNN_CACHE_DIR", str(tmp_path / "file" / "below"))
    give_standard_input(monkeypatch, io.BytesIO(TEXT))
    with pytest.raises(StorageError, match=r"cannot write to the cache folder.*CHARRNN_CACHE_DIR"):
        find_sources(["-"])


@pytest.mark.parametrize(
    ("argument", "suggestion"),
    [("shakspeare", "did you mean shakespeare?"), ("bok.txt", "did you mean book.txt?")],
)
def test_a_mistyped_name_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, suggestion: str
) -> None:
    (tmp_path / "book.txt").write_bytes(TEXT)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        find_sources([argument])
    assert str(caught.value).endswith(suggestion)


def test_a_mistyped_name_in_another_folder_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(TEXT)
    with pytest.raises(DataError) as caught:
        find_sources([str(tmp_path / "boook.txt")])
    assert str(caught.value).endswith(f"did you mean {tmp_path / 'book.txt'}?")


@pytest.mark.parametrize("argument", ["x" * 300, "a\0b", "", "nowhere/*.txt", "~nobody-at-all/x"])
def test_arguments_that_name_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        find_sources([argument])


def test_a_url(server: Server, cache: Path) -> None:
    server.pages["/a.txt"] = TEXT
    sources = find_sources([server.url("/a.txt")], retry_seconds=0)
    assert contents(sources) == contents(sources) == [TEXT]
    assert sources.name == "a"
    assert sources.arguments == [server.url("/a.txt")]
    assert incoming(cache) == [scratch.path for scratch in sources.temporary]
    sources.discard()
    assert incoming(cache) == []


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_url_of_a_compressed_file(server: Server, suffix: str) -> None:
    server.pages[f"/a.txt.{suffix}"] = COMPRESSORS[suffix](TEXT)
    sources = find_sources([server.url(f"/a.txt.{suffix}")], retry_seconds=0)
    assert contents(sources) == [TEXT]


def test_a_url_that_is_not_there_is_asked_for_once(server: Server, cache: Path) -> None:
    with pytest.raises(DataError, match=r"cannot fetch http://.*/missing\.txt"):
        find_sources([server.url("/missing.txt")], retry_seconds=0)
    assert server.requests == ["/missing.txt"]
    assert incoming(cache) == []


@pytest.mark.parametrize("faults", [["cut"], ["cut", "cut"], ["unavailable", "cut"]])
def test_a_transfer_that_fails_is_tried_again(
    server: Server, cache: Path, faults: list[str]
) -> None:
    server.pages["/a.txt"] = TEXT
    server.faults = list(faults)
    sources = find_sources([server.url("/a.txt")], retry_seconds=0)
    assert contents(sources) == [TEXT]
    assert len(server.requests) == len(faults) + 1
    assert len(incoming(cache)) == 1


@pytest.mark.parametrize("fault", ["cut", "unavailable"])
def test_a_transfer_that_always_fails(server: Server, cache: Path, fault: str) -> None:
    server.pages["/a.txt"] = TEXT
    server.faults = [fault] * 10
    with pytest.raises(DataError, match="cannot fetch"):
        find_sources([server.url("/a.txt")], retry_seconds=0)
    assert len(server.requests) == 3
    assert incoming(cache) == []


def test_a_server_that_is_not_there(server: Server, cache: Path) -> None:
    with Server() as gone:
        url = gone.url("/a.txt")
    with pytest.raises(DataError, match="cannot fetch"):
        find_sources([url], retry_seconds=0)
    assert incoming(cache) == []


@pytest.mark.parametrize("url", ["nosuchprotocol://x/y", "://x"])
def test_an_unknown_protocol(url: str, cache: Path) -> None:
    with pytest.raises(DataError, match=r"cannot (open|fetch)"):
        find_sources([url], retry_seconds=0)
    assert incoming(cache) == []


def test_the_cache_folder_without_a_choice(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("CHARRNN_CACHE_DIR")
    assert cache_folder().name == "charrnn"


def test_the_builtin_corpus() -> None:
    sources = builtin_corpus()
    names = [document.name for document in sources.documents]
    assert names == sorted(names)
    assert names == [document.name for document in find_sources([]).documents]
    assert "this.py" in names
    assert not {"test", "tests", "site-packages"} & {p for n in names for p in Path(n).parts}
    assert sources.name == "python"
    assert len(b"".join(contents(sources))) > 1_000_000


def test_the_builtin_corpus_is_never_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="name a text"):
        builtin_corpus()


def test_names_with_colons_and_archives_are_plain_files(tmp_path: Path) -> None:
    for name in ("a::b.txt", "x.zip"):
        (tmp_path / name).write_bytes(b"text")
        (document,) = find_sources([str(tmp_path / name)]).documents
        assert b"".join(document.chunks()) == b"text"
