"""The entry point of `python -m charrnn` and of the command `charrnn`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C during its import does not print a traceback either."""
    try:
        from charrnn.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
