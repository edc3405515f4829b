"""Times stay exact: order, ties and the moments that a person names."""

import datetime
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd4rec.data.timestamps import Clock, UnreadableTimeError, moment, read_times, show_moment
from ssd4rec.errors import DataError


def read(values, dtype=None):
    times = read_times(pl.Series("time", values, dtype=dtype))
    assert times.ticks.dtype == pl.Int64
    return times.ticks.to_list(), times.clock


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (978_300_760, "seconds"),
        (1_650_882_384_975, "milliseconds"),
        (1_650_882_384_975_123, "microseconds"),
        (1_650_882_384_975_123_457, "nanoseconds"),
        (2_277, "number"),
        (-978_300_760, "seconds"),
    ],
)
def test_integers_are_kept_as_they_came(number, kind):
    """The largest number tells the unit; neighbors stay apart even beyond what a float can tell."""
    assert read([number, number + 1, number]) == ([number, number + 1, number], Clock(kind))


def test_text_integers_are_exact():
    """2^53 + 1 is not a float."""
    assert read(["1650882384975123457", "1650882384975123458"]) == (
        [1650882384975123457, 1650882384975123458],
        Clock("nanoseconds"),
    )


@pytest.mark.parametrize("values", [[978300760.0, 978300761.0], ["978300760.0", "978300761"], [" 978300760 ", "9.78300761e8"]])
def test_whole_floats_are_integers(values):
    """RecBole writes 978300760.0."""
    assert read(values) == ([978300760, 978300761], Clock("seconds"))


def test_decimal_seconds_become_ticks():
    """Three decimals are milliseconds, exactly: 1650882384.975 is not a binary fraction."""
    assert read(["1650882384.975", "1650882384.976", "1650882385"]) == (
        [1650882384975, 1650882384976, 1650882385000],
        Clock("seconds", 1000),
    )
    assert read([1650882384.000001, 1650882384.5]) == ([1650882384000001, 1650882384500000], Clock("seconds", 10**6))


def test_small_decimals_are_numbers():
    """Half steps of a counter."""
    assert read([0.5, 1.5, 2.0]) == ([500, 1500, 2000], Clock("number", 1000))


@given(st.lists(st.floats(1.5e9, 1.7e9), min_size=1, max_size=30))
def test_floats_keep_order_and_ties(values):
    """Whatever the decimals: earlier stays earlier, equal stays equal."""
    ticks, _ = read(values, pl.Float64)
    assert np.array_equal(np.sign(np.subtract.outer(values, values)), np.sign(np.subtract.outer(ticks, ticks)))


