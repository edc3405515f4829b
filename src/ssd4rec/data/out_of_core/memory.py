"""The memory limit of a build: its size in bytes, and how many rows fit into the part that is still free."""

import ctypes
import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

from ssd4rec.errors import ConfigError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SMALLEST = 10**6  # bytes; below this the passes are mostly overhead
LEAST_SHARE = 1 / 16  # of the limit: what working arrays get however little is free
SHARE = 0.5  # of the free memory; the rest is for copies that libraries make
RESERVED = 150 * 10**6  # bytes of addresses that thread pools and allocators take without using them
M_ARENA_MAX = -8  # glibc, malloc.h
THREADS = "4"  # of libraries that start one for each processor, each with a stack and a pool of its own


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
    free, allowed = limit - resident, _address_limit()
    if allowed is not None:
        free = min(free, allowed - addresses - RESERVED)
    return max(int(free * SHARE), int(limit * LEAST_SHARE), SMALLEST)


def _address_limit() -> int | None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if allowed == resource.RLIM_INFINITY else allowed


def check_address_limit() -> None:
    """Check that a limit of addresses (`ulimit -v`) leaves something to work with, after the libraries are imported.

    Raises:
        ConfigError: it does not.
    """
    allowed, (_, addresses) = _address_limit(), _memory_in_use()
    if allowed is not None and allowed - addresses < RESERVED:
        raise ConfigError(
            f"this process may have {allowed / 1e6:,.0f} MB of addresses (ulimit -v), and Python with its libraries takes "
            f"{addresses / 1e6:,.0f} MB of them; allow at least {(addresses + 2 * RESERVED) / 1e6:,.0f} MB, or use --memory alone"
        )


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    with suppress(OSError, IndexError, ValueError):  # on Linux, getrusage starts with the memory of the parent process
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reserve_little() -> None:
    """Keep allocators from reserving addresses that they may never use: `ulimit -v` counts those.

    pyarrow's default pool reserves 1 GB at its first allocation, glibc 64 MB for each thread, and numpy's matrix library a buffer
    for each processor. To be called before any of them is imported: they read the variables then.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if (os.cpu_count() or 1) > int(THREADS):
        for name in ("POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, THREADS)
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
        peak = peak_bytes()
        return peak, peak
    page = resource.getpagesize()
    return int(pages[1]) * page, int(pages[0]) * page
