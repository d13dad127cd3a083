"""What a session says and uses if the text is short: units of validation, threads."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from charrnn.cli.progress import _unchosen
from charrnn.runs.directory import Run
from charrnn.session.start import begin, begin_again
from charrnn.tasks.tagging import Tagging
from charrnn.training import lane_processes, planning
from tests.tiny import TEXT, TINY, drive, start, tiny_config, tiny_corpus


def test_validation_is_counted_in_the_unit_that_is_named(tmp_path: Path) -> None:
    session: Any = SimpleNamespace(
        validates=True,
        data=SimpleNamespace(splits={"validation": range(7)}),
        experiment=SimpleNamespace(noun=Tagging.noun, unit="token"),
    )
    assert _unchosen(session).endswith(f"(7 {Tagging.noun})")
    assert Tagging.noun != "tokens"
    corpus = tiny_corpus(tmp_path)
    language: Any = start(tmp_path, tiny_config(), corpus)
    assert _unchosen(language).endswith(f"({len(corpus.splits['validation']):,} characters)")


def test_one_process_computes_with_one_thread_and_resumes_with_it(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, "utf-8")
    settings = TINY | {"threads": "auto", "processes": "auto", "training.batch_size": 2}

    def train(name: str, until: int | None = None) -> Run:
        with begin(str(text), out=tmp_path / name, settings=settings) as session:
            assert session.config.processes == session.config.threads == 1
            assert session.about["environment"]["threads"] == torch.get_num_threads() == 1
            drive(session, until)
            return session.run

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        whole, stopped = train("whole"), train("stopped", until=6)
        assert stopped.steps()[-1] == 6
        with begin_again(stopped.path) as session:
            assert session.config.threads == torch.get_num_threads() == 1
            drive(session)
        first, second = whole.load(14).tensors, stopped.load(14).tensors
        assert all((first[name] == second[name]).all() for name in first)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_speed_is_measured_with_the_threads_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def measure(_: torch.device) -> float:
        seen.append(torch.get_num_threads())
        return 1e11

    monkeypatch.setattr(planning, "measure_speed", measure)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for lanes in (2, 32):
            config = tiny_config(
                threads="auto", processes="auto", training__batch_size=lanes,
                training__steps=None, training__max_time=30.0, model__dropout="auto",
            )  # fmt: skip
            planning.plan(config, 10_000, 30, torch.device("cpu"))
        assert seen == ([1, 2] if lane_processes.available() else [1, 1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
