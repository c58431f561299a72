"""Timestamps: numbers of one unit, or dates; and the days that they stand for."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .text_files import shortened, warn_once

logger = logging.getLogger(__name__)

_FIRST_DAY, _LAST_DAY = 3_652, 47_482  # 1980 to 2100: numbers outside are no dates
_UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_AT_A_TIME = 1_000_000  # timestamps that are made numbers at once; ours
_HUGE = 10**300  # no float holds much larger integers
# As Excel and C write numbers; other programs write all digits of a float, and `e` or no `+`.
_SHORTENED, _LONG = re.compile(r"\d(?:[.,]\d{1,6})?E\+(\d\d)"), 8  # seconds since 1970 have ten digits
_AS_OTHERS_WRITE = re.compile(r"(?<=\d) ?UTC\s*$|(?<=:\d\d),(?=\d)")  # BigQuery; logging and ISO 8601 itself
_FAR = 3_652
"""Days between dates that nobody expects in one shop: ten years, ours."""


def as_timestamps(values: pd.Series, path: Path) -> pd.Series:
    """Numbers stay numbers; anything else is read as an ISO 8601 date, without a zone as UTC.

    Raises:
        ValueError: a timestamp that is missing, that is neither, that has another unit than the others or that lies
            far outside the years 1980 to 2100 where others lie inside; with the row.
    """
    values = values.reset_index(drop=True)
    missing = values.isna().to_numpy()
    if values.dtype == object:
        missing = missing | np.array([value == "" for value in values.tolist()], dtype=bool)
    if missing.any():
        raise ValueError(
            f"{path}: missing timestamps: expected one in every row, {missing.sum():,} of {len(values):,} have none, "
            f"first in row {np.flatnonzero(missing)[0] + 1}. The order decides which item tests: fill them or remove "
            "the rows."
        )
    read = pd.api.types.is_datetime64_any_dtype(values.dtype) or _are_whole(values)
    times = values if read else _read(values, path)
    _check(times, values, path)
    _tell_of_written_dates(times, path)
    return times


def days_of(timestamps: pd.Series) -> np.ndarray | None:
    """Days since 1970, int32: of dates, or of numbers that can only be seconds, milli-, micro- or nanoseconds.

    Returns:
        None for numbers that give no more than an order, such as 0, 1, 2, …: some lie outside the years 1980 to 2100.
    """
    if pd.api.types.is_datetime64_any_dtype(timestamps):
        return _days_of_dates(timestamps).astype(np.int32)
    values = timestamps.to_numpy(dtype=np.float64)
    for unit in _UNITS.values():
        days = values / (unit * 86_400)
        if len(days) and days.min() >= _FIRST_DAY and days.max() < _LAST_DAY:
            return days.astype(np.int32)
    return None


def _tell_of_written_dates(times: pd.Series, path: Path) -> None:
    """A notice of numbers that order purchases, but are dates to people: no day is known of them.

    Raises:
        ValueError: the day or the month stands first, so that sorted numbers are not in the order of time.
    """
    if pd.api.types.is_datetime64_any_dtype(times) or not len(times):
        return
    values = times.to_numpy(dtype=np.float64)
    told, is_in_order = _written(values)
    if not is_in_order:
        raise ValueError(
            f"{path}: expected times whose numbers rise with time or count from 1970, got numbers such as "
            f"{values[0]:.15g}, which look like {told}: they would be put in a wrong order, or years away. Write them "
            "as 2024-03-01 or 2024-03-01T15:22, such as by pandas.to_datetime of the texts with their format, "
            "'%d%m%Y', '%m%d%Y' or '%Y%m%d%H'."
        )
    if told:
        warn_once(
            logger,
            f"{path}: times such as {values[0]:.15g} look like {told}. They are read as numbers that order the "
            "purchases, without a day: what sold lately is not known, and --until and --cut take such numbers. Write "
            "them as 2024-03-01 or 2024-03-01T15:22.",
        )


def _written(values: np.ndarray) -> tuple[str, bool]:
    """How people have written dates as numbers, "" where they have not, and whether they may be read as numbers."""
    num_rows, values = len(values), np.unique(values)
    parts = (values % 1 != 0).any()
    if parts or 1 < len(values) < num_rows:  # whole numbers that are all different may be those of rows
        is_excel = 29221 <= values.min() and values.max() < 73051  # from 1980 to 2100; day 1 is the first of 1900
        if parts or is_excel:
            return ("days as Excel counts them" if is_excel else ""), True
    first, second, last = values // 10**6, values // 10**4 % 100, values % 10**4
    for form, size in (("YYYYMMDD", 1), ("YYYYMMDDhh", 100), ("YYYYMMDDhhmm", 10**4), ("YYYYMMDDhhmmss", 10**6)):
        days = values // size
        is_hour = form != "YYYYMMDDhh" or (values % 100 < 24).all()
        if is_hour and _are_dates_of(days // 10**4, days // 100 % 100, days % 100, since=1900):
            return f"dates written {form}", form != "YYYYMMDDhh"  # seconds since 1970 are as long
    if _are_dates_of(values // 100, values % 100, np.ones(1)):
        return "months written YYYYMM", True
    if len(np.unique(values // 10**4)) > 1:  # else they may be numbers in a row
        for form, days, months in (("DDMMYYYY", first, second), ("MMDDYYYY", second, first)):
            if _are_dates_of(last, months, days):
                return f"dates written {form}", bool((np.diff(last * 10**4 + months * 100 + days) >= 0).all())
    return "", True


def _are_dates_of(years: np.ndarray, months: np.ndarray, days: np.ndarray, since: int = 1980) -> bool:
    """Whether all of them are, of the years up to 2100."""
    within = ((years, since, 2100), (months, 1, 12), (days, 1, 31))
    return all(least <= part.min() and part.max() <= most for part, least, most in within)


def _are_whole(values: pd.Series) -> bool:
    return isinstance(values.dtype, np.dtype) and values.dtype.kind in "iu"


def _read(values: pd.Series, path: Path) -> pd.Series:
    listed = values.tolist()
    if not set(map(type, listed)) <= {str, float}:
        for row, value in enumerate(listed):
            if isinstance(value, (bool, list, dict)) or (isinstance(value, int) and abs(value) >= _HUGE):
                raise _no_time(values, row, path)
    del listed
    some = [values.iloc[start : start + _AT_A_TIME] for start in range(0, len(values), _AT_A_TIME)]
    numbers = pd.concat([pd.to_numeric(part, errors="coerce") for part in some])  # several times what it is given
    no_number = ~np.isfinite(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    if not no_number.any():
        _refuse_shortened(values, numbers, path)
        return numbers.astype(np.float64) if numbers.dtype == object else numbers
    texts = values.astype(str).str.replace(_AS_OTHERS_WRITE, _as_iso, regex=True)
    dates = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    # pandas takes "now" and "today" for dates too
    no_date = dates.isna().to_numpy() | ~texts.str.match(r"\s*\d").to_numpy(dtype=bool)
    if no_date.any():
        wrong = no_date & no_number  # or else of the kind that is rarer
        if not wrong.any():
            wrong = no_number if no_number.sum() < no_date.sum() else no_date
        raise _no_time(values, int(np.flatnonzero(wrong)[0]), path)
    return dates.dt.tz_localize(None)


def _as_iso(found: re.Match[str]) -> str:
    return "." if found[0] == "," else "Z"


def _refuse_shortened(values: pd.Series, numbers: pd.Series, path: Path) -> None:
    """Refuses texts such as 1.59E+12: a spreadsheet has cut the digits that tell one moment from another."""
    if numbers.dtype != np.float64:
        return
    for row, value in enumerate(values.tolist()):
        if isinstance(value, str) and (found := _SHORTENED.fullmatch(value.strip())):
            if int(found[1]) > _LONG:
                raise ValueError(
                    f"{path}: expected timestamps, got {value!r} in row {row + 1}, a number that a spreadsheet has "
                    "shortened: its last digits are lost. Format the column as text or as a whole number and export "
                    "it again."
                )


def _no_time(values: pd.Series, row: int, path: Path) -> ValueError:
    return ValueError(
        f"{path}: expected timestamps that are all numbers or all ISO 8601 dates such as 2020-06-26, got "
        f"{shortened(values.iloc[row])} in row {row + 1}. Write the column anew, such as by pandas.to_datetime, "
        "with dayfirst=True where the day stands first."
    )


def _days_of_dates(dates: pd.Series) -> np.ndarray:
    naive = dates.dt.tz_convert(None) if dates.dt.tz is not None else dates
    return naive.to_numpy().astype("datetime64[D]").astype(np.int64)


def _check(times: pd.Series, values: pd.Series, path: Path) -> None:
    """Refuses two units in one column, and the odd date that would move every "days since"."""
    unit = "dates"
    if pd.api.types.is_datetime64_any_dtype(times.dtype):
        days = _days_of_dates(times).astype(np.float64)
    else:
        numbers = times.to_numpy(dtype=np.float64)
        found = {name: _are_dates(numbers / (size * 86_400)) for name, size in _UNITS.items()}
        found = {name: rows for name, rows in found.items() if rows.any()}
        if len(found) > 1:
            raise ValueError(_two_units(found, values, path))
        if not found:  # numbers that give an order, no more
            return
        unit = next(iter(found))
        days = numbers / (_UNITS[unit] * 86_400)
    inside = _are_dates(days)
    if not inside.any():
        return
    far = _beyond_a_gap(days, inside)
    if far.any():
        row, usual = int(np.flatnonzero(far)[0]), int(np.flatnonzero(inside)[0])
        kind = "dates" if unit == "dates" else f"{unit} since 1970"
        raise ValueError(
            f"{path}: expected {kind} between 1980 and 2100 in every row, such as {_shown(values, usual)} in row "
            f"{usual + 1}, got {_shown(values, row)} in row {row + 1}. Is a date missing there, or of another unit? "
            "Correct these rows or remove them."
        )
    _tell_gap(days, values, path)


def _beyond_a_gap(days: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Which days lie beyond a gap of more than `_FAR`, seen from those inside the years 1980 to 2100."""
    ordered = np.sort(days)
    after = np.flatnonzero(np.diff(ordered) > _FAR) + 1  # first places behind a gap
    low, high = np.searchsorted(ordered, [days[inside].min(), days[inside].max()])
    first = after[after <= low].max(initial=0)
    last = after[after > high].min(initial=len(ordered)) - 1
    return (days < ordered[first]) | (days > ordered[last])


