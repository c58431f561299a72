"""The folder of a Space: complete, and examples/space/ is what it looks like."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from app_tools import NO_PHOTO, NUM_ITEMS, open_shop, shop_folder
from PIL import Image

from macrec_hf.app.shop import Shop
from macrec_hf.app.space import GRADIO, PHOTO_SIDE, space_files, write_space

ROOT = Path(__file__).parents[2]


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
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "try.py"], cwd=moved, capture_output=True, text=True, env=alone)
    assert done.returncode == 0 and done.stdout.strip() == "['p0000', 'p0001']", done.stderr


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
    assert rows[0] == {"item_id": "p0000", "title": "Model's title of p0000"}


def test_the_example_is_what_is_written():
    for name, text in space_files('"user/macrec-shop"', "A shop to try").items():
        assert (ROOT / "examples" / "space" / name).read_text(encoding="utf-8") == text


def test_a_space_requires_what_the_package_requires():
    (required,) = re.findall(r"REQUIREMENTS = \[(.*?)\]", (ROOT / "setup.py").read_text(), re.S)
    assert re.findall(r'"(.*?)"', required) == space_files("", "")["requirements.txt"].split()


def test_gradio_is_the_version_that_is_tested():
    assert f"gradio=={GRADIO}\n" in (ROOT / "constraints.txt").read_text()
    assert f'"gradio>={GRADIO}' in (ROOT / "setup.py").read_text()
