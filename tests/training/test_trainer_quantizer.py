import logging

import datasets
import numpy as np
import pytest
import torch
from quantizer_training import make_store, make_trainer
from transformers import EarlyStoppingCallback

from macrec_hf.catalogue.catalogue_batches import CatalogueCollator


def test_training_lowers_its_losses_and_logs_every_part_and_the_codebooks_health(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=20, save_strategy="no", learning_rate=3e-3)
    trainer.train()
    history = trainer.state.log_history
    steps = [line for line in history if "loss" in line]
    assert steps[-1]["reconstruction_loss"] < 0.8 * steps[0]["reconstruction_loss"]
    assert steps[-1]["contrastive_loss_3"] < 0.8 * steps[0]["contrastive_loss_3"]
    parts = (
        "reconstruction_loss",
        "quantization_loss",
        "alignment_loss",
        "contrastive_loss_3",
        "without_partner_text",
    )
    assert all(part in steps[0] for part in parts)
    line = steps[4]  # the line is the equation of its own parts
    total = line["reconstruction_loss"] + line["quantization_loss"] + 0.001 * line["alignment_loss"]
    assert line["loss"] == pytest.approx(total + 0.1 * line["contrastive_loss_3"], rel=1e-4)
    last = [line for line in history if "eval_collision_rate" in line][-1]
    codes = trainer.model.encode(CatalogueCollator(make_store())(list(range(96)))["embeddings"])
    for name in ("text", "image"):
        distinct = len({tuple(row) for row in codes[name].tolist()})
        assert last[f"eval_collision_rate_{name}"] == pytest.approx(1 - distinct / 96)
        assert last[f"eval_dead_codes_{name}_1"] == 8 - len(set(codes[name][:, 0].tolist()))
        assert 1 <= last[f"eval_perplexity_{name}_2"] <= 8


def test_codebooks_are_seeded_once_by_k_means_over_the_residuals(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.prepare_catalogue()
    quantizer, store = trainer.model, make_store()
    assert quantizer.codebooks_seeded
    residual = quantizer.eval().encode_latents({"text": torch.from_numpy(store.arrays["text"])})["text"].detach()
    for codebook in quantizer.codebooks["text"].detach():
        # k-means centres: each codeword is the mean of the residuals nearest to it
        nearest = torch.cdist(residual, codebook).argmin(dim=1)
        for code in nearest.unique():
            torch.testing.assert_close(codebook[code], residual[nearest == code].mean(dim=0), atol=1e-3, rtol=1e-3)
        residual = residual - codebook[nearest]
    before = quantizer.codebooks["text"].clone()
    trainer.prepare_catalogue()
    assert torch.equal(before, quantizer.codebooks["text"])


def test_pseudo_labels_are_written_and_read_back(tmp_path):
    first = make_trainer(tmp_path)
    first.prepare_catalogue()
    with np.load(tmp_path / "pseudo_labels.npz") as saved:
        shuffled = {name: saved[name][::-1].copy() for name in ("text", "image")}
        np.savez(tmp_path / "pseudo_labels.npz", key=saved["key"], **shuffled)
    second = make_trainer(tmp_path)
    second.prepare_catalogue()  # the file's, not computed again
    assert np.array_equal(second.data_collator.labels["text"], shuffled["text"])
    other = make_trainer(tmp_path, store=make_store(missing=[3]))  # another catalogue: the file is not for it
    other.prepare_catalogue()
    assert other.data_collator.labels["image"][3] == -1


def test_resume_goes_on_bit_for_bit(tmp_path):
    whole = make_trainer(tmp_path / "a")
    whole.train()
    part = make_trainer(tmp_path / "b", callbacks=[StopAfter(1)])
    part.train()
    assert part.state.global_step < whole.state.global_step
    rest = make_trainer(tmp_path / "b")
    rest.train(resume_from_checkpoint=True)
    for (name, a), (_, b) in zip(whole.model.named_parameters(), rest.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


class StopAfter(EarlyStoppingCallback):
    """Stops after some epochs, as a person at the keyboard would."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_train_begin(self, args, state, control, **kwargs): ...

    def on_evaluate(self, args, state, control, **kwargs):
        control.should_training_stop = state.epoch >= self.epochs


@pytest.mark.parametrize("metric", ["loss", "reconstruction_loss", "collision_rate"])
def test_early_stopping_watches_the_metric_that_is_named(tmp_path, metric):
    trainer = make_trainer(
        tmp_path,
        callbacks=[EarlyStoppingCallback(2)],
        num_train_epochs=40,
        learning_rate=0.0,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=False,
    )
    trainer.train()  # nothing changes, so the first evaluation stays the best
    assert trainer.state.epoch == 3 and trainer.state.best_metric == trainer.state.log_history[3][f"eval_{metric}"]


def test_the_last_weights_are_kept_even_where_an_earlier_collision_rate_was_lower(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=12, learning_rate=1e-2)
    trainer.train()
    rates = [line["eval_collision_rate"] for line in trainer.state.log_history if "eval_collision_rate" in line]
    assert min(rates[:-1]) < rates[-1]  # k-means seeds spread the codes, training brings alike items together
    assert trainer.evaluate()["eval_collision_rate"] == rates[-1]


def test_missing_items_and_other_kinds_of_dataset(tmp_path):
    store = make_store(missing=range(40))
    trainer = make_trainer(tmp_path / "a", store=store, num_train_epochs=1)
    trainer.train()
    assert trainer.evaluate()["eval_collision_rate_image"] <= 1
    arrays = make_store().arrays
    rows = datasets.Dataset.from_dict({name: list(values) for name, values in arrays.items()})
    codes = []
    for number, dataset in enumerate((arrays, rows, [{"embeddings": row} for row in rows])):
        trainer = make_trainer(tmp_path / str(number), store=dataset, num_train_epochs=1)
        trainer.train()
        codes.append(trainer.model.encode({name: torch.from_numpy(values) for name, values in arrays.items()})["text"])
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[0], codes[2])


def test_a_warning_when_most_items_have_no_partner(tmp_path, caplog):
    trainer = make_trainer(tmp_path, model_changes={"num_pseudo_labels": 90}, num_train_epochs=1)
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").propagate = True
        trainer.train()
    alone = [line["without_partner_text"] for line in trainer.state.log_history if "without_partner_text" in line]
    assert min(alone) > 0.3
    assert (
        any("larger batch or fewer pseudo-labels" in str(record.message) for record in caplog.records)
        or trainer._warned
    )


@pytest.mark.parametrize(
    "dataset, error, message",
    [
        ({"text": np.zeros((4, 10), "f4")}, ValueError, "expected the quantizer's modalities"),
        ({"text": np.zeros((4, 9), "f4"), "image": np.zeros((4, 10), "f4")}, ValueError, "other embeddings"),
        ([1, 2, 3], TypeError, "expected an EmbeddingStore"),
    ],
)
def test_wrong_datasets_are_named(tmp_path, dataset, error, message):
    with pytest.raises(error, match=message):
        make_trainer(tmp_path, store=dataset)
