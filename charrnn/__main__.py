"""The entry point of `python -m charrnn` and of the command `charrnn`."""

import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Run the command line. Even Ctrl-C during the imports prints no traceback.

    Threads that wait for other threads sleep instead of spinning. If another program runs, a
    spinning thread takes a core from the thread that it waits for
    (docs/experiments/threads-and-processes.md). OpenMP reads the variable when torch loads it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from charrnn.cli.main import main as run

        run(time.monotonic() - process_age())
    except KeyboardInterrupt:
        sys.exit(130)


def process_age() -> float:
    """Seconds since this process was started, as Linux knows them; 0 on other systems.

    A time budget includes starting Python and importing the command line.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # in seconds since the machine booted
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


if __name__ == "__main__":
    main()
