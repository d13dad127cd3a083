"""Compare our speed with other libraries: `python benchmarks/speed.py [--rounds 5]`.

Every figure is the median over several rounds; in a round, each contestant runs once in a fresh
process. All use two layers, 65 symbols and an embedding of 64. A training step is one step of Adam
on lanes x window characters. A sampling step includes the softmax and the random draw. Ratios are
to a loop around `torch.nn` as tutorials write it. Run this on an idle machine: another process that
uses a core makes torch's threads several times slower.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SYMBOLS, EMBEDDING, LAYERS, WINDOW = 65, 64, 2, 64


def repeat(step: Callable[[], object], seconds: float) -> float:
    """Return calls per second, from the median time of a call; three calls warm up before."""
    for _ in range(3):
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1 / statistics.median(times)


# Training: one optimizer step on random ids, the state carried on. Characters a second. ----------


def train_nn(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Train by a loop around `nn.LSTM`, `nn.GRU` or `nn.RNN`, as tutorials write it."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = {"lstm": nn.LSTM, "gru": nn.GRU, "vanilla": nn.RNN}[cell]
            self.embedding = nn.Embedding(SYMBOLS, EMBEDDING)
            self.rnn = kind(EMBEDDING, width, LAYERS, batch_first=True)
            self.head = nn.Linear(width, SYMBOLS)

        def forward(self, ids: Any, state: Any) -> Any:
            outputs, state = self.rnn(self.embedding(ids), state)
            return self.head(outputs), state

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    text = torch.randint(0, SYMBOLS, (lanes, WINDOW * 20 + 1))
    state, at = None, 0

    def step() -> None:
        nonlocal state, at
        inputs, targets = text[:, at : at + WINDOW], text[:, at + 1 : at + WINDOW + 1]
        at = (at + WINDOW) % (WINDOW * 20)
        logits, after = model(inputs, state)
        state = tuple(s.detach() for s in after) if cell == "lstm" else after.detach()
        loss = criterion(logits.reshape(-1, SYMBOLS), targets.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return repeat(step, seconds) * lanes * WINDOW


@contextmanager
def our_session(cell: str, width: int, lanes: int, steps: int, **more: object) -> Iterator[Any]:
    """Start a session of charrnn on random text, with a model of the same shape; no evaluations."""
    import random
    import tempfile

    from charrnn.session.start import begin

    folder = Path(tempfile.mkdtemp(prefix="charrnn-benchmark-"))
    os.environ["CHARRNN_CACHE_DIR"] = str(folder / "cache")
    symbols = [chr(33 + i) for i in range(SYMBOLS)]
    text = "".join(symbols) + "".join(random.Random(1).choices(symbols, k=400_000))  # noqa: S311
    (folder / "text").write_text(text)
    values: dict[str, Any] = {
        "model.cell": cell,
        "model.hidden_size": [width] * LAYERS,
        "model.embedding_size": EMBEDDING,
        "model.skip_connections": False,
        "model.dropout": 0.0,
        "model.input_dropout": 0.0,
        "model.output_dropout": 0.0,
        "training.optimizer": "adam",
        "training.learning_rate": 1e-3,
        "training.steps": steps,
        "training.batch_size": lanes,
        "training.window": WINDOW,
        "evaluation.every": 10**9,
        "checkpoints.every": 10**9,
        "device": "cpu",
    }
    with begin(folder / "text", out=folder / "run", settings=values | more) as session:
        session.score_at_end = False
        yield session


def train_ours(cell: str, width: int, lanes: int, seconds: float, **more: object) -> float:
    """Train by steps of our trainer, with gradient clipping."""
    with our_session(cell, width, lanes, 10**6, **more) as session:
        steps = session.trainer.run(10**9)
        return repeat(lambda: next(steps), seconds) * lanes * WINDOW


def train_plain(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Train with the plain equations: one call of the cell for each character."""
    from charrnn.nn.layers import Recurrent

    with our_session(cell, width, lanes, 10**6) as session:
        for layer in session.model.modules():
            if isinstance(layer, Recurrent):
                layer.fused = False
        steps = session.trainer.run(10**9)
        return repeat(lambda: next(steps), seconds) * lanes * WINDOW


