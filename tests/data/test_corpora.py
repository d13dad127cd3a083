"""Named corpora: downloads that go on, mirrors, checksums, the cache, and the table itself."""

import hashlib
import io
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from charrnn.config.merge import Layer
from charrnn.data import corpora
from charrnn.data.corpora import (
    NAMED,
    File,
    NamedCorpus,
    Text,
    cached_text,
    corpus_text,
    cut_licence,
    fetch,
    find_corpus,
    remove,
)
from charrnn.data.download import Progress, download, parts_of, watch
from charrnn.data.sources import find_sources
from charrnn.data.splits import NAMES, split_positions
from charrnn.errors import DataError
from charrnn.session.opening import merge_settings
from charrnn.tasks.data import find_texts, read_corpus
from tests.server import Server

TEXT = "To be, or not to be: that is the question. ☃\n".encode() * 50
USUAL = {"data.vocabulary": "byte", "data.split": [0.9, 0.05, 0.05]}


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def kept(cache: Path) -> list[str]:
    """Return the names of the files in the cache, apart from locks."""
    files = (path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.name for path in files)


@pytest.fixture
def said() -> Iterator[list[str | Progress]]:
    events: list[str | Progress] = []
    token = watch.set(events.append)
    yield events
    watch.reset(token)


Add = Callable[..., NamedCorpus]


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Add:
    """Put a corpus `play` into the table, with files of a server."""

    def add(*files: File, **options: object) -> NamedCorpus:
        usual = options.pop("settings", USUAL)
        corpus = NamedCorpus("play", "a play", "free", 9, 9, files, usual, **options)  # type: ignore[arg-type]
        monkeypatch.setitem(NAMED, "play", corpus)
        return corpus

    return add


@pytest.fixture
def play(server: Server, add: Add) -> Server:
    server.pages["/play.txt"] = TEXT
    add(File((server.url("/play.txt"),), {"": Text("", sha256(TEXT))}))
    return server


def archive(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in members.items():
            file.writestr(f"folder/{name}", content)
    return packed.getvalue()


# Downloads ----------------------------------------------------------------------------------------


def test_a_download_that_is_killed_at_half_goes_on_where_it_stopped(
    server: Server, tmp_path: Path
) -> None:
    server.marked, server.faults = True, ["hang"]
    server.pages["/a.txt"] = TEXT
    url, half = server.url("/a.txt"), len(TEXT) // 2
    code = (
        "import sys, pathlib, charrnn.data.download as d; d.download(sys.argv[1], pathlib.Path())"
    )
    process = subprocess.Popen([sys.executable, "-c", code.replace("()", "('never')"), url])
    partial = parts_of(url)[0]
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size == half):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    server.released.set()
    download(url, tmp_path / "a.txt", retry_seconds=0)
    assert (tmp_path / "a.txt").read_bytes() == TEXT
    assert server.parts == ["", f"bytes={half}-"]
    assert not partial.exists()


def test_a_connection_that_breaks_again_and_again_still_gets_to_the_end(
    server: Server, tmp_path: Path, said: list[str | Progress]
) -> None:
    server.marked, server.faults = True, ["cut"] * 6
    server.pages["/a.txt"] = TEXT
    download(server.url("/a.txt"), tmp_path / "a.txt", retry_seconds=0)
    assert (tmp_path / "a.txt").read_bytes() == TEXT
    assert len(server.parts) == 7
    last = said[-2]
    assert isinstance(last, Progress)
    assert last == ("a.txt", len(TEXT), len(TEXT))


@pytest.mark.parametrize("change", ["the page", "the server", "another part"])
def test_what_does_not_fit_together_is_downloaded_from_the_beginning(
    server: Server, tmp_path: Path, change: str
) -> None:
    server.marked, server.faults = True, ["cut"]
    server.pages["/a.txt"] = TEXT

    def break_off(event: str | Progress) -> None:
        raise KeyboardInterrupt

    token = watch.set(break_off)
    with pytest.raises(KeyboardInterrupt):
        download(server.url("/a.txt"), tmp_path / "a.txt", retry_seconds=0)
    watch.reset(token)
    assert parts_of(server.url("/a.txt"))[0].exists()
    if change == "the page":
        server.pages["/a.txt"] = TEXT.upper()
    server.marked = change != "the server"
    server.faults = ["shifted"] if change == "another part" else []
    download(server.url("/a.txt"), tmp_path / "a.txt", retry_seconds=0)
    assert (tmp_path / "a.txt").read_bytes() == server.pages["/a.txt"]


