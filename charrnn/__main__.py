"""`python -m charrnn` is the command `charrnn`."""

from charrnn.cli.main import main

main()
