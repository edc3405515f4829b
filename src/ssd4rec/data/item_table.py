"""Tables of items: ids, titles, and columns of features as lists of text (categories) or of numbers (vectors)."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from ssd4rec.config import FeaturesConfig
from ssd4rec.data import ids
from ssd4rec.data.catalog import plain_ids
from ssd4rec.data.columns import FEATURE, ReadOptions, Table, bare_name, choose_item_columns
from ssd4rec.data.interactions import name_of
from ssd4rec.data.io import Source, read_table
from ssd4rec.errors import DataError, first_line


@dataclass(frozen=True)
class ItemTable:
    """The rows of a file of items: ids, titles and the columns that are features."""

    source: str
    ids: pl.Series
    titles: pl.Series | None
    columns: Mapping[str, pl.Series]  # lists of text (categories) or of float64 (vectors), null where an item has none


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
    roles = [role for role in table.frame.columns if role.startswith(FEATURE)]
    columns = {bare_name(table.names[role]): _as_lists(table, role, config) for role in roles}
    if not columns:
        raise DataError(f"{table.source}: no column of features next to the item ids; found {', '.join(table.header)}")
    titles = table.frame["title"].cast(pl.String, strict=False) if "title" in table.frame.columns else None
    return ItemTable(table.source, item_ids, titles, columns)


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
    elif inner.is_float() or inner.is_integer() or inner in (pl.String, pl.Boolean):
        lists = values if isinstance(values.dtype, pl.List) else _in_lists(values)
        if inner.is_float() or (name in config.vectors and inner.is_integer()):
            return _finite(table, name, lists.cast(pl.List(pl.Float64)))
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
            f"{table.source}: column {name!r} holds text that is not a list of numbers: {first_line(error)}"
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
