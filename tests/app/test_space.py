"""The folder of a Space: complete, and examples/space/ is what it looks like."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from app_tools import NO_PHOTO, NUM_ITEMS, open_shop, shop_folder
from forks import run_alone
from PIL import Image

from macrec_hf import MacRecRecommender
from macrec_hf.app.shop import Shop
from macrec_hf.app.space import GRADIO, PHOTO_SIDE, space_files, write_space
from macrec_hf.data.item_regression import with_item_regression
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model.blend import Blend

ROOT = Path(__file__).parents[2]


def run_in(folder, program):
    """`python PROGRAM` in a folder, where there is no other `macrec_hf` than the folder's."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "macrec_hf"]:
        del sys.modules[name]
    sys.path[:] = [str(folder), *(path for path in sys.path if not (Path(path) / "macrec_hf").is_dir())]
    os.chdir(folder)
    runpy.run_path(program, run_name="__main__")
    assert Path(sys.modules["macrec_hf"].__file__).is_relative_to(folder)


def test_a_space_holds_model_photos_and_encoders(tmp_path):
    folder, shop = shop_folder(), open_shop()
    said = write_space(tmp_path, shop, folder / "model", folder / "emb")
    assert said == f"A Space with the model, {NUM_ITEMS - 1} photos, encoders for new items"
    assert not (tmp_path / "encoders" / "text.npy").exists() and not list((tmp_path / "model").glob("*.py"))
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    copy = Shop.open(moved / "model", items=moved / "items.jsonl", encoders=moved / "encoders")
    assert copy.can_add and copy.recommender.table == shop.recommender.table
    for item, shown in shop.items.items():
        other = copy.items[item]
        assert (other.title, other.in_stock, other.photo is None) == (shown.title, shown.in_stock, item == NO_PHOTO)
    with Image.open(copy.items["p0001"].photo) as photo:
        assert photo.size == (160, 160) and PHOTO_SIDE > 160  # as the demo shop renders them
    # The app itself: with another model of launching it would serve this shop.
    code = (moved / "app.py").read_text().replace("launch_page(", "print(list(", 1)
    code = re.sub(r", host=.*\)", ".items)[:2])", code)
    (moved / "try.py").write_text(code)
    # With the Space's own copy of the package, its templates and styles included.
    kinds = ("jinja", "css", "js")
    others = [path.relative_to(ROOT) for kind in kinds for path in ROOT.glob(f"macrec_hf/**/*.{kind}")]
    assert others and all((moved / path).is_file() for path in others)
    done = run_alone(lambda: run_in(moved, "try.py"))
    assert done.returncode == 0 and done.stdout.strip() == "['p0000', 'p0001']", done.stderr


@pytest.mark.parametrize(
    ("counts", "said"), [("none", "no counts"), ("rounded", "rounded counts"), ("all", "all counts")]
)
def test_counts_of_purchases_go_along_as_they_are_asked_for(tmp_path, counts, said):
    shop, count = open_shop(), count_purchases([np.arange(5) + user % 5 for user in range(20)], NUM_ITEMS)
    old = shop.recommender
    blended = MacRecRecommender(
        model=old.model, tokenizer=old.tokenizer, table=old.table, purchase_counts=count,
        blend=Blend({"sold_log1p": 1.0}, about={"window": count.window, "hides_history": True, "repeat_rate": 0.0}),
    )  # fmt: skip
    told = write_space(tmp_path, Shop(blended), shop_folder() / "model", counts=counts)
    assert told == f"A Space with the model, 0 photos, {said} of purchases"
    kept = MacRecRecommender.from_pretrained(tmp_path / "model")
    assert (kept.blend is None) == (counts == "none") and kept.model.config.hides_history is True
    old.model.config.hides_history = None
    if counts != "none":
        assert (kept.purchase_counts.customers.min() >= 5) == (counts == "rounded")
    if counts == "rounded":  # made of the pairs that go along, and of no others
        rounded = with_item_regression(count.shareable())
        assert np.array_equal(kept.purchase_counts.regression, rounded.regression) and rounded.regression.any()


