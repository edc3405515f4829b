"""Text is UTF-8, or the byte that is not is named; what the files of `test_readers` hold is read as it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd4rec.data.delimited import check_utf8, read_delimited
from ssd4rec.errors import DataError

LETTERS = "a, \n\x7f\u0080\u07ff\u0800\ud7ff\ufeff\uffff\U00010000\U0010ffff"  # 1 to 4 bytes, at the ends of each length


@given(st.text(LETTERS, max_size=40), st.integers(1, 7))
def test_broken_utf8_is_found_at_its_byte(good, piece):
    """Also across the pieces in which a large file is checked."""
    lead = (good + "\n").encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd4rec.data.delimited.CHECKED_AT_ONCE", piece)
        with pytest.raises(DataError, match="is not UTF-8") as raised:
            check_utf8("log.csv", lead + b"\xff and more")
    assert f"line {lead.count(10) + 1} " in str(raised.value)
    assert f"offset {len(lead)})" in str(raised.value)


@given(st.text(LETTERS, max_size=60), st.integers(1, 7))
def test_whole_utf8_passes_in_pieces(good, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssd4rec.data.delimited.CHECKED_AT_ONCE", piece)
        if not good.encode().startswith((b"\xff\xfe", b"\xfe\xff")):
            check_utf8("log.csv", good.encode())


@pytest.mark.parametrize(("mark", "separator"), [("", ","), ("", "\t"), ("\ufeff", "\t")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_inside_fields_are_letters(mark, separator, end, monkeypatch):
    """They open nothing, so that no row is read by the slow reader; blank lines are not rows."""
    rows = [["user", "item"], ["7", '12" disc'], ["8", 'a "b"'], [], ["9", '5"'], []]
    text = mark + "".join(separator.join(row) + end for row in rows)
    monkeypatch.setattr("ssd4rec.data.delimited._rows", None)
    table = read_delimited("log", text.encode(), lambda header: {name: header.index(name) for name in ("user", "item")})
    assert table.frame.rows() == [tuple(row) for row in rows[1:] if row]


@pytest.mark.parametrize("first", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_quote_at_the_edge_of_any_field_is_a_mark(first, separator):
    """In the first column as in the last; the header's own too."""
    text = f'{first}"user"{separator}item\n"7"{separator}a\n8{separator}"b"\n'
    table = read_delimited("log", text.encode(), lambda header: {name: header.index(name) for name in ("user", "item")})
    assert table.frame.rows() == [("7", "a"), ("8", "b")]
