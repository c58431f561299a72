"""`macrec refresh` and orders of what the catalogue lacks."""

import json

import pytest
import torch
from blend_tools import tiny_recommender

from macrec_hf import MacRecRecommender
from macrec_hf.cli.main import main


@pytest.fixture
def shop(tmp_path):
    """A model with a blend, and its purchases with two of an item that it does not know."""
    lines = [f"u{user},i{(user + step) % 12},2024-0{step + 1}-11" for user in range(30) for step in range(4)]
    (tmp_path / "known.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    recommender = tiny_recommender(12)
    recommender.fit_blend(tmp_path / "known.csv")
    recommender.save_pretrained(tmp_path / "model", include_code=False)
    lines += ["u1,new,2024-06-01", "u2,new,2024-06-01"]
    (tmp_path / "grown.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    return tmp_path


def test_unknown_items_stop_it_or_are_left_out_with_a_word(shop, capsys):
    words = ["refresh", "--model", str(shop / "model"), "--interactions", str(shop / "grown.csv")]
    assert main(words) == 1
    assert "2 interactions" in capsys.readouterr().err
    assert main([*words, "--on-unknown", "skip"]) == 0
    assert "120 purchases of 12 items counted (2 of 1 unknown items left out)" in capsys.readouterr().out
    assert MacRecRecommender.from_pretrained(shop / "model").purchase_counts.popularity.sum() == 120
    assert main([*words[:4], str(shop / "known.csv"), "--on-unknown", "skip"]) == 0
    assert "left out" not in capsys.readouterr().out
    (shop / "other.csv").write_text("user_id,item_id,timestamp\nu1,new,2024-06-01\n")  # of another catalogue
    assert main([*words[:4], str(shop / "other.csv"), "--on-unknown", "skip"]) == 1
    assert "name 1 unknown items" in capsys.readouterr().err


def test_new_bestsellers_are_popular_at_once_with_any_fusion(shop):
    lines = (shop / "known.csv").read_text().splitlines()
    lines += [f"new{user},i7,2024-06-01" for user in range(50)]
    (shop / "more.csv").write_text("\n".join(lines))
    before = MacRecRecommender.from_pretrained(shop / "model")
    parts = {name: getattr(before, name) for name in ("model", "tokenizer", "table", "purchase_counts", "blend")}
    of_training = torch.arange(12).flip(0)
    MacRecRecommender(**parts, item_counts=of_training).save_pretrained(shop / "model", include_code=False)
    assert main(["refresh", "--model", str(shop / "model"), "--interactions", str(shop / "more.csv")]) == 0
    after = MacRecRecommender.from_pretrained(shop / "model")
    for fusion in ("average", "blend"):
        assert after.recommend([[]], top_k=1, fusion=fusion)[0][0].item_id == "i7"


def test_whose_history_is_wrong_and_who_gets_popular_items_is_said(shop, tmp_path, capsys, caplog):
    rows = [("ann", ["i1"]), ("bob", ["gone"]), ("cy", [])]
    text = "\n".join(json.dumps({"user_id": user, "history": history}) for user, history in rows)
    (tmp_path / "users.jsonl").write_text(text)
    words = ["recommend", str(shop / "model"), "--histories", str(tmp_path / "users.jsonl")]
    assert main(words) == 1
    assert "Unknown item 'gone' in history 1" in (said := capsys.readouterr().err) and "of user 'bob'" in said
    odd = [("ann", ["i1"]), ("bob", ["history 0", "in history 9: it is not among the 12 items"])]
    odd_text = "\n".join(json.dumps({"user_id": user, "history": history}) for user, history in odd)
    (tmp_path / "odd.jsonl").write_text(odd_text)
    assert main([*words[:3], str(tmp_path / "odd.jsonl")]) == 1
    assert "of user 'bob'" in capsys.readouterr().err
    assert main([*words, "--on-unknown", "skip"]) == 0
    assert "for 3 users in" in (said := capsys.readouterr().out)
    assert "popular items for 2 of them, whose history names no item of the catalogue" in said
    assert "of a user with an earlier one" not in caplog.text
    (tmp_path / "twice.jsonl").write_text('{"user_id": "ann", "history": ["i1"]}\n' * 3)
    assert main([*words[:3], str(tmp_path / "twice.jsonl")]) == 0
    assert "2 of 3 lines are of a user with an earlier one: each gets a list" in caplog.text
