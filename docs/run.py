"""Run the commands and snippets in the pages and update the output shown there.

`python docs/run.py [PAGE]...`

Two kinds of fenced block are executed:

- `console`: a line that begins with `$ ` is a command, and the lines after it are its output;
- `python`: a snippet, with its output in an `output` block right after it.

The pages of a folder run one after another, in the order of its index, in one folder with a copy of
the example data, so that a page can sample from a run that an earlier page trained. The snippets of
a page share their variables. A command that fails is an error.

Long output is shortened by lines `...` in the page. An update keeps the same number of lines
before, between and after the `...`; after a `...` the output continues at the next line that begins
with the same word as before. A block that is marked `varies` (as in `console varies`) shows text
that a model wrote, which differs between processors. `tests/test_docs.py` runs everything again and
compares by `alike`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
FOLDERS = ["README.md", "learn", "use"]
ENVIRONMENT = {
    "CHARRNN_PROCESSES": "1",
    "CHARRNN_THREADS": "1",
    "CHARRNN_PRECISION": "float32",
    "COLUMNS": "80",
    "NO_COLOR": "1",
    "PYTHONPATH": str(ROOT),
}
BLOCK = re.compile(
    r"^```console(?P<mark>| varies)\n(?P<console>.*?)^```\n"
    r"|^```python\n(?P<python>.*?)^```\n"
    r"(?:\n```output(?P<varies>| varies)\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
VOLATILE = re.compile(
    r"[\d,]+ characters/s"
    r"|\b(?:\d+h)?(?:\d+m)?\d+s\b"
    r"|\b\d+\.\d+ ?(?:s|ms|MB)\b"
    r"|\b[\d,.]+ seconds?\b"
    r"|\b\d+[smh] ago\b"
)
WRITING = re.compile(r"^(step [\d,]+/.*\n)(?:    .*\n|\n)+", re.MULTILINE)
DECIMAL = re.compile(r"(\d[\d,]*\.\d+)")


class Session:
    """A folder in which commands and snippets run, with the variables of the snippets so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {}
        for part in ("data", "configs", "docs/examples"):
            shutil.copytree(ROOT / part, folder / part)

    @contextlib.contextmanager
    def here(self) -> Iterator[io.StringIO]:
        """Work in the folder and capture everything that is printed."""
        caught = io.StringIO()
        environment = ENVIRONMENT | {"CHARRNN_CACHE_DIR": str(self.folder / ".cache")}
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(caught),
            contextlib.redirect_stderr(caught),
            mock.patch.dict(os.environ, environment),
        ):
            yield caught

    def command(self, line: str) -> str:
        """Run a command and return its output, both streams. Raises RuntimeError if it fails."""
        with self.here() as caught:
            if line.startswith("charrnn ") and not re.search(r"[|;<>&]", line):
                code, printed = _charrnn(shlex.split(line)[1:]), caught.getvalue()
            else:
                shell = f'charrnn() {{ "{sys.executable}" -m charrnn "$@"; }}\n'
                shell += f'python() {{ "{sys.executable}" "$@"; }}\n{line}'
                done = subprocess.run(
                    ["bash", "-c", shell],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                code, printed = done.returncode, done.stdout
        if code:
            raise RuntimeError(f"exit code {code} of: {line}\n{printed}")
        return printed

    def snippet(self, code: str, place: str) -> str:
        """Run a snippet and return its output."""
        with self.here() as caught:
            exec(compile(code, place, "exec"), self.names)  # noqa: S102 -- our own pages
        return caught.getvalue()

    def rerun(self, block: re.Match[str]) -> str:
        """Run a block and return it with its new output."""
        if block["console"] is None:
            printed = self.snippet(block["python"], "a snippet")
            code = f"```python\n{block['python']}```\n"
            if not printed:
                return code
            printed = _shortened(printed, block["output"] or "")
            return f"{code}\n```output{block['varies'] or ''}\n{printed}```\n"
        lines = []
        for line, shown in _commands(block["console"]):
            printed = self.command(line.replace("\\\n", " "))
            lines.append(f"$ {line}\n{_shortened(printed, shown)}")
        return f"```console{block['mark']}\n{''.join(lines)}```\n"


def _charrnn(arguments: list[str]) -> int:
    from charrnn.cli.main import main

    nothing = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with mock.patch.object(sys, "argv", ["charrnn", *arguments]), mock.patch("sys.stdin", nothing):
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0


def _commands(console: str) -> Iterator[tuple[str, str]]:
    """Yield each command and its output. A backslash at the end continues a command's line."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n", part)
        assert command
        yield command[0].rstrip("\n"), part[command.end() :]


def _shortened(printed: str, shown: str) -> str:
    """Shorten new output in the same way as the output shown before."""
    lines = [line.rstrip() for line in printed.splitlines()]
    pieces = [[]]  # type: list[list[str]]
    for line in shown.splitlines():
        if line == "...":
            pieces.append([])
        else:
            pieces[-1].append(line)
    if len(pieces) == 1:
        return "".join(f"{line}\n" for line in lines)
    place = len(pieces[0])
    kept = lines[:place]
    for piece in pieces[1:]:
        kept.append("...")
        if piece:
            word = piece[0].split()[0]
            while lines[place].split()[:1] != [word]:
                place += 1
            kept += lines[place : place + len(piece)]
            place += len(piece)
    return "".join(f"{line}\n" for line in kept)


def alike(shown: str, now: str) -> bool:
    """Return whether two blocks agree.

    Times, speeds and samples during training may differ; other numbers with a decimal point may
    differ by a twentieth or by 0.02.
    """
    header = shown.partition("\n")[0]
    if header.endswith(" varies") or "\n```output varies\n" in shown:
        return True
    old, new = (DECIMAL.split(_stable(block)) for block in (shown, now))
    if len(old) != len(new) or old[::2] != new[::2]:
        return False
    pairs = zip(old[1::2], new[1::2], strict=True)
    numbers = [[float(n.replace(",", "")) for n in pair] for pair in pairs]
    return all(abs(a - b) <= max(0.05 * abs(a), 0.02) for a, b in numbers)


def _stable(block: str) -> str:
    return VOLATILE.sub("#", WRITING.sub(r"\1    #\n", block))


def pages(folder: str) -> list[Path]:
    """Return the pages of a folder in the order of its index, or the one page of that name."""
    if folder.endswith(".md"):
        return [ROOT / folder]
    index = DOCS / folder / "index.md"
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", index.read_text("utf-8"), re.M | re.S)
    names = [name for tree in trees for name in re.findall(r"^(?:.*<)?([\w-]+)>?$", tree, re.M)]
    return [index, *(DOCS / folder / f"{name}.md" for name in names)]


def run_folder(folder: str, scratch: Path) -> Iterator[tuple[Path, str, str]]:
    """For every block of a folder's pages, yield the page, the block and the updated block."""
    session = Session(scratch)
    for page in pages(folder):
        session.names = {}
        for block in BLOCK.finditer(page.read_text("utf-8")):
            yield page, block[0], session.rerun(block)


def main(names: list[str]) -> None:
    """Update the output in the named pages, by default in all."""
    wanted = {Path(name).resolve() for name in names}
    for folder in FOLDERS:
        if wanted and not wanted & set(pages(folder)):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            begun = time.perf_counter()
            for page, shown, now in run_folder(folder, Path(scratch)):
                seconds, begun = time.perf_counter() - begun, time.perf_counter()
                if not wanted or page in wanted:
                    text = page.read_text("utf-8")
                    page.write_text(text.replace(shown, now, 1), "utf-8")
                    what = f"{page.relative_to(ROOT)}: {now.splitlines()[1]}"
                    sys.stderr.write(f"{seconds:5.1f}s  {what}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
