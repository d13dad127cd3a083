"""Draw README's picture: a training session, its curve, and a sample.

    python scripts/picture.py TEXT [--max-time 60s] [--out docs/session.svg]

It trains on TEXT by the command line, computes the Kneser-Ney score to beat, and samples. Then it
draws what the commands printed next to the losses of `metrics.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

INK, PAPER, TRAIN, VALIDATION = "#1f2328", "#ffffff", "#0b6e99", "#d9480f"
COLUMNS = 74


def charrnn(*words: str) -> tuple[str, str]:
    """Run one command and return its standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "charrnn", *words], capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def session(text: Path, run: Path, max_time: str) -> list[str]:
    """Train and sample, and return the lines that a terminal would show, shortened."""
    _, progress = charrnn("train", str(text), "--max-time", max_time, "--out", str(run))
    lines = [line for line in progress.splitlines() if not line.startswith("    ")]
    steps = [line for line in lines if line.startswith("step ")]
    shown = [line for line in lines if line not in steps]
    first_step = next(i for i, line in enumerate(lines) if line in steps)
    begin = [line for line in lines[:first_step] if not line.startswith("reading")]
    end = [line for line in shown if line.startswith(("trained", "best"))]
    sample, _ = charrnn("sample", str(run), "--prompt", "ROMEO:", "-n", "230", "--seed", "4",
                        "--temperature", "0.7")  # fmt: skip
    return [
        f"$ charrnn train {text.name} --max-time {max_time}",
        *begin,
        steps[0],
        "...",
        steps[-1],
        *end,
        "",
        "$ charrnn sample shakespeare-1 --prompt ROMEO: --temperature 0.7",
        *sample.splitlines(),
    ]


def draw(lines: list[str], run: Path, baseline: float, out: Path) -> None:
    """Draw the terminal on the left and the curve on the right."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [line for line in metrics if "train" in line]
    steps = [line["step"] for line in curve]
    figure = Figure(figsize=(13, 4.6), facecolor=PAPER)
    left, right = figure.subplots(1, 2, width_ratios=(1.75, 1))
    left.axis("off")
    cut = [line if len(line) <= COLUMNS else line[: COLUMNS - 2] + " …" for line in lines]
    left.text(0, 1, "\n".join(cut), va="top", family="monospace", size=9, color=INK,
              transform=left.transAxes, linespacing=1.35, parse_math=False)  # fmt: skip
    for name, color, style in (("train", TRAIN, "--"), ("validation", VALIDATION, "-")):
        values = [line[name]["nats_per_character"] for line in curve]
        right.plot(steps, values, style, color=color, marker="o", markersize=3)
        right.annotate(f" {name} {values[-1]:.2f}", (steps[-1], values[-1]), color=color, size=9,
                       va="bottom" if name == "validation" else "top")  # fmt: skip
    right.axhline(baseline, color=INK, linewidth=0.8, linestyle=":")
    right.text(steps[0], baseline, f"Kneser-Ney {baseline:.2f}", va="bottom", size=9, color=INK)
    right.set_xlabel("step")
    right.set_ylabel("nats per character")
    right.set_xlim(right=steps[-1] * 1.35)
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--max-time", default="60s")
    parser.add_argument("--out", type=Path, default=Path("docs/session.svg"))
    options = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "charrnn"  # The same picture twice has the same bytes.
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "shakespeare-1"
        lines = session(options.text, run, options.max_time)
        lines = [
            line.replace(str(run), "runs/shakespeare-1").replace(f"{options.text.parent}/", "")
            for line in lines
        ]
        counted, _ = charrnn("baseline", str(options.text), "--json")
        draw(lines, run, json.loads(counted)["nats_per_character"], options.out)


if __name__ == "__main__":
    main()
