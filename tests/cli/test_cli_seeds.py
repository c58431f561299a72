"""`macrec train --seeds` and the evaluation of what it writes, from index files alone."""

import json
import re
import shutil
from statistics import mean, stdev

import numpy as np
import pytest

from macrec_hf import SemanticIdTable
from macrec_hf.cli import main
from macrec_hf.cli.seeds import mean_report, seed_folders

RECOMMENDER = "--d-model 16 --d-kv 8 --d-ff 24 --num-layers 1 --num-decoder-layers 1 --num-heads 2 --batch-size 32"
NUM_ITEMS = 24


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Index files in which items share text IDs, and X.inter.json: no embeddings, no items file."""
    folder, random = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    codes = {
        name: np.stack(np.unravel_index(random.permutation(64)[:NUM_ITEMS], (4, 4, 4)), axis=1)
        for name in ("text", "image")
    }
    codes["text"][3] = codes["text"][4] = codes["text"][5]
    table = SemanticIdTable([str(row) for row in range(NUM_ITEMS)], codes)
    for name in codes:
        table.to_index_json(name, folder / f"X.index_{name}.json")
    users = {str(user): random.permutation(NUM_ITEMS)[: random.integers(4, 9)].tolist() for user in range(15)}
    (folder / "X.inter.json").write_text(json.dumps(users))
    return folder


@pytest.fixture(scope="module")
def models(shop):
    assert train(shop, "--seeds", 2, "--seed", 3) == 0
    return shop / "models"


def train(shop, *more):
    ids = f"text={shop / 'X.index_text.json'},image={shop / 'X.index_image.json'}"
    words = ["train", "--interactions", shop / "X.inter.json", "--semantic-ids", ids, "--output", shop / "models"]
    words += [*RECOMMENDER.split(), "--max-steps", 2, "--num-beams", 5, "--warmup", 0, *more]
    return main([str(word) for word in words])


def evaluate(shop, model, output, *more):
    words = ["evaluate", "--model", model, "--interactions", shop / "X.inter.json", "--num-beams", 24]
    status = main([str(word) for word in [*words, "--output", output, *more]])
    return status, json.loads(output.read_text()) if output.exists() else None


def test_each_seed_is_a_model_of_its_own(shop, models):
    assert list(seed_folders(models)) == [3, 4] and seed_folders(models / "seed-3") == {}
    weights = [(models / f"seed-{seed}" / "model.safetensors").read_bytes() for seed in (3, 4)]
    assert weights[0] != weights[1]
    table = SemanticIdTable.from_pretrained(models / "seed-4")
    assert table.items(table.codes["text"][3].tolist(), "text") == ["3", "4", "5"]


def test_evaluation_gives_means_and_deviations(shop, models, tmp_path, capsys):
    lists = tmp_path / "lists.jsonl"
    status, report = evaluate(shop, models, tmp_path / "all.json", "--predictions", lists)
    out = capsys.readouterr().out
    assert status == 0 and "of 2 models" in out and "± standard deviation over the seeds" in out
    alone = [evaluate(shop, models / f"seed-{seed}", tmp_path / f"{seed}.json")[1] for seed in (3, 4)]
    assert [one["seed"] for one in report["seeds"]] == [3, 4] and "intervals" not in report
    for one, expected in zip(report["seeds"], alone, strict=True):
        assert one["ensemble"] == expected["ensemble"] and one["intervals"] == expected["intervals"]
    for part in ("text", "image", "ensemble", "popularity", "coverage"):
        for metric in alone[0][part]:
            values = [one[part][metric] for one in alone]
            assert report[part][metric] == pytest.approx(mean(values))
            assert report["sd"][part][metric] == pytest.approx(stdev(values))
    assert report["sd"]["text"]["ndcg@10"] > 0 == report["sd"]["popularity"]["ndcg@10"]
    # Items that share an ID: a hit on the ID is more than a hit on the item.
    assert report["text"]["string_hr@10"] >= report["text"]["hr@10"]
    assert [len((tmp_path / f"lists.seed-{seed}.jsonl").read_text().splitlines()) for seed in (3, 4)] == [15, 15]
    assert not lists.exists()


def test_resuming_trains_only_what_is_not_finished(shop, models, tmp_path, capsys):
    (models / "seed-4" / "training_log.json").unlink()
    (models / "seed-4" / "checkpoints").mkdir()  # as a run has it that was stopped
    status, _ = evaluate(shop, models, tmp_path / "none.json")
    assert status == 1 and re.search(
        "finished trainings, found unfinished ones: seed-4.*--resume", capsys.readouterr().err
    )
    before = (models / "seed-3" / "model.safetensors").stat().st_mtime_ns
    assert train(shop, "--seeds", 3, "--seed", 3, "--resume") == 0
    assert "3 models (1 were finished)" in capsys.readouterr().out
    assert list(seed_folders(models)) == [3, 4, 5]
    assert (models / "seed-3" / "model.safetensors").stat().st_mtime_ns == before
    assert sorted(path.name for path in models.iterdir()) == ["seed-3", "seed-4", "seed-5"]  # no examples are left
    assert train(shop, "--seeds", 3, "--seed", 3, "--resume") == 0
    assert capsys.readouterr().out == f"Finished before, nothing to do: {models}\n"
    assert train(shop, "--seeds", 3, "--seed", 3, "--resume", "--learning-rate", 0.5) == 1
    assert f"in {models / 'seed-3'} was made with" in capsys.readouterr().err


def test_a_seed_that_an_earlier_training_left_is_told(shop, models, tmp_path, caplog):
    mixed = tmp_path / "mixed"
    shutil.copytree(models / "seed-3", mixed / "seed-3")
    shutil.copytree(models / "seed-4", mixed / "seed-4")
    assert list(seed_folders(mixed)) == [3, 4] and not caplog.records
    log = mixed / "seed-4" / "training_log.json"
    lines = json.loads(log.read_text())
    lines[-1]["settings"] |= {"max_steps": 9, "interactions": "of another file", "precision": "bf16"}
    log.write_text(json.dumps(lines))
    assert list(seed_folders(mixed)) == [3, 4]
    (told,) = (record.getMessage() for record in caplog.records)
    assert "seed-3 and seed-4 in" in told and "--max-steps was 2, is 9" in told and "--interactions has other" in told
    assert "precision" not in told and "--seed " not in told
    log.write_text("[]")  # says nothing, and an evaluation needs nothing of it
    assert list(seed_folders(mixed)) == [3, 4] and len(caplog.records) == 1


def test_mean_report_by_hand():
    def report(hit, coverage):
        one = {"split": "test", "num_users": 4, "text": {"hr@1": hit}, "coverage": {"text": coverage}}
        one |= {"intervals": {"text": {"hr@1": [0, 1]}}}
        hidden = {"text": {"hr@1": hit / 2}, "coverage": {"text": coverage}, "intervals": {}, "differences": {}}
        return one | {"differences": {}, "verdict": {"text": "of one seed"}, "hidden": hidden}

    found = mean_report({0: report(0.25, 0.5), 1: report(0.5, 0.5), 2: report(0.75, 0.8)})
    assert (found["split"], found["num_users"], found["text"]["hr@1"]) == ("test", 4, 0.5)
    assert found["sd"]["text"]["hr@1"] == pytest.approx(0.25)  # √((0.25² + 0 + 0.25²) / 2)
    assert found["coverage"]["text"] == pytest.approx(0.6) and found["sd"]["coverage"]["text"] == pytest.approx(
        0.1732, abs=1e-4
    )
    assert found["hidden"]["text"]["hr@1"] == 0.25 and found["hidden"]["sd"]["text"]["hr@1"] == pytest.approx(0.125)
    assert not {"intervals", "differences", "verdict"} & (found.keys() | found["hidden"].keys())
    assert [of_seed["verdict"]["text"] for of_seed in found["seeds"]] == ["of one seed"] * 3
    assert mean_report({7: report(0.25, 0.5)})["sd"] == {"text": {"hr@1": None}, "coverage": {"text": None}}


def test_seeds_of_other_rows_are_refused():
    column = {"coverage": {}, "intervals": {}, "differences": {}}
    with_blend, without = ({**column, "model_rows": rows, "hidden": column} for rows in (["text", "blend"], ["text"]))
    with pytest.raises(ValueError, match="seed-4: expected the rows text, blend, .* got text. .*`macrec blend`"):
        mean_report({3: with_blend, 4: without})


def test_the_parts_of_a_report_by_time_are_averaged_too():
    def report(hit, share):
        column = {"text": {"hr@1": hit}, "coverage": {"text": 1.0}, "intervals": {"text": {"hr@1": [0, 1]}}}
        column |= {"differences": {}, "unseen_places": {"text": share}, "new_customers": {"num_purchases": 0}}
        column["seen"] = {"num_purchases": 8, "text": {"hr@1": hit * 2}, "intervals": {"text": {"hr@1": [0, 1]}}}
        return {"split": "time", **column, "hidden": column}

    found = mean_report({0: report(0.1, 0.5), 1: report(0.3, 0.7)})
    for column in (found, found["hidden"]):
        assert column["seen"]["text"]["hr@1"] == pytest.approx(0.4) and column["seen"]["num_purchases"] == 8
        assert column["seen"]["sd"]["text"]["hr@1"] == pytest.approx(stdev([0.2, 0.6]))
        assert column["unseen_places"]["text"] == pytest.approx(0.6) and column["new_customers"]["num_purchases"] == 0
        assert "intervals" not in column["seen"]