def train_whole(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Train a whole run as `charrnn train` does, without evaluations, and take the wall time."""
    from charrnn.session.events import Stepped

    at: list[float] = []  # when each step was done
    with our_session(cell, width, lanes, 10**6) as session:
        for event in session.events(lambda: len(at) > 3 and at[-1] > at[2] + seconds):
            if isinstance(event, Stepped):
                at.append(time.perf_counter())
    return (len(at) - 3) * lanes * WINDOW / (at[-1] - at[2])


def train_jax(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Train in JAX: Flax's `nn.RNN` over `OptimizedLSTMCell` or the like, optax's Adam, one jit."""
    import flax.linen as fnn
    import jax
    import optax
    from jax import numpy as jnp

    kind = {"lstm": fnn.OptimizedLSTMCell, "gru": fnn.GRUCell, "vanilla": fnn.SimpleCell}[cell]

    class Model(fnn.Module):
        @fnn.compact
        def __call__(self, ids: Any, carries: Any) -> Any:
            outputs, after = fnn.Embed(SYMBOLS, EMBEDDING)(ids), []
            for carry in carries:
                last, outputs = fnn.RNN(kind(width), return_carry=True)(
                    outputs, initial_carry=carry
                )
                after.append(last)
            return fnn.Dense(SYMBOLS)(outputs), after

    random = jax.random.key(0)
    model = Model()
    zero = jnp.zeros((lanes, width))
    state = [(zero, zero) if cell == "lstm" else zero] * LAYERS
    text = jax.random.randint(random, (lanes, WINDOW * 20 + 1), 0, SYMBOLS)
    weights = model.init(random, text[:, :WINDOW], state)
    optimizer = optax.adam(1e-3)
    moments, at = optimizer.init(weights), 0

    @jax.jit
    def update(weights: Any, moments: Any, state: Any, inputs: Any, targets: Any) -> Any:
        def loss(weights: Any) -> Any:
            logits, after = model.apply(weights, inputs, state)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), after

        (_, after), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
        changes, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(weights, changes), moments, after

    def step() -> None:
        nonlocal weights, moments, state, at
        inputs, targets = text[:, at : at + WINDOW], text[:, at + 1 : at + WINDOW + 1]
        at = (at + WINDOW) % (WINDOW * 20)
        weights, moments, state = update(weights, moments, state, inputs, targets)
        jax.block_until_ready(weights)

    return repeat(step, seconds) * lanes * WINDOW


