"""What `macrec evaluate` may know: nothing of what is to be predicted, by no way, in no column."""

import json
import shutil

import numpy as np
import pytest
import torch

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecRecommender, SemanticIdTable
from macrec_hf.cli.main import main
from macrec_hf.data.fingerprints import history_fingerprints, item_hashes
from macrec_hf.data.purchase_counting import count_purchases
from macrec_hf.model.blend import Blend
from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer

NUM_ITEMS, NUM_USERS = 30, 14


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """model/ and other/, which differ in their counts alone, interactions.csv, and the users' histories."""
    folder, random = tmp_path_factory.mktemp("shop"), np.random.default_rng(1)
    codes = {name: np.unravel_index(random.permutation(64)[:NUM_ITEMS], (4, 4, 4)) for name in ("text", "image")}
    tensors = {name: torch.from_numpy(np.stack(columns, axis=1)) for name, columns in codes.items()}
    tensors["image"][::3] = -1
    tensors["text"][1] = tensors["image"][1] = -1  # a history of this item alone says nothing to the model
    table = SemanticIdTable([f"i{row}" for row in range(NUM_ITEMS)], tensors, codebook_size=4)
    tokenizer = SemanticIdTokenizer.from_table(table)
    torch.manual_seed(0)
    config = MacRecConfig(
        vocab_size=len(tokenizer), num_levels=3, d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1,
        num_decoder_layers=1, initializer_factor=0.5,
    )  # fmt: skip
    model = MacRecForConditionalGeneration(config)
    for name, counts in (("model", torch.arange(NUM_ITEMS)), ("other", torch.arange(NUM_ITEMS).flip(0) ** 2)):
        parts = {"model": model, "tokenizer": tokenizer, "table": table, "item_counts": counts}
        MacRecRecommender(**parts).save_pretrained(folder / name)
    histories = [random.permutation(NUM_ITEMS)[: random.integers(4, 9)].tolist() for _ in range(NUM_USERS)]
    histories[3] = [1, 1, 1, 5]
    write(folder / "interactions.csv", histories)
    return folder, histories


def write(path, histories):
    lines = [f"u{user},i{row},{day}" for user, rows in enumerate(histories) for day, row in enumerate(rows)]
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines, "short,i2,1", "short,i9,2"]))


def evaluate(model, interactions, folder, *more):
    """The report, and each user's lists without the target."""
    words = ["evaluate", "--model", model, "--interactions", interactions, "--output", folder / "m.json"]
    assert main([str(word) for word in [*words, "--predictions", folder / "lists.jsonl", "--no-card", *more]]) == 0
    lines = [json.loads(line) for line in (folder / "lists.jsonl").read_text().splitlines()]
    return json.loads((folder / "m.json").read_text()), {
        line["user_id"]: {name: ranked for name, ranked in line.items() if name != "target"} for line in lines
    }


