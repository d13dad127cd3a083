"""`charrnn compress` and `charrnn decompress`."""

import re
from pathlib import Path

from tests.cli.conftest import TINY
from tests.conftest import TEXT, Run


def test_what_is_compressed_is_decompressed(run: Run, trained: str, tmp_path: Path) -> None:
    content = TEXT[:500].encode() + b"\xff\x00 \xc3\xa9"
    (tmp_path / "some.txt").write_bytes(content)
    sizes = []
    for options in ([], ["--dynamic"], ["--dynamic-rate", "0.01"]):
        done = run("compress", trained, "some.txt", *options)
        assert done.code == 0, done.err
        assert re.search(r"bytes in, [\d,]+ out: \d\.\d+ bits per byte", done.err)
        refused = run("compress", trained, "some.txt")
        assert refused.code == 2
        assert "some.txt.charrnn exists already" in refused.err
        back = run("decompress", trained, "some.txt.charrnn", "--out", "back.txt")
        assert back.code == 0, back.err
        assert (tmp_path / "back.txt").read_bytes() == content
        sizes.append((tmp_path / "some.txt.charrnn").stat().st_size)
        (tmp_path / "some.txt.charrnn").unlink()
        (tmp_path / "back.txt").unlink()
    assert sizes[2] == sizes[1] != sizes[0]
    wrong = run("decompress", trained, "some.txt", "--out", "back.txt")
    assert wrong.code == 3
    assert "some.txt: the file was not made by charrnn compress" in wrong.err
    for command in ("compress", "decompress"):
        nowhere = run(command, trained, "some.txt", "--out", "none/some.small")
        assert nowhere.code in (2, 3)
        assert "Traceback" not in nowhere.err
    assert (
        "there is no folder none"
        in run("compress", trained, "some.txt", "--out", "none/some.small").err
    )
    assert not (tmp_path / "back.txt").exists()


def test_words_are_compressed_as_words(run: Run, tmp_path: Path) -> None:
    options = [*TINY, "--vocabulary", "word", "--steps", "40"]
    assert run("train", "book.txt", *options, "--out", "w").code == 0
    content = TEXT.encode()[:900] + b" <unk> unheard \xff of\r\n"
    (tmp_path / "t.bin").write_bytes(content)
    packed = run("compress", "w", "t.bin")
    assert packed.code == 0, packed.err
    assert run("decompress", "w", "t.bin.charrnn", "--out", "again").code == 0
    assert (tmp_path / "again").read_bytes() == content
    assert (tmp_path / "t.bin.charrnn").stat().st_size < len(content)
