"""Training runs: exact resume, evaluation without effects, budgets, divergence, `--from`."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config.merge import with_values
from charrnn.data.corpus import load_corpus
from charrnn.data.sources import find_sources
from charrnn.errors import ConfigError, DivergedError
from charrnn.inference.trained_model import TrainedModel
from charrnn.registry import CELLS
from charrnn.runs.checkpoint import load_checkpoint
from charrnn.runs.directory import Run
from charrnn.session.events import Evaluated, Finished, Planned, Restarted
from charrnn.session.loop import Session
from charrnn.training.hardware import choose_precision, choose_processes
from tests.tiny import TEXT, drive, start, tiny_config, tiny_corpus


def fingerprint(run: Run, step: int) -> str:
    """Return the SHA-256 over the names and bytes of all tensors of a checkpoint."""
    tensors = load_checkpoint(run.checkpoint_path(step)).tensors
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    return digest.hexdigest()


def metrics(run: Run) -> list[dict[str, Any]]:
    """Return the lines of the run's records without their times."""
    clock = ("seconds", "characters_per_second")
    lines = [*run.metrics(), *run.records("steps"), *run.records("samples")]
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_resumed_equals_uninterrupted(
    tmp_path: Path, cell: str, precision: str, processes: int
) -> None:
    """Stop an LSTM after every step, and the others at an evaluation and between two."""
    every_step = cell == "lstm" and precision == "float32"
    resumes_exactly(tmp_path, cell, precision, processes, range(1, 14) if every_step else (4, 11))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_resumed_equals_uninterrupted_at_every_step(
    tmp_path: Path, cell: str, precision: str, processes: int
) -> None:
    resumes_exactly(tmp_path, cell, precision, processes, range(1, 14))


def resumes_exactly(
    tmp_path: Path, cell: str, precision: str, processes: int, stops: Iterable[int]
) -> None:
    """Assert that runs that are stopped and resumed end like the unbroken run, bit for bit."""
    try:
        choose_precision(precision, torch.device("cpu"), cell)
        choose_processes(processes, torch.device("cpu"), 4, 2)
    except ConfigError as error:
        pytest.skip(str(error))
    corpus = tiny_corpus(tmp_path)
    config = tiny_config(model__cell=cell, precision=precision, processes=processes)
    straight = start(tmp_path / "straight", config, corpus)
    drive(straight)
    # The run crosses the edge of an epoch, so the reset at the wrap is covered.
    assert straight.trainer.progress.epoch >= 1
    expected, lines = fingerprint(straight.run, 14), metrics(straight.run)
    for k in stops:
        folder = tmp_path / f"stopped-{k}"
        drive(start(folder, config, corpus), until=k)
        again = start(folder, config, corpus)
        again.restore(again.run.latest(pytest.fail))
        assert again.trainer.progress.step == k
        drive(again)
        assert fingerprint(again.run, 14) == expected, k
        assert metrics(again.run) == lines, k
        assert again.best == straight.best


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("schedule", ["plateau", "linear"])
def test_resume_restores_every_optimizer_and_schedule(
    tmp_path: Path, optimizer: str, schedule: str
) -> None:
    corpus = tiny_corpus(tmp_path)
    config = tiny_config(
        training__optimizer=optimizer,
        training__schedule=schedule,
        training__plateau_patience=1,
        training__learning_rate=0.05,
        training__steps=24,
    )
    straight = start(tmp_path / "straight", config, corpus)
    drive(straight)
    drive(start(tmp_path / "stopped", config, corpus), until=17)
    again = start(tmp_path / "stopped", config, corpus)
    again.restore(again.run.latest(pytest.fail))
    drive(again)
    assert fingerprint(again.run, 24) == fingerprint(straight.run, 24)
    assert metrics(again.run) == metrics(straight.run)


