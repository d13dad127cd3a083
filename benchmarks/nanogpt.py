"""Run nanoGPT's recipe for a laptop CPU, and time it: `python benchmarks/nanogpt.py CHECKOUT TEXT`.

CHECKOUT is a clone of github.com/karpathy/nanoGPT. The recipe is the one its README gives for
"only a macbook": 4 layers, width 128, 2,000 steps of 12 x 64 characters. The loss printed is
nanoGPT's own estimate on the last 10% of the text: 20 random batches of 12 windows of 64
characters. Each window starts without context, which an unbroken score does not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

RECIPE = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 "
    "--log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 "
    "--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)


def main() -> None:
    checkout, text = Path(sys.argv[1]), Path(sys.argv[2])
    data = checkout / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, stdout=sys.stderr)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "train.py", *RECIPE.split()],
        cwd=checkout,
        check=True,
        stdout=subprocess.PIPE,
    )
    seconds = time.monotonic() - began
    losses = re.findall(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)", done.stdout.decode())
    step, loss = min(losses, key=lambda pair: float(pair[1]))
    print(f"{seconds:.0f} s; best estimate {loss} nats per character, at step {step}")


if __name__ == "__main__":
    main()
