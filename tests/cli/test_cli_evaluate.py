import json

import numpy as np
import pytest
import torch

from macrec_hf.cli.main import main
from macrec_hf.evaluation.baselines import baseline_lists
from macrec_hf.evaluation.ranking_metrics import ranking_metrics
from macrec_hf.model.configuration_macrec import MacRecConfig
from macrec_hf.model.ensemble import Decoding, history_sources, rank_catalogue
from macrec_hf.model.modeling_macrec import MacRecForConditionalGeneration
from macrec_hf.model.recommender import MacRecRecommender
from macrec_hf.model.semantic_ids import SemanticIdTable
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer

NUM_ITEMS, NUM_USERS = 20, 12
BASELINES = ["random", "popularity", "recent_then_popularity", "co_visitation", "co_occurrence"]
BASELINES += ["co_visitation_new_items", "markov_chain", "item_regression"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with model/, interactions.csv, items.jsonl and users.jsonl, and the recommender in it."""
    folder, generator = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    codes = {name: np.unravel_index(generator.permutation(64)[:NUM_ITEMS], (4, 4, 4)) for name in ("text", "image")}
    table = SemanticIdTable(
        [f"0{row}" for row in range(NUM_ITEMS)],
        {name: torch.from_numpy(np.stack(columns, axis=1)) for name, columns in codes.items()},
        codebook_size=4,
    )
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(0)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1,
        num_decoder_layers=1, initializer_factor=0.5,
    )  # fmt: skip
    model = MacRecForConditionalGeneration(config)
    recommender = MacRecRecommender(model=model, tokenizer=tokenizer, table=table, item_counts=torch.arange(NUM_ITEMS))
    recommender.save_pretrained(folder / "model")
    histories = [generator.integers(0, NUM_ITEMS, size=generator.integers(3, 9)) for _ in range(NUM_USERS)]
    lines = [f"u{user},0{row},{day}" for user, rows in enumerate(histories) for day, row in enumerate(rows)]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines, "late,00,1"]) + "\n")
    items = [json.dumps({"item_id": item, "title": f"Thing {item}"}) for item in table.item_ids]
    (folder / "items.jsonl").write_text("\n".join(items))
    users = [{"user_id": "u1", "history": ["01", "07"]}, {"user_id": 2, "history": ["03"]}]
    (folder / "users.jsonl").write_text("\n".join(json.dumps(user) for user in users) + "\n\n")
    return folder, recommender, histories


def run(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def expected_metrics(recommender, histories, split):
    back = 1 if split == "test" else 2
    known, targets = [rows[:-back] for rows in histories], np.array([rows[-back] for rows in histories])
    sources = history_sources(recommender.task_encoder, known, ["text", "image"])
    lists = rank_catalogue(recommender.model, recommender.tries, sources, Decoding(num_beams=20))
    learned = [*(rows[:-2] for rows in histories), np.array([0])]  # "late" bought once, and is counted
    lists |= baseline_lists(learned, known, NUM_ITEMS)
    return ranking_metrics(lists, targets)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_writes_metrics_and_lists(shop, capsys, tmp_path, split):
    folder, recommender, histories = shop
    metrics, lists = tmp_path / "metrics.json", tmp_path / "lists.jsonl"
    status, out, err = run(
        capsys, "evaluate", "--model", folder / "model", "--interactions", folder / "interactions.csv",
        "--split", split, "--output", metrics, "--predictions", lists, "--tables",
    )  # fmt: skip
    assert status == 0, err
    found = json.loads(metrics.read_text())
    assert list(found)[:5] == ["split", "num_users", "text", "image", "ensemble"]
    assert (found["split"], found["num_users"], found["num_items"]) == (split, NUM_USERS, NUM_ITEMS)
    expected = expected_metrics(recommender, histories, split)
    assert list(expected) == ["text", "image", "ensemble", *BASELINES]
    for name, values in expected.items():
        assert found[name] == pytest.approx(values)
        assert 0 < found["coverage"][name] <= 1
        low, high = found["intervals"][name]["hr@10"]
        assert low <= values["hr@10"] <= high
    assert found["repeat_rate"] > 0.01 and found["quoted"] == "shown"
    summary, verdict, following = out.splitlines()[-3:]
    assert following == (
        f"Next: macrec app {folder / 'model'} shows such lists beside a catalogue to click on. "
        "Purchases of later months may be harder: train --until, evaluate --split time."
    )
    assert f"{NUM_USERS} users, {split}: ensemble HR@10 {expected['ensemble']['hr@10']:.4f}" in summary
    assert verdict == found["verdict"]["text"]
    assert all(any(line.startswith(name) for line in out.splitlines()) for name in expected)
    rows = [json.loads(line) for line in lists.read_text().splitlines()]
    assert [row["user_id"] for row in rows] == [f"u{user}" for user in range(NUM_USERS)]
    for row, history in zip(rows, histories, strict=True):
        assert row["target"] == f"0{history[-1 if split == 'test' else -2]}"
        assert len(row["ensemble"]) == 10 and len(row["popularity"]) == 10
    hits = [row["target"] in [item for item, _ in row["ensemble"]] for row in rows]
    assert np.mean(hits) == pytest.approx(expected["ensemble"]["hr@10"])
    assert not list(tmp_path.glob("*.partial"))


def test_evaluate_some_users_with_other_settings(shop, capsys, tmp_path):
    folder, _, _ = shop
    status, out, err = run(
        capsys, "evaluate", "--model", folder / "model", "--interactions", folder / "interactions.csv",
        "--limit-users", 3, "--num-beams", 4, "--fusion", "authors", "--max-history", 1, "--batch-size", 2,
        "--output", tmp_path / "m.json", "--dtype", "bfloat16",
    )  # fmt: skip
    assert status == 0, err
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["num_users"] == 3 and out.splitlines()[-3].startswith("3 users, test")
    assert found["settings"] == {
        "num_beams": 4, "fusion": {"ensemble": "authors"}, "max_history": 1, "limit_users": 3, "seed": 0,
        "dtype": "bfloat16", "hides_history": False,
    }  # fmt: skip


def test_evaluate_a_model_of_one_modality(shop, capsys, tmp_path):
    folder, recommender, _ = shop
    table = SemanticIdTable(recommender.table.item_ids, {"text": recommender.table.codes["text"]}, codebook_size=4)
    tokenizer = SemanticIdTokenizer.from_table(table)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1,
        num_decoder_layers=1,
    )  # fmt: skip
    tiger = MacRecRecommender(model=MacRecForConditionalGeneration(config), tokenizer=tokenizer, table=table)
    tiger.save_pretrained(tmp_path / "tiger")
    status, _, err = run(
        capsys, "evaluate", "--model", tmp_path / "tiger", "--interactions", folder / "interactions.csv",
        "--output", tmp_path / "m.json",
    )  # fmt: skip
    assert status == 0, err
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["ensemble"]["hr@10"] == found["text"]["hr@10"] and "image" not in found


def test_recommend_for_one_history(shop, capsys):
    folder, recommender, _ = shop
    expected = recommender.recommend([["01", "07"]], top_k=3)[0]
    words = ("recommend", "--model", folder / "model", "--history", "01,07", "--top-k", 3)
    status, out, err = run(capsys, *words, "--items", folder / "items.jsonl")
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["rank", "item_id", "score"] and len(lines) == 6
    for rank, (line, (item, score)) in enumerate(zip(lines[1:4], expected, strict=True), start=1):
        assert line.split() == [str(rank), item, f"{score:.4f}", "Thing", item]
    assert lines[4].startswith("3 recommendations for 1 user in")
    status, out, err = run(capsys, *words, "--json")
    assert status == 0 and "3 recommendations" in err
    shown = json.loads(out)["recommendations"]
    assert [entry["item_id"] for entry in shown] == [item for item, _ in expected]
    assert [entry["score"] for entry in shown] == pytest.approx([score for _, score in expected], abs=1e-6)
    assert [entry["probability"] for entry in shown] == pytest.approx(
        [found.probability for found in expected], rel=1e-5
    )
    assert not any("title" in entry for entry in shown)  # none are known
    status, out, _ = run(capsys, *words, "--json", "--items", folder / "items.jsonl", "--fusion", "authors")
    shown = json.loads(out)["recommendations"]
    assert list(shown[0]) == ["item_id", "score", "probability", "title", "reasons"]
    assert all(entry["title"] == f"Thing {entry['item_id']}" and entry["probability"] is None for entry in shown)


def test_recommend_for_a_file_of_users(shop, capsys, tmp_path):
    folder, recommender, _ = shop
    words = ("recommend", "--model", folder / "model", "--histories", folder / "users.jsonl", "--top-k", 4)
    status, out, err = run(
        capsys, *words, "--output", tmp_path / "recs.jsonl", "--exclude-history", "--modality", "image"
    )
    assert status == 0, err
    assert out.startswith("8 recommendations for 2 users in") and out.count("\n") == 2
    assert out.splitlines()[1].startswith(f"Next: macrec app {folder / 'model'} shows such lists")
    rows = [json.loads(line) for line in (tmp_path / "recs.jsonl").read_text().splitlines()]
    expected = recommender.recommend([["01", "07"], ["03"]], top_k=4, exclude_history=True, modality="image")
    assert [row["user_id"] for row in rows] == ["u1", "2"]
    assert [[entry["item_id"] for entry in row["recommendations"]] for row in rows] == [
        [item for item, _ in ranked] for ranked in expected
    ]
    status, out, _ = run(capsys, *words)
    assert out.splitlines()[0] == "user u1" and "user 2" in out.splitlines()


def test_settings_from_a_file(shop, capsys, tmp_path):
    folder, _, _ = shop
    (tmp_path / "c.yaml").write_text("top_k: 2\nnum-beams: 5\nexclude_history: true\njson: true\n")
    status, out, err = run(
        capsys, "recommend", "--model", folder / "model", "--history", "01", "--config", tmp_path / "c.yaml"
    )
    assert status == 0, err
    assert len(json.loads(out)["recommendations"]) == 2


def test_unknown_items(shop, capsys):
    folder, recommender, _ = shop
    words = ("recommend", "--model", folder / "model", "--history")
    status, _, err = run(capsys, *words, "01,nobody")
    assert status == 1 and "macrec recommend: error: Unknown item 'nobody' in history 0" in err
    status, out, _ = run(capsys, *words, "nobody", "--on-unknown", "skip", "--top-k", 1)
    assert status == 0 and out.splitlines()[1].split()[1] == "019"  # the most popular item


def test_an_id_with_a_comma_needs_quotes_and_the_error_says_so(shop, capsys, tmp_path):
    _, recommender, _ = shop
    ids = ["art,01", *recommender.table.item_ids[1:]]
    table = SemanticIdTable(ids, recommender.table.codes, codebook_size=4)
    parts = {"model": recommender.model, "tokenizer": recommender.tokenizer, "table": table}
    MacRecRecommender(**parts, item_counts=torch.arange(NUM_ITEMS)).save_pretrained(tmp_path / "model")
    status, _, err = run(capsys, "recommend", tmp_path / "model", "--history", "07,art,01")
    assert status == 1 and "Unknown item 'art' in history 0" in err
    assert err.endswith("An id that holds a comma stands in quotes: --history '07,\"art,01\"'.\n")
    assert run(capsys, "recommend", tmp_path / "model", "--history", '07,"art,01"')[0] == 0


def test_whole_numbers_in_a_file_of_users_are_their_texts(shop, capsys, tmp_path):
    _, recommender, _ = shop
    ids = [str(row) for row in range(100, 100 + NUM_ITEMS)]
    table = SemanticIdTable(ids, recommender.table.codes, codebook_size=4)
    parts = {"model": recommender.model, "tokenizer": recommender.tokenizer, "table": table}
    MacRecRecommender(**parts, item_counts=torch.arange(NUM_ITEMS)).save_pretrained(tmp_path / "model")
    answers = []
    for history in ([101, 102], ["101", "102"]):
        (tmp_path / "users.jsonl").write_text(json.dumps({"user_id": 5, "history": history}) + "\n")
        status, out, _ = run(capsys, "recommend", tmp_path / "model", "--histories", tmp_path / "users.jsonl")
        answers.append((status, out.partition("10 recommendations")[0]))  # what follows names the seconds
    assert answers[0] == answers[1] and answers[0][0] == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2: expected .* got 'not json'"),
        ('{"user_id": "u"}', "line 2: expected"),
        ('{"user_id": "u", "history": [3.0]}', "item 3.0 is neither a text nor a whole number, got"),
        ('{"user_id": "u", "history": [true]}', "item True is neither a text nor a whole number, got"),
    ],
)
def test_broken_files_of_users(shop, capsys, tmp_path, line, message):
    folder, _, _ = shop
    (tmp_path / "users.jsonl").write_text('{"user_id": "a", "history": ["01"]}\n' + line + "\n")
    status, _, err = run(capsys, "recommend", "--model", folder / "model", "--histories", tmp_path / "users.jsonl")
    assert status == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(err)


def test_what_cannot_work_is_said_at_once(shop, capsys, tmp_path):
    folder, _, _ = shop
    model, interactions = folder / "model", folder / "interactions.csv"
    (tmp_path / "empty.jsonl").write_text("\n")
    for words, message in (
        (("evaluate", "--model", tmp_path, "--interactions", interactions), "Expected a whole model directory"),
        (("evaluate", "--model", model, "--interactions", tmp_path / "no.csv"), "no such file"),
        (
            ("evaluate", "--model", model, "--interactions", interactions, "--output", tmp_path / "no" / "m.json"),
            "found none: make it",
        ),
        (("evaluate", "--model", model, "--interactions", interactions, "--output", tmp_path), "got a folder"),
        (("evaluate", "--model", model, "--interactions", interactions, "--output", "/proc/m.json"), "can be written"),
        (("recommend", "--model", model, "--history", "01", "--output", "/proc/r.jsonl"), "can be written"),
        (("recommend", "--model", model, "--histories", tmp_path / "no.jsonl"), "one user a line, found none"),
        (("recommend", "--model", model, "--histories", tmp_path / "empty.jsonl"), "got an empty file"),
        (("recommend", "--model", model, "--history", "01", "--modality", "sound"), "--modality: expected"),
    ):
        status, _, err = run(capsys, *words)
        assert status == 1 and message in err, (words, err)
