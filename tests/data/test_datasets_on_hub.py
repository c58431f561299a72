"""Items, interactions and tasks go to a Hub as data sets and come back, over HTTP."""

import json

import numpy as np
import pytest
from datasets import load_dataset
from local_hub import TOKEN, local_hub
from PIL import Image

from macrec_hf import InteractionsBuilder, ItemsBuilder, RecommendationTasksBuilder, SemanticIdTable

REPO = "somebody/shop-data"


@pytest.fixture
def shop(tmp_path):
    """Four items, two with a photo, and six people."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(4):
        item = {"item_id": f"i{number}", "title": f"Thing {number}", "text": "A thing.", "image": None}
        if number < 2:
            pixels = random.integers(0, 255, (5, 7, 3)).astype("uint8")
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
            item["image"] = f"{number}.png"
        lines.append(json.dumps(item))
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    rows = [f"u{user},i{item},{time}" for user in range(6) for time, item in enumerate(random.integers(0, 4, 5))]
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    codes = {"text": [[0, number] for number in range(4)], "image": [[number, 1] for number in range(4)]}
    SemanticIdTable([f"i{number}" for number in range(4)], codes, codebook_size=4).save_pretrained(tmp_path / "ids")
    return tmp_path


def test_items_interactions_and_tasks_come_back(shop, tmp_path, monkeypatch):
    interactions, ids = shop / "interactions.csv", shop / "ids"
    builders = {
        "items": ItemsBuilder(shop / "items.jsonl", cache_dir=tmp_path / "built"),
        "interactions": InteractionsBuilder(interactions, cache_dir=tmp_path / "built"),
        "tasks": RecommendationTasksBuilder(interactions, ids, cache_dir=tmp_path / "built"),
    }
    with local_hub(monkeypatch, tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name, builder in builders.items():
            builder.download_and_prepare()
            builder.as_dataset().push_to_hub(REPO, name, token=TOKEN, private=True)
        assert hub["dataset", REPO].private
        for name, builder in builders.items():
            pushed = builder.as_dataset()
            found = load_dataset(REPO, name, token=TOKEN, cache_dir=tmp_path / "loaded")
            assert set(found) == set(pushed)
            for split, rows in pushed.items():
                assert found[split].features == rows.features
                assert found[split].num_rows == rows.num_rows
                for row, wanted in zip(found[split], rows, strict=True):
                    photo, original = row.pop("image", None), wanted.pop("image", None)
                    assert row == wanted
                    assert (photo is None) == (original is None)
                    assert photo is None or np.array_equal(np.asarray(photo), np.asarray(original))
        streamed = load_dataset(REPO, "interactions", split="test", token=TOKEN, streaming=True)
        assert list(streamed) == list(builders["interactions"].as_dataset(split="test"))
        with pytest.raises(Exception, match=f"{REPO}.*doesn't exist|401|cannot be accessed"):
            load_dataset(REPO, "items", token=False, cache_dir=tmp_path / "elsewhere")
        # Photos travel inside: the folder that they came from is not needed.
        assert not [route for route in hub.unknown if "shop" in route]