@pytest.mark.parametrize("pattern", ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %T", "%Y-%m-%d %X"])
def test_formats_with_a_time_of_day_keep_it(pattern):
    times = read_times(pl.Series(["2016-01-31 18:05:00"]), pattern)
    assert (times.ticks.to_list(), times.clock) == ([1454263500], Clock("datetime"))


def test_dates_are_seconds():
    """2016-01-31 is day 16,831 since 1970."""
    expected = [16_831 * 86_400, 16_832 * 86_400]
    assert read(["2016-01-31", "2016-02-01"]) == (expected, Clock("date"))
    assert read([datetime.date(2016, 1, 31), datetime.date(2016, 2, 1)]) == (expected, Clock("date"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2016-01-31", 0),
        ("2016-01-31T18:05", 18 * 3600 + 5 * 60),
        ("2016-01-31 18:05:07", 18 * 3600 + 5 * 60 + 7),
        ("2016-01-31T18:05:07Z", 18 * 3600 + 5 * 60 + 7),
        ("2016-01-31T18:05:07+02:00", 16 * 3600 + 5 * 60 + 7),
        ("2016-01-31 18:05:07 -0530", 23 * 3600 + 35 * 60 + 7),
        ("2016-01-31 18:05:07+00", 18 * 3600 + 5 * 60 + 7),  # PostgreSQL
        ("2016-01-31 18:05:07-03", 21 * 3600 + 5 * 60 + 7),
        ("2016-01-31 18:05:07 UTC", 18 * 3600 + 5 * 60 + 7),  # BigQuery
    ],
)
def test_iso_date_times_are_utc(text, seconds):
    """With a zone: moved to UTC. Without: taken as UTC."""
    assert read([text, "2016-01-31T00:00"]) == ([16_831 * 86_400 + seconds, 16_831 * 86_400], Clock("datetime"))


@pytest.mark.parametrize(("fraction", "ticks", "result"), [("25", 10**3, 250), ("000001", 10**6, 1), ("000000001", 10**9, 1)])
def test_fractions_of_a_second_decide_the_tick(fraction, ticks, result):
    """No coarser than what is written."""
    assert read([f"1970-01-01T00:00:00.{fraction}", "1970-01-01"]) == ([result, 0], Clock("datetime", ticks))


@pytest.mark.parametrize(("far", "sign"), [("0001-01-01T00:00:00.0000000", -1), ("9999-12-31T23:59:59.9999999", 1)])
def test_far_moments_keep_their_order(far, sign):
    """Seven decimals, as .NET writes them, are exact in ticks of 100 nanoseconds: 64 bits of nanoseconds end in 2262."""
    ticks, clock = read(["2020-01-01T00:00:00.1234567", far, "2020-01-01T00:00:00.1234568"])
    assert clock == Clock("datetime", 10**7)
    assert ticks[0] == 1_577_836_800 * 10**7 + 1_234_567
    assert ticks[2] == ticks[0] + 1
    assert ticks[1] == (-62_135_596_800 * 10**7 if sign < 0 else 253_402_300_800 * 10**7 - 1)
    assert show_moment(clock, ticks[1]).startswith(far[:19] if sign > 0 else far[:10])


def test_far_moments_without_decimals_are_read():
    """Whole seconds and up to six decimals reach over all years."""
    assert read(["0001-01-01T00:00:00", "9999-12-31T00:00:00.000001"])[1] == Clock("datetime", 10**6)
    assert read(["2262-01-01T00:00:00.000000001", "1678-01-01"])[1] == Clock("datetime", 10**9)


@pytest.mark.parametrize("far", ["0001-01-01T00:00:00.0000000", "9999-12-31"])
def test_far_moments_beside_nanoseconds_are_no_times(far):
    """Nine decimals and nine thousand years do not fit into 64 bits: the value is named, nothing wraps around."""
    with pytest.raises(UnreadableTimeError, match=f"'{far}' is not a time") as raised:
        read(["2020-01-01T00:00:00.123456789", "2020-01-01", far])
    assert raised.value.row == 2
    assert "at most 7 decimals of a second" in raised.value.expected


@pytest.mark.parametrize(("unit", "ticks"), [("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_date_time_columns_keep_their_unit(unit, ticks):
    """A frame's Datetime is an integer already."""
    column = pl.Series([datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)], dtype=pl.Datetime(unit, "UTC"))
    times = read_times(column)
    assert (times.ticks.to_list(), times.clock) == ([86_400 * ticks], Clock("datetime", ticks))


def test_categories_and_decimals_are_read_as_text():
    """Parquet files hold them."""
    assert read(["2016-01-31", "2016-01-31"], pl.Categorical) == ([16_831 * 86_400] * 2, Clock("date"))
    assert read(["978300760.25"], pl.Decimal(20, 2)) == ([978300760250], Clock("seconds", 1000))


@pytest.mark.parametrize(
    ("values", "row", "value"),
    [
        (["2016-01-31", "2016-02-30"], 1, "2016-02-30"),
        (["2016-01-31T10:00", "2016-01-31T24:00"], 1, "2016-01-31T24:00"),
        (["1", "2", "soon"], 2, "soon"),
        (["1", "", "2"], 1, ""),
        (["1", "nan"], 1, "nan"),
        (["99999999999999999999"], 0, "99999999999999999999"),
        (["32/01/2016"], 0, "32/01/2016"),
        ([1, None], 1, None),
        ([1.5, float("inf")], 1, float("inf")),
    ],
)
def test_values_that_are_not_times_are_named(values, row, value):
    """The first value that cannot be read, and its place."""
    with pytest.raises(UnreadableTimeError, match="is not a time") as raised:
        read(values)
    assert (raised.value.row, raised.value.value) == (row, value)


def test_unsigned_integers_beyond_64_bits_are_no_times():
    with pytest.raises(UnreadableTimeError, match="18446744073709551615 is not a time"):
        read([1, 2**64 - 1], pl.UInt64)


def test_a_list_holds_no_times():
    with pytest.raises(DataError, match=r"type List\(Int64\) does not hold times"):
        read([[1]])


def test_times_that_integers_cannot_keep_apart_are_refused():
    with pytest.raises(DataError, match="closer together than 64-bit integers"):
        read([0.1, 1e-12, 2e-12])
    for close in (["1650882384975123457", "1650882384975123456.5"], ["0.1234567891", "0.1234567892"]):
        with pytest.raises(DataError, match="closer together than 64-bit integers"):
            read(close)


def test_decimal_text_keeps_digits_that_a_float_has_not():
    """1650882384.9751232 and …1 are one float64; Decimals are read in the same way."""
    close = ["1650882384.9751232", "1650882384.9751231"]
    result = ([1_650_882_384_975_123_200, 1_650_882_384_975_123_100], Clock("seconds", 10**9))
    assert read(close) == result
    assert read([Decimal(text) for text in close]) == result
    assert read(["-0.5", "+3", "007.10", "5."]) == ([-500, 3000, 7100, 5000], Clock("number", 1000))


@given(st.lists(st.decimals(-(10**9), 10**9, places=9), min_size=1, max_size=8))
def test_decimal_text_keeps_order_and_ties(values):
    """Against Python's exact decimals, in the ticks that were chosen."""
    times, clock = read([f"{value:f}" for value in values])
    assert times == [int(value * clock.ticks) for value in values]
    assert [Decimal(time) / clock.ticks for time in times] == values


@pytest.mark.parametrize(
    ("clock", "text", "expected"),
    [
        (Clock("seconds"), "1970-01-02", 86_400),
        (Clock("seconds"), "86400", 86_400),
        (Clock("seconds", 1000), "86400.5", 86_400_500),
        (Clock("milliseconds"), "1970-01-02", 86_400_000),
        (Clock("milliseconds"), "86400", 86_400),
        (Clock("date"), "1970-01-02", 86_400),
        (Clock("datetime", 10**6), "1970-01-02T00:00:00.5+00:00", 86_400_500_000),
        (Clock("number"), "317", 317),
        (Clock("number"), "316.5", 317),
        (Clock("seconds"), "1970-01-01T00:00:00.5", 1),
        (Clock("seconds"), " -1.5 ", -1),
        (Clock("file order"), "3", 3),
    ],
)
def test_moments_are_ticks_rounded_up(clock, text, expected):
    """Events before the moment are exactly those with fewer ticks."""
    assert moment(clock, text) == expected


def test_a_moment_must_be_a_date_or_a_number():
    with pytest.raises(DataError, match="cannot read the moment 'yesterday'"):
        moment(Clock("seconds"), "yesterday")


def test_plain_numbers_have_no_dates():
    with pytest.raises(DataError, match="is a date, but the times of this data set are plain numbers"):
        moment(Clock("number"), "2016-01-31")


@pytest.mark.parametrize(
    ("clock", "ticks", "shown"),
    [
        (Clock("seconds"), 86_400, "1970-01-02"),
        (Clock("milliseconds"), 86_400_500, "1970-01-02T00:00:00.500000Z"),
        (Clock("number"), 317, "317"),
        (Clock("number", 1000), 1500, "1.5"),
        (Clock("seconds"), 10**15, "1000000000000000"),
    ],
)
def test_moments_are_shown_as_a_person_writes_them(clock, ticks, shown):
    assert show_moment(clock, ticks) == shown


@given(st.integers(-(10**12), 10**13))
def test_shown_moments_are_read_back(ticks):
    """Printed times can be entered again."""
    clock = Clock("milliseconds")
    assert moment(clock, show_moment(clock, ticks)) == ticks
