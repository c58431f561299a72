import json
import logging

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from macrec_hf import (
    CodebookHealthCallback,
    EmbeddingStore,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
)
from macrec_hf.doctor.health_callback import health_curves


def make_trainer(folder, callbacks=(), **changes):
    random = np.random.default_rng(0)
    store = EmbeddingStore({name: random.standard_normal((60, 6)).astype("f4") for name in ("text", "image")})
    torch.manual_seed(0)
    config = MacRecQuantizerConfig(
        modalities={"text": 6, "image": 6}, num_levels=2, codebook_size=8, codebook_dim=4, hidden_sizes=(8,),
        contrastive_weights=(0.0, 0.1), num_pseudo_labels=6,
    )  # fmt: skip
    settings = dict(
        num_train_epochs=3, per_device_train_batch_size=30, learning_rate=1e-2, eval_strategy="epoch",
        save_strategy="epoch", report_to="none", disable_tqdm=True, use_cpu=True, seed=0,
    )  # fmt: skip
    args = MacRecQuantizerTrainingArguments(str(folder), **(settings | changes))
    return MacRecQuantizerTrainer(MacRecQuantizer(config), args, train_dataset=store, callbacks=list(callbacks))


def test_pages_are_of_the_quantizers_own_codes_and_leave_the_training_as_it_is(tmp_path):
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *(f"{row},Thing {row}" for row in range(60))]))
    callback = CodebookHealthCallback(items=tmp_path / "items.csv")
    trainer = make_trainer(tmp_path / "with", [callback], load_best_model_at_end=True)
    trainer.train()
    page = (tmp_path / "with" / "codebook_health.html").read_text()
    assert "Codebooks after 6 steps" in page and "Thing " in page and "<h2>Maps" in page and "During training" in page
    figures = json.loads((tmp_path / "with" / "codebook_health.json").read_text())
    last = trainer.evaluate()  # of the model that the training ended with
    for name in ("text", "image"):
        collisions = figures["modalities"][name]["collisions"]
        assert (
            collisions["before"] == pytest.approx(last[f"eval_collision_rate_{name}"]) and collisions["after"] is None
        )
        perplexity = figures["modalities"][name]["levels"][1]["perplexity"]
        assert perplexity == pytest.approx(last[f"eval_perplexity_{name}_2"])
    assert figures["step"] == 6 and len(figures["checks"]) == 13
    without = make_trainer(tmp_path / "without", load_best_model_at_end=True)
    without.train()
    weights = without.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in trainer.model.state_dict().items())


def test_a_page_at_each_save_at_its_own_place(tmp_path):
    seen = []

    class Watching(CodebookHealthCallback):
        def on_save(self, *args, **kwargs):
            super().on_save(*args, **kwargs)
            seen.append(json.loads((tmp_path / "pages" / "health.json").read_text())["step"])

    make_trainer(tmp_path / "run", [Watching(tmp_path / "pages" / "health.html", maps=None)]).train()
    assert seen == [2, 4, 6] and "<h2>Maps" not in (tmp_path / "pages" / "health.html").read_text()
    assert not (tmp_path / "run" / "codebook_health.html").exists()


def test_a_page_that_cannot_be_written_does_not_stop_the_training(tmp_path, caplog, request):
    (tmp_path / "file").write_text("in the way")
    trainer = make_trainer(tmp_path / "run", [CodebookHealthCallback(tmp_path / "file" / "page.html", maps=None)])
    package = logging.getLogger("macrec_hf")
    package.addHandler(caplog.handler)
    request.addfinalizer(lambda: package.removeHandler(caplog.handler))  # it is that of all tests
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 6
    assert any("could not be written" in record.message for record in caplog.records)


def test_another_trainer_is_refused(tmp_path):
    model = torch.nn.Linear(2, 1)
    model.forward = lambda x, labels=None: {"loss": torch.nn.Linear.forward(model, x).square().mean()}
    args = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True)
    data = [{"x": torch.ones(2)}] * 4
    with pytest.raises(ValueError, match="expected to belong to a MacRecQuantizerTrainer"):
        Trainer(model, args, train_dataset=data, callbacks=[CodebookHealthCallback()]).train()


def test_curves_hold_what_was_logged():
    log = [{"step": 2, "loss": 1.0}, {"step": 2, "eval_collision_rate_text": 0.5, "eval_perplexity_text_2": 3.0}]
    assert health_curves(log, ["text"], 2) == {
        "Collision rate": {"text": [(2, 0.5)]},
        "Perplexity, level 2": {"text": [(2, 3.0)]},
    }
