"""`--report-to` of both training verbs: loss parts and codebook health reach the tracker."""

import json
from pathlib import Path

import pytest
from hub_tools import quantize, tiny_shop, train

from macrec_hf.cli.main import main
from macrec_hf.cli.tracking import TRACKERS, tracking_arguments

QUANTIZER = {
    "loss", "reconstruction_loss", "quantization_loss", "alignment_loss", "contrastive_loss_1", "contrastive_loss_3",
    "eval/reconstruction_loss",
    "eval/collision_rate", "eval/collision_rate_text", "eval/usage_text_1", "eval/perplexity_image_4",
    "eval/dead_codes_text_2",
}  # fmt: skip
RECOMMENDER = {"loss", "generation_loss", "alignment_loss", "eval/generation_loss", "eval/ndcg@10", "eval/text_hr@10"}


@pytest.fixture
def shop(tmp_path):
    return tiny_shop(tmp_path)


def names_in(folder: Path) -> set[str]:
    """Names of the scalars in TensorBoard's event files, read by the program itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = set()
    for path in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(path))
        events.Reload()
        found |= set(events.Tags()["scalars"])
    return {name.removeprefix("train/") for name in found}


def test_both_stages_reach_tensorboard(shop, capsys):
    assert quantize(shop, "--report-to", "tensorboard") == 0, capsys.readouterr().err
    assert train(shop, "--report-to", "tensorboard") == 0, capsys.readouterr().err
    for stage, wanted in (("ids", QUANTIZER), ("model", RECOMMENDER)):
        found = names_in(shop / stage / "checkpoints" / "runs")
        assert wanted <= found, f"{stage}: {sorted(wanted - found)} are not among {sorted(found)}"
        assert [path.name for path in (shop / stage / "checkpoints").iterdir()] == ["runs"]


def test_any_tracker_gets_loss_parts_and_codebook_health(shop, monkeypatch, capsys):
    """What every tracker is given: the lines that a Trainer's log passes to its callbacks."""
    import transformers.integrations.integration_utils as integrations
    from transformers import TrainerCallback

    seen: dict[str, set[str]] = {}

    class Notebook(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.setdefault(args.run_name, set()).update(logs)

    monkeypatch.setitem(integrations.INTEGRATION_TO_CALLBACK, "wandb", Notebook)
    monkeypatch.setattr("macrec_hf.cli.tracking.TRACKERS", {**TRACKERS, "wandb": "json"})
    assert quantize(shop, "--report-to", "wandb") == 0, capsys.readouterr().err
    assert train(shop, "--report-to", "wandb") == 0, capsys.readouterr().err
    written = {name.replace("eval/", "eval_") for name in QUANTIZER}
    assert written <= seen[f"{shop.name}-ids"]
    assert {name.replace("eval/", "eval_") for name in RECOMMENDER} <= seen[f"{shop.name}-model"]


def test_nothing_is_reported_unless_asked(shop, capsys):
    assert quantize(shop) == 0, capsys.readouterr().err
    assert not list((shop / "ids").rglob("events.out*"))


def test_a_tracker_that_is_not_installed_is_said_before_the_work(shop, monkeypatch, capsys):
    monkeypatch.setattr("macrec_hf.cli.tracking.TRACKERS", {**TRACKERS, "trackio": "no_such_tracker"})
    assert quantize(shop, "--report-to", "trackio") == 1
    error = capsys.readouterr().err
    assert "--report-to trackio: expected the package no_such_tracker to be installed, found none." in error
    assert not (shop / "ids" / "checkpoints").exists()


def test_arguments_name_the_run_after_its_folder(tmp_path):
    class Arguments:
        report_to = "none"

    told = tracking_arguments(Arguments, tmp_path / "model" / "seed-3")
    assert told == {"report_to": "none", "run_name": "model-seed-3", "project": "macrec_hf"}
    with pytest.raises(SystemExit):
        main(["quantize", "--embeddings", "x", "--output", "y", "--report-to", "abacus"])


def test_the_health_page_is_written_where_it_is_asked_for(shop, capsys):
    page = shop / "health.html"
    assert quantize(shop, "--health-page", str(page)) == 0, capsys.readouterr().err
    figures = json.loads(page.with_suffix(".json").read_text())
    assert "<html" in page.read_text() and set(figures["modalities"]) == {"text", "image"}
    assert quantize(shop, "--health-page", str(shop / "no" / "such" / "page.html")) == 1
    assert "expected a folder" in capsys.readouterr().err
