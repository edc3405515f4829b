"""Item features: categories and vectors of a table of items, as numbers for a model.

    table = read_item_table("items.parquet", config.features)      ids, titles and columns: see item_table.py
    features = encode_item_features(table, catalog, config.features)

A column is one of two kinds. Categories (text, integers, booleans, and lists of these) become codes of a vocabulary, the values
that occur on at least `min_items` items of the catalog. Vectors (numbers with a fraction, lists of them, arrays) are centered
and scaled to a mean square of 1 over the items of the catalog. An item without a value gets no category, or a vector of zeros.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec.config import FeaturesConfig
from ssd4rec.data.catalog import Catalog, as_type
from ssd4rec.errors import DataError
from ssd4rec.layers.item_features import EncodedRows, Floats

if TYPE_CHECKING:
    from ssd4rec.data.item_table import ItemTable

Kind = Literal["categories", "vector"]


@dataclass(frozen=True)
class FeatureColumn:
    """How one column becomes numbers."""

    name: str
    kind: Kind
    values: tuple[str, ...] = ()  # the vocabulary of categories
    mean: tuple[float, ...] = ()  # of each number of a vector, over the items of the catalog
    scale: float = 1.0  # vectors are divided by it

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return len(self.mean)


@dataclass(frozen=True)
class ItemFeatures:
    """Features of the items of a catalog, and behind them of new items; row j belongs to item index j, row 0 to the mask."""

    columns: tuple[FeatureColumn, ...]
    encoded: EncodedRows  # of N + 1 items
    trained: int  # V: items of the catalog that the model is trained on; rows V + 1 … N are new items
    new_ids: pl.Series  # [N - V]
    new_titles: pl.Series | None = None
    without_row: int = 0  # items of the catalog that the table does not mention

    def rows(self, first: int) -> EncodedRows:
        """Return the rows from one on."""
        codes, weights, offsets, vectors = self.encoded
        offsets = offsets[first:]
        return EncodedRows(codes[offsets[0] :], weights[offsets[0] :], offsets - offsets[0], vectors[first:])

    @property
    def categories(self) -> int:
        """C: size of the vocabulary."""
        return sum(len(column.values) for column in self.columns)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the encoded features."""
        digest = hashlib.sha256()
        for values in self.encoded:
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return the `features` part of a report."""
        return {
            "columns": {each.name: each.kind for each in self.columns},
            "categories": self.categories,
            "vector_width": int(self.encoded.vectors.shape[1]),
            "items_without_features": self.without_row,
            "new_items": len(self.new_ids),
        }


def encode_item_features(table: "ItemTable", catalog: Catalog, config: FeaturesConfig) -> ItemFeatures:
    """Learn vocabularies and scales on the items of a catalog, and encode its items and those that only the table has.

    Args:
        table: from `read_item_table`.
        catalog: the items that the model is trained on.
        config: `min_items` and `new_items`.

    Raises:
        DataError: the table has no item of the catalog, or no category is frequent enough and no column holds vectors.
    """
    item_ids = as_type(table.ids, catalog.ids.dtype)
    index = catalog.indices(item_ids)
    if not index.any():
        raise DataError(
            f"{table.source}: none of its {len(index):,} items is among the {len(catalog):,} items of the interactions: "
            f"{table.ids[0]!r} and {catalog.ids[0]!r} are the first of each; use the same ids in both files"
        )
    indexed = np.flatnonzero(index)
    columns = tuple(
        _learn_column(name, values.gather(indexed), config.min_items, table.source) for name, values in table.columns.items()
    )
    columns = tuple(each for each in columns if each.values or each.width)
    if not columns:
        raise DataError(
            f"{table.source}: no value of {', '.join(table.columns)} occurs on {config.min_items} items of the interactions; "
            f"lower features.min_items, or choose other columns with features.columns"
        )
    new = np.flatnonzero((index == 0) & item_ids.is_not_null().to_numpy()) if config.new_items else np.zeros(0, np.int64)
    row_of = np.full(1 + len(catalog) + len(new), -1, dtype=np.int64)  # item index -> row of the table
    row_of[index[indexed]] = indexed
    row_of[1 + len(catalog) :] = new
    return ItemFeatures(
        columns=columns,
        encoded=encode_columns(columns, table, row_of),
        trained=len(catalog),
        new_ids=item_ids.gather(new),
        new_titles=None if table.titles is None else table.titles.gather(new),
        without_row=len(catalog) - len(indexed),
    )


def encode_columns(columns: Sequence[FeatureColumn], table: "ItemTable", row_of: IntArray) -> EncodedRows:
    """Encode rows of a table with columns that were learned before.

    Args:
        columns: in the order of their codes and numbers.
        table: the rows; a column that it lacks is empty for all items.
        row_of: [R] rows of the table; -1: no features.

    Raises:
        DataError: the vectors of a column have another length than in training.
    """
    has_row = np.flatnonzero(row_of >= 0)
    pairs = [pl.DataFrame(schema={"row": pl.Int64, "code": pl.Int64, "weight": pl.Float32})]
    vectors = [np.zeros((len(row_of), 0), np.float32)]
    first = 0
    for column in columns:
        values = table.columns.get(column.name)
        if column.kind == "vector":
            vectors.append(_vectors(column, values, row_of, table.source))
        elif values is not None:
            vocabulary = pl.DataFrame({"value": list(column.values), "code": np.arange(first, first + len(column.values))})
            lists = pl.DataFrame({"row": has_row, "value": values.gather(row_of[has_row])})
            codes = lists.explode("value").drop_nulls().join(vocabulary, on="value").select("row", "code").unique()
            pairs.append(codes.with_columns(weight=(1 / pl.len().over("row")).cast(pl.Float32)))
        first += len(column.values)
    row, code, weight = pl.concat(pairs).sort("row", "code")
    offsets = lengths_to_offsets(np.bincount(row.to_numpy(), minlength=len(row_of)))
    return EncodedRows(code.to_numpy(writable=True), weight.to_numpy(writable=True), offsets, np.concatenate(vectors, axis=1))


def _vectors(column: FeatureColumn, values: pl.Series | None, row_of: IntArray, source: str) -> Floats:
    out = np.zeros((len(row_of), column.width), np.float32)
    if values is None:
        return out
    lengths = values.list.len()
    if len(wrong := lengths.filter(lengths != column.width).drop_nulls()):
        raise DataError(f"{source}: column {column.name!r} has vectors of {wrong[0]} numbers, but {column.width} were expected")
    has = np.flatnonzero(row_of >= 0)
    filled = values.gather(row_of[has])
    has = has[filled.is_not_null().to_numpy()]
    if len(has):
        numbers = np.stack(filled.drop_nulls().to_list())
        out[has] = (numbers - np.array(column.mean)) / column.scale
    return out


def _learn_column(name: str, values: pl.Series, min_items: int, source: str) -> FeatureColumn:
    """Learn the vocabulary or the scale of a column on the items of the catalog."""
    if values.dtype == pl.List(pl.String):
        frame = pl.DataFrame({"row": np.arange(len(values)), "value": values}).explode("value").drop_nulls().unique()
        counts = frame.group_by("value").len().filter(pl.col("len") >= min_items)
        return FeatureColumn(name, "categories", values=tuple(counts["value"].sort().to_list()))
    filled = values.drop_nulls()
    lengths = filled.list.len().unique().sort().to_list()
    if len(lengths) > 1:
        raise DataError(
            f"{source}: column {name!r} has vectors of {lengths[0]} and of {lengths[-1]} numbers; expected one length"
        )
    if not lengths or not lengths[0]:
        return FeatureColumn(name, "vector")
    numbers = np.stack(filled.to_list())
    mean = numbers.mean(0)
    scale = float(np.sqrt(((numbers - mean) ** 2).mean())) or 1.0
    return FeatureColumn(name, "vector", mean=tuple(mean.tolist()), scale=scale)
