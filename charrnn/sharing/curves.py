"""The curves of runs as data: what was recorded, lines to draw, and seeds taken together.

Nothing here draws. A run that is being trained can be read as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn.config.merge import config_from_data, flatten
from charrnn.config.strict_yaml import read_config_file
from charrnn.errors import CheckpointError, ConfigError
from charrnn.runs.checkpoint_check import loss_in
from charrnn.runs.directory import Run
from charrnn.runs.summary import header_facts, recorded_best, spoken_unit

Warn = Callable[[str], None]

X = {
    "steps": "steps",
    "epochs": "passes over the training text",
    "characters": "{unit}s read",
    "seconds": "seconds of training",
}
Y = {
    "loss": "{nats} per {unit}",
    "rate": "learning rate",
    "speed": "{unit}s per second",
    "norm": "norm of the gradient, before clipping",
}
OWN = {"training.seed", "evaluation.first", "evaluation.every", "checkpoints.every", "logging"}
PATHS = {"data.sources", "data.validation", "data.test"}
ORDER = 7  # symbols in the longest n-gram of the baseline, as in `charrnn baseline`


class Point(NamedTuple):
    """A training step, or several in a row, or an evaluation; None for what was not recorded."""

    steps: float
    epochs: float | None
    characters: float | None
    seconds: float | None
    loss: float | None  # nats per unit
    rate: float | None
    speed: float | None  # units per second
    norm: float | None


@dataclass(frozen=True)
class Curves:
    """What a run recorded, in the order of its steps.

    `unit` is what a loss is per, `protocols` how validation was scored, `best` the step of the best
    checkpoint, `text` the SHA-256 of the text, `settings` all settings by their dotted keys.
    """

    run: Run
    unit: str
    protocols: frozenset[str]
    training: list[Point]
    validation: list[Point]
    best: int | None
    settings: dict[str, Any]
    facts: dict[str, Any]

    @property
    def identity(self) -> tuple[str, ...]:
        """A key that is equal for runs that differ in nothing but their seed and their paths."""
        kept = {key: self.settings[key] for key in self.settings.keys() - OWN - PATHS}
        text = self.facts.get("text_sha256") or str(self.run.path)
        return (text, self.unit, *sorted(self.protocols), repr(sorted(kept.items())))


def read_curves(run: Run, warn: Warn) -> Curves:
    """Read the curves of a run; `warn` names each line that is left out.

    Raises CheckpointError if nothing was recorded.
    """
    steps = [line for line in run.records("steps", warn) if _is_usable(run, "steps", line, warn)]
    lines = [line for line in run.records("metrics", warn) if "final" not in line]
    lines = [line for line in lines if _is_usable(run, "metrics", line, warn)]
    if not steps and not lines:
        raise CheckpointError(f"{run.path} has recorded no step so far")
    losses = [loss_in(_part(line, name)) for line in lines for name in ("validation", "train")]
    losses += [loss_in(_part(line, "train")) for line in steps]
    unit = next((loss[1] for loss in losses if loss), "character")
    numbered = run.steps()
    facts = header_facts(run.checkpoint_path(numbered[-1])) if numbered else {}
    settings = _settings(run, facts, warn)
    training, validation = _points(steps, lines, unit)
    protocols = {str(_part(line, "validation")["protocol"]) for line in lines
                 if "protocol" in _part(line, "validation")}  # fmt: skip
    return Curves(
        run,
        spoken_unit(unit, settings.get("data.vocabulary")),
        frozenset(protocols),
        training,
        validation,
        recorded_best(run, facts).get("step"),
        settings,
        facts,
    )


def _settings(run: Run, facts: Mapping[str, Any], warn: Warn) -> dict[str, Any]:
    """Return the settings in config.yaml, or else those in the newest checkpoint."""
    path = run.path / "config.yaml"
    try:
        config = config_from_data(read_config_file(path), str(path))
    except (ConfigError, OSError) as error:
        if "config" not in facts:
            warn(f"{run.path}: its settings cannot be read: {error}")
            return {}
        config = facts["config"]
    return flatten(config.model_dump())


def _part(line: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = line.get(name)
    return part if isinstance(part, dict) else {}


def _is_usable(run: Run, name: str, line: Mapping[str, Any], warn: Warn) -> bool:
    """Whether all numbers of a line are finite; if not, warn that the line is left out."""
    numbers = [*line.values(), *_part(line, "train").values(), *_part(line, "validation").values()]
    finite = all(math.isfinite(x) for x in numbers if isinstance(x, float))
    if not finite:
        where = f"{run.path / name}.jsonl: step {line['step']:,}"
        warn(f"{where} has a number that is not finite; skipped")
    return finite


def _number(line: Mapping[str, Any], key: str) -> float | None:
    value = line.get(key)
    return float(value) if isinstance(value, int | float) else None


def _points(
    steps: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], unit: str
) -> tuple[list[Point], list[Point]]:
    """Return the points of training and of validation.

    A run of an older version has no steps.jsonl; then training has a point at each evaluation.
    Epochs are recorded at evaluations alone, and characters at steps alone: both grow evenly in
    between.
    """
    epochs = [(line["step"], _number(line, "epoch")) for line in lines]
    read, total = [], 0.0
    for line in steps:
        total += _number(line, f"{unit}s") or 0.0
        read.append((line["step"], total))

    def point(line: Mapping[str, Any], split: str) -> Point:
        loss = loss_in(_part(line, split))
        step = line["step"]
        return Point(
            step,
            _even(step, epochs),
            _even(step, read),
            _number(line, "seconds"),
            loss[0] if loss else None,
            _number(line, "learning_rate"),
            _number(line, "characters_per_second"),
            _number(line, "gradient_norm"),
        )

    training = [point(line, "train") for line in steps or lines]
    return training, [point(line, "validation") for line in lines if "validation" in line]


def _even(step: float, known: Sequence[tuple[float, float | None]]) -> float | None:
    """Return the value at a step of something that grows from 0 and is known at some steps.

    >>> _even(5, [(10, 1.0), (20, 3.0)]), _even(30, [(10, 1.0), (20, 3.0)]), _even(5, [])
    (0.5, 4.5, None)
    """
    pairs = [(0.0, 0.0), *((at, value) for at, value in known if value is not None)]
    if len(pairs) == 1:
        return None
    if step > pairs[-1][0]:
        return pairs[-1][1] * step / pairs[-1][0]
    return float(np.interp(step, [at for at, _ in pairs], [value for _, value in pairs]))


# Lines to draw ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line to draw: one run, or the mean over the runs of one configuration.

    `curve` is training, validation, rate, speed or norm. `low` and `high` are the range over the
    runs, `smoothed` the running mean, `best` the point of the best checkpoint.
    """

    name: str
    curve: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    smoothed: NDArray[np.float64] | None = None
    best: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """Lines that share their axes, and horizontal lines to beat."""

    lines: list[Line]
    x_label: str
    y_label: str
    baselines: dict[str, float]

    @property
    def names(self) -> list[str]:
        """The names of the runs, or of their groups, in the order in which they were given."""
        return list(dict.fromkeys(line.name for line in self.lines))


