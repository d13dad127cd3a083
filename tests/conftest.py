"""Every test has a cache folder of its own, and `../shared/data` only where it is marked."""

from importlib.util import find_spec
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CHARRNN_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def shared_data() -> Path:
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {}
    if not SHARED.is_dir():
        missing["shared_data"] = "needs ../shared/data"
    if find_spec("keras") is None:
        missing["keras"] = "needs Keras: pip install '.[keras]'"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
