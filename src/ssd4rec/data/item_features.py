"""Item features: categories and vectors of a table of items, as numbers for a model.

    table = read_item_table("items.parquet", config.features)      ids, titles and columns as in the file
    features = encode_item_features(table, catalog, config.features)

A column is one of two kinds. Categories (text, integers, booleans, and lists of these) become codes of a vocabulary, the values
that occur on at least `min_items` items of the catalog. Vectors (numbers with a fraction, lists of them, arrays) are centered
and scaled to a mean square of 1 over the items of the catalog. An item without a value gets no category, or a vector of zeros.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ssd4rec._csr import IntArray, lengths_to_offsets
from ssd4rec.config import FeaturesConfig
from ssd4rec.data import ids
from ssd4rec.data.catalog import Catalog, as_type, plain_ids
from ssd4rec.data.columns import FEATURE, Table, bare_name, choose_item_columns
from ssd4rec.data.interactions import name_of
from ssd4rec.data.io import Source, read_table
from ssd4rec.data.options import ReadOptions
from ssd4rec.errors import DataError

Floats = npt.NDArray[np.float32]
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
class ItemTable:
    """The rows of a file of items: ids, titles and the columns that are features."""

    source: str
    ids: pl.Series
    titles: pl.Series | None
    columns: Mapping[str, pl.Series]  # lists of text (categories) or of float64 (vectors), null where an item has none


class EncodedRows(NamedTuple):
    """Features of R items as numbers."""

    codes: IntArray  # [E] categories, all columns in one vocabulary
    weights: Floats  # [E] 1 / the number of the item's categories in the same column
    offsets: IntArray  # [R + 1]; the codes of row j are codes[offsets[j]:offsets[j + 1]]
    vectors: Floats  # [R, F]


@dataclass(frozen=True)
class ItemFeatures:
    """Features of the items of a catalog, and behind them of new items; row j belongs to item index j, row 0 to the mask."""

    columns: tuple[FeatureColumn, ...]
    encoded: EncodedRows  # of N + 1 items
    trained: int  # V: items of the catalog that the model is trained on; rows V + 1 … N are new items
    new_ids: pl.Series  # [N - V]
    new_titles: pl.Series | None = None
    without_row: int = 0  # items of the catalog that the table does not mention

    @property
    def codes(self) -> IntArray:
        """[E]; see `EncodedRows`."""
        return self.encoded.codes

    @property
    def weights(self) -> Floats:
        """[E]; see `EncodedRows`."""
        return self.encoded.weights

    @property
    def offsets(self) -> IntArray:
        """[N + 2]; see `EncodedRows`."""
        return self.encoded.offsets

    @property
    def vectors(self) -> Floats:
        """[N + 1, F]; see `EncodedRows`."""
        return self.encoded.vectors

    def rows(self, first: int) -> EncodedRows:
        """Return the rows from one on."""
        offsets = self.offsets[first:]
        return EncodedRows(self.codes[offsets[0] :], self.weights[offsets[0] :], offsets - offsets[0], self.vectors[first:])

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
            "vector_width": int(self.vectors.shape[1]),
            "items_without_features": self.without_row,
            "new_items": len(self.new_ids),
        }


def read_item_table(source: Source, config: FeaturesConfig) -> ItemTable:
    """Read item ids, titles and features.

    Args:
        source: a path (RecBole `.item`, CSV, TSV, JSON Lines, Parquet, each also compressed) or a polars or pandas frame.
        config: which columns are features, and how text is split.

    Raises:
        DataError: the file cannot be read, has no column of item ids or a named column is missing; an id is missing or occurs
            twice; a column is of another type; vectors of a column differ in length or contain NaN or infinity.
    """
    names = (*config.columns, *(each for each in config.vectors if each not in config.columns))
    options = ReadOptions(layout="interactions")
    table = read_table(source, lambda header: choose_item_columns(header, config.id, names, name_of(source)), options)
    item_ids = ids.check_type(table, "id")
    ids.refuse_missing(table, "id", item_ids.unique())
    item_ids = plain_ids(item_ids)
    if item_ids.n_unique() < len(item_ids):
        twice = item_ids.filter(item_ids.is_duplicated())[0]
        raise DataError(f"{table.source}: the item {twice!r} has more than one row; give one row per item")
    columns = {}
    for role in table.frame.columns:
        if role.startswith(FEATURE):
            columns[bare_name(table.names[role])] = _as_lists(table, role, config)
    if not columns:
        raise DataError(f"{table.source}: no column of features next to the item ids; found {', '.join(table.header)}")
    titles = table.frame["title"].cast(pl.String, strict=False) if "title" in table.frame.columns else None
    return ItemTable(table.source, item_ids, titles, columns)


def encode_item_features(table: ItemTable, catalog: Catalog, config: FeaturesConfig) -> ItemFeatures:
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


def encode_columns(columns: Sequence[FeatureColumn], table: ItemTable, row_of: IntArray) -> EncodedRows:
    """Encode rows of a table with columns that were learned before.

    Args:
        columns: in the order of their codes and numbers.
        table: the rows; a column that it lacks is empty for all items.
        row_of: [R] rows of the table; -1: no features.

    Raises:
        DataError: the vectors of a column have another length than in training.
    """
    rows, codes, weights = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    vectors = [np.zeros((len(row_of), 0), np.float32)]
    first = 0
    for column in columns:
        values = table.columns.get(column.name)
        if column.kind == "categories":
            if values is not None:
                row, code = _codes(column, values, row_of)
                rows.append(row)
                codes.append(first + code)
                weights.append((1 / np.bincount(row, minlength=len(row_of))[row]).astype(np.float32))
            first += len(column.values)
        else:
            vectors.append(_vectors(column, values, row_of, table.source))
    row, code, weight = np.concatenate(rows), np.concatenate(codes), np.concatenate(weights)
    order = np.argsort(row, kind="stable")
    offsets = lengths_to_offsets(np.bincount(row, minlength=len(row_of)))
    return EncodedRows(code[order], weight[order], offsets, np.concatenate(vectors, axis=1))


def _codes(column: FeatureColumn, values: pl.Series, row_of: IntArray) -> tuple[IntArray, IntArray]:
    """Return the places in `row_of` and the codes of the categories in the vocabulary, each once per row."""
    has = np.flatnonzero(row_of >= 0)
    lists = pl.DataFrame({"row": has, "value": values.gather(row_of[has])})
    vocabulary = pl.DataFrame({"value": list(column.values), "code": np.arange(len(column.values))})
    pairs = lists.explode("value").drop_nulls().join(vocabulary, on="value").unique(["row", "code"]).sort("row", "code")
    return pairs["row"].to_numpy().astype(np.int64), pairs["code"].to_numpy().astype(np.int64)


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


def _as_lists(table: Table, role: str, config: FeaturesConfig) -> pl.Series:
    """Return a column as lists of text or of float64."""
    name, declared = bare_name(table.names[role]), table.names[role].rpartition(":")[2]
    values = plain_ids(table.frame[role])
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    inner = values.dtype.inner if isinstance(values.dtype, pl.List) else values.dtype
    if values.dtype == pl.String:
        if name in config.vectors or declared in ("float", "float_seq") or _is_json(values):
            return _finite(table, name, _split_numbers(table, name, values))
        separator = config.separator or (" " if declared == "token_seq" else None)
        lists = values.str.split(separator) if separator else _in_lists(values)
    elif inner.is_float() or (name in config.vectors and inner.is_integer()):
        lists = values if isinstance(values.dtype, pl.List) else _in_lists(values)
        return _finite(table, name, lists.cast(pl.List(pl.Float64)))
    elif inner.is_integer() or inner in (pl.String, pl.Boolean):
        lists = values if isinstance(values.dtype, pl.List) else _in_lists(values)
    else:
        raise DataError(
            f"{table.source}: column {name!r} holds {values.dtype}; expected text, integers, numbers or lists of these; "
            f"choose other columns with features.columns"
        )
    return _each(lists.cast(pl.List(pl.String)), pl.element().str.strip_chars().replace("", None))


def _in_lists(values: pl.Series) -> pl.Series:
    """Put each value into a list of its own; null stays null."""
    one = pl.when(pl.col("value").is_not_null()).then(pl.concat_list("value"))
    return pl.DataFrame({"value": values}).select(one).to_series()


def _each(lists: pl.Series, element: pl.Expr) -> pl.Series:
    """Apply an expression to the elements of lists and drop those that become null."""
    return pl.DataFrame({"value": lists}).select(pl.col("value").list.eval(element).list.drop_nulls()).to_series()


def _is_json(values: pl.Series) -> bool:
    """Whether all text is written like a list, [0.1, 2]."""
    filled = values.drop_nulls().str.strip_chars()
    filled = filled.filter(filled != "")
    return len(filled) > 0 and bool((filled.str.starts_with("[") & filled.str.ends_with("]")).all())


def _split_numbers(table: Table, name: str, values: pl.Series) -> pl.Series:
    """Parse text such as "[0.1, 2]", "0.1 2" or "0.1,2"; text without a number becomes null."""
    parts = values.str.strip_chars("[] \t").str.replace_all(r"[\s,;]+", " ").str.split(" ")
    parts = _each(parts, pl.element().replace("", None))
    parts = pl.DataFrame({"value": parts}).select(pl.when(pl.col("value").list.len() > 0).then("value")).to_series()
    try:
        return parts.cast(pl.List(pl.Float64))
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{table.source}: column {name!r} holds text that is not a list of numbers: {str(error).splitlines()[0]}"
        ) from error


def _finite(table: Table, name: str, lists: pl.Series) -> pl.Series:
    """Check that no number is missing, NaN or infinite."""
    inside = pl.col("value").list.eval(pl.element().is_finite().fill_null(value=False)).list.all()
    bad = pl.DataFrame({"value": lists}).select(~inside.fill_null(value=True)).to_series()
    if bad.any():
        raise DataError(
            f"{table.source}, {table.where(int(bad.arg_max() or 0))}: column {name!r} holds a number that is missing, NaN or "
            f"infinite; leave the whole value empty where an item has none"
        )
    return lists
