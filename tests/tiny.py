"""A tiny run, for tests that train."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from charrnn.config.merge import build_config
from charrnn.config.schema import Config
from charrnn.data.corpus import Corpus, load_corpus
from charrnn.data.sources import find_sources
from charrnn.runs.directory import Run
from charrnn.session.events import Event
from charrnn.session.loop import Session
from charrnn.session.opening import new_session, plan_run
from charrnn.tasks.task import Data

TINY: dict[str, Any] = {
    "model.hidden_size": 8,
    "model.embedding_size": 6,
    "model.dropout": 0.3,
    "model.input_dropout": 0.2,
    "model.output_dropout": 0.2,
    "training.steps": 14,
    "training.batch_size": 4,
    "training.window": 8,
    "training.warmup_steps": 10,
    "evaluation.every": 4,
    "evaluation.lanes": 2,
    "evaluation.warmup": 5,
    "evaluation.best": "validation",
    "evaluation.sample_length": 5,
    "checkpoints.keep_last": 100,
    "device": "cpu",
}
ON_EXAMPLES: dict[str, Any] = {
    "data.split": [0.7, 0.3],
    "model.hidden_size": 6,
    "model.embedding_size": 5,
    "model.dropout": 0.2,
    "model.input_dropout": 0.1,
    "model.output_dropout": 0.2,
    "training.steps": 13,
    "training.batch_size": 8,
    "training.warmup_steps": 10,
    "evaluation.every": 4,
    "evaluation.best": "validation",
    "checkpoints.keep_last": 100,
    "device": "cpu",
}
TEXT = "".join(chr(97 + (i * i + i // 7) % 11) + ("\n" if i % 13 == 0 else "") for i in range(240))


def tiny_config(**changes: Any) -> Config:
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return build_config([("test", values)])[0]


def tiny_corpus(folder: Path, text: str = TEXT) -> Corpus:
    path = folder / "text.txt"
    path.write_text(text, "utf-8")
    return load_corpus(find_sources([str(path)]))


def start(
    folder: Path,
    config: Config,
    data: Data,
    clock: Any = lambda: 0.0,
    on: str = "cpu",
) -> Session:
    """Start a session in `folder` on data that has been read, planned for the device `on`."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    planned = plan_run(config, data, torch.device(on))
    session = new_session(planned, data, "tiny", "a tiny text", clock)
    session.run = Run(folder)
    return session


def drive(session: Session, until: int | None = None) -> list[Event]:
    """Run to the end, or ask for a stop at step `until`."""
    progress = session.trainer.progress
    return list(session.events(lambda: until is not None and progress.step >= until))


def resumes(begin: Callable[[Path], Session], folder: Path, stops: Iterable[int]) -> None:
    """Assert that runs that are stopped and resumed end like the unbroken run, bit for bit.

    `begin` starts a session in a folder; it is stopped after each of the steps `stops`.
    """
    whole = begin(folder / "whole")
    drive(whole)
    for stop in stops:
        first = begin(folder / f"{stop}")
        drive(first, until=stop)
        again = begin(folder / f"{stop}")
        again.restore(first.run.load(stop))
        drive(again)
        for name, tensor in whole.trainer.tensors().items():
            assert torch.equal(tensor, again.trainer.tensors()[name]), (stop, name)
