"""The tables of cells and tasks: our entries, those of installed packages, and their mistakes."""

import importlib.metadata
from pathlib import Path

import pytest

from charrnn.errors import ConfigError
from charrnn.registry import CELLS, TASKS, Table, resolve

Paths = dict[str, str]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table[str]:
    """Return a table with one entry of our own and those of four installed packages."""
    packages = {
        "good": "zeta = collections:OrderedDict\nalpha = collections:Counter [extra]",
        "clashing": "own = collections:deque",
        "broken": "lost = no_such_package:Cell\nunlike = collections:NoSuchCell",
        "rival": "alpha = collections:ChainMap",
    }
    for name, lines in packages.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[charrnn.tests]\n{lines}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return Table("charrnn.tests", {"own": "ours"}, lambda name, reference: f"{name}={reference}")


def test_installed_entries_follow_ours(table: Table[str]) -> None:
    assert [*table] == ["own", "alpha", "lost", "unlike", "zeta"]
    assert len(table) == 5
    assert table["zeta"] == "zeta=collections:OrderedDict"
    assert "nothing" not in table
    with pytest.raises(KeyError):
        table["nothing"]


def test_a_name_of_ours_stays_ours(table: Table[str]) -> None:
    assert table["own"] == "ours"


def test_a_name_that_two_packages_provide_is_refused(table: Table[str]) -> None:
    both = r"'alpha' .* by collections:ChainMap and by collections:Counter; uninstall one"
    with pytest.raises(ConfigError, match=both):
        table["alpha"]


def test_packages_are_not_asked_for_a_name_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: pytest.fail("asked"))
    table = Table("charrnn.tests", {"own": 1}, lambda *_: 2)
    assert table["own"] == 1
    assert "own" in table


@pytest.mark.parametrize("reference", ["no_such_package:Cell", "collections:Nothing", "a b", ""])
def test_what_cannot_be_loaded_is_named(reference: str) -> None:
    with pytest.raises(ConfigError, match=f"^{reference} cannot be loaded .*; reinstall or remove"):
        resolve(reference)


def test_a_mistake_of_ours_is_not_blamed_on_a_package() -> None:
    with pytest.raises(AttributeError):
        resolve("charrnn.registry:no_such_name")


def test_every_reference_of_ours_leads_somewhere() -> None:
    for table in (CELLS, TASKS):
        for entry in table.own.values():
            for field in entry:
                if isinstance(field, str) and ":" in field:
                    assert resolve(field) is not None
