"""What is written may be read by whom the user's umask says, weights included."""

import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from hub_tools import NUM_ITEMS, tiny_recommender

from macrec_hf.catalogue.encoders import make_encoders
from macrec_hf.catalogue.ids_folder import write_ids
from macrec_hf.catalogue.item_encoders import embed_items


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


WEIGHTS = [
    "emb/text_encoder",
    "ids/quantizer/model",
    "ids/semantic_ids",
    "model/item_counts",
    "model/model",
    "model/quantizer/model",
    "model/semantic_ids",
    "plain/model",
    "plain/quantizer/model",
    "sharded/model-00001-of-00003",
    "sharded/model-00002-of-00003",
    "sharded/model-00003-of-00003",
    "table/semantic_ids",
    "with_table/model",
    "with_table/semantic_ids",
]


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_follow_the_umask(tmp_path, umask):
    recommender = tiny_recommender(item_counts=torch.arange(NUM_ITEMS))
    model, items = recommender.model, pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["red mug", "cap", "lamp"]})
    before = os.umask(umask)
    try:
        for _ in range(2):  # a new folder, and over an earlier save
            recommender.save_pretrained(tmp_path / "model")
            model.semantic_ids = None
            model.save_pretrained(tmp_path / "plain")
            model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
            model.semantic_ids = recommender.table
            model.save_pretrained(tmp_path / "with_table")
            recommender.quantizer.save_pretrained(tmp_path / "plain" / "quantizer")
            embed_items(items, make_encoders(), progress=False).save(tmp_path / "emb")
        (tmp_path / "ids").mkdir()
        write_ids(tmp_path / "ids", recommender.table, recommender.quantizer, {})
        recommender.table.save_pretrained(tmp_path / "table")
    finally:
        os.umask(before)
    found = modes(tmp_path)
    assert sorted(name for name in found if name.endswith(".safetensors")) == [
        f"{name}.safetensors" for name in WEIGHTS
    ]
    for name, mode in found.items():
        full = 0o777 if (tmp_path / name).is_dir() else 0o666
        assert mode == full & ~umask, f"{name}: {mode:o}"


def test_a_file_in_the_place_of_a_folder_keeps_its_permissions(tmp_path):
    recommender = tiny_recommender()
    for name, part in (("model.safetensors", recommender.model), ("other.safetensors", recommender.quantizer)):
        (tmp_path / name).touch(mode=0o600)
        part.save_pretrained(tmp_path / name)  # transformers says in its log that it will not
        assert modes(tmp_path)[name] == 0o600