def train_keras(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Train in Keras on JAX: `train_on_batch` of a compiled model, each batch from a zero state."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    import numpy as np

    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "vanilla": keras.layers.SimpleRNN}
    model = keras.Sequential(
        [keras.layers.Input((WINDOW,)), keras.layers.Embedding(SYMBOLS, EMBEDDING)]
        + [kind[cell](width, return_sequences=True) for _ in range(LAYERS)]
        + [keras.layers.Dense(SYMBOLS)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    text = np.random.default_rng(1).integers(0, SYMBOLS, (lanes, WINDOW + 1))

    def step() -> None:
        model.train_on_batch(text[:, :-1], text[:, 1:])

    return repeat(step, seconds) * lanes * WINDOW


# Sampling: one character a lane, softmax and draw included. Characters a second. ------------------


def sample_nn(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Sample by stepping `nn.LSTM` in a loop, as tutorials write it."""
    import torch
    from torch import nn

    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "vanilla": nn.RNN}[cell]
    embedding, head = nn.Embedding(SYMBOLS, EMBEDDING), nn.Linear(width, SYMBOLS)
    rnn = kind(EMBEDDING, width, LAYERS, batch_first=True)
    token, state = torch.zeros(lanes, 1, dtype=torch.long), None

    def step() -> None:
        nonlocal token, state
        with torch.no_grad():
            outputs, state = rnn(embedding(token), state)
            probabilities = torch.softmax(head(outputs[:, -1]), dim=-1)
            token = torch.multinomial(probabilities, 1)

    return repeat(lambda: [step() for _ in range(20)], seconds) * 20 * lanes


def sample_ours(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Sample by our sampler on the numpy stepper."""
    import numpy as np

    from charrnn.inference.numpy_stepper import NumpyModel
    from charrnn.inference.sampler import Choice, Cursor, Draws, sample
    from charrnn.nn.fast.memory import keep_freed_memory

    keep_freed_memory()
    random = np.random.default_rng(1)
    gates = {"lstm": 4, "gru": 3, "vanilla": 1}[cell]

    def draw(*shape: int) -> Any:
        return random.normal(0, width**-0.5, shape).astype(np.float32)

    weights = {"embedding.weight": draw(SYMBOLS, EMBEDDING)}
    for i, inputs in enumerate([EMBEDDING, width]):
        prefix = f"stack.layers.{i}.cell"
        weights[f"{prefix}.weight_ih"] = draw(gates * width, inputs)
        weights[f"{prefix}.weight_hh"] = draw(gates * width, width)
        weights[f"{prefix}.bias_ih"] = draw(gates * width)
        weights[f"{prefix}.bias_hh"] = draw(gates * width)
    weights |= {"head.weight": draw(SYMBOLS, width), "head.bias": draw(SYMBOLS)}
    model = NumpyModel(weights, cell, "tanh", skip_connections=False)
    cursor = Cursor(np.zeros(lanes, np.int64), model.initial_state(lanes))
    ids = sample(model, cursor, Choice(), Draws(1, range(lanes)))
    return repeat(lambda: [next(ids) for _ in range(20)], seconds) * 20 * lanes


def sample_jax(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Sample by Flax's cells in a `lax.scan` over 200 characters, compiled into one program."""
    import flax.linen as fnn
    import jax
    from jax import numpy as jnp

    kind = {"lstm": fnn.OptimizedLSTMCell, "gru": fnn.GRUCell, "vanilla": fnn.SimpleCell}[cell]
    length = 200

    class Model(fnn.Module):
        @fnn.compact
        def __call__(self, ids: Any, carries: Any) -> Any:
            outputs, after = fnn.Embed(SYMBOLS, EMBEDDING)(ids), []
            for before in carries:
                carry, outputs = kind(width)(before, outputs)
                after.append(carry)
            return fnn.Dense(SYMBOLS)(outputs), after

    model, zero = Model(), jnp.zeros((lanes, width))
    state = [(zero, zero) if cell == "lstm" else zero] * LAYERS
    ids, random = jnp.zeros(lanes, jnp.int32), jax.random.key(0)
    weights = model.init(random, ids, state)

    @jax.jit
    def text(ids: Any, state: Any, random: Any) -> Any:
        def one(carry: Any, key: Any) -> Any:
            logits, after = model.apply(weights, *carry)
            drawn = jax.random.categorical(key, logits)
            return (drawn, after), drawn

        return jax.lax.scan(one, (ids, state), jax.random.split(random, length))

    return repeat(lambda: jax.block_until_ready(text(ids, state, random)), seconds) * length * lanes


def peak(cell: str, width: int, lanes: int, seconds: float) -> float:
    """Measure floating-point operations per second in a large float32 matrix product."""
    import torch

    a = torch.ones(2048, 2048)
    return repeat(lambda: a @ a, seconds) * 2 * 2048**3


TRAINING = {
    "torch.nn": train_nn,
    "charrnn": train_ours,
    "charrnn train": train_whole,
    "plain equations": train_plain,
}
SAMPLING = {"torch.nn": sample_nn, "charrnn": sample_ours}
if find_spec("jax") and find_spec("flax") and find_spec("optax"):
    TRAINING["JAX and Flax"] = train_jax
    SAMPLING["JAX and Flax"] = sample_jax
    if find_spec("keras"):
        TRAINING["Keras"] = train_keras
WORKERS = {
    "peak": {"torch": peak},
    "train": TRAINING,
    "sample": SAMPLING,
}


def fresh(task: str, who: str, cell: str, width: int, lanes: int, seconds: float) -> float:
    """Measure one program in a fresh process."""
    result = subprocess.run(
        [
            sys.executable,
            __file__,
            "--worker",
            json.dumps([task, who, cell, width, lanes, seconds]),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.exit(result.stderr)
    return float(result.stdout.splitlines()[-1])


def operations(cell: str, width: int) -> int:
    """Count the multiplications and additions for one character, forward and backward."""
    gates = {"lstm": 4, "gru": 3, "vanilla": 1}[cell]
    inputs = [EMBEDDING] + [width] * (LAYERS - 1)
    weights = sum(gates * width * (i + width) for i in inputs) + SYMBOLS * width
    return 6 * weights


def first_character(rounds: int) -> dict[str, float]:
    """Measure the seconds from the start of the process to the end of `charrnn sample -n 1`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        text = Path(folder) / "text"
        text.write_text("To be, or not to be, that is the question.\n" * 200)
        command = [sys.executable, "-m", "charrnn"]
        environment = os.environ | {"CHARRNN_CACHE_DIR": str(Path(folder) / "cache")}
        train = ["train", str(text), "--out", str(run), "--steps", "2", "--hidden-size", "256"]
        subprocess.run([*command, *train], check=True, capture_output=True, env=environment)
        calls = {
            "charrnn sample -n 1": [*command, "sample", str(run), "-n", "1"],
            "charrnn --help": [*command, "--help"],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(max(rounds, 3)):
            for name, call in calls.items():
                start = time.perf_counter()
                subprocess.run(call, check=True, capture_output=True, env=environment)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each process measures")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru", "vanilla"])
    parser.add_argument("--tasks", nargs="+", default=["train", "sample", "start"])
    parser.add_argument("--contestants", nargs="+", help="only these, in addition to torch.nn")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        task, who, *shape = json.loads(arguments.worker)
        print(WORKERS[task][who](*shape))
        return
    versions = []
    for package in ("torch", "numpy", "jax", "flax", "keras"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    print(
        f"{datetime.date.today()}, {processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )
    print(f"python {' '.join(sys.argv)}\n")
    top = statistics.median(fresh("peak", "torch", "", 0, 0, 1.0) for _ in range(3))
    print(f"float32 matrix product: {top / 1e9:,.0f} GFLOP/s\n")
    print("| task | cell | width | lanes | contestant | characters/s | ratio | of the peak |")
    print("|---|---|---|---|---|---|---|---|")
    for task, lanes in (("train", 64), ("sample", 1), ("sample", 64)):
        if task not in arguments.tasks:
            continue
        for cell in arguments.cells:
            for width in arguments.widths:
                chosen = ["torch.nn", *(arguments.contestants or WORKERS[task])]
                figures: dict[str, list[float]] = {
                    who: [] for who in WORKERS[task] if who in chosen
                }
                for _ in range(arguments.rounds):
                    for who, values in figures.items():
                        values.append(fresh(task, who, cell, width, lanes, arguments.seconds))
                medians = {who: statistics.median(values) for who, values in figures.items()}
                for who, speed in medians.items():
                    share = speed * operations(cell, width) / (1 if task == "train" else 3) / top
                    print(
                        f"| {task} | {cell} | {width} | {lanes} | {who} | {speed:,.0f} | "
                        f"{speed / medians['torch.nn']:.2f} | {share:.0%} |",
                        flush=True,
                    )
    if "start" in arguments.tasks:
        print()
        for name, seconds in first_character(arguments.rounds).items():
            print(f"{name}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
