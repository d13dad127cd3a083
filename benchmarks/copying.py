"""Write pairs of strings: `python benchmarks/copying.py copy|reverse --count N --seed S`.

Each line is a random string of 5 to 30 letters, a tab, and the same string or the string backwards.
`charrnn train --task translation` learns from them; configs/copying.yaml has the commands.
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
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)  # noqa: S311
    for _ in range(arguments.count):
        text = "".join(draw.choices(string.ascii_lowercase, k=draw.randint(5, 30)))
        sys.stdout.write(f"{text}\t{text if arguments.what == 'copy' else text[::-1]}\n")


if __name__ == "__main__":
    main()
