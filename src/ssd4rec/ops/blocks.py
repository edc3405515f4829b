"""Working through a long row block by block, so that what is only needed on the way stays in a CPU's cache.

An elementwise operation on a whole row costs the way to memory and back, and on a CPU a large new tensor costs its pages as well:
at 16,384 x 640 that is most of the time. Over blocks of some hundred rows the same operations meet their numbers in the cache.
"""

from torch import Tensor

ELEMENTS = (
    1 << 20
)  # of a block: 4 MiB in float32; less is nearer to one core, but two find too little in it to share (docs/log.md)


def blocks(row: Tensor, *, reverse: bool = False, arrays: int = 1) -> list[slice]:
    """Slices that cover the rows of [T, width] in order, or from the last block to the first.

    Off the CPU it is one block: there each operation is a launch.

    Args:
        row: what is worked through.
        reverse: from the last block to the first.
        arrays: of this width that are in use at once.
    """
    length, width = row.shape
    size = max(1, ELEMENTS // max(1, width * arrays)) if row.device.type == "cpu" else max(1, length)
    found = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    return found[::-1] if reverse else found
