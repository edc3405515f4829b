"""Processes that a test needs to be there, or to be no more."""

import subprocess
import sys


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid
