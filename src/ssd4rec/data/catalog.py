"""Item ids and item indices; index 0 is the mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from ssd4rec._csr import IntArray
from ssd4rec._io import read_parquet
from ssd4rec.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Catalog:
    """The items of a model: index j (1 … V) is `ids[j - 1]`."""

    ids: pl.Series
    titles: pl.Series | None = None  # in the order of ids; null where an item has none

    def __len__(self) -> int:
        """V."""
        return len(self.ids)

    def indices(self, ids: Sequence[object] | pl.Series) -> IntArray:
        """Return the item indices of ids, 0 for unknown ids. The text "7" is not the number 7: see `parse`."""
        if isinstance(ids, pl.Series):
            # Few distinct ids, many rows: Python looks each id up once.
            codes, distinct = encode(plain_ids(ids))
            return self.indices(distinct.to_list())[codes] if len(ids) else np.zeros(0, dtype=np.int64)
        index_of = self._index_of
        return np.fromiter((index_of.get(each, 0) for each in ids), dtype=np.int64, count=len(ids))

    def parse(self, texts: Sequence[str]) -> pl.Series:
        """Convert text, e.g. of the command line, to the type of the ids; null if it has no value of that type."""
        return as_type(pl.Series("id", list(texts), dtype=pl.String), self.ids.dtype)

    def ids_of(self, numbers: IntArray | Sequence[int]) -> pl.Series:
        """Return the ids of item indices.

        Raises:
            DataError: an index outside of 1 … V.
        """
        return self.ids.gather(self._places(numbers))

    def titles_of(self, numbers: IntArray | Sequence[int]) -> pl.Series | None:
        """Return the titles of item indices, null where an item has none; None for a catalog without titles.

        Raises:
            DataError: an index outside of 1 … V.
        """
        return None if self.titles is None else self.titles.gather(self._places(numbers))

    def frame(self) -> pl.DataFrame:
        """Return the columns id and title; titles are null for a catalog without titles."""
        titles = pl.lit(None, pl.String) if self.titles is None else self.titles
        return pl.DataFrame({"id": self.ids}).with_columns(titles.alias("title"))

    def with_titles(self, frame: pl.DataFrame) -> "Catalog":
        """Return the same items with titles; an item without a title in `frame` keeps the one that it has.

        Args:
            frame: columns id and title; text ids are converted to the type of the catalog. The first title of an id is used.

        Raises:
            DataError: a column is missing.
        """
        missing = [name for name in ("id", "title") if name not in frame.columns]
        if missing:
            raise DataError(f"titles need the columns id and title, found {', '.join(frame.columns)}; see read_titles")
        titles = frame.select(as_type(frame["id"], self.ids.dtype).alias("id"), pl.col("title").cast(pl.String))
        titles = titles.drop_nulls("id").unique("id", keep="first")
        joined = self.frame().join(titles, on="id", how="left", maintain_order="left", suffix="_new")
        return Catalog(self.ids, joined.select(pl.coalesce("title_new", "title").alias("title")).to_series())

    def extended(self, ids: pl.Series) -> "Catalog":
        """Return the same items, followed by those ids that are not among them.

        Args:
            ids: distinct, in the type of the catalog.
        """
        return self.append(ids.filter(pl.Series(self.indices(ids) == 0)))

    def head(self, items: int) -> "Catalog":
        """Return the first items."""
        return Catalog(self.ids.head(items), None if self.titles is None else self.titles.head(items))

    def append(self, ids: pl.Series, titles: pl.Series | None = None) -> "Catalog":
        """Return a catalog with further items, whose item indices follow."""
        frame = pl.concat([self.frame(), Catalog(ids, titles).frame()])
        return Catalog(frame["id"], None if self.titles is None and titles is None else frame["title"])

    def write(self, path: str | Path) -> None:
        """Write as Parquet: columns id and title, row j is item index j + 1."""
        self.frame().write_parquet(path)

    @staticmethod
    def read(path: str | Path) -> "Catalog":
        """Read a file that `write` wrote.

        Raises:
            DataError: the file is missing, damaged or not a catalog.
        """
        try:
            frame = read_parquet(Path(path))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a catalog: {error}") from error
        if frame.columns != ["id", "title"]:
            raise DataError(f"{path} is not a catalog: expected the columns id, title, found {', '.join(frame.columns)}")
        titles = frame["title"]
        return Catalog(frame["id"], None if titles.null_count() == len(titles) else titles)

    @cached_property
    def _index_of(self) -> dict[object, int]:
        return dict(zip(self.ids.to_list(), range(1, len(self) + 1), strict=True))

    def _places(self, numbers: IntArray | Sequence[int]) -> pl.Series:
        places = np.asarray(numbers, dtype=np.int64) - 1
        outside = (places < 0) | (places >= len(self))
        if outside.any():
            index = int(places[outside][0]) + 1
            raise DataError(f"no item has the index {index}; item indices are 1 … {len(self)} (0 is the mask)")
        return pl.Series(places)


def plain_ids(ids: pl.Series) -> pl.Series:
    """Return categories as text; other ids unchanged."""
    return ids.cast(pl.String) if isinstance(ids.dtype, pl.Categorical | pl.Enum) else ids


def encode(values: pl.Series) -> tuple[Codes, pl.Series]:
    """Encode values as codes by first appearance: code c stands for `distinct[c]`.

    ["b", "a", "b"] -> [0, 1, 0], ["b", "a"]
    """
    plain = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    arrow = cast("pa.DictionaryArray", plain.dictionary_encode(null_encoding="encode"))
    distinct = pl.Series(values.name, arrow.dictionary, dtype=values.dtype)
    # pyarrow's own to_numpy imports pandas, which takes 0.4 s of CPU time
    return pl.Series(arrow.indices).to_numpy(), distinct


def as_type(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Convert ids to another type; null without an equal value: "7" is 7, but "x" and 7.5 are not integers."""
    converted = ids.cast(dtype, strict=False)
    if ids.dtype.is_float() and dtype.is_integer():
        return converted.set(converted.cast(ids.dtype) != ids, None)
    return converted
