"""`macrec train --until`, and the evaluation by time of what it writes."""

import json
import shutil

import numpy as np
import pytest
import torch
from killing import make_inputs, words
from safetensors.torch import load_file

from macrec_hf import MacRecRecommender
from macrec_hf.cli.main import main
from macrec_hf.data.fingerprints import history_fingerprints, item_hashes

UNTIL = "2020-02-01"


def write(path, change_later=False):
    """24 users who buy from January to March; `change_later` lets others buy other things from February on."""
    lines = ["user_id,item_id,timestamp"]
    for user in range(24):
        for step in range(9):
            day = f"2020-{step // 3 + 1:02}-{(user + 9 * step) % 28 + 1:02}"
            if change_later and day >= UNTIL:
                lines.append(f"v{user % 5},i{(user + step) % 60},{day}")
            else:
                lines.append(f"u{user},i{(user * 7 + step) % 60},{day}")
    path.write_text("\n".join(lines))


def train(folder, interactions, output, *more):
    arguments = words("train", folder, output)
    arguments[arguments.index("--interactions") + 1] = str(interactions)
    arguments[arguments.index("--max-steps") + 1] = "4"
    return main([*arguments, *map(str, more)])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Inputs and model/, trained until February, with what it logged."""
    folder = tmp_path_factory.mktemp("shop")
    make_inputs(folder)
    write(folder / "interactions.csv")
    assert train(folder, folder / "interactions.csv", folder / "model", "--until", UNTIL) == 0
    return folder


def purchases_before(path, day):
    return [line.split(",") for line in path.read_text().splitlines()[1:] if line.split(",")[2] < day]


def test_the_dates_are_written_down(shop):
    config = json.loads((shop / "model" / "config.json").read_text())
    end = json.loads((shop / "model" / "training_log.json").read_text())[-1]["settings"]
    known = purchases_before(shop / "interactions.csv", UNTIL)
    assert config["trained_until"] == end["trained_until"] == end["until"] == UNTIL
    share = np.mean([day >= end["validates_from"] for _, _, day in known])
    assert 0.1 < share < 0.3
    card = (shop / "model" / "README.md").read_text()
    assert f"| purchases before | {UNTIL} |" in card and f"| validation from | {end['validates_from']} |" in card
    recommender = MacRecRecommender.from_pretrained(shop / "model")
    expected = torch.zeros(60, dtype=torch.long)
    for _, item, _ in known:
        expected[recommender.table.row_of[item]] += 1
    assert torch.equal(recommender.item_counts.long(), expected) and recommender.model.config.trained_until == UNTIL
    bought = {}
    for user, item, _ in known:
        bought.setdefault(user, []).append(recommender.table.row_of[item])
    hashes = item_hashes(recommender.table.item_ids)
    learned = history_fingerprints([np.array(rows) for rows in bought.values()], hashes)
    assert np.array_equal(recommender.learned_histories.numpy(), learned)


def test_sizes_are_of_all_who_train_and_undated_ids_are_named(shop, tmp_path, capsys):
    lines = (shop / "interactions.csv").read_text().splitlines()
    only_train = [(user, place) for user in range(30) for place in range(2)]
    lines += [f"early{user},i{place},2020-01-0{place + 1}" for user, place in only_train]
    (tmp_path / "more.csv").write_text("\n".join(lines))
    assert train(shop, tmp_path / "more.csv", tmp_path / "model", "--until", UNTIL, "--verbose") == 0
    out = capsys.readouterr().out
    begins = json.loads((tmp_path / "model" / "training_log.json").read_text())[-1]["settings"]["validates_from"]
    learned = purchases_before(tmp_path / "more.csv", begins)
    users = len({user for user, _, _ in learned})
    assert users > 30 and f"Sizes, by {users:,} users with {len(learned):,} purchases" in out
    assert "The semantic IDs do not say that they were fitted on items sold before a date (--until): what" in out


def test_later_purchases_do_not_change_the_model(shop, tmp_path):
    write(tmp_path / "changed.csv", change_later=True)
    assert (tmp_path / "changed.csv").read_text() != (shop / "interactions.csv").read_text()
    assert train(shop, tmp_path / "changed.csv", tmp_path / "model", "--until", UNTIL) == 0
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (shop, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_evaluated_by_time_alone(shop, tmp_path, capsys, caplog):
    base = ["evaluate", "--model", shop / "model", "--interactions", shop / "interactions.csv"]
    for more, message in (
        (
            ["--split", "time", "--cut", "2020-01-31"],
            "cut: expected 2020-02-01 or later, until which the model has learned",
        ),
        ([], "evaluate it with --split time --cut 2020-02-01"),
    ):
        assert main([str(word) for word in [*base, *more]]) == 1
        assert message in capsys.readouterr().err
    words = [*base, "--split", "time", "--cut", UNTIL, "--output", tmp_path / "m.json"]
    assert main([str(word) for word in words]) == 0
    report = json.loads((tmp_path / "m.json").read_text())
    later = len((shop / "interactions.csv").read_text().splitlines()) - 1
    later -= len(purchases_before(shop / "interactions.csv", UNTIL))
    assert report["num_purchases"] == later and report["unseen"]["num_purchases"] > 0
    found = report["leakage"]
    assert found == {"num_learned": 24} | dict.fromkeys(
        ("num_missing", "num_strangers", "num_tested", "most_by_chance", "share_alike"), 0
    )
    # A cut that comes later than the training: counting knows what was bought in between.
    for cut, is_behind in ((UNTIL, False), ("2020-02-10", True)):
        words[words.index("--cut") + 1] = cut
        caplog.clear()
        assert main([str(word) for word in words]) == 0
        assert ("not all purchases before those that test were learned by the model" in caplog.text) is is_behind
    words[words.index("--cut") + 1] = UNTIL
    # Somebody has dated purchases a month later: what was learned is tested.
    lines = [line.split(",") for line in (shop / "interactions.csv").read_text().splitlines()[1:]]
    moved = [(user, item, f"2020-0{int(day[6]) + (day > '2020-01-15')}{day[7:]}") for user, item, day in lines]
    (tmp_path / "moved.csv").write_text("\n".join(map(",".join, [("user_id", "item_id", "timestamp"), *moved])))
    words[words.index(shop / "interactions.csv")] = tmp_path / "moved.csv"
    assert main([str(word) for word in words]) == 0
    assert 0 < json.loads((tmp_path / "m.json").read_text())["leakage"]["num_tested"] <= 24
    assert "Not to be trusted" in capsys.readouterr().out


def test_a_model_to_start_from_must_not_know_later_purchases(shop, tmp_path, capsys):
    def start(model, *more):
        arguments = ["train", "--interactions", shop / "interactions.csv", "--semantic-ids", shop / "ids", "--output"]
        arguments += [tmp_path / "more", "--start-from", model, "--max-steps", 1, *more]
        return main([str(word) for word in arguments])

    assert start(shop / "model", "--until", "2020-01-25") == 1
    assert "has learned until 2020-02-01. Start from one that was trained with --until." in capsys.readouterr().err
    assert start(shop / "model", "--until", "2020-02-20") == 0
    assert json.loads((tmp_path / "more" / "config.json").read_text())["trained_until"] == "2020-02-20"
    first, more = (load_file(folder / "learned_histories.safetensors")["learned_histories"]
                   for folder in (shop / "model", tmp_path / "more"))  # fmt: skip
    assert len(first) == len(more) == 24 and not torch.isin(first, more).any()  # everybody bought again
    shutil.copytree(shop / "model", tmp_path / "unknown")
    for name in ("learned_histories.safetensors", "checksums.json"):
        (tmp_path / "unknown" / name).unlink()
    assert start(tmp_path / "unknown", "--until", "2020-02-20", "--overwrite", "--verbose") == 0
    assert f"Whether {tmp_path / 'unknown'} was trained on what will test" in capsys.readouterr().out
    assert not (tmp_path / "more" / "learned_histories.safetensors").exists()  # not all of them would be in it
    assert start(shop / "model", "--overwrite") == 1  # it has learned what would validate and test
    message = capsys.readouterr().err
    assert "expected a model that has learned by leave-one-out" in message and "before 2020-02-01" in message
    words = ["train", "--interactions", shop / "interactions.csv", "--semantic-ids", shop / "ids"]
    assert main([str(word) for word in [*words, "--output", tmp_path / "whole", "--max-steps", 1]]) == 0
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["trained_until"] is None
    assert start(tmp_path / "whole", "--until", UNTIL, "--overwrite") == 1
    assert "does not say until when it has learned" in capsys.readouterr().err


def test_a_date_after_all_purchases_leaves_nothing_to_evaluate_with(shop, tmp_path, capsys):
    assert train(shop, shop / "interactions.csv", tmp_path / "model", "--until", "2020-05-01", "--verbose") == 0
    out = capsys.readouterr().out
    assert "There are none from 2020-05-01 on, so nothing to evaluate with yet." in out
    assert "--cut 2020-05-01 says how good it is once the file has purchases from 2020-05-01 on" in out


def test_the_date_is_one_of_the_settings_that_resume_compares(shop, capsys):
    assert train(shop, shop / "interactions.csv", shop / "model", "--until", UNTIL) == 0
    assert "Finished before" in capsys.readouterr().out


def test_the_header_tells_the_dates(shop, tmp_path, capsys):
    assert train(shop, shop / "interactions.csv", tmp_path / "out", "--until", UNTIL) == 0
    end = json.loads((tmp_path / "out" / "training_log.json").read_text())[-1]["settings"]
    expected = f"Purchases before {end['validates_from']} train, later ones before {UNTIL} validate."
    found = capsys.readouterr()
    assert expected in found.out + found.err