@pytest.mark.parametrize("left_out", ["optimizer/", "carry/", "interval_nats", "model/"])
def test_resume_needs_every_saved_tensor(tmp_path: Path, left_out: str) -> None:
    """Check the tests above: if one saved field is wiped, the resumed run differs."""
    corpus, config = tiny_corpus(tmp_path), tiny_config()
    straight = start(tmp_path / "straight", config, corpus)
    drive(straight)
    drive(start(tmp_path / "stopped", config, corpus), until=6)
    again = start(tmp_path / "stopped", config, corpus)
    checkpoint = again.run.latest(pytest.fail)
    for name in checkpoint.tensors:
        if name.startswith(left_out):
            checkpoint.tensors[name] = np.zeros_like(checkpoint.tensors[name])
    again.restore(checkpoint)
    drive(again)
    same_tensors = fingerprint(again.run, 14) == fingerprint(straight.run, 14)
    same_metrics = metrics(again.run) == metrics(straight.run)
    assert not (same_tensors and same_metrics)


@pytest.mark.parametrize("field", ["step", "epoch", "batch", "interval_characters"])
def test_resume_needs_every_field_of_the_progress(tmp_path: Path, field: str) -> None:
    corpus, config = tiny_corpus(tmp_path), tiny_config(training__steps=16)
    straight = start(tmp_path / "straight", config, corpus)
    drive(straight)
    drive(start(tmp_path / "stopped", config, corpus), until=10)
    again = start(tmp_path / "stopped", config, corpus)
    checkpoint = again.run.latest(pytest.fail)
    assert checkpoint.metadata["progress"][field] != 0
    checkpoint.metadata["progress"][field] = 0
    again.restore(checkpoint)
    drive(again)
    same_tensors = fingerprint(again.run, 16) == fingerprint(straight.run, 16)
    assert not (same_tensors and metrics(again.run) == metrics(straight.run))


