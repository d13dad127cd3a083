"""The entry point of `python -m charrnn` and of the command `charrnn`."""

import atexit
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
    code: int | None = None

    def leave() -> None:
        """End the process at once: Python needs seconds to take torch's modules apart.

        Registered first, this comes after all other exit handlers, and after other threads.
        """
        if code is None:
            return
        try:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
        except (OSError, ValueError):
            return  # Python reports what could not be written.
        os._exit(code)

    atexit.register(leave)
    try:
        from charrnn.cli.main import main as run

        run(time.monotonic() - process_age())
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else None
        raise
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
