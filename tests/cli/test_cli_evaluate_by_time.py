"""`macrec evaluate --split time`: what it prints, writes and refuses."""

import json

import numpy as np
import pytest
import torch
from launching import launch

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecRecommender, SemanticIdTable
from macrec_hf.cli.main import main
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer

NUM_ITEMS, CUT = 24, "2020-02-01"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """model/, and interactions.csv of 12 users in January and February; u11 comes in February."""
    folder, random = tmp_path_factory.mktemp("shop"), np.random.default_rng(1)
    codes = {name: np.unravel_index(random.permutation(64)[:NUM_ITEMS], (4, 4, 4)) for name in ("text", "image")}
    tensors = {name: torch.from_numpy(np.stack(columns, axis=1)) for name, columns in codes.items()}
    table = SemanticIdTable([f"i{row}" for row in range(NUM_ITEMS)], tensors, codebook_size=4)
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(0)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1,
        num_decoder_layers=1, trained_until=CUT,
    )  # fmt: skip
    model = MacRecForConditionalGeneration(config)
    MacRecRecommender(model=model, tokenizer=tokenizer, table=table).save_pretrained(folder / "model")
    lines = []
    for user in range(12):
        for month, number, items in ((1, 0 if user == 11 else 4, 18), (2, 3, 24)):
            for item in random.integers(items, size=number):
                lines.append(f"u{user},i{item},2020-{month:02}-{random.integers(1, 29):02}")
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    return folder


def evaluate(folder, interactions, *more):
    words = ["evaluate", "--model", folder / "model", "--interactions", interactions, "--split", "time", *more]
    return main([str(word) for word in words])


def test_tables_lists_and_figures(shop, tmp_path, capsys):
    card = (shop / "model" / "README.md").read_text()
    files = ["--output", tmp_path / "m.json", "--predictions", tmp_path / "lists.jsonl"]
    assert evaluate(shop, shop / "interactions.csv", "--cut", CUT, *files, "--tables") == 0
    report = json.loads((tmp_path / "m.json").read_text())
    assert (report["split"], report["cut"], report["num_purchases"], report["num_users"]) == ("time", CUT, 36, 12)
    assert report["num_new_customers"] == 1 and report["settings"]["trained_until"] == CUT
    out = capsys.readouterr().out.splitlines()
    heads = [line.split() for line in out if line.startswith("NDCG@10 of")]
    assert heads == [["NDCG@10", "of", *"seen items unseen items new customers unseen places".split()]] * 3
    rows = [line for line in out if line.startswith("popularity ")]
    assert len(rows) == 4 + 2 * (report["verdict"]["best"] == "popularity")  # two tables a column, and the answer
    seen, places = report["seen"]["popularity"]["ndcg@10"], report["unseen_places"]["popularity"]
    assert f" {seen:.4f} ± " in rows[1] and rows[1].endswith(f"{places:.3f}")
    assert any(line.startswith(f"36 purchases from {CUT} on by 12 users; ") for line in out)
    assert any("% of the 36 later purchases are of what they had" in line for line in out)
    assert out[-2] == report["verdict"]["text"]
    lines = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
    later = {}
    for line in sorted((shop / "interactions.csv").read_text().splitlines()[1:], key=lambda line: line.split(",")[2]):
        user, item, day = line.split(",")
        if day >= CUT:
            later.setdefault(user, []).append(item)
    assert {line["user_id"]: line["targets"] for line in lines} == later
    new = next(line for line in lines if line["user_id"] == "u11")
    assert [item for item, _ in new["ensemble"]] == [item for item, _ in new["popularity"]]
    assert (shop / "model" / "README.md").read_text() == card  # it holds leave-one-out results


@pytest.mark.parametrize(
    ("whom", "dates", "heads"),
    [("u11", (), ["seen items", "unseen items", "unseen places"]), ("", (f"i{row}" for row in range(24)), [])],
)
def test_kinds_of_purchases_that_there_are_none_of_have_no_column(shop, tmp_path, capsys, whom, dates, heads):
    """Without the new customer, and with every item sold to every other customer before the cut."""
    header, *lines = (shop / "interactions.csv").read_text().splitlines()
    lines = [line for line in lines if not whom or not line.startswith(f"{whom},")]
    lines += [f"u{user},{item},2020-01-02" for item in dates for user in range(12)]
    (tmp_path / "some.csv").write_text("\n".join([header, *lines]))
    assert evaluate(shop, tmp_path / "some.csv", "--cut", CUT, "--tables") == 0
    out = capsys.readouterr().out
    found = [line.removeprefix("NDCG@10 of") for line in out.splitlines() if line.startswith("NDCG@10 of")]
    assert [line.split() for line in found] == [" ".join(heads).split()] * (3 if heads else 0)
    whose = "all of items that were sold before, by customers who had bought before"
    assert " - " not in out and (whose in out) is not heads


def test_purchases_after_the_cut_exchanged_leave_every_list(shop, tmp_path):
    header, *lines = (shop / "interactions.csv").read_text().splitlines()
    rows, random = [line.split(",") for line in lines], np.random.default_rng(2)
    late = [place for place, (_, _, day) in enumerate(rows) if day >= CUT]
    for place, other in zip(late, random.permutation(late), strict=True):
        rows[place] = [rows[place][0], lines[other].split(",")[1], rows[place][2]]
    (tmp_path / "changed.csv").write_text("\n".join([header, *map(",".join, rows)]))
    lists = []
    for path in (shop / "interactions.csv", tmp_path / "changed.csv"):
        assert evaluate(shop, path, "--cut", CUT, "--predictions", tmp_path / "lists.jsonl") == 0
        read = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
        lists.append({line["user_id"]: line for line in read})
        targets = [line.pop("targets") for line in read]
    assert lists[0] == lists[1] and len(targets) == 12
    assert {"text", "ensemble", "co_visitation", "hidden"} <= set(lists[0]["u3"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--cut: expected a date with a split by time"),
        (["--cut", "soon"], "--cut: expected a date such as 2020-03-01, got 'soon'. The purchases are of 2020-01-"),
        (["--cut", "2020-01-15"], "cut: expected 2020-02-01 or later, until which the model has learned"),
        (["--cut", "2021-01-15"], "cut: expected purchases from 2021-01-15 on, got none"),
    ],
)
def test_what_it_refuses(shop, words, message, capsys):
    assert evaluate(shop, shop / "interactions.csv", *words) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_tell_what_one_tells(shop, tmp_path):
    words = ["evaluate", "--model", shop / "model", "--interactions", shop / "interactions.csv", "--split", "time"]
    words = [str(word) for word in [*words, "--cut", CUT, "--batch-size", "3", "--output"]]
    assert main([*words, str(tmp_path / "alone.json")]) == 0
    done = launch("-m", "macrec_hf.cli", *words, str(tmp_path / "together.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    alone, together = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "together"))
    assert (together["num_users"], together["num_purchases"]) == (12, 36)  # each user once
    for part in ("seen", "unseen", "new_customers", "unseen_places", "coverage", "ensemble", "popularity"):
        for one, other in ((alone, together), (alone["hidden"], together["hidden"])):
            assert json.dumps(one[part]) == json.dumps(other[part]), part
