"""Process long tensors in blocks of rows whose temporaries stay in the CPU's cache.

An elementwise operation on [16384, 640] spends most of its time on memory traffic and page faults of new tensors.
In blocks of a few hundred rows, consecutive operations read their operands from the cache.
"""

from torch import Tensor

# Elements of a block: 4 MiB in float32. Smaller blocks suit one core, but leave two cores too little work to share.
ELEMENTS = 1 << 20


def blocks(values: Tensor, *, reverse: bool = False, arrays: int = 1) -> list[slice]:
    """Return slices that cover the rows of [T, width] in order; `reverse`: from the last block to the first.

    On a GPU there is one block, because each operation is a kernel launch. `arrays` of this width are in use at the same time.
    """
    length, width = values.shape
    size = max(1, ELEMENTS // max(1, width * arrays)) if values.device.type == "cpu" else max(1, length)
    slices = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    return slices[::-1] if reverse else slices