def test_a_repository_of_the_hub_is_named_and_a_folder_of_this_machine_is_no_encoder(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("macrec_hf.app.space.logger.warning", warnings.append)
    shop = Shop(open_shop().recommender, name='My "shop"')
    assert (
        write_space(tmp_path / "a", shop, "user/macrec-shop")
        == "A Space with the address of user/macrec-shop, 0 photos"
    )
    assert 'MODEL = "user/macrec-shop"' in (tmp_path / "a" / "app.py").read_text()
    head = yaml.safe_load((tmp_path / "a" / "README.md").read_text().split("---")[1])
    assert head["title"] == 'My "shop"' and head["sdk"] == "gradio" and head["app_file"] == "app.py"
    assert not (tmp_path / "a" / "model").exists() and not (tmp_path / "a" / "encoders").exists()

    class Local:
        name = str(tmp_path)

    shop.encoders = {"text": Local()}
    assert "encoders" not in write_space(tmp_path / "b", shop, "user/x", shop_folder() / "emb")
    assert len(warnings) == 1 and "is a folder of this machine" in warnings[0]
    rows = [json.loads(line) for line in (tmp_path / "b" / "items.jsonl").read_text().splitlines()]
    assert rows[0] == {"item_id": "p0000", "title": shop.recommender.item_titles["p0000"]}


def with_photos(folder, rows):
    """The shop of the tests with other photos: an items file in `folder`."""
    folder.mkdir(exist_ok=True)
    known = {row["item_id"]: row for row in rows}
    text = (shop_folder() / "items.jsonl").read_text(encoding="utf-8").splitlines()
    items = [{**json.loads(line), "image": None} | known.get(json.loads(line)["item_id"], {}) for line in text]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    return folder / "items.jsonl"


def test_a_space_written_again_holds_nothing_that_was_withdrawn(tmp_path):
    model, emb, space = shop_folder() / "model", shop_folder() / "emb", tmp_path / "space"
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "shop").mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), "red").save(tmp_path / "shop" / name)
    rows = [{"item_id": f"p000{number}", "image": name} for number, name in enumerate(("a.png", "b.png", "c.png"))]
    items = with_photos(tmp_path / "shop", rows)
    write_space(space, Shop.open(model, items=items, encoders=emb), model, emb)
    assert len(list((space / "photos").iterdir())) == 3 and (space / "encoders").is_dir()
    (space / "notes.txt").write_text("mine")
    items = with_photos(tmp_path / "shop", rows[:1])
    write_space(space, Shop.open(model, items=items), "user/macrec-shop")
    (left,) = (space / "photos").iterdir()
    assert json.loads((space / "items.jsonl").read_text().splitlines()[0])["image"] == f"photos/{left.name}"
    assert not (space / "model").exists() and not (space / "encoders").exists() and (space / "notes.txt").is_file()
    # from the Space's own items file
    write_space(space, Shop.open(model, items=space / "items.jsonl"), model)
    assert [path.name for path in (space / "photos").iterdir()] == [left.name]


def test_photos_outside_the_folder_enter_no_space_unless_allowed(tmp_path, caplog):
    model, secret = shop_folder() / "model", tmp_path / "secret.png"
    Image.new("RGB", (9, 9), "red").save(secret)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/link.png").symlink_to(secret)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "shop/own.png")
    named = [str(secret), "../secret.png", "link.png", "own.png", "https://shop.example/a.jpg"]
    rows = [{"item_id": f"p000{number}", "image": name} for number, name in enumerate(named)]
    items = with_photos(tmp_path / "shop", rows)
    shop = Shop.open(model, items=items)
    assert "3 photos lie outside the folder of the items file" in caplog.text
    assert write_space(tmp_path / "space", shop, model) == "A Space with the model, 2 photos"
    allowed = Shop.open(model, items=items, allow_outside=True)
    assert write_space(tmp_path / "space", allowed, model) == "A Space with the model, 5 photos"


def test_the_example_is_what_is_written():
    for name, text in space_files('"user/macrec-shop"', "A shop to try").items():
        assert (ROOT / "examples" / "space" / name).read_text(encoding="utf-8") == text


def test_a_space_requires_what_the_package_requires():
    (required,) = re.findall(r"REQUIREMENTS = \[(.*?)\]", (ROOT / "setup.py").read_text(), re.S)
    assert re.findall(r'"(.*?)"', required) == space_files("", "")["requirements.txt"].split()


def test_gradio_is_the_version_that_is_tested():
    assert f"gradio=={GRADIO}\n" in (ROOT / "constraints.txt").read_text()
    assert f'"gradio>={GRADIO}' in (ROOT / "setup.py").read_text()
