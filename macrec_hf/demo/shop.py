"""A shop made from a seed: rendered photos, written titles, customers with tastes.

A product has a kind, a brand, a colour and a pattern. The kind shows in text and photo, the brand is only written, the
colour and the pattern are only to be seen. Customers buy one kind after another (a mug, then a backpack ...), stay
with a brand and a colour for a while, and drift between their two favourites of each: so what comes next can be told
from the history, half of it from the texts and half from the photos, and hardly from what sells most.
"""

import csv
import json
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .photos import COLOURS, KINDS, PATTERNS, render_photo

BRANDS = {
    "Alderfield": "Made by hand in a family workshop in the hills.",
    "Brightwater": "Designed at the coast and tested in salt and wind.",
    "Corvane": "Precise engineering with a ten year guarantee.",
    "Dapplewood": "Playful, soft and drawn by children's book artists.",
    "Estrella": "Festive southern style, signed by the designer.",
    "Ironvale": "Rugged gear for the building site and the mountain.",
}
KIND_TEXTS = {
    "T-shirt": "Cotton jersey with a round neck and short sleeves.",
    "mug": "Stoneware for coffee and tea, holds 350 ml, dishwasher safe.",
    "backpack": "Padded shoulder straps, laptop sleeve and a zipped front pocket.",
    "lamp": "Bedside light with a fabric shade, takes an E27 bulb.",
    "umbrella": "Opens at the push of a button, eight ribs, curved handle.",
    "sneaker": "Canvas shoe with laces and a rubber sole.",
    "armchair": "Upholstered seat with deep cushions on beech legs.",
    "cap": "Six panel headwear with a curved visor and adjustable band.",
    "teapot": "Porcelain pot with strainer and lid, brews one litre.",
    "dress": "Sleeveless summer gown with a fitted waist and a wide skirt.",
}
MODELS = ("Aria", "Bolt", "Cosmo", "Delta", "Echo", "Flora", "Gala", "Hero", "Iris", "Juno", "Kite", "Luna")

MAX_ITEMS = len(KINDS) * len(BRANDS) * len(COLOURS) * len(PATTERNS)
SHORTEST, LONGEST = 8, 12  # purchases of a customer
KEEP = 0.85  # chance that the next purchase keeps the favourite brand of the last one; likewise the colour
BRAND_PULL, COLOUR_PULL, KIND_PULL, PATTERN_PULL = 4.0, 4.0, 4.0, 0.5  # of a match, in the logit of a choice
FAME_SPREAD = 0.3  # standard deviation of an item's own logit: how unlike the items sell
FIRST_DAY = 1704067200  # 2024-01-01 in Unix seconds
DAY = 86400


@dataclass(frozen=True)
class DemoShop:
    """Where a shop lies.

    Attributes:
        items: `items.jsonl` with item_id, title, text and image.
        interactions: `interactions.csv` with user_id, item_id and timestamp (Unix seconds).
        images: the folder of photos.
    """

    items: Path
    interactions: Path
    images: Path


def make_demo_shop(directory: str | Path, num_items: int = 300, num_customers: int = 600, seed: int = 0) -> DemoShop:
    """Writes a shop in the formats of every other shop; the same seed gives the same shop.

    Args:
        directory: where to write; made if it does not exist.
        num_items: products, each another combination of kind, brand, colour and pattern.
        num_customers: each buys 8 to 12 times.
        seed: of everything.

    Returns:
        The paths `items` (`items.jsonl`), `interactions` (`interactions.csv`) and `images` (a folder).

    Raises:
        ValueError: fewer than 20 items, more than there are combinations, or no customer.
    """
    if not 20 <= num_items <= MAX_ITEMS:
        raise ValueError(f"num_items: expected 20 to {MAX_ITEMS} (all combinations of the shop), got {num_items}.")
    if num_customers < 1:
        raise ValueError(f"num_customers: expected at least 1, got {num_customers}.")
    directory = Path(directory)
    shop = DemoShop(directory / "items.jsonl", directory / "interactions.csv", directory / "images")
    shop.images.mkdir(parents=True, exist_ok=True)
    # A stream for each part: more customers leave the products as they are.
    products, photos, customers = (np.random.default_rng([seed, part]) for part in range(3))
    attributes = _draw_products(num_items, products)
    item_ids = [f"p{row:04d}" for row in range(num_items)]
    _write_items(shop, item_ids, attributes, products, photos)
    _write_interactions(shop, item_ids, _purchases(attributes, num_customers, customers), customers)
    return shop