def seed_groups(runs: Iterable[Curves]) -> list[list[Curves]]:
    """Put runs together that differ in nothing but their seed and where their text lies."""
    groups: dict[tuple[str, ...], list[Curves]] = {}
    for curves in runs:
        groups.setdefault(curves.identity, []).append(curves)
    return list(groups.values())


def group_name(group: Sequence[Curves]) -> str:
    """Name a group of runs by what their names share: `lstm-1` and `lstm-2` are `lstm (2 runs)`."""
    names = [curves.run.path.resolve().name for curves in group]
    if len(names) == 1:
        return names[0]
    length = next(
        (i for i, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1),
        min(map(len, names)),
    )
    shared = names[0][:length].rstrip("-_. ") or names[0]
    return f"{shared} ({len(names)} runs)"


def chart_of(
    runs: Sequence[Curves],
    warn: Warn,
    x: str = "steps",
    y: str = "loss",
    bits: bool = False,
    smooth: int = 1,
    baselines: Mapping[str, float] = {},
) -> Chart:
    """Return the lines of some runs on shared axes; seeds of a configuration become one line.

    Args:
        runs: as `read_curves` returns them
        warn: called with what cannot be drawn
        x: a key of `X`
        y: a key of `Y`
        bits: show losses in bits instead of nats
        smooth: points in the running mean that is added to curves of steps; 1 for none
        baselines: losses to beat in nats, by name

    Raises ConfigError for runs whose numbers cannot be compared.
    """
    if y == "loss":
        _check_comparable(runs, warn)
    elif len(units := sorted({curves.unit for curves in runs})) > 1 and y == "speed":
        raise ConfigError(f"speeds in {' and '.join(units)}s per second do not share an axis")
    scale = 1 / math.log(2) if bits and y == "loss" else 1.0
    groups = seed_groups(runs)
    names = _unambiguous([group_name(group) for group in groups], groups)
    lines = []
    for name, group in zip(names, groups, strict=True):
        for curve in ("training", "validation") if y == "loss" else (y,):
            singles = [_line(curves, curve, x, y, scale) for curves in group]
            kept = [line for line in singles if len(line.x)]
            if kept:
                line = kept[0] if len(kept) == 1 else _band(kept, warn)
                name_shown = name if len(kept) > 1 or len(group) == 1 else kept[0].name
                smoothed = running_mean(line.y, smooth) if curve != "validation" else None
                lines.append(_named(line, name_shown, smoothed if smooth > 1 else None))
            elif curve != "validation" or any(curves.validation for curves in group):
                warn(f"{name}: {x} or {y} was not recorded for {curve}; skipped")
    if not lines:
        raise ConfigError("there is nothing to draw; choose another x or y")
    unit = runs[0].unit if len({curves.unit for curves in runs}) == 1 else "symbol"
    words = {"unit": unit, "nats": "bits" if bits else "nats"}
    losses = {name: nats * scale for name, nats in baselines.items()}
    return Chart(lines, X[x].format(**words), Y[y].format(**words), losses)


