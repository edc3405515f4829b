"""Addresses of files: names."""

import pytest

from ssd4rec.data.addresses import file_name
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


def test_what_is_no_address_is_refused():
    with pytest.raises(DataError, match=r"http://\[::1/x cannot be read as an address \(Invalid IPv6 URL\); correct it"):
        file_name("http://[::1/x")
