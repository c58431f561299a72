"""Timestamps: one unit in one column, no odd date among the others, and the days that they stand for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from macrec_hf.data import times
from macrec_hf.data.times import as_timestamps, days_of

PATH = Path("t.csv")
DAY = 18_000  # 2019-04-14
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


def read(*values) -> pd.Series:
    return as_timestamps(pd.Series(list(values), dtype=object), PATH)


@pytest.mark.parametrize("size", UNITS.values())
def test_days_of_numbers(size):
    times = read(*((DAY + day) * 86_400 * size + 5 for day in range(3)))
    assert days_of(times).tolist() == [DAY, DAY + 1, DAY + 2] and times.dtype == np.int64


def test_numbers_that_are_no_dates_stay_numbers():
    for values in (
        [0, 1, 2],
        [-5, 3],
        ["3", "2.5"],
        [20190414, 20190415],
        [DAY, DAY + 1],
        list(range(0, 10**9, 10**7)),
    ):
        times = read(*values)
        assert times.tolist() == [float(value) for value in values] and days_of(times) is None
    assert read(10**30, 5).tolist() == [1e30, 5.0]


def test_many_numbers_are_read_as_few_are(monkeypatch):
    columns = [["3", "4", "2.5", "7", "1"], [3, "4", 5, "6", 7], [10**30, 5, 6, 7, "8"], ["1e3", "2", "3"]]
    whole = [read(*values) for values in columns]
    monkeypatch.setattr(times, "_AT_A_TIME", 2)
    for values, wanted in zip(columns, whole, strict=True):
        pd.testing.assert_series_equal(read(*values), wanted)
    with pytest.raises(ValueError, match="got 'x' in row 3"):
        read("1", "2", "x")


def test_dates_as_other_programs_write_them():
    moment = pd.Timestamp("2020-06-26 10:00:00")
    assert read("2020-06-26 10:00:00 UTC", "2020-06-26 10:00:00UTC ").tolist() == [moment, moment]
    assert read("2020-06-26 10:00:00,250", "2020-06-26").tolist() == [
        moment + pd.Timedelta("250ms"), moment.normalize(),
    ]  # fmt: skip
    for wrong in ("26.06.2020", "06/26/2020", "2020-06-26 CET", "UTC", "1,5", "2020-06-26 10,5"):
        with pytest.raises(ValueError, match="in row 2. Write the column anew, such as by pandas.to_datetime"):
            read("2020-06-26", wrong)


@pytest.mark.parametrize("first", UNITS)
@pytest.mark.parametrize("second", UNITS)
@pytest.mark.parametrize("text", [False, True])
def test_two_units_in_one_column(first, second, text):
    values = [DAY * 86_400 * UNITS[first] + 1, (DAY + 1) * 86_400 * UNITS[second]]
    values = [str(value) for value in values] if text else values
    if first == second:
        assert days_of(read(*values)).tolist() == [DAY, DAY + 1]
        return
    with pytest.raises(ValueError, match="t.csv: expected timestamps of one unit, but .* 1,000") as error:
        read(*values)
    for unit, row in ((first, 1), (second, 2)):
        assert f"{unit} since 1970 in 1 rows, such as {values[row - 1]!r} in row {row}" in str(error.value)


@pytest.mark.parametrize(
    "odd", [1e30, -1, 0, 5, 100_000_000_000, 42_930.5, 20_170_714, -1.6e9, 4_500_000_000]
)  # 5138-11-16, a serial number of Excel, a day, 1919, 2112
@pytest.mark.parametrize("kind", [float, str])
def test_one_odd_number_among_dates(odd, kind):
    usual = [DAY * 86_400 + day * 86_400 for day in range(3)]
    with pytest.raises(ValueError, match=r"t.csv: expected seconds since 1970 between 1980 and 2100 .* in row 3\. "):
        read(*map(kind, usual[:2]), kind(odd), kind(usual[2]))


@pytest.mark.parametrize("odd", ["1970-01-01", "0001-01-01", "5138-11-16", "9999-12-31", "1900-01-01T00:00:00Z"])
def test_one_odd_date_among_others(odd):
    with pytest.raises(ValueError, match=rf"t.csv: expected dates between 1980 and 2100 .*got '{odd}' in row 2"):
        read("2020-01-01", odd, "2020-01-03")
    dates = pd.Series(np.array(["2020-01-01", odd[:10], "2020-01-03"], dtype="datetime64[s]"))
    with pytest.raises(ValueError, match=rf"got {odd[:10]} .* in row 2"):
        as_timestamps(dates, PATH)


def test_old_dates_among_themselves():
    times = read("1910-01-01", "1912-05-06")
    assert days_of(times).tolist() == [-21_915, -21_059]


def test_a_gap_of_years_is_told(caplog):
    assert days_of(read("2020-01-01", "2099-12-31", "2020-01-02")).tolist() == [18_262, 47_481, 18_263]
    assert "t.csv: no purchase for 80 years between '2020-01-02' (row 3) and '2099-12-31' (row 2)" in caplog.text
    caplog.clear()
    read("2012-01-01", "2020-01-01", 1_577_836_800 and "2020-01-02")
    assert not caplog.records


@pytest.mark.parametrize("wrong", [True, [1], {"a": 1}, "yesterday", float("inf"), 10**400])
def test_values_that_are_no_times(wrong):
    with pytest.raises(
        ValueError, match="t.csv: expected timestamps that are all numbers or all ISO 8601 .* in row 2"
    ):
        read(1_577_836_800, wrong)


@pytest.mark.parametrize("word", ["now", "today", "NaT", "nan", "-1e5x"])
def test_words_that_are_no_dates(word):
    with pytest.raises(ValueError, match=f"t.csv: expected timestamps .* got '{word}' in row 2"):
        read("2020-01-01", word, "2020-01-03")


@pytest.mark.parametrize("short", ["1.59E+12", "1.600000E+12", "2E+09"])
def test_times_that_a_spreadsheet_has_shortened(short):
    with pytest.raises(ValueError, match="t.csv: expected timestamps, got '.*' in row 2, a number that a spreadsheet"):
        read("1590000000", short, "1590000001")
    assert read("1.500000005e9", "1500000006", "1.500000007E+09").tolist() == [1500000005, 1500000006, 1500000007]
    assert read("1.5000768e+18", "1.5001632E18").tolist() == [1500076800 * 10**9, 1500163200 * 10**9]


def test_zones():
    aware = as_timestamps(pd.Series(pd.to_datetime(["2020-01-01T00:30+01:00"]).tz_convert("Asia/Tokyo")), PATH)
    assert days_of(aware).tolist() == [18_261]  # 2019-12-31 in UTC
    assert days_of(read("2020-01-01T00:30:00+01:00", "2020-01-01")).tolist() == [18_261, 18_262]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([20240301, 20251231, 20240301], "20240301 look like dates written YYYYMMDD"),
        (["20240301", "20251231"], "20240301 look like dates written YYYYMMDD"),
        ([20240301120000, 20251231235959], "20240301120000 look like dates written YYYYMMDDhhmmss"),
        ([202403011200, 202512312359], "202403011200 look like dates written YYYYMMDDhhmm"),
        ([19000101, 20251231], "19000101 look like dates written YYYYMMDD"),
        ([1032024, 31032024], "1032024 look like dates written DDMMYYYY"),  # of one month: they rise
        ([202403, 202512], "202403 look like months written YYYYMM"),
        ([45352.3889, 45353.5], "45352.3889 look like days as Excel counts them"),
        ([20240301, 20241301], None),  # no thirteenth month
        ([1, 2, 3], None),
        ([202401, 202413], None),
        ([10102023, 10102024, 10102025], None),  # numbers in a row, or one day of three years
        ([1012024, 13132024, 1102025], None),  # neither a day nor a month
        ([45352.3889], "45352.3889 look like days as Excel counts them"),
        ([45352, 45353, 45352], "45352 look like days as Excel counts them"),
        ([45352, 45353, 45354], None),  # all different, as numbers of rows
        ([29220, 45353, 29220], None),  # before 1980
        ([45353, 45353], None),  # of one day nothing is known anyway
        ([1.5, 2.5], None),
        ([1709251200, 1709251260], None),
        (["2024-03-01", "2025-12-31"], None),
    ],
)
def test_numbers_that_are_dates_to_people_are_told_of(values, told, caplog, tmp_path):
    times = as_timestamps(pd.Series(values), tmp_path / "orders.csv")  # a path of its own: told once of each file
    assert len(times) == len(values)
    assert ("look like" in caplog.text) is (told is not None) and (told or "") in caplog.text


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (["31012024", "01022024"], "DDMMYYYY"),
        ([31012024, 1022024], "DDMMYYYY"),
        ([1312024, 2012023], "MMDDYYYY"),
        ([12312023, 2012024], "MMDDYYYY"),
        ([2023122115, 2024010109], "YYYYMMDDhh"),  # else read as seconds, of 2034
    ],
)
def test_dates_that_would_be_read_in_a_wrong_order_or_years_away_are_refused(values, form):
    with pytest.raises(
        ValueError, match=f"t.csv: expected times whose numbers rise with time or count.*like dates written {form}"
    ):
        read(*values)