def _check_comparable(runs: Sequence[Curves], warn: Warn) -> None:
    """Refuse losses with several units or protocols; warn of several texts."""
    units = sorted({curves.unit for curves in runs})
    if len(units) > 1:
        raise ConfigError(
            f"losses per {' and per '.join(units)} do not share an axis; plot them one by one"
        )
    protocols = sorted({protocol for curves in runs for protocol in curves.protocols})
    if len(protocols) > 1:
        raise ConfigError(
            f"validation was scored by different protocols ({'; '.join(protocols)}), so the curves "
            f"do not share an axis; plot them one by one"
        )
    if len({curves.facts.get("text_sha256") for curves in runs}) > 1:
        warn("these runs read different texts, so their losses cannot be compared")


def _unambiguous(names: list[str], groups: Sequence[Sequence[Curves]]) -> list[str]:
    """Add the first run, or its folder, to names that several groups share."""
    return [
        name if names.count(name) == 1 else f"{name}: {group[0].run.path}"
        for name, group in zip(names, groups, strict=True)
    ]


def _line(curves: Curves, curve: str, x: str, y: str, scale: float) -> Line:
    """Return one curve of one run, of the points that have both values."""
    points = curves.validation if curve == "validation" else curves.training
    pairs = [
        (getattr(point, x), getattr(point, y) * scale, point.steps)
        for point in points
        if getattr(point, x) is not None and getattr(point, y) is not None
    ]
    has_validation = any(point.loss is not None for point in curves.validation)
    marked = y == "loss" and curve == ("validation" if has_validation else "training")
    best = next(((a, b) for a, b, step in pairs if marked and step == curves.best), None)
    xs, ys = (np.array([pair[i] for pair in pairs], float) for i in (0, 1))
    return Line(curves.run.path.resolve().name, curve, xs, ys, best=best)


def _named(line: Line, name: str, smoothed: NDArray[np.float64] | None) -> Line:
    return Line(name, line.curve, line.x, line.y, line.low, line.high, smoothed, line.best)


