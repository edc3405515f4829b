"""Addresses of files: names, and the letters that HTTP has."""

import pytest

from ssd4rec.datasets.addresses import as_asked, file_name
from ssd4rec.errors import DataError


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://a.org/b/ml-1m.zip", "ml-1m.zip"),
        ("https://a.org/b/ml-1m.zip?download=1&to=c/d#e/f", "ml-1m.zip"),
        ("https://a.org/o/b%2Fml%2D1m.zip?alt=media", "ml-1m.zip"),
        ("https://a.org/\N{LATIN SMALL LETTER A WITH DIAERESIS} b.zip", "\N{LATIN SMALL LETTER A WITH DIAERESIS} b.zip"),
    ],
)
def test_a_file_is_called_by_the_last_part_of_the_path(address, name):
    assert file_name(address) == name


@pytest.mark.parametrize(
    "address", ["https://a.org", "https://a.org/b/", "https://a.org/b/..", "https://a.org/%2E?x=/a.zip", "https://a.org/%00"]
)
def test_an_address_of_no_file_is_refused(address):
    with pytest.raises(DataError, match=r"https://a\.org.* names no file; expected the address of one, such as https"):
        file_name(address)


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("https://a.org:80/b%20c/d.zip?e=f&g=%2F#h", "https://a.org:80/b%20c/d.zip?e=f&g=%2F"),
        ("http://[::1]:8000/d.zip", "http://[::1]:8000/d.zip"),
        ("http://\u00e4.org/\u00f6 b.zip?c=\u00fc", "http://xn--4ca.org/%C3%B6%20b.zip?c=%C3%BC"),
    ],
)
def test_an_address_is_asked_for_in_the_letters_of_http(address, asked):
    """What is quoted already stays; what a browser keeps to itself is left out."""
    assert as_asked(address) == asked
    assert as_asked(asked) == asked


@pytest.mark.parametrize("read", [file_name, as_asked])
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://[::1/x", "Invalid IPv6 URL"),
        ("http://a.org:99999/x", "Port out of range 0-65535"),
        ("http://a.org:port/x", "Port could not be cast"),
        ("http://a..org/x", "label empty"),
        ("http://a.org/\udcff.zip", "surrogates not allowed"),
    ],
)
def test_what_is_no_address_is_refused(read, address, reason):
    with pytest.raises(DataError, match=f"cannot be read as an address .*{reason}.*; correct it"):
        read(address)
