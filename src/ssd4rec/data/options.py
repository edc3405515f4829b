"""How a file of interactions is read, beyond the names of its columns."""

from dataclasses import dataclass
from typing import Literal

from ssd4rec.config import DataConfig
from ssd4rec.data.columns import Columns

MAX_EXPANSION = 250  # decompressed bytes per compressed byte; text files of interactions stay far below


@dataclass(frozen=True)
class ReadOptions:
    """Options of `read_interactions`; the defaults detect what they can."""

    names: tuple[str, ...] = ()  # the columns of a file without a header, by position; "" or "_" skips one
    separator: str | None = None  # of text files: a character, "::" or "space"; None: detected
    layout: Literal["auto", "interactions", "sequences"] = "auto"  # sequences: one user a line, followed by the items
    where: str | None = None  # an SQL condition on the columns of the file, such as "event = 'purchase'"
    min_rating: float | None = None  # drop rows with a lower rating
    time_format: str | None = None  # strptime format of text times, such as "%d/%m/%Y %H:%M"
    constant_user: str | None = None  # the user id of a file without a user column
    drop_missing: bool = False  # drop rows whose user or item is missing or a placeholder such as NA
    duplicates: Literal["keep", "drop"] = "keep"  # rows that equal an earlier one in user, item and time
    max_expansion: float = MAX_EXPANSION


def columns_of(config: DataConfig) -> Columns:
    """Return the column names of the settings."""
    return Columns(config.user, config.item, config.time)


def options_of(config: DataConfig) -> ReadOptions:
    """Return the reading options of the settings."""
    return ReadOptions(
        names=config.columns,
        separator=config.separator,
        layout=config.layout,
        where=config.where or None,  # --where "" undoes a remembered condition
        min_rating=config.min_rating,
        time_format=config.time_format,
        constant_user=config.constant_user,
        drop_missing=config.drop_missing,
        duplicates=config.duplicates,
        max_expansion=config.max_expansion,
    )
