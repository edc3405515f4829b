"""`python -m ssd4rec` is the command `ssd4rec`."""

from ssd4rec.cli import main

main()
