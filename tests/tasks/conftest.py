"""Runs that several tests use: trained once, copied for each test."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charrnn.cli.main import main

TrainOnce = Callable[..., None]


@pytest.fixture(scope="session")
def trained_folders() -> dict[str, Path]:
    return {}


@pytest.fixture
def train_once(
    trained_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> TrainOnce:
    """Copy the folder of a run `words` into the test's folder; train the run if it is new."""

    def train(name: str, write: Callable[[Path], Any], *arguments: str) -> None:
        if name not in trained_folders:
            folder = tmp_path_factory.mktemp("trained")
            write(folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setattr(sys, "argv", ["charrnn", "train", *arguments, "--out", "words"])
                with pytest.raises(SystemExit) as raised:
                    main()
            assert raised.value.code == 0
            trained_folders[name] = folder
        shutil.copytree(trained_folders[name], tmp_path, dirs_exist_ok=True)

    return train
