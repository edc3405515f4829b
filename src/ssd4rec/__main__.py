"""The command `ssd4rec`, which is `python -m ssd4rec` too."""

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

LOAD = Path("/proc/loadavg")  # on Linux; elsewhere PyTorch's threads do not spin
BUSY = 0.5  # other threads that are running, for each core


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

    Spinning is faster on an idle processor. Where other work takes turns with the threads, it makes training several times slower
    (docs/how-to/train-faster.md).
    """
    with suppress(OSError, ValueError, IndexError):
        running = int(LOAD.read_text(encoding="ascii").split()[3].split("/")[0]) - 1  # now, without this process
        if running >= BUSY * len(os.sched_getaffinity(0)):
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    main()
