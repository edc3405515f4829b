"""Text is UTF-8, or the byte that is not is named; what the files of `test_readers` hold is read as it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd4rec.data.delimited import check_utf8
from ssd4rec.errors import DataError


@given(st.text(max_size=40), st.integers(1, 7))
def test_broken_utf8_is_found_at_its_byte(good, piece):
    """Also across the pieces in which a large file is checked."""
    lead = (good + "\n").encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd4rec.data.delimited.CHECKED_AT_ONCE", piece)
        with pytest.raises(DataError, match="is not UTF-8") as raised:
            check_utf8("log.csv", lead + b"\xff and more")
    assert f"line {lead.count(10) + 1} " in str(raised.value)
    assert f"offset {len(lead)})" in str(raised.value)


@given(st.text(max_size=60), st.integers(1, 7))
def test_whole_utf8_passes_in_pieces(good, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd4rec.data.delimited.CHECKED_AT_ONCE", piece)
        if not good.encode().startswith((b"\xff\xfe", b"\xfe\xff")):
            check_utf8("log.csv", good.encode())
