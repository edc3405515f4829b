"""Open the DATA of a command: a file, a data frame, a named data set, or the store of the service."""

import logging
import os
from pathlib import Path

import polars as pl

from ssd4rec.config import DataConfig
from ssd4rec.data.columns import columns_of, options_of
from ssd4rec.data.interactions import Interactions, read_interactions, read_titles
from ssd4rec.data.io import Source
from ssd4rec.data.store_source import is_store, read_store
from ssd4rec.datasets.archives import titles_beside
from ssd4rec.datasets.registry import DATASETS, cache_folder, is_named_dataset, open_dataset
from ssd4rec.errors import DataError

logger = logging.getLogger(__name__)


def open_source(source: Source, config: DataConfig, titles: Source | None = None) -> tuple[Interactions, pl.DataFrame | None]:
    """Read interactions and, if there are any, titles (columns id and title).

    Args:
        source: the path of a file or folder, a frame, the name of a data set, or the address of a store.
        config: the columns and how files are read.
        titles: a file or frame of titles, which replaces those of the source.

    Raises:
        DataError: the source is neither a file nor the name of a data set, or cannot be read.
    """
    own_titles = None
    if isinstance(source, str) and is_store(source):
        interactions, own_titles = read_store(source)
    elif isinstance(source, str) and is_named_dataset(source):
        opened = open_dataset(source, cache_folder(os.environ))
        interactions, own_titles = opened.interactions, opened.titles
    else:
        if isinstance(source, str):
            check_name(source)
        interactions = read_interactions(source, columns_of(config), options_of(config))
        if titles is None and isinstance(source, str | Path):
            own_titles = _titles_beside(Path(source))
    return interactions, own_titles if titles is None else read_titles(titles)


def _titles_beside(path: Path) -> pl.DataFrame | None:
    file = titles_beside(path)
    if file is None:
        return None
    try:
        titles = read_titles(file)
    except DataError as error:  # the user did not ask for this file
        logger.warning("no titles: %s", error)
        return None
    logger.info("titles: %s", file)
    return titles


def check_name(source: str) -> None:
    """Check that text without a file suffix is the path of a file or the name of a data set.

    Raises:
        DataError: it is neither.
    """
    if not (is_named_dataset(source) or Path(source).suffix or _may_exist(Path(source))):
        raise DataError(f"{source!r} is neither a file nor a named data set; the named data sets are {', '.join(DATASETS)}")


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # unknown; reading it will give the reason
        return True