@pytest.mark.parametrize(("split", "untouched"), [("test", 1), ("validation", 2)])
def test_no_list_knows_the_last_purchases(shop, tmp_path, split, untouched):
    """With those of half of the users exchanged among them, every list of every user stays as it is."""
    folder, histories = shop
    recommender, model = MacRecRecommender.from_pretrained(folder / "model"), tmp_path / "model"
    blend = Blend({"near_log": 1.0, "model_text": 0.5, "sold_log": 0.1}, "blend", {"window": 5})
    recommender._set_blend(blend, count_purchases(list(map(np.array, histories)), NUM_ITEMS, window=5))
    recommender.save_pretrained(model)
    _, before = evaluate(model, folder / "interactions.csv", tmp_path, "--split", split)
    random = np.random.default_rng(2)
    half = random.permutation(NUM_USERS)[: NUM_USERS // 2]
    changed = [list(rows) for rows in histories]
    for user, other in zip(half, np.roll(half, 1), strict=True):
        for back in range(1, untouched + 1):
            changed[user][-back] = histories[other][-back]
    assert changed != histories
    write(tmp_path / "changed.csv", changed)
    _, after = evaluate(model, tmp_path / "changed.csv", tmp_path, "--split", split)
    assert len(before) == NUM_USERS and "short" not in before
    assert {"blend", "text", "image", "ensemble", "popularity", "co_visitation", "random", "hidden"} <= set(
        before["u0"]
    )
    assert set(before["u0"]["hidden"]) == set(before["u0"]) - {"user_id", "hidden"}
    assert before == after


def test_counts_of_the_model_directory_are_not_looked_at(shop, tmp_path):
    folder, _ = shop
    reports = [evaluate(folder / name, folder / "interactions.csv", tmp_path) for name in ("model", "other")]
    assert reports[0][1] == reports[1][1]
    assert reports[0][1]["u3"]["ensemble"] == [] and reports[0][1]["u3"]["popularity"]  # nothing the model can read
    for report, _ in reports:
        report.pop("seconds")
    assert reports[0][0] == reports[1][0]
    assert (reports[0][0]["num_users"], reports[0][0]["num_short_users"]) == (NUM_USERS, 1)


@pytest.mark.parametrize(("split", "lines", "said"), [("test", 2, True), ("test", 1, False), ("validation", 3, True)])
def test_lines_of_one_order_that_foretell_each_other_are_named(shop, tmp_path, caplog, split, lines, said):
    """Of half of the users so many last rows have one moment; two users have too few rows to be tested."""
    folder, histories = shop
    rows = [
        f"u{user},i{row},{min(day, len(rows) - lines) if user % 2 else day}"
        for user, rows in enumerate(histories)
        for day, row in enumerate(rows)
    ]
    rows = np.random.default_rng(0).permutation(rows)  # of equal times the later row is the later purchase
    (tmp_path / "i.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows, "a,i1,7", "a,i2,7"]))
    evaluate(folder / "model", tmp_path / "i.csv", tmp_path, "--split", split)
    assert ("7 of 14 users bought what tests them in the same moment as something in" in caplog.text) is said
    assert ("which is no forecast" in caplog.text) is said


def test_hidden_lists_hold_nothing_that_the_user_has(shop, tmp_path, capsys):
    folder, histories = shop
    report, lists = evaluate(folder / "model", folder / "interactions.csv", tmp_path, "--tables")
    for user, rows in enumerate(histories):
        own = {f"i{row}" for row in rows[:-1]}
        hidden = lists[f"u{user}"]["hidden"]
        assert all(not own & {item for item, _ in ranked} for ranked in hidden.values())
        assert all(len(ranked) == 10 for name, ranked in hidden.items() if name not in report["model_rows"])
    assert report["repeat_rate"] == 0.0 and report["quoted"] == "hidden"
    out = capsys.readouterr().out.splitlines()
    assert "own history shown:" in out and "own history hidden:" in out
    assert any(line.startswith("0.0% of the 14 users took again what they had") for line in out)
    hidden = report["hidden"]["ensemble"]
    assert f"ensemble HR@10 {hidden['hr@10']:.4f}, NDCG@10 {hidden['ndcg@10']:.4f} (own history hidden)" in out[-3]
    assert out[-2] == report["verdict"]["text"]


def test_the_answer_is_short(shop, tmp_path, capsys):
    """The model's row, the best other and those of other libraries, of the table to quote; then verdict and next."""
    folder, histories = shop
    lines = [{"user_id": f"u{user}", "items": [f"i{row}" for row in range(NUM_ITEMS)]} for user in range(NUM_USERS)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["--lists", f"mine={tmp_path / 'mine.jsonl'}"]
    report, _ = evaluate(folder / "model", folder / "interactions.csv", tmp_path, *words)
    head, names, *out = capsys.readouterr().out.splitlines()
    assert head == "own history hidden, the table to quote:" and names.split() == ["hr@10", "ndcg@10", "coverage"]
    best, hidden = report["verdict"]["best"], report["hidden"]
    for line, name in zip(out, dict.fromkeys(["ensemble", best, "mine"]), strict=False):
        (low, high), row = hidden["intervals"][name]["ndcg@10"], hidden[name]
        assert line.split()[0] == name and f" {row['hr@10']:.4f} ± " in line
        assert f" {row['ndcg@10']:.4f} ± {(high - low) / 2:.4f} " in line
        assert line.endswith(f"{hidden['coverage'][name]:.3f}")
    assert len(out) <= 3 + 6 and out[-2] == report["verdict"]["text"] and out[-1].startswith("Next: macrec app ")
    others = len(hidden["coverage"]) - len({"ensemble", best, "mine"})
    assert out[-4] == f"{others} more rows, and the other table: --tables shows them"


def test_lists_of_other_libraries_from_the_command_line(shop, tmp_path, capsys):
    folder, histories = shop
    items = [f"i{row}" for row in range(NUM_ITEMS)]
    for name in ("best", "worst"):
        lines = []
        for user, rows in enumerate(histories):
            others = [item for item in items if item != f"i{rows[-1]}"]
            ranked = [f"i{rows[-1]}", *others] if name == "best" else [*others, f"i{rows[-1]}"]
            lines.append(json.dumps({"user_id": f"u{user}", "items": ranked}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    pairs = [f"{name}={tmp_path / name}.jsonl" for name in ("best", "worst")]
    report, lists = evaluate(folder / "model", folder / "interactions.csv", tmp_path, "--lists", *pairs)
    for column in (report, report["hidden"]):
        assert (column["best"]["hr@1"], column["worst"]["hr@10"]) == (1.0, 0.0)
        assert column["differences"]["best"]["ndcg@10"]["high"] < 0
    assert report["verdict"]["best"] == "best" and report["verdict"]["outcome"] == "worse"
    assert lists["u0"]["best"][0][0] == f"i{histories[0][-1]}"
    (tmp_path / "c.yaml").write_text("lists: {" + ", ".join(pair.replace("=", ": ") for pair in pairs) + "}\n")
    again, _ = evaluate(folder / "model", folder / "interactions.csv", tmp_path, "--config", tmp_path / "c.yaml")
    assert again["hidden"] == report["hidden"]
    capsys.readouterr()
    words = ["evaluate", "--model", folder / "model", "--interactions", folder / "interactions.csv", "--lists"]
    for wrong, message in (
        (["sasrec"], "--lists: expected name=FILE.jsonl, each name once, got 'sasrec'"),
        ([pairs[0], pairs[0]], "each name once"),
        ([f"text={tmp_path}/best.jsonl"], "lists: expected a name that the report does not use"),
        (["sasrec=none.jsonl"], "none.jsonl: no such file"),
    ):
        assert main([str(word) for word in [*words, *wrong]]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_model_without_a_record_of_what_it_has_learned_is_in_doubt(shop, tmp_path, caplog, capsys, split):
    shutil.copytree(shop[0] / "model", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_bytes()
    words = ["evaluate", tmp_path / "model", "--interactions", shop[0] / "interactions.csv", "--split", split]
    assert main([str(word) for word in [*words, "--output", tmp_path / "metrics.json"]]) == 0
    told = "Whether the model was trained on what tests it cannot be told: it keeps no record of what it has learned."
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert told in caplog.text and told in capsys.readouterr().out
    assert report["leakage"] is None and report["verdict"]["trusted"] is None and report["verdict"]["doubt"] == told
    assert (tmp_path / "model" / "README.md").read_bytes() == card


@pytest.fixture(scope="module")
def learned(shop, tmp_path_factory):
    """A directory of the shop's model that says what training learns of the shop's file."""
    folder, histories = shop
    there = MacRecRecommender.from_pretrained(folder / "model")
    known = [*(np.array(rows[:-1]) for rows in histories), np.array([2, 9])]
    there.learned_histories = torch.from_numpy(history_fingerprints(known, item_hashes(there.table.item_ids)))
    return there.save_pretrained(tmp_path_factory.mktemp("learned") / "model")


LEARNED = "The model seems to have learned what tests it, of at least"
ELSEWHERE, LEFT_OUT = "of its customers or more have none of them", "as when customers were left out"
GROWN = f"Of {NUM_USERS} customers not all purchases before those that test were learned by the model"
SHOPS = {
    "same": (lambda rows, user: rows, None),
    "grown": (lambda rows, user: [*rows, 7], GROWN),
    "shrunk": (lambda rows, user: rows[:-1], LEARNED),
    "as many purchases": (lambda rows, user: rows[:-1] if user % 2 else [*rows, 7], LEARNED),
    "last two exchanged": (lambda rows, user: [*rows[:-2], rows[-1], rows[-2]], LEARNED),
    "fewer customers": (lambda rows, user: rows if user % 2 else None, LEFT_OUT),
    "shorter by two": (lambda rows, user: rows[:-2] if user == 8 else rows, ELSEWHERE),
    "without the first": (lambda rows, user: rows[1:] if user == 5 else rows, ELSEWHERE),
}


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("name", SHOPS)
def test_what_the_model_has_learned_of_the_test_is_named(shop, learned, tmp_path, capsys, caplog, name, split):
    change, said = SHOPS[name]
    histories = [change(rows, user) for user, rows in enumerate(shop[1])]
    write(tmp_path / "interactions.csv", [rows for rows in histories if rows])
    report, _ = evaluate(learned, tmp_path / "interactions.csv", tmp_path, "--split", split)
    for words in (LEARNED, ELSEWHERE, LEFT_OUT, GROWN):
        assert (words in caplog.text) == (words == said)
    found = report["leakage"]
    assert found["num_learned"] == NUM_USERS + 1
    assert (found["num_tested"] > 0) == (said == LEARNED) and (found["num_missing"] > 0) == (said not in (None, GROWN))
    told = f"Not to be trusted: {LEARNED[0].lower()}{LEARNED[1:]} {found['num_tested']} customers."
    assert (told in capsys.readouterr().out) == (told in report["verdict"]["text"]) == (said == LEARNED)
    chosen = None if split == "validation" else True  # these purchases have chosen the model
    assert report["verdict"]["trusted"] is {LEARNED: False, ELSEWHERE: None}.get(said, chosen)


def test_the_card_takes_up_no_figures_that_are_in_doubt(shop, learned, tmp_path, caplog):
    shutil.copytree(learned, tmp_path / "model")
    words = ["evaluate", "--model", tmp_path / "model", "--interactions"]
    write(tmp_path / "shrunk.csv", [rows[:-1] for rows in shop[1]])
    before = (tmp_path / "model" / "README.md").read_bytes()
    assert main([str(word) for word in [*words, tmp_path / "shrunk.csv"]]) == 0
    assert (tmp_path / "model" / "README.md").read_bytes() == before and "was left as it is" in caplog.text
    assert main([str(word) for word in [*words, shop[0] / "interactions.csv"]]) == 0
    assert b"model-index" in (tmp_path / "model" / "README.md").read_bytes()


def test_customers_with_other_names_are_the_same(shop, learned, tmp_path, caplog):
    text = (shop[0] / "interactions.csv").read_text().replace("u", "customer").replace("customerser_id", "user_id")
    (tmp_path / "interactions.csv").write_text(text)
    report, lists = evaluate(learned, tmp_path / "interactions.csv", tmp_path)
    assert "customer3" in lists and report["leakage"]["num_missing"] == report["leakage"]["num_strangers"] == 0
    assert LEARNED not in caplog.text and ELSEWHERE not in caplog.text


def test_a_look_at_few_users_quotes_the_column_of_all(shop, tmp_path, capsys):
    folder, histories = shop
    repeats = [[*rows[:-1], rows[0]] if user == 9 else [*rows[:-1], 29] for user, rows in enumerate(histories)]
    write(tmp_path / "interactions.csv", [[row for row in rows[:-1] if row != 29] + rows[-1:] for rows in repeats])
    whole, _ = evaluate(folder / "model", tmp_path / "interactions.csv", tmp_path)
    one, _ = evaluate(folder / "model", tmp_path / "interactions.csv", tmp_path, "--limit-users", "1")
    assert whole["repeat_rate"] == one["repeat_rate"] == pytest.approx(1 / NUM_USERS)
    assert (whole["quoted"], one["quoted"], one["num_users"]) == ("shown", "shown", 1)
    out = capsys.readouterr().out
    assert "7.1% of the 14 users took again what they had" in out and "7.1% of all users took again" in out
