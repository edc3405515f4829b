"""Addresses of files: what a file is called here, and what HTTP is asked for."""

import string
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

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


def as_asked(address: str) -> str:
    """An address in the letters that HTTP has: the host by IDNA, all else quoted unless it is already.

    http://ä.org/ö b.zip?c=%20 -> http://xn--4ca.org/%C3%B6%20b.zip?c=%20

    Raises:
        DataError: it cannot be read as an address.
    """
    parts = _split(address)
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, parts.netloc.encode("idna").decode(), path, query, ""))


def _split(address: str) -> SplitResult:
    try:
        address.encode()  # what is no text cannot be quoted
        parts = urlsplit(address)
        parts.netloc.encode("idna")
        _ = parts.port  # raises ValueError for one that is no number, or too high
    except ValueError as error:
        raise DataError(f"{address} cannot be read as an address ({error}); correct it") from error
    return parts
