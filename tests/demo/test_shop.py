import colorsys
import json
import time

import numpy as np
import pytest
from PIL import Image

from macrec_hf.data.histories import user_histories
from macrec_hf.data.readers import read_interactions, read_items
from macrec_hf.data.splits import leave_one_out
from macrec_hf.demo.photos import COLOURS, KINDS, PATTERNS, PHOTO_SIZE, render_photo
from macrec_hf.demo.shop import BRANDS, KIND_TEXTS, LONGEST, MAX_ITEMS, SHORTEST, make_demo_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_demo_shop(tmp_path_factory.mktemp("shop"), num_items=120, num_customers=150, seed=3)


def contents(shop):
    photos = {path.name: path.read_bytes() for path in sorted(shop.images.iterdir())}
    return shop.items.read_bytes(), shop.interactions.read_bytes(), photos


def brand_of(title):
    return next(brand for brand in BRANDS if title.startswith(brand + " "))


def kind_of(title):
    return next(kind for kind in KINDS if f" {kind} " in title)


def dominant_hue(path):
    """The circular mean hue (0 to 1) of a photo's saturated pixels and the share of such pixels."""
    hue, saturation, value = (np.asarray(band) / 255 for band in Image.open(path).convert("HSV").split())
    strong = (saturation > 0.35) & (value > 0.2)
    turn = np.exp(2j * np.pi * hue[strong]).mean() if strong.any() else 0
    return (np.angle(turn) / (2 * np.pi)) % 1, strong.mean()


def test_same_seed_same_shop_other_seed_other_shop(tmp_path, shop):
    again = make_demo_shop(tmp_path / "a", num_items=120, num_customers=150, seed=3)
    assert contents(again) == contents(shop)
    other = make_demo_shop(tmp_path / "b", num_items=120, num_customers=150, seed=4)
    assert all(one != two for one, two in zip(contents(other), contents(shop), strict=True))


def test_more_customers_leave_the_products_as_they_are(tmp_path, shop):
    more = make_demo_shop(tmp_path, num_items=120, num_customers=200, seed=3)
    assert (contents(more)[0], contents(more)[2]) == (contents(shop)[0], contents(shop)[2])


def test_readers_take_it(shop):
    items, interactions = read_items(shop.items), read_interactions(shop.interactions)
    assert len(items) == 120 and interactions["user_id"].nunique() == 150
    assert set(interactions["item_id"]) <= set(items["item_id"])
    assert interactions["timestamp"].is_monotonic_increasing
    per_customer = interactions.groupby("user_id").size()
    assert per_customer.min() == SHORTEST and per_customer.max() == LONGEST
    for path in items["image"]:
        assert Image.open(path).size == (PHOTO_SIZE, PHOTO_SIZE)


def test_colours_and_patterns_are_never_written(shop):
    written = shop.items.read_text().lower()
    for word in [*COLOURS, *PATTERNS, "colour", "color", "striped", "dotted", "checked"]:
        assert f" {word} " not in written.replace(".", " ").replace(",", " "), word
    row = json.loads(shop.items.read_text().splitlines()[0])
    assert set(row) == {"item_id", "title", "text", "image"}
    assert KIND_TEXTS[kind_of(row["title"])] in row["text"] and BRANDS[brand_of(row["title"])] in row["text"]


def test_brands_are_never_to_be_seen():
    """Photos depend on kind, colour, pattern and chance alone: `render_photo` is not told the brand."""
    one, two = (render_photo("mug", "red", "dots", np.random.default_rng(5)) for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert list(render_photo.__annotations__) == ["kind", "colour", "pattern", "rng", "return"]


@pytest.mark.parametrize("colour", [name for name in COLOURS if name != "grey"])
@pytest.mark.parametrize("kind", KINDS)
def test_photos_show_their_colour(kind, colour, tmp_path):
    red, green, blue = (part / 255 for part in COLOURS[colour])
    expected = colorsys.rgb_to_hsv(red, green, blue)[0]
    for pattern in PATTERNS:
        path = tmp_path / f"{pattern}.png"
        render_photo(kind, colour, pattern, np.random.default_rng(1)).save(path)
        hue, share = dominant_hue(path)
        assert abs((hue - expected + 0.5) % 1 - 0.5) < 0.06, f"{pattern}: hue {hue:.2f} instead of {expected:.2f}"
        assert share > 0.04


def test_kinds_differ_in_shape():
    """The silhouette that overlaps most with a photo's is that of the same kind, turned and moved as they are."""
    photos_each = 4
    shapes = []
    for number in range(len(KINDS) * photos_each):
        photo = render_photo(KINDS[number // photos_each], "grey", "plain", np.random.default_rng(number))
        shapes.append((np.asarray(photo.convert("L")) < 190).ravel())
    shapes = np.array(shapes, dtype=float)
    common, areas = shapes @ shapes.T, shapes.sum(1)
    overlap = common / (areas[:, None] + areas - common) - 2 * np.eye(len(shapes))
    kinds = np.arange(len(shapes)) // photos_each
    assert (kinds[overlap.argmax(1)] == kinds).all()


def test_every_product_is_another_combination(shop):
    items = read_items(shop.items)
    assert len({path.read_bytes() for path in shop.images.iterdir()}) == len(items)
    assert {kind_of(title) for title in items["title"]} == set(KINDS)
    assert {brand_of(title) for title in items["title"]} == set(BRANDS)


def hit_rate(scores, targets, k=10):
    noise = np.random.default_rng(0).uniform(0, 1e-6, scores.shape)
    scores = scores + noise
    return ((scores > scores[np.arange(len(targets)), targets][:, None]).sum(1) < k).mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tastes_can_be_told_from_texts_and_from_photos_but_not_from_popularity(tmp_path, seed):
    """Rules that read only titles, or only photos, find the next purchase far more often than popularity does."""
    shop = make_demo_shop(tmp_path, seed=seed)
    items, interactions = read_items(shop.items), read_interactions(shop.interactions)
    histories = user_histories(interactions, {item: row for row, item in enumerate(items["item_id"])})
    known, targets = leave_one_out(histories, "test")
    counts = np.bincount(np.concatenate(known), minlength=len(items))
    popularity = hit_rate(np.tile(counts, (len(known), 1)), targets)

    kinds = np.array([KINDS.index(kind_of(title)) for title in items["title"]])
    brands = np.array([brand_of(title) for title in items["title"]])
    hues = np.array([dominant_hue(path)[0] for path in items["image"]])
    last = np.array([rows[-1] for rows in known])
    next_kind = kinds[None] == (kinds[last, None] + 1) % len(KINDS)
    same_brand = brands[None] == brands[last, None]
    same_hue = np.abs((hues[None] - hues[last, None] + 0.5) % 1 - 0.5) < 0.04
    text, image = hit_rate(2 * next_kind + same_brand, targets), hit_rate(2 * next_kind + same_hue, targets)
    both = hit_rate(2.0 * next_kind + same_brand + same_hue, targets)
    assert popularity < 0.12
    assert text > 3 * popularity and image > 3 * popularity
    assert both > max(text, image)


def test_it_is_made_in_seconds(tmp_path):
    start = time.process_time()
    make_demo_shop(tmp_path)
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_items": 5}, "num_items: expected 20 to"),
        ({"num_items": MAX_ITEMS + 1}, "all combinations of the shop"),
        ({"num_customers": 0}, "num_customers: expected at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        make_demo_shop(tmp_path, **sizes)
