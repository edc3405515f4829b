"""The command `ssd4rec`, which is `python -m ssd4rec` too."""

import gc
import sys


def main() -> None:
    """`cli.main`; Ctrl-C while that is still being imported ends with code 130 too, and without a traceback."""
    try:
        from ssd4rec.cli import main as command  # noqa: PLC0415 - so that the import is inside

        command()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.freeze()  # Python would look through all objects once more before it ends: 0.3 s of CPU time with torch


if __name__ == "__main__":
    main()
