"""The model card: what it tells, its picture, its results, and whether the Hub would take it."""

import ast
import io
import json
import re

import numpy as np
import pytest
import torch
import yaml
from hub_tools import tiny_recommender
from huggingface_hub import ModelCard
from local_hub import TOKEN, card_errors, local_hub
from PIL import Image

from macrec_hf import MacRecTrainer, MacRecTrainingArguments
from macrec_hf.cli.main import main
from macrec_hf.data.fingerprints import history_fingerprints, item_hashes
from macrec_hf.evaluation.baselines import BASELINES
from macrec_hf.hub.code_usage_picture import code_usage_picture, sorted_uses
from macrec_hf.hub.model_card import _BASELINES, PICTURE_NAME, model_card, with_counts, with_results, without_results
from macrec_hf.hub.saving import update_model_card
from macrec_hf.model.semantic_ids import SemanticIdTable

FIGURES = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
TRAINING = {
    "command": "macrec train --output 'my shop' | tee log",
    "data": {"users": 1234, "interactions file": "a|b.csv"},
    "settings": {"learning rate": "0.001", "steps": 70},
    "losses": {"generation_loss": 1.25, "alignment_loss": 0.5, "loss": 1.3},
    "quantizer_losses": {"reconstruction_loss": 0.125, "contrastive_loss_1": 0.0, "contrastive_loss_3": 2.0},
}


def report(value: float = 0.25) -> dict:
    """As `macrec evaluate` writes it."""
    names = ("text", "image", "ensemble", "popularity")
    values = {name: dict.fromkeys(FIGURES, value) for name in names}
    intervals = {name: {figure: [value - 0.125, value + 0.0625] for figure in FIGURES} for name in names}
    return {"split": "test", "num_users": 4321, **values, "intervals": intervals, "coverage": {"text": 0.5}}


@pytest.fixture(scope="module")
def recommender():
    return tiny_recommender(seed=4)


@pytest.fixture(scope="module")
def card(recommender):
    parts = recommender.model, recommender.table, recommender.quantizer
    return model_card(*parts, report(), training=TRAINING, license="mit", picture=PICTURE_NAME, code=True)


def test_it_tells_what_made_the_model_and_how_well_it_does(card, recommender):
    for heading in "Use Results Data Catalogue Model Losses Training Limits Licence Citation".split():
        assert card.count(f"\n## {heading}\n") == 1, heading
    assert "| ensemble | 0.2500 [0.1250, 0.3125] |" in card and "| popularity | 0.2500" in card
    assert "4,321 users, their test items" in card and "| users | 1,234 |" in card and "a\\|b.csv" in card
    assert "```bash\nmacrec train --output 'my shop' | tee log\n```" in card
    assert "| recommender | implicit alignment | 0.01 | 0.5000 |" in card
    assert "| quantizer | cross-modal contrastive | 0, 0, 0.1 by level | 0.0000, 2.0000 |" in card
    assert "| quantizer | cross-modal alignment | 0.001 |  |" in card
    weights = sum(weight.numel() for weight in recommender.model.parameters())
    assert f"{weights:,} weights" in card and "30 items, 3 codes from 4 each." in card
    assert "license: mit" in card and "@inproceedings{" in card and f"]({PICTURE_NAME})" in card
    assert max(len(line) for line in card.splitlines()) < 400


def test_nothing_that_data_holds_ends_a_string_a_fence_a_table_or_the_results(recommender):
    mark = "<!-- end of results -->"
    ids = [f'"]]); print("run") # \\ é🛍 {mark}', "two\nlines\n```\n' | `"]
    table = SemanticIdTable(ids, {"te|xt": [[0], [1]]}, codebook_size=4)
    command = f"macrec train --output '\n```\n````\n{mark}'"
    training = {"command": command, "data": {"a\nb": f"c:\\|d\n{mark}"}, "settings": {"<b>": "x\ny"}}
    parts = recommender.model, table, recommender.quantizer
    quantizer = recommender.quantizer.config
    quantizer.encoders, before = {"text": "a`b\n``c"}, getattr(quantizer, "encoders", None)
    card = model_card(*parts, report(), training=training, code="recommender")
    quantizer.encoders = before
    first, second = re.findall(r"^```python\n(.*?)^```$", card, re.S | re.M)
    histories = [ast.literal_eval(node.args[0]) for code in (first, second) for node in calls(code, "recommend")]
    assert histories == [[ids], ids]
    assert f"`````bash\n{command}\n`````\n" in card and "text by ``` a`b ``c ```." in card
    assert "| a b | c:\\\\\\|d &lt;!-- end of results --&gt; |\n" in card and "| &lt;b&gt; | x y |\n" in card
    assert "| te\\|xt | 2 | 0.00 % |\n" in card
    again = with_results(card, report(0.5))
    assert with_results(again, report()) == card and again.count("\n## Data\n") == 1


