"""Measure the parts of a training step: `python benchmarks/parts.py [--cell lstm] [--width 256]`.

Prints the median time of each part on the CPU and its share of the whole step. It measures one of
the processes that a run would use: with its share of the lanes, in the precision that a run would
choose, and on one thread if there are several processes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from speed import WINDOW, our_session
from torch import nn
from torch.nn import functional


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    with our_session(arguments.cell, arguments.width, arguments.lanes, 10**6) as session:
        measure(session, arguments.lanes, arguments.steps)


def measure(session: Any, all_lanes: int, steps: int) -> None:
    """Take `steps` steps part by part, and print the median of each part."""
    processes, precision = int(session.config.processes), str(session.config.precision)
    lanes = all_lanes // processes
    torch.set_num_threads(1 if processes > 1 else torch.get_num_threads())
    model, optimizer = session.model.train(), session.trainer.optimizer
    batches = session.objective.share(0, processes).batches(0)
    state = model.initial_state(lanes)
    parts: dict[str, list[float]] = {}
    clock = time.perf_counter()

    def done(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        parts.setdefault(name, []).append(now - clock)
        clock = time.perf_counter()

    for _ in range(steps):
        clock = time.perf_counter()
        batch = next(batches)
        done("cut a batch")
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            vectors = model.embedding(batch.inputs)
            done("embedding")
            outputs, after = model.stack(vectors, state)
            done("layers, forward")
            logits = model.head(outputs)
            loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
            done("head and loss, forward")
        optimizer.zero_grad()
        loss.backward()
        done("backward, all")
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        done("clipping")
        optimizer.step()
        done("optimizer")
        state = torch.utils._pytree.tree_map(lambda leaf: leaf.detach(), after)
    width = session.config.model.widths[0]
    medians = {name: statistics.median(values[5:]) for name, values in parts.items()}
    whole = sum(medians.values())
    print(
        f"{session.config.model.cell}, 2 x {width}, {precision}, {all_lanes} lanes in {processes} "
        f"processes x {WINDOW} characters"
    )
    for name, seconds in medians.items():
        print(f"{name:<24} {seconds * 1e3:8.2f} ms {seconds / whole:6.1%}")
    speed = lanes * WINDOW / whole
    print(f"{'whole':<24} {whole * 1e3:8.2f} ms  {speed:,.0f} characters/s a process")


if __name__ == "__main__":
    main()
