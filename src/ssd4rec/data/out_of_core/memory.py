"""The memory limit of a build: its size in bytes, and how many rows fit into the part that is still free."""

import ctypes
import os
import re
import sys
from pathlib import Path

from ssd4rec.errors import ConfigError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SMALLEST = 10**6  # bytes; below this the passes are mostly overhead
LEAST_SHARE = 1 / 16  # of the limit: what working arrays get however little is free
SHARE = 0.5  # of the free memory; the rest is for copies that libraries make
RESERVED = 150 * 10**6  # bytes of addresses that thread pools and allocators take without using them
M_ARENA_MAX = -8  # glibc, malloc.h


def parse_size(text: str) -> int:
    """Return a size such as "2GB", "500 MB" or "1GiB" in bytes.

    Raises:
        ConfigError: it is not a size of at least one megabyte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    size = int(float(match[1]) * UNITS.get(match[2], 0)) if match else 0
    if size < SMALLEST:
        raise ConfigError(f'memory must be a size of at least 1MB such as "2GB" or "500MB"; found "{text}"')
    return size


def free_bytes(limit: int) -> int:
    """Return the bytes that working arrays may take: a share of what the limit leaves next to this process.

    A limit that the operating system sets on addresses (`ulimit -v`) counts as well.
    """
    resident, addresses = _memory_in_use()
    free = limit - resident
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not there on Windows

        allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
        if allowed != resource.RLIM_INFINITY:
            free = min(free, allowed - addresses - RESERVED)
    return max(int(free * SHARE), int(limit * LEAST_SHARE), SMALLEST)


def peak_bytes() -> int | None:
    """Return the largest resident memory that this process had, or None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reserve_little() -> None:
    """Keep allocators from reserving addresses that they may never use: `ulimit -v` counts those.

    pyarrow's default pool reserves 1 GB at its first allocation, and glibc 64 MB for each thread. To be called before pyarrow is
    imported: it reads the variable then.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
        except (OSError, AttributeError):  # another C library
            return


def _memory_in_use() -> tuple[int, int]:
    """Return resident memory and address space of this process, in bytes."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        peak = peak_bytes() or 0
        return peak, peak
    page = 4096
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not there on Windows

        page = resource.getpagesize()
    return int(pages[1]) * page, int(pages[0]) * page
