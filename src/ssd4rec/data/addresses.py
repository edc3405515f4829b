"""Addresses of files: what a file is called here, and what HTTP is asked for."""

from urllib.parse import SplitResult, unquote, urlsplit

from ssd4rec.errors import DataError


def file_name(address: str) -> str:
    """The last part of an address's path.

    http://a.org/b/ml-1m.zip?download=1 -> ml-1m.zip

    Raises:
        DataError: it cannot be read as an address, or names no file.
    """
    name = unquote(_split(address).path).rpartition("/")[2]
    if name in {"", ".", ".."} or not name.isprintable():
        raise DataError(f"{address} names no file; expected the address of one, such as https://…/ratings.zip")
    return name


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:
        raise DataError(f"{address} cannot be read as an address ({error}); correct it") from error
