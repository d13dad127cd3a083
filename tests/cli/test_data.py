"""`charrnn data`, and the commands that read a named corpus."""

import hashlib
import json
from pathlib import Path

import pytest

from charrnn.data.corpora import NAMED, File, NamedCorpus, Text
from tests.conftest import TEXT, Run
from tests.server import Server

CONTENT = TEXT.encode()


@pytest.fixture
def play(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with the corpus `play`, which is the only one of the table."""
    server.pages["/play.txt"] = CONTENT
    text = Text("", f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
    files = (File((server.url("/play.txt"),), {"": text}),)
    usual = {"data.vocabulary": "byte", "data.split": [0.7, 0.2, 0.1]}
    for name in [*NAMED]:
        monkeypatch.delitem(NAMED, name)
    corpus = NamedCorpus("play", "a play", "free for all", 9_000_000, 9_000_000, files, usual)
    monkeypatch.setitem(NAMED, "play", corpus)
    return server


def test_a_corpus_from_its_first_to_its_last_day(run: Run, play: Server, cache: Path) -> None:
    table = run("data", "list").out.splitlines()
    assert " ".join(table[1].split()) == "play 9.0 MB 9.0 MB bytes 70/20/10 % no free for all"
    fetched = run("data", "fetch", "play", "play")
    path = fetched.out.split()[0]
    assert fetched.out.split() == [path, path]
    assert Path(path).read_bytes() == CONTENT
    assert fetched.err.count("play: a play; 9.0 MB to download") == 1
    assert len(play.requests) == 1
    record = json.loads(run("data", "list", "--json").out)
    assert (record["cached"], record["files"], record["licence"]) == (True, [path], "free for all")
    assert run("data", "verify").out == "play: as published (SHA-256)\n"
    Path(path).write_bytes(CONTENT[1:])
    damaged = run("data", "verify", "play")
    assert damaged.code == 3
    assert damaged.out == "play: damaged or incomplete\n"
    assert "charrnn data fetch play" in damaged.err
    assert run("data", "fetch", "play").out.split() == [path]
    assert run("data", "verify", "play").code == 0
    assert "freed" in run("data", "remove", "play").err
    assert run("data", "verify", "play").out == "play: not in the cache\n"
    assert run("data", "verify") == (0, "", "no corpus is in the cache\n")
    assert not list(cache.rglob("*.txt"))
    assert "not in the cache" in run("data", "remove", "play").err


@pytest.mark.parametrize("command", ["fetch", "verify", "remove"])
def test_a_corpus_that_does_not_exist(run: Run, play: Server, command: str) -> None:
    result = run("data", command, "plya")
    assert result.code == 3
    assert "no corpus 'plya' (there are play, gutenberg:NUMBER); did you mean play?" in result.err


def test_a_command_that_reads_a_corpus_downloads_it_and_says_so(run: Run, play: Server) -> None:
    result = run("baseline", "play", "--order", "2", "--json")
    first = result.err.splitlines()[0]
    assert first == (
        "play: a play; 9.0 MB to download, 9.0 MB unpacked; read as bytes, split 70/20/10 %; "
        "licence: free for all"
    )
    assert json.loads(result.out)["characters"] == len(CONTENT) * 9 // 10 - len(CONTENT) * 7 // 10
    again = run("baseline", "play", "--order", "2", "--json", "--vocabulary", "character")
    assert "licence" not in again.err
    assert len(play.requests) == 1


def test_config_show_names_the_corpus_as_the_source(run: Run, play: Server) -> None:
    shown = run("config", "show", "--set", "data.sources=[play]").out
    (line,) = [line for line in shown.splitlines() if line.startswith("data.split ")]
    assert line.endswith("the corpus play")
    assert "[0.7, 0.2, 0.1]" in line
