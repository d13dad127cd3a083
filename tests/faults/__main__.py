"""`python -m tests.faults [--fast | --ci] [--list] [WORDS]`: run the fault checks.

Without an option every row is measured whole; that takes under half an hour. WORDS choose the rows
whose name contains one of them.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # Set before any process imports torch.

import argparse
import sys
import time

# Imported so that forked children start in milliseconds; this process computes nothing.
import torch._dynamo  # noqa: F401

import charrnn.cli.train
import charrnn.session.loop  # noqa: F401
from tests.faults import (  # noqa: F401 -- they fill CHECKS
    crashes,
    hostile,
    killing,
    machine,
    numbers,
    origins,
    storage,
    texts,
    usage,
)
from tests.faults.harness import CHECKS, Check, Effort, Result, scratch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORDS")
    parser.add_argument(
        "--fast", action="store_true", help="smaller counts; minutes become seconds"
    )
    parser.add_argument("--ci", action="store_true", help="one row for each promise, fast")
    parser.add_argument("--list", action="store_true", help="only name the checks")
    options = parser.parse_args()
    chosen = [
        row
        for row in CHECKS
        if (not options.words or any(word in row.name for word in options.words))
        and not (options.fast and row.slow)
        and (row.ci or not options.ci)
    ]
    if options.list:
        print("\n".join(f"{row.name}  (sabotage: {row.sabotage})" for row in chosen))
        return 0
    effort = Effort(options.fast or options.ci)
    bad, began = 0, time.monotonic()
    for row in chosen:
        start = time.monotonic()
        real = measured(row, effort, sabotaged=False)
        broken = measured(row, effort, sabotaged=True)
        good = real.holds and not broken.holds
        bad += not good
        print(
            f"{'ok  ' if good else 'FAIL'}  {row.name}: {real.figure}"
            f"  ({time.monotonic() - start:.0f} s)\n"
            f"        sabotaged ({row.sabotage}): "
            f"{'passes, so the check proves nothing' if broken.holds else 'red'}, {broken.figure}",
            flush=True,
        )
    print(f"{len(chosen) - bad} of {len(chosen)} checks hold, in {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


def measured(row: Check, effort: Effort, sabotaged: bool) -> Result:
    """Measure a row. If the measurement itself fails, both columns fail."""
    with scratch():
        try:
            return row.measure(effort, sabotaged)
        except Exception as error:
            if sabotaged:
                return Result(True, f"the sabotaged check itself failed: {error!r}")
            return Result(False, repr(error))


if __name__ == "__main__":
    sys.exit(main())