def test_how_often_one_evaluates_never_changes_the_weights(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    prints = set()
    for every in (1, 5, 14):
        session = start(tmp_path / str(every), tiny_config(evaluation__every=every), corpus)
        drive(session)
        weights = session.model.state_dict()
        prints.add(b"".join(weights[name].numpy().tobytes() for name in sorted(weights)))
    assert len(prints) == 1


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    prints = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        session = start(tmp_path / name, tiny_config(training__seed=seed), corpus)
        drive(session)
        prints.append(fingerprint(session.run, 14))
    assert prints[0] == prints[1] != prints[2]


def test_a_run_learns_and_its_best_is_the_lowest(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path, "the quick brown fox\n" * 100)
    config = tiny_config(
        training__steps=200,
        training__learning_rate=0.02,
        training__epochs=None,
        model__hidden_size=16,
        model__dropout=0.0,
        model__output_dropout=0.0,
        model__input_dropout=0.0,
        evaluation__every=20,
    )
    events = drive(start(tmp_path / "run", config, corpus))
    scores = [
        e.metrics["validation"]["nats_per_character"] for e in events if isinstance(e, Evaluated)
    ]
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.score is not None
    assert scores[-1] < 0.5 < scores[0]
    assert end.best["nats_per_character"] == min(scores)
    # The best checkpoint is the one that is scored, whole.
    model = TrainedModel.from_checkpoint(
        load_checkpoint(Run(tmp_path / "run").checkpoint_path(end.best["step"]))
    )
    assert model.evaluate_split(corpus, "validation").nats_per_character == pytest.approx(
        end.score.nats_per_character, rel=1e-6
    )


def test_retention_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    config = tiny_config(checkpoints__keep_last=1, evaluation__every=1, training__learning_rate=0.5)
    session = start(tmp_path / "run", config, corpus)
    drive(session)
    assert session.best is not None
    assert set(session.run.steps()) == {14, session.best["step"]}
    assert session.best["step"] != 14


def test_checkpoints_between_evaluations(tmp_path: Path) -> None:
    session = start(tmp_path / "run", tiny_config(checkpoints__every=3), tiny_corpus(tmp_path))
    drive(session)
    assert session.run.steps() == [0, 3, 4, 6, 8, 9, 12, 14]


def test_patience_stops(tmp_path: Path) -> None:
    config = tiny_config(
        training__patience=2, evaluation__every=1, training__steps=300, training__learning_rate=1.0
    )
    events = drive(start(tmp_path / "run", config, tiny_corpus(tmp_path)))
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == "patience"
    assert end.step == end.best["step"] + 2


def test_plateau_drops_the_rate(tmp_path: Path) -> None:
    config = tiny_config(
        training__schedule="plateau",
        training__plateau_patience=1,
        training__plateau_factor=0.1,
        training__steps=60,
        training__learning_rate=0.3,
        evaluation__every=2,
    )
    session = start(tmp_path / "run", config, tiny_corpus(tmp_path))
    drive(session)
    drops = sum(
        line["validation"]["nats_per_character"] > before
        for line, before in zip(session.run.metrics()[1:-1], lowest_so_far(session), strict=False)
    )
    assert drops > 0
    assert session.trainer.progress.learning_rate_factor == pytest.approx(0.1**drops)


def lowest_so_far(session: Session) -> Iterator[float]:
    lowest = float("inf")
    for line in session.run.metrics():
        if "validation" in line:
            lowest = min(lowest, line["validation"]["nats_per_character"])
            yield lowest


def test_wall_clock_budget_becomes_a_step_count(tmp_path: Path, monkeypatch: Any) -> None:
    """With a clock that advances at each step, the plan must be what the arithmetic gives."""
    now = [0.0]
    corpus = tiny_corpus(tmp_path)
    config = tiny_config(
        training__steps=None,
        training__max_time=100.0,
        evaluation__every="auto",
        training__epochs=None,
    )
    session = start(tmp_path / "run", config, corpus, lambda: now[0])
    original = session.trainer._step

    def step(batch: Any) -> Any:
        now[0] += 0.5
        return original(batch)

    monkeypatch.setattr(session.trainer, "_step", step)
    events = drive(session)
    planned = [event for event in events if isinstance(event, Planned)]
    assert len(planned) == 1
    # 97 s less the 5 s of warm-up, at half a second a step.
    # The final score, which is not simulated, takes a few milliseconds.
    assert planned[0].steps == 10 + int((97 - 5) / 0.5) - 1
    assert session.trainer.progress.step == planned[0].steps
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert f"steps: {planned[0].steps}" in written
    assert "max_time: null" in written
    assert "auto" not in written


def test_of_two_budgets_the_first_to_be_reached_ends_the_run(tmp_path: Path) -> None:
    config = tiny_config(training__steps=5, training__max_time=1000.0)
    session = start(tmp_path / "run", config, tiny_corpus(tmp_path))
    drive(session)
    assert session.trainer.progress.step == 5


def test_a_run_killed_before_its_plan_measures_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tiny_corpus(tmp_path)
    config = tiny_config(training__steps=None, training__max_time=1.0)
    session = start(tmp_path / "run", config, corpus)
    events = drive(session, until=5)
    assert not any(isinstance(event, Planned) for event in events)

    now = [0.0]
    again = start(tmp_path / "run", session.config, corpus, lambda: now[0])
    step = again.trainer._step

    def timed(batch: Any) -> Any:
        now[0] = float(again.trainer.progress.step >= 14)
        return step(batch)

    monkeypatch.setattr(again.trainer, "_step", timed)
    again.restore(again.run.latest(pytest.fail))
    events = drive(again)
    assert [type(e) for e in events if isinstance(e, Planned)] == [Planned]
    assert again.trainer.progress.step == 15


def test_divergence_stops_before_the_optimizer_steps(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    session = start(tmp_path / "run", tiny_config(), corpus)
    drive(session, until=6)
    again = start(tmp_path / "run", tiny_config(), corpus)
    again.restore(again.run.latest(pytest.fail))
    again._has_restarted = True
    with torch.no_grad():
        again.model.head.bias[0] = float("nan")  # type: ignore[index, union-attr, operator]
    before = {name: value.clone() for name, value in again.model.state_dict().items()}
    with pytest.raises(DivergedError, match=r"step 7.*training\.learning_rate"):
        drive(again)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, before[name]) or name == "head.bias"
    for step in again.run.steps():
        tensors = again.run.load(step).tensors
        assert all(np.isfinite(value).all() for value in tensors.values())


@pytest.mark.parametrize("processes", [1, 2])
def test_after_a_divergence_training_goes_back_once_at_half_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """The run must end as one that was resumed at half the rate at the same step."""
    corpus = tiny_corpus(tmp_path)
    config = tiny_config(processes=processes, training__learning_rate=0.004)
    session = start(tmp_path / "run", config, corpus)
    step = session.trainer._step

    def diverge(batch: Any) -> Any:
        if session.trainer.progress.step == 10 and not session._has_restarted:
            raise DivergedError("at step 11 (loss nan)")
        return step(batch)

    monkeypatch.setattr(session.trainer, "_step", diverge)
    events = drive(session)
    rate = 0.004
    restarts = [event for event in events if isinstance(event, Restarted)]
    assert [(event.step, event.learning_rate) for event in restarts] == [(8, rate / 2)]
    assert session.config.training.earlier == [{"until": 8, "training.learning_rate": rate}]
    drive(start(tmp_path / "other", config, corpus), until=8)
    slower = with_values(config, {"training.learning_rate": rate / 2})
    other = start(tmp_path / "other", slower, corpus)
    other.restore(other.run.latest(pytest.fail))
    drive(other)
    assert fingerprint(other.run, 14) == fingerprint(session.run, 14)
    assert other.config.training.earlier[0]["training.learning_rate"] == rate
    repeated = start(tmp_path / "repeated", session.config, corpus)
    drive(repeated)
    assert fingerprint(repeated.run, 14) == fingerprint(session.run, 14)


def test_a_run_with_a_new_budget_is_repeated_from_its_config(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    drive(start(tmp_path / "run", tiny_config(), corpus))
    session = start(tmp_path / "run", tiny_config(training__steps=22), corpus)
    session.restore(session.run.latest(pytest.fail))
    drive(session)
    (entry,) = session.config.training.earlier
    assert (entry["until"], entry["resumed"], entry["training.steps"]) == (14, True, 14)
    repeated = start(tmp_path / "repeated", session.config, corpus)
    drive(repeated)
    assert fingerprint(repeated.run, 22) == fingerprint(session.run, 22)


def test_a_run_that_read_another_text_is_not_repeated(tmp_path: Path) -> None:
    drive(start(tmp_path / "run", tiny_config(), tiny_corpus(tmp_path)))
    other = tiny_corpus(tmp_path, TEXT[::-1])
    session = start(tmp_path / "run", tiny_config(training__steps=22), other)
    session.restore(session.run.latest(pytest.fail))
    drive(session)
    with pytest.raises(ConfigError, match=r"training\.earlier: this run read another text"):
        drive(start(tmp_path / "repeated", session.config, other))


def test_a_short_validation_split_does_not_choose(tmp_path: Path) -> None:
    config = tiny_config(evaluation__best="auto", training__learning_rate=0.5)
    short = start(tmp_path / "short", config, tiny_corpus(tmp_path))
    assert not short.chooses
    drive(short)
    assert short.best is not None
    assert short.best["step"] == 14
    assert start(tmp_path / "long", config, tiny_corpus(tmp_path, TEXT * 10)).chooses


def test_training_on_everything(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    corpus = load_corpus(find_sources([str(path)]), fractions=[1.0])
    assert {name: len(part) for name, part in corpus.splits.items()} == {"train": len(TEXT)}
    session = start(tmp_path / "run", tiny_config(data__split=[1.0]), corpus)
    events = drive(session)
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.best["step"], end.score) == (14, None)
    assert all("validation" not in line for line in session.run.metrics())
    assert session.run.best(pytest.fail).metadata["progress"]["step"] == 14
    again = start(tmp_path / "run", tiny_config(data__split=[1.0], training__steps=16), corpus)
    again.restore(again.run.latest(pytest.fail))
    drive(again)


def test_a_huge_learning_rate_leaves_nothing_non_finite_on_disk(tmp_path: Path) -> None:
    config = tiny_config(
        training__learning_rate=1e30,
        training__steps=200,
        training__clip=1e9,
        training__optimizer="sgd",
        model__cell="vanilla",
        model__activation="relu",
    )
    session = start(tmp_path / "run", config, tiny_corpus(tmp_path))
    with pytest.raises(DivergedError):
        drive(session)
    for step in session.run.steps():
        assert all(np.isfinite(v).all() for v in session.run.load(step).tensors.values())


def test_no_budget_is_an_error(tmp_path: Path) -> None:
    config = tiny_config(training__steps=None, training__epochs=None, training__max_time=None)
    with pytest.raises(ConfigError, match="no budget"):
        drive(start(tmp_path / "run", config, tiny_corpus(tmp_path)))


def test_weights_are_adopted_by_symbol(tmp_path: Path) -> None:
    old = start(tmp_path / "old", tiny_config(), tiny_corpus(tmp_path))
    drive(old)
    origin = TrainedModel.from_checkpoint(old.run.latest(pytest.fail))
    text = TEXT.replace("a", "z").replace("b", "é")
    new = start(tmp_path / "new", tiny_config(training__seed=5), tiny_corpus(tmp_path, text))
    fresh = {name: value.clone() for name, value in new.model.state_dict().items()}
    added, dropped = new.adopt_weights(origin)
    assert (sorted(added), sorted(dropped)) == (["z", "é"], ["a", "b"])
    mine, theirs = new.data.vocabulary.symbols, origin.vocabulary.symbols
    now, given = new.model.state_dict(), origin.model.state_dict()
    for i, symbol in enumerate(mine):
        for name in ("embedding.weight", "head.weight", "head.bias"):
            source = fresh[name][i] if symbol in added else given[name][theirs.index(symbol)]  # type: ignore[arg-type]
            assert torch.equal(now[name][i], source)
    for name in now:
        if name.startswith("stack."):
            assert torch.equal(now[name], given[name])


@pytest.mark.parametrize("cell", CELLS)
def test_one_hot_columns_are_adopted_by_symbol(tmp_path: Path, cell: str) -> None:
    # As wide as the text has symbols, so that shapes alone do not tell which matrix is which.
    config = tiny_config(
        model__cell=cell, model__embedding_size="one_hot", model__hidden_size=len(set(TEXT))
    )
    old = start(tmp_path / "old", config, tiny_corpus(tmp_path))
    origin = old.experiment.trained()
    text = TEXT.replace("a", "z")
    new = start(tmp_path / "new", config, tiny_corpus(tmp_path, text))
    new.adopt_weights(origin)
    for name, theirs in old.model.state_dict().items():
        mine = new.model.state_dict()[name]
        if name.startswith("stack.") and not name.endswith(("0.cell.weight_ih", ".weight_mx")):
            assert torch.equal(mine, theirs), name
    names = ["stack.layers.0.cell.weight_ih"]
    names += ["stack.layers.0.cell.weight_mx"] * (cell == "mlstm")
    for name in names:
        mine, theirs = new.model.state_dict()[name], old.model.state_dict()[name]
        for i, symbol in enumerate(new.data.vocabulary.symbols):
            if symbol != "z":
                j = old.data.vocabulary.symbols.index(symbol)  # type: ignore[arg-type]
                assert torch.equal(mine[:, i], theirs[:, j]), name


def test_adoption_refuses_another_shape(tmp_path: Path) -> None:
    old = start(tmp_path / "old", tiny_config(), tiny_corpus(tmp_path))
    origin = old.experiment.trained()
    new = start(tmp_path / "new", tiny_config(model__hidden_size=9), tiny_corpus(tmp_path))
    with pytest.raises(ConfigError, match="do not fit"):
        new.adopt_weights(origin)


def test_the_score_depends_on_no_training_or_evaluation_setting(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path, TEXT * 20)
    session = start(tmp_path / "run", tiny_config(), corpus)
    drive(session)
    checkpoint = session.run.latest(pytest.fail)
    scores = []
    for batch_size in (1, 7, 64):
        for window in (10, 100, 1000):
            stored = json.loads(json.dumps(checkpoint.metadata["config"]))
            stored["training"]["batch_size"] = batch_size
            stored["evaluation"]["window"] = window
            checkpoint.metadata["config"] = stored
            model = TrainedModel.from_checkpoint(checkpoint)
            scores.append(model.evaluate_split(corpus, "validation").nats_per_character)
    assert max(scores) - min(scores) < 1e-5


def test_metrics_lines_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run")
    for step in (4, 8, 12):
        run.append_metrics({"step": step})
    run.append_metrics({"step": 12, "final": {}})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "torn')
    run.cut_metrics(8)
    assert [line["step"] for line in run.metrics()] == [4, 8]
    run.append_metrics({"step": 9})
    assert [line["step"] for line in run.metrics()] == [4, 8, 9]
