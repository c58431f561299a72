"""`macrec train` tells the model card what made the model."""

import shlex

from hub_tools import quantized_shop, train
from local_hub import card_errors

from macrec_hf.hub.model_card import last_losses
from macrec_hf.model.model_files import load_catalogue


def test_a_training_tells_its_card(tmp_path, capsys):
    shop = quantized_shop(tmp_path)
    assert train(shop, "--license", "apache-2.0") == 0, capsys.readouterr().err
    card = load_catalogue(shop / "model").card
    assert card_errors(card) == [] and "license: apache-2.0" in card
    assert (
        "| users | 12 |" in card
        and "| interactions | 72 |" in card
        and "| interactions file | interactions.csv |" in card
    )
    command = next(line for line in card.splitlines() if line.startswith("macrec train "))
    words = shlex.split(command)
    assert words[words.index("--semantic-ids") + 1] == str(shop / "ids") and "apache-2.0" in words
    assert "| steps | 4 |" in card and "| seed | 0 |" in card and "| best validation ndcg@10 | " in card
    told = [
        line.split("|")[4].strip() for line in card.splitlines() if line.startswith(("| recommender", "| quantizer"))
    ]
    assert len(told) == 6 and all(float(value) >= 0 for cell in told for value in cell.split(", "))
    assert "before collisions were resolved" in card


def test_last_losses_are_those_of_the_training_losses():
    log = [{"loss": 3.0, "generation_loss": 2.0}, {"eval_loss": 9.0}, {"loss": 1.0, "step": 4}, {"train_loss": 8.0}]
    assert last_losses(log) == {"loss": 1.0, "generation_loss": 2.0}
