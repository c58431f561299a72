"""One small shop in every published layout, written by hand after the layouts' descriptions.

Three users took items 0001 and B2 three times each or so; item X9 has no metadata. Every layout tells the same story:

    user u1: 0001 (t 10), B2 (t 20), X9 (t 25), 0001 (t 30)
    user u2: B2 (t 5), 0001 (t 15), B2 (t 15)
    user u3: 0001 (t 40)
"""

import gzip
import json
from pathlib import Path

STORY = [
    ("u1", "0001", 10),
    ("u1", "B2", 20),
    ("u2", "B2", 5),
    ("u1", "X9", 25),
    ("u2", "0001", 15),
    ("u1", "0001", 30),
    ("u2", "B2", 15),
    ("u3", "0001", 40),
]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lines(rows, dump=json.dumps) -> str:
    return "".join(dump(row) + "\n" for row in rows)


def amazon2014(folder: Path, photos: str) -> None:
    """Metadata lines are Python literals: single quotes, nested lists of categories, one picture."""
    reviews = [
        {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": moment, "reviewTime": "01 1, 1970"}
        for user, item, moment in STORY
    ]
    write(folder / "reviews_Shop_5.json.gz", lines(reviews))
    meta = [
        {
            "asin": "0001",
            "title": "Bob's &quot;red&quot; drum",
            "brand": "Bob",
            "categories": [["Music", "Drums"], ["Music"]],
            "imUrl": f"{photos}/drum.jpg",
            "description": "Loud.",
        },
        {"asin": "B2", "categories": [[]], "salesRank": {"Music": 3}},
    ]
    write(folder / "meta_Shop.json.gz", lines(meta, repr))


def amazon2018(folder: Path, photos: str) -> None:
    """JSON; lists of categories and of descriptions with HTML; lists of pictures, small and large."""
    reviews = [
        {"reviewerID": user, "asin": item, "unixReviewTime": moment, "reviewText": "nice"}
        for user, item, moment in STORY
    ]
    write(folder / "Shop.json.gz", lines(reviews))
    meta = [
        {
            "asin": "0001",
            "title": 'Bob&#39;s "red" <b>drum</b>'.replace("&#39;", "'"),
            "brand": "Bob",
            "category": ["Music", "Drums"],
            "description": ["<p>Loud.</p>", ""],
            "imageURL": [f"{photos}/small.jpg"],
            "imageURLHighRes": [f"{photos}/drum.jpg", f"{photos}/back.jpg"],
        },
        {"asin": "B2", "title": "", "category": [], "imageURL": [], "imageURLHighRes": []},
        {"asin": "0001", "title": "the same once more"},
    ]
    write(folder / "meta_Shop.json.gz", lines(meta))


def amazon2023(folder: Path, photos: str) -> None:
    """Parent ids, time in milliseconds, store, features, and pictures as a list of dicts with variants."""
    reviews = [
        {"user_id": user, "asin": item + "-blue", "parent_asin": item, "timestamp": 1_000 * moment, "rating": 5.0}
        for user, item, moment in STORY
    ]
    write(folder / "Shop.jsonl.gz", lines(reviews))
    meta = [
        {
            "parent_asin": "0001",
            "title": 'Bob\'s "red" drum',
            "store": "Bob",
            "categories": ["Music", "Drums"],
            "features": ["Loud."],
            "description": [],
            "images": [
                {"thumb": f"{photos}/s.jpg", "large": f"{photos}/back.jpg", "variant": "PT01", "hi_res": None},
                {"thumb": f"{photos}/s.jpg", "large": f"{photos}/drum.jpg", "variant": "MAIN", "hi_res": None},
            ],
        },
        {"parent_asin": "B2", "title": None, "store": None, "categories": [], "features": [], "images": []},
    ]
    write(folder / "meta_Shop.jsonl.gz", lines(meta))


def recbole(folder: Path, photos: str) -> None:
    """Tab-separated with typed headers; prices are no text."""
    rows = "".join(f"{user}\t{item}\t5.0\t{float(moment)}\n" for user, item, moment in STORY)
    write(folder / "shop.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    header = (
        "item_id:token\ttitle:token_seq\tbrand:token\tcategories:token_seq\tprice:float\tnote:token\timage:token\n"
    )
    items = f'0001\tBob\'s "red" drum\tBob\tMusic, Drums\t9.99\tLoud.\t{photos}/drum.jpg\nB2\t\t\t\t\t\t\n'
    write(folder / "shop.item", header + items)


def mql4grec(folder: Path, photos: str) -> None:
    """Users to items in time order; an item file like LC-Rec's."""
    histories = {}
    for user, item, _ in sorted(STORY, key=lambda row: row[2]):
        histories.setdefault(user, []).append(item)
    write(folder / "Shop.inter.json", json.dumps(dict(sorted(histories.items())), indent=4))
    drum = {"title": 'Bob\'s "red" drum', "brand": "Bob", "categories": "Music, Drums", "description": "Loud."}
    items = {"0001": {**drum, "image": f"{photos}/drum.jpg"}, "B2": {"title": ""}}
    write(folder / "Shop.item.json", json.dumps(items, indent=4))
    write(folder / "Shop.index_lemb.json", "{}")


WRITERS = {writer.__name__: writer for writer in (amazon2014, amazon2018, amazon2023, recbole, mql4grec)}
