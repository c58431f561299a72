"""What is written may be read by whom the user's umask says, weights included."""

import os
from pathlib import Path

import pytest
import torch
from hub_tools import NUM_ITEMS, tiny_recommender

from macrec_hf.catalogue.ids_folder import write_ids


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_follow_the_umask(tmp_path, umask):
    recommender = tiny_recommender(item_counts=torch.arange(NUM_ITEMS))
    before = os.umask(umask)
    try:
        for _ in range(2):  # a new folder, and over an earlier save
            recommender.save_pretrained(tmp_path / "model")
        (tmp_path / "ids").mkdir()
        write_ids(tmp_path / "ids", recommender.table, recommender.quantizer)
        recommender.table.save_pretrained(tmp_path / "table")
    finally:
        os.umask(before)
    found = modes(tmp_path)
    weights = ("model/model", "model/semantic_ids", "model/item_counts", "model/quantizer/model", "ids/semantic_ids",
               "ids/quantizer/model", "table/semantic_ids")  # fmt: skip
    assert {f"{name}.safetensors" for name in weights} <= set(found)
    for name, mode in found.items():
        full = 0o777 if (tmp_path / name).is_dir() else 0o666
        assert mode == full & ~umask, f"{name}: {mode:o}"
