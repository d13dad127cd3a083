"""Each test has its own cache folder; only marked tests may use `../shared/data`."""

import io
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from charrnn.cli.main import main
from tests.server import Server, running_server

TEXT = "".join(f"line {i}: the quick brown fox {i * i % 7}\n" for i in range(60))
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CHARRNN_CACHE_DIR", str(folder))
    return folder


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> Run:
    """Run `charrnn` in this process, in an empty folder with a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(TEXT, "utf-8")

    def call(*arguments: str | Path, stdin: bytes = b"") -> Result:
        capfdbinary.readouterr()
        monkeypatch.setattr(sys, "argv", ["charrnn", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        with pytest.raises(SystemExit) as raised:
            main()
        captured = capfdbinary.readouterr()
        code = raised.value.code
        assert isinstance(code, int)
        return Result(code, captured.out.decode(), captured.err.decode())

    return call


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture
def shared_data() -> Path:
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest files run first, so that at the end no process waits for another.
    items.sort(key=lambda item: item.path.name not in ("test_docs.py", "test_adding.py"))
    missing = {}
    if not SHARED.is_dir():
        missing["shared_data"] = "needs ../shared/data"
    if find_spec("keras") is None:
        missing["keras"] = "needs Keras: pip install '.[keras]'"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
