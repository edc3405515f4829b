"""The command `ssd4rec`, which is `python -m ssd4rec` too."""

import gc
import os
import sys

BUSY = 0.5  # load of the last minute for each core


def main() -> None:
    """`cli.main`; Ctrl-C while that is still being imported ends with code 130 too, and without a traceback."""
    _wait_without_spinning_if_busy()
    try:
        from ssd4rec.cli import main as command  # noqa: PLC0415 - so that the import is inside

        command()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.freeze()  # Python would look through all objects once more before it ends: 0.3 s of CPU time with torch


def _wait_without_spinning_if_busy() -> None:
    """Choose how PyTorch's threads wait for each other, which is read when PyTorch is imported.

    By spinning is faster on an idle processor; where there is other work they take turns with it, and it costs several times the
    time (docs/how-to/train-faster.md).
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] >= BUSY * (os.cpu_count() or 1):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    main()
