"""The entry point of `python -m charrnn` and of the command `charrnn`."""

import os
import sys


def main() -> None:
    """Run the command line. Ctrl-C during its import does not print a traceback either.

    Threads that wait for other threads sleep instead of spinning. A spinning thread takes a core
    from the one it waits for as soon as another program runs (docs/experiments/busy-machine.md).
    The OpenMP runtime reads this when torch loads it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from charrnn.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
