"""What a session says and uses if the text is short: units of validation, threads."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from charrnn.cli.progress import _unchosen
from charrnn.tasks.tagging import Tagging
from tests.tiny import start, tiny_config, tiny_corpus


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


def test_one_process_computes_with_one_thread_and_records_it(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        config = tiny_config(threads="auto", processes="auto", training__batch_size=2)
        session = start(tmp_path, config, tiny_corpus(tmp_path))
        assert session.config.processes == session.config.threads == torch.get_num_threads() == 1
        assert session.about["environment"]["threads"] == 1
    finally:
        torch.set_num_threads(before)