def test_two_processes_download_a_corpus_once(play: Server, said: list[str | Progress]) -> None:
    play.faults = ["hang"]
    play.marked = True
    first = threading.Thread(target=fetch, args=(NAMED["play"], 0.0))
    first.start()
    while not play.requests:
        time.sleep(0.001)
    second = threading.Timer(0.1, play.released.set)
    second.start()
    fetch(NAMED["play"], 0.0)
    first.join()
    assert play.parts == ["", f"bytes={len(TEXT) // 2}-"]
    assert any("another process is downloading play" in str(event) for event in said)


def test_addresses_with_spaces_letters_and_a_password(server: Server, tmp_path: Path) -> None:
    server.pages["/k%C3%A4se%20a.txt"] = TEXT
    url = server.url("/käse a.txt#part").replace("http://", "http://me:secret@")
    download(url, tmp_path / "a.txt", retry_seconds=0)
    assert (tmp_path / "a.txt").read_bytes() == TEXT
    assert server.logins == ["Basic bWU6c2VjcmV0"]


# The cache ----------------------------------------------------------------------------------------


def test_a_named_corpus_is_fetched_once(play: Server, said: list[str | Progress]) -> None:
    for _ in range(2):
        sources = find_sources(["play"], retry_seconds=0)
        assert b"".join(sources.documents[0].chunks()) == TEXT
        assert sources.name == "play"
        sources.discard()
    assert len(play.requests) == 1
    announced = str(said[0])
    for fact in ("play: a play", "0.0 MB", "bytes", "90/5/5 %", "licence: free"):
        assert fact in announced


