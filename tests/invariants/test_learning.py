"""The whole path learns something real: on a shop whose brands stand only in titles and whose colours only in photos.

Three seeds, each a shop of its own. Every run goes through the verbs, as any shop would.
"""

import json
import shutil

import numpy as np
import pytest

from macrec_hf.cli import main
from macrec_hf.demo_shop import make_demo_shop

QUANTIZE = "--num-levels 3 --codebook-size 32 --hidden-sizes 128 --num-pseudo-labels 32 --epochs 60 --evaluations 2"
TRAIN = (
    "--d-model 48 --d-kv 12 --d-ff 128 --num-heads 4 --num-layers 1 --num-decoder-layers 1 --dropout-rate 0 "
    "--max-history 4 --batch-size 64 --learning-rate 0.005 --epochs 8 --eval-every 8"
)


def run(shop, folder, seed) -> dict:
    """Embeds, quantizes, trains, evaluates; the metrics on the test split."""
    emb, ids, model, metrics = (str(folder / name) for name in ("emb", "ids", "model", "metrics.json"))
    interactions = ["--interactions", str(shop / "interactions.csv")]
    for words in (
        ["embed", "--items", str(shop / "items.jsonl"), "--output", emb],
        ["quantize", "--embeddings", emb, "--output", ids, "--seed", str(seed), *QUANTIZE.split()],
        ["train", *interactions, "--semantic-ids", ids, "--output", model, "--seed", str(seed), *TRAIN.split()],
        ["evaluate", "--model", model, *interactions, "--split", "test", "--output", metrics],
    ):
        assert main(words) == 0, words
    return json.loads((folder / "metrics.json").read_text())


def shuffled(shop, folder, column: str, seed: int):
    """The same shop with one column dealt out anew among the items."""
    shutil.copytree(shop, folder)
    rows = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()]
    order = np.random.default_rng(seed).permutation(len(rows))
    mixed = [row | {column: rows[other][column]} for row, other in zip(rows, order, strict=True)]
    (folder / "items.jsonl").write_text("\n".join(json.dumps(row) for row in mixed))
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_beats_popularity_and_each_side_lives_from_its_own_modality(tmp_path, seed):
    make_demo_shop(tmp_path / "shop", num_items=200, num_customers=260, seed=seed)
    right = run(tmp_path / "shop", tmp_path / "right", seed)
    photos = run(shuffled(tmp_path / "shop", tmp_path / "photos", "image", seed), tmp_path / "wrong_photos", seed)
    titles = run(shuffled(tmp_path / "shop", tmp_path / "titles", "title", seed), tmp_path / "wrong_titles", seed)
    assert right["ensemble"]["hr@10"] >= 1.5 * right["popularity"]["hr@10"]
    assert photos["image"]["hr@10"] < right["image"]["hr@10"]
    assert titles["text"]["hr@10"] < right["text"]["hr@10"]