def _band(lines: Sequence[Line], warn: Warn) -> Line:
    """Return the mean and the range of lines, where all of them have values."""
    first, last = max(line.x[0] for line in lines), min(line.x[-1] for line in lines)
    longest = max(lines, key=lambda line: line.x[-1])
    if longest.x[-1] > last >= first and longest.curve != "training":
        warn(f"the band of {longest.curve} ends at {last:,.6g}, where the first of its runs ends")
    inside = [line.x[(line.x >= first) & (line.x <= last)] for line in lines]
    grid = max(inside, key=len)
    if not len(grid):
        warn(f"{', '.join(line.name for line in lines)} do not overlap; only the first is drawn")
        return lines[0]
    values = np.stack([np.interp(grid, line.x, line.y) for line in lines])
    mean = values.mean(0)
    bests = [line.best[0] for line in lines if line.best is not None]
    at = float(np.mean(bests)) if bests else None
    best = (at, float(np.interp(at, grid, mean))) if at is not None else None
    return Line(lines[0].name, lines[0].curve, grid, mean, values.min(0), values.max(0), None, best)


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the mean of the `width` values around each; at the ends, of those that exist.

    >>> running_mean(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist()
    [1.5, 3.0, 3.0, 3.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - (width - 1) // 2, 0), np.minimum(at + width // 2 + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def baseline_of(run: Run, warn: Warn) -> tuple[str, float]:
    """Score n-grams of a run's training split on its validation split; return a name and nats.

    Raises ConfigError for a run that is no language model of running text, DataError if the text is
    missing.
    """
    from charrnn.evaluation.choose_reading import training_ngrams
    from charrnn.evaluation.score import score_unbroken
    from charrnn.registry import traits_of
    from charrnn.tasks.data import data_of_checkpoint

    checkpoint = run.latest(warn)
    config = config_from_data(checkpoint.metadata["config"], str(checkpoint.path))
    if "running text" not in traits_of(config.task):
        raise ConfigError(f"{run.path}: n-grams are a baseline of language models alone")
    _, corpus = data_of_checkpoint(config, checkpoint, {}, warn)
    ngrams = training_ngrams(corpus, ORDER)
    name = {"kneser-ney": "Kneser-Ney"}.get(ngrams.smoothing, ngrams.smoothing)
    score = score_unbroken(ngrams, corpus, "validation")
    return f"{name}, order {ngrams.order}, {score.protocol}", score.nats


# Comparing --------------------------------------------------------------------------------------


def comparison(runs: Sequence[Curves], target: float | None, warn: Warn) -> list[dict[str, Any]]:
    """Compare runs: one record for each group of seeds, with lists of one value for each run.

    `settings` has every setting in which the groups differ, with the values of the group (a list
    if its runs differ), and also the text and the processor. `seconds_to` is the time of training
    until the quick validation loss is first at most `target` nats; None if it never was.
    """
    groups = [part for group in seed_groups(runs) for part in _by_protocol(group)]
    names = _unambiguous([group_name(group) for group in groups], groups)
    keys = dict.fromkeys(key for one in runs for key in one.settings)
    values = [
        {key: _values(group, key) for key in [*keys, "text", "processor"]} for group in groups
    ]
    differing = [key for key in values[0] if len({repr(one[key]) for one in values}) > 1]
    protocols = sorted({_score(group[0])[1] or "no score" for group in groups})
    if len(protocols) > 1:
        warn(f"these scores have different protocols ({'; '.join(protocols)}); do not compare them")
    if len({one.unit for one in runs}) > 1 or "text" in differing:
        warn("these runs have different units or texts; their scores cannot be compared")
    return [
        {
            "name": name,
            "runs": [str(one.run.path) for one in group],
            "unit": group[0].unit,
            "protocol": _score(group[0])[1],
            "settings": {key: _alone(known[key]) for key in differing},
            "nats": [_score(one)[0] for one in group],
            "parameters": [one.facts.get("parameters") for one in group],
            "characters_per_second": [one.facts.get("characters_per_second") for one in group],
            "seconds_to": [_seconds_to(one, target) for one in group],
        }
        for name, group, known in zip(names, groups, values, strict=True)
    ]


def _by_protocol(group: Sequence[Curves]) -> list[list[Curves]]:
    """Divide a group, so that scores of different protocols are never averaged."""
    parts: dict[str | None, list[Curves]] = {}
    for one in group:
        parts.setdefault(_score(one)[1], []).append(one)
    return list(parts.values())


def _score(curves: Curves) -> tuple[float | None, str | None]:
    """Return the score of the best checkpoint in nats, and its protocol."""
    best = recorded_best(curves.run, curves.facts)
    score = best.get("score") or best
    loss = loss_in(score)
    return (loss[0], score.get("protocol")) if loss else (None, None)


def _values(group: Sequence[Curves], key: str) -> list[Any]:
    """Return the different values of a setting in a group, in order."""
    known: list[Any]
    if key == "text":
        known = [f"{one.facts.get('text')} {one.facts.get('text_sha256', '')[:8]}" for one in group]
    elif key == "processor":
        known = [one.facts.get(key) for one in group]
    else:
        known = [one.settings.get(key) for one in group]
    return sorted({repr(value): value for value in known}.values(), key=repr)


def _alone(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _seconds_to(curves: Curves, target: float | None) -> float | None:
    """Return the seconds of training when the validation loss was first at most `target`."""
    for point in curves.validation:
        if target is not None and point.loss is not None and point.loss <= target:
            return point.seconds
    return None