def calls(code, name):
    """Calls of a function or method of that name."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [node for node in nodes if getattr(node.func, "id", getattr(node.func, "attr", "")) == name]


def test_collisions_before_and_after_are_a_table(recommender):
    table = SemanticIdTable(["a", "b"], {"text": [[0], [1]], "image": [[2], [-1]]}, codebook_size=4)
    table.report = {"text": {"collision_rate_before": 0.5}, "image": {"collision_rate_before": 0.0}}
    text = model_card(recommender.model, table)
    assert "| modality | items with an ID | share an ID (collision rate) | before collisions were resolved |" in text
    assert "| text | 2 | 0.00 % | 50.00 % |\n| image | 1 | 0.00 % | 0.00 % |" in text


def test_the_hub_can_read_it(card):
    parsed = ModelCard(card)
    assert parsed.data.library_name == "macrec_hf" and parsed.data.license == "mit"
    results = parsed.data.eval_results
    assert {result.metric_args["lists"] for result in results} == {"text", "image", "ensemble"}  # no baselines
    found = {(result.metric_args["lists"], result.metric_type): result for result in results}
    best = found["ensemble", "ndcg@10"]
    assert (best.metric_value, best.metric_args["interval_95"]) == (0.25, [0.125, 0.3125])
    assert (best.task_type, best.dataset_split) == ("semantic-id-recommendation", "test")
    assert card_errors(card) == [] and card_errors(card.replace("license: mit", "license: ours"))


def test_the_hub_says_so_itself(card, tmp_path, monkeypatch):
    with local_hub(monkeypatch, tmp_path) as hub:
        ModelCard(card).validate()
        with pytest.raises(ValueError, match="license"):
            ModelCard(card.replace("license: mit", "license: ours")).validate()
        with pytest.raises(ValueError, match="license"):
            tiny_recommender().push_to_hub("somebody/shop", token=TOKEN, license="ours")
        tiny_recommender().push_to_hub("somebody/shop", token=TOKEN, license="apache-2.0", metrics=report())
        assert PICTURE_NAME in hub["somebody/shop"].files()
        assert ModelCard.load("somebody/shop").data.license == "apache-2.0"


def test_baselines_are_known():
    assert set(_BASELINES) == set(BASELINES)


def test_new_results_take_the_place_of_the_old(card):
    again = with_results(card, report(0.5))
    assert again.count("## Results") == 1 and "0.2500" not in again and "| ensemble | 0.5000 [0.3750" in again
    assert {result.metric_value for result in ModelCard(again).data.eval_results} == {0.5}
    assert with_results(again, report()) == card
    assert with_results(card, {"coverage": {"text": 0.5}}) == card  # nothing to tell


def test_the_column_to_quote_is_quoted_and_lists_of_others_are_no_results_of_the_model(card):
    hidden = {name: values for name, values in report(0.5).items() if name not in ("split", "num_users")}
    hidden["sasrec"] = hidden["ensemble"]
    about = {
        "quoted": "hidden",
        "model_rows": ["text", "image", "ensemble"],
        "verdict": {"text": "Verdict: <b> | loses."},
    }
    told = with_results(card, report() | {"hidden": hidden} | about)
    results = ModelCard(told).data.eval_results
    assert {result.metric_args["lists"] for result in results} == {"text", "image", "ensemble"}
    assert {result.metric_args["own_history"] for result in results} == {"hidden"}
    quoted = {result.metric_value for result in results if result.metric_args["lists"] == "ensemble"}
    assert quoted == {hidden["ensemble"][figure] for figure in FIGURES}
    section = told.split("## Results")[1].split("\n## ")[0]
    assert "| sasrec |" in section and "own history is left out of the lists." in " ".join(section.split())
    assert "Verdict: &lt;b&gt; \\| loses." in section
    shown = with_results(card, report() | {"hidden": hidden} | about | {"quoted": "shown"})
    assert "is left out" not in shown and "| sasrec |" not in shown


def test_results_go_into_a_card_that_people_wrote():
    theirs = "---\nlicense: cc-by-4.0\nlanguage: de\n---\n\n# Laden\n\nUnser \\1 Laden."
    found = with_results(theirs, report())
    parsed = ModelCard(found)
    assert (parsed.data.license, parsed.data.language) == ("cc-by-4.0", "de") and parsed.data.eval_results
    assert "# Laden\n\nUnser \\1 Laden.\n\n<!-- results" in found
    assert with_results(with_results(theirs, report()), report(0.5)).count("## Results") == 1
    assert "## Results" in with_results("Mine.", report())


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_results_of_another_blend_are_taken_out(card, end):
    told = with_results(card, report()).replace("\n", end)
    found = without_results(told)
    assert "model-index" in told and "model-index" not in found and "None: the blend was fitted anew" in found
    assert "NDCG@10" not in found.partition("## Results")[2].partition("end of results")[0]
    assert found.count("\n") == found.count(end) and without_results(found) == found
    kept = ModelCard(found.replace(end, "\n")).data.to_dict()
    parsed = ModelCard(told.replace(end, "\n")).data
    parsed.eval_results = None
    assert kept == {name: value for name, value in parsed.to_dict().items() if name != "model_name"}
    assert without_results(f"# Mine{end}") == f"# Mine{end}"
    # What people say of other keys stays.
    ours = f"# of 2026{end}{end}# for all{end}tags:"
    for before, after in ((f"tags:{end}", f"{ours}{end}"), (f"{end}---{end}", f"{end}# the last word{end}---{end}")):
        assert without_results(told.replace(before, after, 1)) == found.replace(before, after, 1)
    # Line ends of both kinds, a rule with a blank behind it, a comment among the figures.
    odd = told.replace(f"{end}---{end}", f"{end}--- {end}", 1)
    odd = odd.replace(f"model-index:{end}", f"model-index:{end}# of 2026{end}")
    assert yaml.safe_load(re.split(r"(?m)^---[ \r]*$", without_results(f"{odd}one line\r\nmore\n"))[1]) == kept


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fusion": "authors"}, 'items, ensemble by "authors".'),  # of an earlier release
        ({"fusion": {"ensemble": "authors", "blend": "blend"}, "dtype": "bfloat16"}, '"authors", in bfloat16.'),
        ({"fusion": "average", "dtype": None}, "histories of the last 20 items."),
        ({}, "histories of the last 20 items."),
    ],
)
def test_the_card_says_what_made_the_lists(card, settings, said):
    told = with_results(card, report() | {"settings": {"num_beams": 20, "max_history": 20, **settings}})
    assert said in " ".join(told.split())


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_what_is_said_of_counts_stands_before_the_limits(card, end):
    own = card.replace("\n", end)
    told = with_counts(own, "all")
    before, _, after = told.partition("## Customers' data")
    assert after.count(f"{end}## Limits{end}") == 1 and "## Losses" in before
    assert told.count("\n") == told.count(end)  # no line of another kind
    again = with_counts(told, "rounded")
    assert again.count("## Customers' data") == 1 and again.startswith(before) and with_counts(again, "all") == told
    assert with_counts(f"# Mine{end}", "all").endswith(f"-->{end}")


def test_bars_of_the_picture_are_the_uses():
    random = np.random.default_rng(0)
    codes = {name: torch.from_numpy(random.integers(0, 8, (40, 2))) for name in ("text", "image")}
    codes["image"][3] = -1
    table = SemanticIdTable([f"i{row}" for row in range(40)], codes, codebook_size=8)
    for name, values in codes.items():
        for level in range(2):
            uses = sorted_uses(table, name, level)
            counted = [int((values[:, level] == code).sum()) for code in range(8)]
            assert uses.tolist() == sorted(counted, reverse=True)
    picture = Image.open(io.BytesIO(code_usage_picture(table)))
    assert picture.format == "PNG" and picture.size == (64 + 2 * 164, 26 + 2 * 98)
    blue = (np.asarray(picture.convert("RGB")) == (37, 99, 150)).all(axis=2)
    # The first panel: columns of falling height, the first one of the full height but for the writing on it.
    heights = blue[26 : 26 + 85, 64 : 64 + 150].sum(axis=0)
    assert heights[0] >= 80 and heights[0] > heights[-1]


def test_a_table_with_more_codes_than_pixels_and_one_without_ids_have_pictures():
    wide = SemanticIdTable(["a", "b"], {"text": [[0], [1023]]}, codebook_size=1024)
    empty = SemanticIdTable(["a"], {"text": [[-1]]}, codebook_size=4)
    for table in (wide, empty):
        assert Image.open(io.BytesIO(code_usage_picture(table))).format == "PNG"


def test_evaluate_puts_its_results_into_the_card(tmp_path, capsys):
    random = np.random.default_rng(0)
    bought = random.integers(0, 30, (9, 5))
    recommender = tiny_recommender(seed=4)
    hashes = item_hashes(recommender.table.item_ids)
    recommender.learned_histories = torch.from_numpy(history_fingerprints(bought[:, :-1], hashes))
    directory = recommender.save_pretrained(tmp_path / "model", license="mit")
    rows = [f"u{user},i{item},{time}" for user in range(9) for time, item in enumerate(bought[user])]
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    words = ["evaluate", "--model", str(directory), "--interactions", str(tmp_path / "interactions.csv"),
             "--num-beams", "2", "--output", str(tmp_path / "metrics.json")]  # fmt: skip
    before = (directory / "README.md").read_text()
    for more in (["--no-card"], ["--split", "validation"], ["--limit-users", "3"]):
        assert main([*words, *more]) == 0, capsys.readouterr().err
        assert (directory / "README.md").read_text() == before
    assert main(words) == 0, capsys.readouterr().err
    after = (directory / "README.md").read_text()
    figure = json.loads((tmp_path / "metrics.json").read_text())["ensemble"]["ndcg@10"]
    assert re.search(rf"\| ensemble .*\| {figure:.4f} \[", after) and "9 users, their test items" in after
    said = " ".join(after.split())
    assert "Beam search with 2 beams, histories of the last 5 items." in said
    assert "license: mit" in after and card_errors(after) == []
    assert main([*words, "--fusion", "authors", "--max-history", "1"]) == 0, capsys.readouterr().err
    said = " ".join((directory / "README.md").read_text().split())
    assert 'Beam search with 2 beams, histories of the last 1 item, ensemble by "authors".' in said
    without_index = re.sub(r"(?s)model-index:.*?(?=---\n)", "", after)
    assert re.sub(r"(?s)\n\n<!-- results.*end of results -->", "", without_index) == before


def test_a_trainer_writes_the_card_of_its_output_folder(tmp_path, recommender):
    arguments = MacRecTrainingArguments(str(tmp_path), learning_rate=0.125, seed=7, report_to="none", use_cpu=True)
    parts = {"processing_class": recommender.tokenizer, "table": recommender.table}
    trainer = MacRecTrainer(recommender.model, arguments, **parts)
    trainer.state.log_history = [{"generation_loss": 2.0, "alignment_loss": 1.5}, {"generation_loss": 0.75}]
    trainer.create_model_card(license="mit")
    text = (tmp_path / "README.md").read_text()
    assert "| recommender | generation (cross-entropy) | 1 | 0.7500 |" in text and "| learning rate | 0.125 |" in text
    assert "license: mit" in text and card_errors(text) == []


def test_a_card_that_is_not_there_is_said(tmp_path):
    with pytest.raises(OSError, match="README.md"):
        update_model_card(tmp_path, report())
