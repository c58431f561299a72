"""Files damaged at random: each is refused by its name, or holds what a plain reading of it holds."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from macrec_hf.data.readers import read_interactions, read_items
from macrec_hf.data.table_files import read_table

ITEMS = [
    {"item_id": f"i{place:03d}", "title": f'thing {place}, "große" Stühle', "text": "two\nlines" * (place % 3)}
    for place in range(30)
]
INTERACTIONS = [
    {"user_id": f"u{place % 7}", "item_id": f"i{place % 30:03d}", "timestamp": 1_600_000_000 + 1000 * place}
    for place in range(60)
]
ODD = [
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\t",
    b"\\",
    b"{",
    b"}",
    b"NaN",
    b"-1",
    b"1e30",
    b"\xed\xa0\xbd",
    b";",
]


def written(rows: list[dict], name: str) -> bytes:
    table = pd.DataFrame(rows)
    if ".jsonl" in name:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif ".parquet" in name:
        held = io.BytesIO()
        table.sort_values(table.columns[0], ascending=False).to_parquet(held)
        return held.getvalue()
    elif ".inter.json" in name:
        content = json.dumps({str(user): list(part) for user, part in table.groupby("user_id")["item_id"]}).encode()
    else:
        content = table.to_csv(index=False, sep="\t" if ".tsv" in name else ",").encode()
    return gzip.compress(content) if name.endswith(".gz") else content


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut off, bytes changed, odd ones put in, or a piece that is missing or stands twice."""
    kind, place = chance.randrange(5), chance.randrange(len(content))
    until = min(len(content), place + chance.randrange(1, 40))
    if kind == 0:
        return content[:place]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    middle = {2: b"", 3: content[place:until] * 2, 4: chance.choice(ODD) + content[place:until]}[kind]
    return content[:place] + middle + content[until:]


def plainly(path: Path) -> list[list[list]]:
    """What the standard tools make of a file: the one reading, or, for quotation marks, both."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    if path.suffix == ".parquet":
        return [[list(row.values()) for row in pq.read_table(path).to_pylist()]]
    text = content.decode("utf-8-sig")
    rows = [list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting))
            for separator in ",\t;" for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE)]  # fmt: skip
    return [[row for row in kind if any(row)][1:] for kind in rows]


def objects(path: Path) -> list[dict[str, str]]:
    """The objects of a file of JSON lines, without what is empty."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    found = []
    for line in io.StringIO(content.decode("utf-8-sig"), newline=None):
        try:
            found.append(json.loads(line.strip(), strict=False, parse_constant=lambda name: None))
        except ValueError:
            continue
    return [
        {key: str(value) for key, value in row.items() if value is not None} for row in found if isinstance(row, dict)
    ]


def cells(rows: list[list]) -> list[list[str]]:
    return [[str(cell) for cell in row if cell is not None and cell == cell and cell != ""] for row in rows]


def check(read, path: Path) -> bool:
    """Whether the file was accepted."""
    try:
        read(path)
        table = read_table(path)
    except ValueError as error:
        assert path.name in str(error) and len(str(error)) < 1000 and "\n" not in str(error)
        return False
    if ".jsonl" in path.name:  # lines with a key twice are skipped
        rows = [
            {key: str(value) for key, value in row.items() if value is not None} for row in table.to_dict("records")
        ]
        plain = objects(path)
        assert all(row in plain for row in rows)
    else:
        assert cells(table.to_numpy(dtype=object).tolist()) in [cells(rows) for rows in plainly(path)]
    return True


def attack(tmp_path: Path, name: str, read, rows: list[dict], times: int) -> int:
    whole, chance = written(rows, name), random.Random(name)
    path, accepted = tmp_path / name, 0
    for _ in range(times):
        path.write_bytes(damaged(whole, chance))
        accepted += check(read, path)
    return accepted


NAMES = ["i.csv", "i.tsv", "i.jsonl", "i.parquet", "i.csv.gz", "i.jsonl.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_items(tmp_path, name):
    attack(tmp_path, name, read_items, ITEMS, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_items_for_longer(tmp_path, name):
    assert 0 < attack(tmp_path, name, read_items, ITEMS, 1500) < 1500 or name.endswith(".gz")
    attack(tmp_path, name, read_interactions, INTERACTIONS, 700)


def test_damaged_inter_json(tmp_path):
    whole, chance = written(INTERACTIONS, "X.inter.json"), random.Random(0)
    for _ in range(200):
        (tmp_path / "X.inter.json").write_bytes(damaged(whole, chance))
        try:
            found = read_interactions(tmp_path / "X.inter.json")
        except ValueError as error:
            assert "X.inter.json" in str(error) and len(str(error)) < 1000
            continue
        plain = json.loads((tmp_path / "X.inter.json").read_bytes().decode("utf-8-sig"), strict=False)
        assert found["item_id"].tolist() == [str(item) for items in plain.values() for item in items]