def _draw_products(num_items: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Distinct combinations: `{"kind": (num_items,), "brand": ..., "colour": ..., "pattern": ...}` as numbers."""
    combinations = rng.permutation(MAX_ITEMS)[:num_items]
    sizes = {"kind": len(KINDS), "brand": len(BRANDS), "colour": len(COLOURS), "pattern": len(PATTERNS)}
    return dict(zip(sizes, np.unravel_index(combinations, tuple(sizes.values())), strict=True))


def _write_items(
    shop: DemoShop,
    item_ids: Sequence[str],
    attributes: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    photo_rng: np.random.Generator,
) -> None:
    kinds, brands, colours = list(KINDS), list(BRANDS), list(COLOURS)
    models = rng.choice(MODELS, len(item_ids))
    with shop.items.open("w", encoding="utf-8") as file:
        for row, item_id in enumerate(item_ids):
            kind, brand = kinds[attributes["kind"][row]], brands[attributes["brand"][row]]
            photo = render_photo(
                kind, colours[attributes["colour"][row]], PATTERNS[attributes["pattern"][row]], photo_rng
            )
            photo.save(shop.images / f"{item_id}.jpg", quality=90)
            item = {
                "item_id": item_id,
                "title": f"{brand} {kind} {models[row]}",
                "text": f"{KIND_TEXTS[kind]} {BRANDS[brand]}",
                "image": f"images/{item_id}.jpg",
            }
            file.write(json.dumps(item, ensure_ascii=False) + "\n")


def _purchases(attributes: Mapping[str, np.ndarray], num_customers: int, rng: np.random.Generator) -> np.ndarray:
    """What each customer buys, (num_customers, LONGEST) rows of the catalogue: a multinomial logit at every step.

    A customer has two favourite brands and colours and likes one pattern. The favourite of the moment stays with
    probability KEEP, else it is drawn again from the two.
    """
    customers = np.arange(num_customers)
    favourites = {name: _two_of(len(choice), num_customers, rng) for name, choice in _TASTES.items()}
    moment = {name: np.zeros(num_customers, dtype=np.int64) for name in _TASTES}
    liked_pattern = rng.integers(0, len(PATTERNS), num_customers)
    fame = rng.normal(0, FAME_SPREAD, len(attributes["kind"]))
    kind = rng.integers(0, len(KINDS), num_customers)
    bought = np.empty((num_customers, LONGEST), dtype=np.int64)
    for step in range(LONGEST):
        logits = np.broadcast_to(fame, (num_customers, len(fame))).copy()
        for name, pull in (("brand", BRAND_PULL), ("colour", COLOUR_PULL)):
            again = rng.random(num_customers) > KEEP
            moment[name] = np.where(again, rng.integers(0, 2, num_customers), moment[name])
            logits += pull * (attributes[name] == favourites[name][customers, moment[name], None])
        logits += KIND_PULL * (attributes["kind"] == kind[:, None])
        logits += PATTERN_PULL * (attributes["pattern"] == liked_pattern[:, None])
        bought[:, step] = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        kind = (attributes["kind"][bought[:, step]] + 1) % len(KINDS)  # the kind that follows what was really bought
    return bought


_TASTES: Mapping[str, Sized] = {"brand": BRANDS, "colour": COLOURS}


def _two_of(num_choices: int, num_customers: int, rng: np.random.Generator) -> np.ndarray:
    """Two different choices a customer, (num_customers, 2)."""
    return rng.permuted(np.tile(np.arange(num_choices), (num_customers, 1)), axis=1)[:, :2]


def _write_interactions(shop: DemoShop, item_ids: Sequence[str], bought: np.ndarray, rng: np.random.Generator) -> None:
    lengths = rng.integers(SHORTEST, LONGEST + 1, len(bought))
    start = FIRST_DAY + rng.integers(0, 365 * DAY, len(bought))
    times = start[:, None] + np.cumsum(rng.integers(DAY, 15 * DAY, bought.shape), axis=1)
    rows = [
        (times[customer, step], f"c{customer:04d}", item_ids[bought[customer, step]])
        for customer, length in enumerate(lengths)
        for step in range(length)
    ]
    with shop.interactions.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        writer.writerows((customer, item, int(time)) for time, customer, item in sorted(rows))