def _are_dates(days: np.ndarray) -> np.ndarray:
    return (days >= _FIRST_DAY) & (days < _LAST_DAY)


def _two_units(found: dict[str, np.ndarray], values: pd.Series, path: Path) -> str:
    examples = [f"{unit} since 1970 in {rows.sum():,} rows, such as {_shown(values, int(rows.argmax()))} in row "
                f"{rows.argmax() + 1}" for unit, rows in found.items()]  # fmt: skip
    return (
        f"{path}: expected timestamps of one unit, but they can only be {', and '.join(examples)}: sorted as they "
        "are, their order is wrong. Multiply or divide one part by 1,000 (a million, a thousand million)."
    )


def _shown(values: pd.Series, row: int) -> str:
    value: Any = values.iloc[row]
    return shortened(value) if isinstance(value, str) else str(value)[:60]


def _tell_gap(days: np.ndarray, values: pd.Series, path: Path) -> None:
    ordered = np.sort(days)
    gaps = np.diff(ordered)
    if len(gaps) and gaps.max() > _FAR:
        place = int(gaps.argmax())
        before, after = (int(np.flatnonzero(days == ordered[at])[0]) for at in (place, place + 1))
        warn_once(
            logger,
            f"{path}: no purchase for {gaps[place] / 365.25:.0f} years between {_shown(values, before)} (row "
            f"{before + 1}) and {_shown(values, after)} (row {after + 1}). Are these dates right? The blend counts "
            "days up to the last purchase.",
        )
