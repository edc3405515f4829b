"""User or item ids numbered by first appearance, over chunks that arrive one after the other."""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ssd4rec.data.catalog import Codes, encode


class Vocabulary:
    """Distinct ids in the order of their first appearance.

    They lie in a few Arrow arrays of falling length, so that adding ids copies each of them only a few times.
    """

    def __init__(self, ids: pl.Series | None = None) -> None:
        self._pieces: list[pa.Array] = [] if ids is None or not len(ids) else [_to_arrow(ids)]
        self._dtype = None if ids is None else ids.dtype

    def __len__(self) -> int:
        """Return how many distinct ids there are."""
        return sum(len(piece) for piece in self._pieces)

    def encode(self, values: pl.Series) -> Codes:
        """Return the code of each value; ids that are new are added.

        Args:
            values: [rows] ids of one type, the same in every call.
        """
        self._dtype = values.dtype
        local, distinct = encode(values)
        value_set = _to_arrow(distinct)
        codes = np.full(len(distinct), -1, dtype=np.int32)
        size = 0
        for piece in self._pieces:
            # The hash table is of the chunk, not of all ids: its size does not grow with the build.
            places = pc.index_in(piece, value_set=value_set)
            matched = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
            codes[places.drop_null().to_numpy()] = size + matched
            size += len(piece)
        is_new = codes < 0
        codes[is_new] = np.arange(size, size + int(np.count_nonzero(is_new)), dtype=np.int32)
        if is_new.any():
            self._append(value_set.filter(pa.array(is_new)))
        return codes[local]

    def ids(self, start: int = 0) -> pl.Series:
        """Return the ids from one code on."""
        joined = pa.chunked_array(self._pieces) if self._pieces else pa.array([])
        return pl.Series("id", joined.slice(start), dtype=self._dtype).rechunk()

    def _append(self, piece: pa.Array) -> None:
        while self._pieces and len(self._pieces[-1]) <= 2 * len(piece):
            piece = pa.concat_arrays([self._pieces.pop(), piece])
        self._pieces.append(piece)


def _to_arrow(ids: pl.Series) -> pa.Array:
    return ids.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
