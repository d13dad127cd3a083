"""What a user did not choose, chosen from the text and the machine.

`plan` replaces every `auto` of a configuration except those that need a measured speed;
`steps_in_time` turns a wall-clock budget into a number of steps once the speed is known.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from charrnn.config.schema import Config, with_values
from charrnn.errors import ConfigError
from charrnn.nn.fast.memory import keep_freed_memory
from charrnn.training import lane_processes

DEFAULT_TIME = 600.0
FEWEST_LANES = 8  # worth a process of their own
EVALUATIONS = 12  # in a run whose `evaluation.every` is auto, if they fit
EVALUATING = 0.2  # of a wall-clock budget: how much of it they may take
AIM = 0.97  # of a wall-clock budget: machines slow down more often than they speed up
LONG_SCORE = 0.15  # of a wall-clock budget: an unbroken score that takes longer is left to `eval`


def choose_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is any, else the CPU; MPS has to be asked for.

    Raises ConfigError for a device that this machine or this torch does not have.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted):
        raise ConfigError(f"unknown device {wanted!r}; use auto, cpu, cuda, cuda:N or mps")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {wanted!r} is not available: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here; use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device {wanted!r} is not available here; use --device cpu")
    return device


def choose_precision(wanted: str, device: torch.device, cell: str, work: int = 0) -> str:
    """`auto` is bfloat16 on a GPU that has it, and on a CPU that computes with it for the standard
    cells where `work`, lanes a process times width, is at least 1,024: from there on it was faster,
    and the score is the same (docs/experiments/bfloat16-or-float32.md). A function of the machine
    and the plan, not of a measurement: the same command trains the same way twice.

    Raises ConfigError for bfloat16 where there is none.
    """
    if device.type == "cuda":
        supported = native = torch.cuda.is_bf16_supported()
    else:
        supported = device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # Elsewhere oneDNN makes do with float32 instructions, which is slower than float32.
        native = supported and torch.cpu._is_avx512_bf16_supported()
    if wanted == "bfloat16" and not supported:
        raise ConfigError(f"precision bfloat16 is not available on {device}; use float32, or auto")
    if wanted != "auto":
        return wanted
    pays = device.type == "cuda" or (cell in {"vanilla", "lstm", "gru"} and work >= 1024)
    return "bfloat16" if native and pays else "float32"


def choose_processes(wanted: int | str, device: torch.device, lanes: int, threads: int) -> int:
    """`auto` is one process a CPU thread, each with enough lanes to be worth it.

    Raises ConfigError where lanes cannot be shared among so many processes.
    """
    possible = device.type == "cpu" and lane_processes.available()
    if wanted == "auto":
        return max(1, min(threads, lanes // FEWEST_LANES)) if possible else 1
    if int(wanted) > 1 and not possible:
        raise ConfigError(f"processes: {wanted} needs a CPU under Linux; use 1, or auto")
    if int(wanted) > lanes:
        raise ConfigError(f"{lanes} lanes cannot be shared among {wanted} processes; use auto")
    return int(wanted)


def measure_speed(device: torch.device) -> float:
    """Floating-point operations a second in a matrix product of a recurrent step's shape."""
    size = 4096 if device.type != "cpu" else 512
    a, b = torch.ones(size, size, device=device), torch.ones(size, size, device=device)
    times = []
    for _ in range(60):  # A processor takes a while to get up to speed.
        start = time.perf_counter()
        float((a @ b)[0, 0])
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def plan(config: Config, characters: int, vocabulary_size: int, device: torch.device) -> Config:
    """The configuration with its `auto` values decided, except `evaluation.every`,
    `checkpoints.every` and a step count that depends on a wall-clock budget.

    `characters` is the length of the training split. The rules are smooth in the size of the
    text and in the time there is; the runs that they come from are in docs/experiments.
    """
    model, training = config.model, config.training
    values: dict[str, Any] = {
        "device": str(device),
    }
    threads = torch.get_num_threads() if config.threads == "auto" else config.threads
    values["threads"] = threads

    chosen = [
        b for b in (training.steps, training.epochs, training.max_time) if b not in (None, "auto")
    ]
    max_time, epochs = training.max_time, training.epochs
    if max_time == "auto":
        max_time = None if chosen else DEFAULT_TIME
    on_cpu = device.type == "cpu"

    if isinstance(training.window, int):
        window = training.window
    else:
        window = max(8, min(64 if on_cpu else 128, characters // 8))
    if isinstance(training.batch_size, int):
        batch_size = training.batch_size
    else:
        # As many lanes as leave each at least eight windows long, up to what the device fills.
        most = 32 if on_cpu else 64
        batch_size = 2 ** int(math.log2(max(1, min(most, characters / (8 * window)))))

    steps_per_epoch = math.ceil(max(1, (characters - 1) // batch_size) / window)
    if epochs == "auto":
        epochs = None if chosen else float(max(50, math.ceil(2000 / steps_per_epoch)))

    hidden = model.hidden_size
    if hidden == "auto":
        by_text = 0.4 * math.sqrt(characters)
        by_time = 192 * ((max_time or DEFAULT_TIME) / 120) ** 0.2 * (1 if on_cpu else 2)
        hidden = 32 * round(max(64, min(by_text, by_time, 1024)) / 32)
    widths = hidden if isinstance(hidden, list) else [hidden] * model.layers
    output_width = sum(widths) if model.skip_connections else widths[-1]
    values["processes"] = choose_processes(config.processes, device, batch_size, threads)
    work = batch_size // values["processes"] * max(widths)
    values["precision"] = choose_precision(config.precision, device, model.cell, work)
    embedding = model.embedding_size
    if embedding == "auto":
        embedding = output_width if model.tie_embeddings else max(16, min(64, vocabulary_size))

    scale = model.embedding_scale
    if scale == "auto":
        scale = 0.1 if config.data.vocabulary == "word" else 1.0

    # How often the text will be read decides how much there is to protect it from: 6 operations
    # a weight and character, at about the speed of the product that was measured.
    weights = output_width * vocabulary_size
    for inputs, width in itertools.pairwise([64, *widths]):
        shapes = model.cell_shapes(inputs, width).values()
        weights += sum(math.prod(shape) for shape in shapes if len(shape) > 1)
    passes = min(
        max_time * measure_speed(device) / (6 * weights) / characters if max_time else math.inf,
        epochs if isinstance(epochs, float) else math.inf,
        training.steps / steps_per_epoch if training.steps else math.inf,
    )
    dropout = min(0.5, max(0.0, 0.1 * math.log2(passes / 4)))
    dropout = round(dropout * 20) / 20

    rate = training.learning_rate
    if isinstance(rate, str):
        rate = {"adam": 4e-3, "adamw": 4e-3, "rmsprop": 1e-3, "sgd": 1.0}[training.optimizer]
        rate *= min(2.0, 256 / max(widths)) / (4 if model.cell == "vanilla" else 1)
    decay = training.weight_decay
    if decay == "auto":
        decay = 0.1 if training.optimizer == "adamw" else 0.0
    values |= {
        "training.max_time": max_time,
        "training.epochs": epochs,
        "training.window": window,
        "training.batch_size": batch_size,
        "training.learning_rate": rate,
        "training.weight_decay": decay,
        "model.hidden_size": hidden,
        "model.embedding_size": embedding,
        "model.embedding_scale": scale,
        "model.words": "lookup" if model.words == "auto" else model.words,
    }
    for name, amount in (("dropout", dropout), ("input_dropout", 0.0), ("output_dropout", dropout)):
        if getattr(model, name) == "auto":
            values[f"model.{name}"] = amount
    return with_values(config, values)


def steps_bound(config: Config, batches_per_epoch: int) -> int | None:
    """The step count that `steps` and `epochs` allow, None where neither is set."""
    training = config.training
    bounds = [training.steps] if training.steps else []
    if isinstance(training.epochs, float):
        bounds.append(max(1, round(training.epochs * batches_per_epoch)))
    return min(bounds) if bounds else None


def learning_rate_schedule(config: Config, total_steps: int | None) -> Callable[[int], float]:
    """The learning rate of step s (from 0): a linear warm-up, then the chosen fall to zero.

    `total_steps` None, while a wall-clock budget is still being measured, gives the warm-up and
    then a constant rate.
    """
    training = config.training
    highest, warmup = training.learning_rate, training.warmup_steps
    assert not isinstance(highest, str)

    def rate(step: int) -> float:
        if step < warmup:
            return highest * (step + 1) / warmup
        if total_steps is None or training.schedule in ("constant", "plateau"):
            return highest
        fraction = min(1.0, (step - warmup + 1) / max(1, total_steps - warmup + 1))
        if training.schedule == "linear":
            return highest * (1 - fraction)
        return highest * 0.5 * (1 + math.cos(math.pi * fraction))

    return rate


@dataclass
class Costs:
    """Seconds that parts of a run take, measured while it warms up."""

    step: float
    evaluation: float  # with its sample and its checkpoint
    final_score: float


def steps_in_time(
    taken: int, seconds_left: float, costs: Costs, every: int | None
) -> tuple[int, bool, int]:
    """How many steps in all fit, whether the final unbroken score fits too, and how many
    evaluations there are then.

    `taken` steps are done, `seconds_left` of the budget remain, `every` is a chosen evaluation
    interval.
    """
    scored = costs.final_score <= LONG_SCORE * seconds_left
    available = seconds_left - (costs.final_score if scored else 0)
    if every is None:
        fitting = EVALUATING * available / max(costs.evaluation, 1e-9)
        evaluations = max(1, min(EVALUATIONS, int(fitting)))
        more = int((available - evaluations * costs.evaluation) / costs.step)
    else:
        more = int(available / (costs.step + costs.evaluation / every))
        evaluations = max(1, more // every)
    return taken + max(0, more), scored, evaluations


def evaluation_interval(config: Config, total_steps: int, evaluations: int = EVALUATIONS) -> int:
    """Steps between so many evaluations, unless a number of steps was chosen."""
    every = config.evaluation.every
    return every if every != "auto" else max(1, math.ceil(total_steps / evaluations))


def prepare_process(threads: int | str) -> None:
    """Use so many CPU threads, and keep freed memory for the next step."""
    if isinstance(threads, int):
        torch.set_num_threads(min(threads, 4 * (os.cpu_count() or 1)))
    keep_freed_memory()
