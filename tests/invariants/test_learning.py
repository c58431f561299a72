"""The whole path learns something real: on a shop with brands only in its texts and colours only in its photos.

One seed in the fast lane, three in the slow one, each a shop of its own. Every run goes through the verbs, as any
shop would.
"""

import json
import shutil

import numpy as np
import pytest

from macrec_hf.cli import main
from macrec_hf.demo.shop import make_demo_shop

QUANTIZE = "--num-levels 3 --codebook-size 32 --hidden-sizes 128 --num-pseudo-labels 32 --epochs 60 --evaluations 2"
TRAIN = (
    "--d-model 48 --d-kv 12 --d-ff 128 --num-heads 4 --num-layers 1 --num-decoder-layers 1 --dropout-rate 0 "
    "--max-history 4 --batch-size 64 --learning-rate 0.003 --embedding-learning-rate 0.03 --epochs 8 --eval-every 8"
)


SHORTER = "--epochs 4 --eval-every 4"  # enough for the fast lane


def run(shop, folder, seed, *more: str) -> dict:
    """Embeds, quantizes, trains with `more`, evaluates; the metrics on the test split."""
    emb, ids, model, metrics = (str(folder / name) for name in ("emb", "ids", "model", "metrics.json"))
    interactions = ["--interactions", str(shop / "interactions.csv")]
    for words in (
        ["embed", "--items", str(shop / "items.jsonl"), "--output", emb],
        ["quantize", "--embeddings", emb, "--output", ids, "--seed", str(seed), *QUANTIZE.split()],
        ["train", *interactions, "--semantic-ids", ids, "--output", model, "--seed", str(seed), *TRAIN.split(), *more],
        ["evaluate", "--model", model, *interactions, "--split", "test", "--output", metrics],
    ):
        assert main(words) == 0, words
    return json.loads((folder / "metrics.json").read_text())


def shuffled(shop, folder, columns: list[str], seed: int):
    """The same shop with some columns dealt out anew among the items, all of them alike."""
    shutil.copytree(shop, folder)
    rows = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()]
    order = np.random.default_rng(seed).permutation(len(rows))
    mixed = [row | {name: rows[other][name] for name in columns} for row, other in zip(rows, order, strict=True)]
    (folder / "items.jsonl").write_text("\n".join(json.dumps(row) for row in mixed))
    return folder


def test_it_beats_popularity(tmp_path):
    make_demo_shop(tmp_path / "shop", num_items=200, num_customers=260, seed=0)
    metrics = run(tmp_path / "shop", tmp_path / "right", 0, *SHORTER.split())
    assert metrics["ensemble"]["hr@10"] >= 1.5 * metrics["popularity"]["hr@10"]


@pytest.mark.slow
def test_it_beats_popularity_and_each_side_lives_from_its_own_modality(tmp_path):
    image_loss, text_loss = [], []
    for seed in range(3):
        folder = tmp_path / str(seed)
        make_demo_shop(folder / "shop", num_items=200, num_customers=260, seed=seed)
        right = run(folder / "shop", folder / "right", seed)
        photos = run(shuffled(folder / "shop", folder / "photos", ["image"], seed), folder / "wrong_photos", seed)
        # Both columns: the description tells the brand as well as the title does.
        texts = run(shuffled(folder / "shop", folder / "texts", ["title", "text"], seed), folder / "wrong_texts", seed)
        assert right["ensemble"]["hr@10"] >= 1.5 * right["popularity"]["hr@10"]
        image_loss.append(right["image"]["hr@10"] - photos["image"]["hr@10"])
        text_loss.append(right["text"]["hr@10"] - texts["text"]["hr@10"])
    # 260 customers a seed: one seed alone has a standard error of about 0.03, so the three are averaged.
    assert np.mean(image_loss) > 0.03
    assert np.mean(text_loss) > 0.03
