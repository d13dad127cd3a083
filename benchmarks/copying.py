"""Pairs to copy or to reverse: `python benchmarks/copying.py copy|reverse --count N --seed S`.

Each line is a random string of 5 to 30 letters, a tab, and the same string or the string backwards.
For `charrnn train --task translation`; configs/copying.yaml has the commands.
"""

from __future__ import annotations

import argparse
import random
import string
import sys


def main() -> None:
    """Print the pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["copy", "reverse"])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    draw = random.Random(given.seed)  # noqa: S311
    for _ in range(given.count):
        text = "".join(draw.choices(string.ascii_lowercase, k=draw.randint(5, 30)))
        sys.stdout.write(f"{text}\t{text if given.what == 'copy' else text[::-1]}\n")


if __name__ == "__main__":
    main()