def test_a_corpus_in_the_cache_opens_no_socket(
    play: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    path = corpus_text(NAMED["play"], "", 0)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert find_sources(["play"]).documents[0].path == path
    remove(NAMED["play"])
    with pytest.raises(DataError, match="a socket was opened"):
        find_sources(["play"], retry_seconds=0)


def test_a_file_comes_before_a_named_corpus(
    play: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "play").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    assert b"".join(find_sources(["play"]).documents[0].chunks()) == b"mine"
    config = merge_settings([("sources", {"data.sources": ["play"]})], None, None, print)
    assert config.data.vocabulary == "character"
    assert play.requests == []


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(play: Server, cache: Path) -> None:
    play.pages["/play.txt"] = TEXT + b"!"
    with pytest.raises(DataError, match=r"has SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}.*damaged"):
        find_sources(["play"], retry_seconds=0)
    assert kept(cache) == []


def test_a_damaged_cached_copy_is_fetched_anew(play: Server, cache: Path) -> None:
    path = corpus_text(NAMED["play"], "", 0)
    assert path == cache / "corpora" / f"play-{sha256(TEXT)[7:23]}.txt"
    path.write_bytes(TEXT[:-1])
    assert cached_text(NAMED["play"], "") is None
    assert corpus_text(NAMED["play"], "", 0).read_bytes() == TEXT
    assert len(play.requests) == 2


def test_a_dead_mirror_and_a_wrong_one_lead_to_the_next(
    server: Server, add: Add, said: list[str | Progress]
) -> None:
    with Server() as gone:
        dead = gone.url("/play.txt")
    server.pages |= {"/other.txt": TEXT[1:], "/play.txt": TEXT}
    mirrors = dead, server.url("/other.txt"), server.url("/play.txt")
    add(File(mirrors, {"": Text("", sha256(TEXT))}))
    assert corpus_text(NAMED["play"], "", 0).read_bytes() == TEXT
    lines = [event for event in said if isinstance(event, str)]
    assert "refused" in lines[1]
    assert lines[1].endswith(f"trying {mirrors[1]}")
    assert "SHA-256" in lines[2]
    assert lines[2].endswith(f"trying {mirrors[2]}")


def test_without_a_network_one_sentence_says_what_to_do_by_hand(
    add: Add, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    packed = archive(play=TEXT)
    add(File(("https://a.example/p.zip",), {"": Text("folder/play", sha256(TEXT))}))
    with pytest.raises(DataError) as caught:
        find_sources(["play"])
    target = cache / "corpora" / "p.zip"
    assert str(caught.value) == (
        f"cannot get play: cannot fetch https://a.example/p.zip: Name or service not known; to do "
        f"it by hand, save https://a.example/p.zip as {target}, and try again"
    )
    target.write_bytes(packed[:-1])
    with pytest.raises(DataError, match=r"cannot unpack .*p\.zip"):
        find_sources(["play"])
    assert target.read_bytes() == packed[:-1]  # A user's own file is not deleted.
    target.unlink()
    target.mkdir()  # of a browser that unpacks by itself
    with pytest.raises(DataError, match="cannot get play: cannot fetch"):
        find_sources(["play"])
    target.rmdir()
    target.write_bytes(packed)
    assert find_sources(["play"]).documents[0].path.read_bytes() == TEXT
    assert not target.exists()
    assert kept(cache) == [f"play-{sha256(TEXT)[7:23]}.txt"]


# Splits and vocabularies --------------------------------------------------------------------------


def lengths(*layers: Layer) -> tuple[str, dict[str, int]]:
    config = merge_settings([("sources", {"data.sources": ["play"]}), *layers], None, None, print)
    with find_texts(config, print) as texts:
        data = read_corpus(config, texts)
    return data.vocabulary.kind, {name: len(part) for name, part in data.splits.items()}


def test_a_corpus_brings_its_vocabulary_and_split(play: Server) -> None:
    train, rest = len(TEXT) * 9 // 10, len(TEXT) * 19 // 20
    parts = {"train": train, "validation": rest - train, "test": len(TEXT) - rest}
    assert lengths() == ("byte", parts)


def test_settings_of_the_user_win(play: Server) -> None:
    assert lengths(("--vocabulary", {"data.vocabulary": "character"}))[0] == "character"
    kind, parts = lengths(("--set", {"data.split": [0.5, 0.5]}))
    assert kind == "byte"
    assert [*parts] == ["train", "validation"]
    assert parts["train"] == len(TEXT) // 2
    # The third part of the usual split and a test set of the user exclude each other.
    own = lengths(("--test", {"data.test": ["play"]}))[1]
    assert own == {**lengths(("--set", {"data.split": [0.9, 0.1]}))[1], "test": len(TEXT)}


def test_a_corpus_in_parts(server: Server, add: Add) -> None:
    texts = {"train": TEXT, "validation": b"to be", "test": b"or not"}
    server.pages["/p.zip"] = packed = archive(**texts)
    members = {part: Text(f"folder/{part}", sha256(text)) for part, text in texts.items()}
    settings = {"data.vocabulary": "byte"}
    add(File((server.url("/p.zip"),), members, sha256(packed)), settings=settings)
    assert lengths() == ("byte", {part: len(text) for part, text in texts.items()})
    assert len(server.requests) == 1
    assert lengths(("--set", {"data.split": [0.9, 0.1]}))[1]["train"] == len(TEXT) * 9 // 10
    (document,) = find_sources(["play:test"]).documents
    assert document.path.read_bytes() == b"or not"
    assert find_sources(["play:test"]).name == "play-test"
    assert find_corpus("play:dev") is None


def test_enwik8_and_text8_are_split_at_90_and_95_million() -> None:
    for name in ("enwik8", "text8"):
        parts = split_positions(NAMED[name].settings["data.split"], 100_000_000)
        assert [(part.start, part.stop) for part in parts.values()] == [
            (0, 90_000_000),
            (90_000_000, 95_000_000),
            (95_000_000, 100_000_000),
        ]


# The table ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_the_corpora_are_fully_described(name: str) -> None:
    corpus = NAMED[name]
    assert corpus.about
    assert corpus.licence
    assert min(corpus.size, corpus.download) > 1e6
    assert corpus.parts in ([""], list(NAMES))
    assert corpus.settings["data.vocabulary"] == ("byte" if name == "enwik8" else "character")
    for file in corpus.files:
        assert len(file.mirrors) == 2
        assert all(url.startswith("https://") for url in file.mirrors)
        checksums = [file.checksum, *(text.checksum for text in file.texts.values())]
        assert file.checksum or all(checksums[1:])
        for algorithm, _, digest in (checksum.partition(":") for checksum in checksums if checksum):
            assert len(bytes.fromhex(digest)) == {"sha256": 32, "md5": 16}[algorithm]


def test_lines_of_the_penn_treebank_are_trimmed(server: Server, add: Add) -> None:
    raw = b" no it was n't \n but <unk> while \n"
    server.pages["/ptb.txt"] = raw
    checksum = f"md5:{hashlib.md5(raw).hexdigest()}"
    add(File((server.url("/ptb.txt"),), {"": Text()}, checksum), change=NAMED["ptb"].change)
    path = corpus_text(NAMED["play"], "", 0)
    assert path.read_bytes() == b"no it was n't\nbut <unk> while\n"
    assert cached_text(NAMED["play"], "") == path
    path.write_bytes(raw)
    assert cached_text(NAMED["play"], "") is None


# Project Gutenberg --------------------------------------------------------------------------------

BODY = b"Chapter 1\r\n\r\nIt was *** night.\r\n"
MARKERS = {
    "today": (
        b"\xef\xbb\xbfThe Project Gutenberg eBook of A\r\n"
        b"*** START OF THE PROJECT GUTENBERG EBOOK A ***\r\n",
        b"*** END OF THE PROJECT GUTENBERG EBOOK A ***\r\n\r\nUpdated editions\r\n",
    ),
    "a long title": (
        b"*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG\r\nTITLE, VOLUME 1 ***\r\n",
        b"*** END OF THE PROJECT GUTENBERG EBOOK A VERY LONG\r\nTITLE, VOLUME 1 ***\r\n",
    ),
    "2005": (
        b"***START OF THE PROJECT GUTENBERG EBOOK A***\r\n\r\nE-text prepared by B\r\n"[:46],
        b"\r\n\r\nEnd of Project Gutenberg's A, by B\r\n\r\n"
        b"***END OF THE PROJECT GUTENBERG EBOOK A***\r\n",
    ),
    "2010": (
        b"*** START OF THIS PROJECT GUTENBERG EBOOK A ***\r\n",
        b"End of the Project Gutenberg EBook of A, by B\r\n\r\n"
        b"*** END OF THIS PROJECT GUTENBERG EBOOK A ***\r\n\r\n***** This file\r\n",
    ),
    "1998": (
        b"Project Gutenberg Etext\r\n"
        b"*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\r\n",
        b"\r\nEnd of Project Gutenberg Etext of A, by B",
    ),
    "2001": (
        b"*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.10/04/01*END*\n",
        b"End of The Project Gutenberg Etext of A\n",
    ),
}


@pytest.mark.parametrize("year", MARKERS)
def test_a_licence_is_cut_off(year: str) -> None:
    start, end = MARKERS[year]
    assert cut_licence(start + b"\r\n" + BODY + b"\r\n" + end) == BODY.strip() + b"\n"


@pytest.mark.parametrize(
    "book",
    [
        BODY,
        MARKERS["today"][0] + BODY,
        BODY + MARKERS["today"][1],
        MARKERS["today"][1] + BODY + MARKERS["today"][0],
        MARKERS["today"][0] * 2 + BODY + MARKERS["today"][1],
        MARKERS["today"][0] + BODY + MARKERS["today"][1] * 2,
        b"I read: *** START OF THE PROJECT GUTENBERG EBOOK A ***\n" + BODY + MARKERS["today"][1],
    ],
)
def test_nothing_is_cut_off_where_the_markers_do_not_match(book: bytes) -> None:
    assert cut_licence(book) is None


def test_a_book_of_project_gutenberg(
    server: Server, said: list[str | Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "GUTENBERG", (server.url("/away"), server.url("/mirror")))
    start, end = MARKERS["today"]
    server.pages["/mirror/cache/epub/11/pg11.txt"] = start + BODY + end
    server.pages["/mirror/cache/epub/12/pg12.txt"] = BODY
    sources = find_sources(["gutenberg:11"], retry_seconds=0)
    assert b"".join(sources.documents[0].chunks()) == BODY.strip() + b"\n"
    assert sources.name == "gutenberg-11"
    assert "without a published checksum" in str(said[0])
    assert not any("nothing is cut off" in str(event) for event in said)
    assert find_sources(["gutenberg:12"], retry_seconds=0).documents[0].path.read_bytes() == BODY
    assert any("nothing is cut off" in str(event) for event in said)
    assert [book.name for book in corpora.cached_books()] == ["gutenberg:11", "gutenberg:12"]
    with pytest.raises(DataError, match=r"cannot get gutenberg:13: .*404"):
        find_sources(["gutenberg:13"], retry_seconds=0)
    for name in ("gutenberg:", "gutenberg:0", "gutenberg:x", "gutenberg:../1"):
        assert find_corpus(name) is None
