"""Parquet files, and folders of their parts → columns of Python values, row by row as they lie in the file.

pandas' own notes in a file (which column was the index) are passed over: a table that was sorted or filtered before it
was written has rows like any other, and ids that were the index come back as a column.
"""

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SHORT_FLOATS = "short_floats"


def read_parquet(path: Path) -> pd.DataFrame:
    """Reads a `.parquet` file, or all those in a folder in the order of their names (`part.2` before `part.10`).

    Returns:
        Columns of Python objects, None where a value is missing: integers stay integers beside holes, lists and
        structs become lists and dicts, categories what they stand for. Timestamps are columns of datetimes. A column
        that a part lacks is NaN there. `attrs["short_floats"]` names the columns of 16- and 32-bit floats.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, no Parquet file, a column named twice, or a folder that holds anything else than
            parts.
    """
    parts = [_read_part(part) for part in _parts(path)]
    table = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    table.attrs[SHORT_FLOATS] = sorted({name for part in parts for name in part.attrs[SHORT_FLOATS]})
    return table


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a `.parquet` file, or of all parts in a folder.

    Raises:
        FileNotFoundError, ValueError: no such file, or others than parts in the folder.
        pyarrow.ArrowInvalid: a damaged file; it is a ValueError.
    """
    return list(dict.fromkeys(name for part in _parts(path) for name in pq.read_schema(part).names))


def _parts(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    if path.is_file():
        return [path]
    if not path.is_dir():  # a pipe: reading it would wait for its writer
        raise ValueError(f"{path}: expected a Parquet file or a folder of parts, got something else.")
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(("_", "."))]
    parts = [entry for entry in inside if entry.name.endswith(".parquet") and entry.is_file()]
    if others := [entry.name for entry in inside if entry not in parts]:
        raise ValueError(
            f"{path} is a folder: expected parts that end with .parquet and nothing else, got {sorted(others)[:3]} "
            "too. Join them into one file: pandas.read_parquet(folder).to_parquet(file)."
        )
    if not parts:
        raise ValueError(f"{path} is a folder: expected parts that end with .parquet, got none. Was it copied whole?")
    return sorted(parts, key=_by_number)


def _by_number(part: Path) -> list[str | int]:
    """Letters and digits of the name in turn, so that numbers are compared as numbers."""
    return [int(word) if place % 2 else word for place, word in enumerate(re.split("([0-9]+)", part.name))]


def _read_part(path: Path) -> pd.DataFrame:
    if not path.stat().st_size:
        raise ValueError(f"{path}: expected a Parquet file, got an empty file. Was it copied whole?")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            twice = [name for name, times in Counter(file.schema_arrow.names).items() if times > 1]
            table = None if twice else file.read()
            columns = {} if table is None else {name: _values(table.column(name)) for name in table.column_names}
            short = [field.name for field in file.schema_arrow if field.type in (pa.float16(), pa.float32())]
    except Exception as error:  # pyarrow raises a dozen kinds, and not one names the file
        reason = " ".join(str(error).replace(str(path), "it").split())
        raise ValueError(
            f"{path}: cannot be read as Parquet ({reason[:200]}). Was it cut off, or is it another kind of file? Copy "
            "it or write it again."
        ) from error
    if twice:
        raise ValueError(f"{path}: expected each column once, got {twice[:3]} twice. Rename or remove one of them.")
    part = pd.DataFrame(columns)
    part.attrs[SHORT_FLOATS] = short
    return part


def _values(column: pa.ChunkedArray) -> pd.Series:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and not str(kind).startswith("extension<arrow.uuid"):
        column = column.cast(kind.storage_type)
    if pa.types.is_timestamp(column.type):
        return column.to_pandas()
    return pd.Series(column.to_pylist(), dtype=object)
