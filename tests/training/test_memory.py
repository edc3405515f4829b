"""Memory of a training step is kept for the next one."""

import resource
import sys

import pytest
import torch

from ssd4rec.training import memory
from ssd4rec.training.memory import freed_memory_kept


def page_faults() -> int:
    """Count the page faults of a few steps that each make and drop eight arrays of 4 MB."""
    for _ in range(4):  # the first ones map the memory
        [torch.ones(1 << 20) for _ in range(8)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        [torch.ones(1 << 20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux" or memory._glibc() is None, reason="glibc only")
def test_freed_memory_is_used_again():
    """Inside the block the pages are mapped once, not for each of the 32 arrays of 1,024 pages."""
    with freed_memory_kept():
        assert page_faults() < 3_000


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with freed_memory_kept():
        assert memory._glibc() is None
