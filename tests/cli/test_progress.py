"""What a training command shows: what was chosen, which speed is which, and its warnings."""

from pathlib import Path

import pytest

from tests.conftest import Run

SMALL = ["--batch-size", "4", "--window", "8", "--set", "training.warmup_steps=10"]


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_banner_names_the_settings_that_were_chosen(run: Run) -> None:
    arguments = ["book.txt", *SMALL, "--steps", "12", "--dropout", "0.25", "--out", "runs/a"]
    result = run("train", *arguments)
    (chosen,) = lines_of(result.err, "chosen ")
    for name in ("hidden_size", "learning_rate", "precision", "output_dropout"):
        assert f" {name} " in chosen
    for name in (" dropout ", " every ", "batch_size", "window", "device", "steps"):
        assert name not in chosen
    assert not lines_of(run("resume", "a", "--steps", "14").err, "chosen ")


def test_the_speed_at_the_end_says_what_it_includes(run: Run) -> None:
    result = run("train", "book.txt", *SMALL, "--steps", "12", "--hidden-size", "8")
    (end,) = lines_of(result.err, "trained to step 12 in ")
    assert end.endswith(" characters/s with evaluations and saving")


def test_a_config_without_a_text_is_warned_about(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.yaml").write_text("training: {steps: 0}")
    (tmp_path / "with.yaml").write_text("training: {steps: 12}\ndata: {sources: [bok.txt]}")
    result = run("train", "--config", "with.yaml")
    assert (result.code, "warning" in result.err) == (3, False)

    from charrnn.errors import DataError
    from charrnn.session import opening

    def refuse(*_: object, **__: object) -> None:
        raise DataError("not read in this test")

    monkeypatch.setattr(opening, "find_texts", refuse)
    (tmp_path / "small.yaml").write_text("training: {steps: 12}")
    result = run("train", "--config", "small.yaml")
    assert "warning: small.yaml names no text" in result.err
    assert "name another text with DATA" in result.err
    assert "warning" not in run("train").err


def test_a_text_that_moved_is_asked_for_by_its_flag(run: Run, tmp_path: Path) -> None:
    run("train", "book.txt", *SMALL, "--steps", "12", "--hidden-size", "8", "--out", "runs/a")
    (tmp_path / "book.txt").rename(tmp_path / "moved.txt")
    result = run("resume", "a", "--steps", "14")
    assert result.code == 3
    assert result.err.endswith("; if the run's text has moved, name it with --data\n")
    assert run("resume", "a", "--steps", "14", "--data", "moved.txt").code == 0


def test_a_vocabulary_of_its_own_makes_unknown_meaningless(run: Run) -> None:
    run("train", "book.txt", *SMALL, "--steps", "12", "--hidden-size", "8", "--out", "runs/a")
    result = run("train", "book.txt", "--from", "a", "--unknown", "skip", "--steps", "12")
    assert result.code == 2
    assert result.err.endswith("leave out --unknown\n")
