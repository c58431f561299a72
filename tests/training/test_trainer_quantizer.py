import copy
import itertools
import logging
from collections import defaultdict

import datasets
import numpy as np
import pytest
import torch
from quantizer_training import make_store, make_trainer
from thread_numbers import threads_of_steps
from transformers import EarlyStoppingCallback

from macrec_hf import MacRecQuantizer, MacRecQuantizerConfig
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


def plain_losses(quantizer, store, batches):
    """What a catalogue's losses are, each a mean over the rows that have what it compares, in float64."""
    quantizer, sums = copy.deepcopy(quantizer).double().eval(), defaultdict(lambda: np.zeros(2))
    for rows in batches:
        inputs = {name: torch.from_numpy(store.arrays[name][rows]).double() for name in store.arrays}
        masks = {name: torch.from_numpy(store.present[name][rows]) for name in store.arrays}
        both = masks["text"] & masks["image"]
        found = {}
        for name, values in inputs.items():
            latents = quantizer.encode_latents({name: values[masks[name]]})[name].detach()
            residual, total, loss = latents, torch.zeros_like(latents), 0.0
            for codebook in quantizer.codebooks[name].detach():
                word = codebook[torch.cdist(residual, codebook).argmin(dim=1)]
                loss += 1.25 * float((residual - word).square().mean()) if len(residual) else 0.0
                residual, total = residual - word, total + word
            error = (quantizer.quantizers[name].decoder(total).detach() - values[masks[name]]).square().mean()
            count = int(masks[name].sum())
            sums["quantization_loss", name] += [loss * count, count]
            sums["reconstruction_loss", name] += [float(error) * count if count else 0.0, count]
            found[name] = torch.nn.functional.normalize(total[both[masks[name]]], dim=1)
        logits = found["text"] @ found["image"].T / 0.1
        chances = torch.diag(logits.log_softmax(0) + logits.log_softmax(1)).sum()
        sums["alignment_loss", ""] += [-float(chances), int(both.sum())]
    losses = defaultdict(float)
    for (name, _), (total, count) in sums.items():
        losses[name] += total / max(count, 1)
    losses["loss"] = losses["reconstruction_loss"] + losses["quantization_loss"] + 0.001 * losses["alignment_loss"]
    return losses


@pytest.mark.parametrize("batch_size", [10, 7, 40])
def test_evaluation_means_are_over_the_rows_that_have_the_modality(tmp_path, batch_size):
    store = make_store(40, missing=range(30))  # three batches of ten without any image
    trainer = make_trainer(tmp_path, store=store, per_device_eval_batch_size=batch_size)
    trainer.prepare_catalogue()
    found = trainer.evaluate()
    expected = plain_losses(trainer.model, store, np.split(np.arange(40), range(batch_size, 40, batch_size)))
    whole = plain_losses(trainer.model, store, [np.arange(40)])
    for name in ("loss", "reconstruction_loss", "quantization_loss", "alignment_loss"):
        assert found[f"eval_{name}"] == pytest.approx(expected[name], rel=1e-4), name
    for name in ("reconstruction_loss", "quantization_loss"):  # the others compare the rows of a batch
        assert found[f"eval_{name}"] == pytest.approx(whole[name], rel=1e-4), name


def test_a_line_of_the_training_log_is_a_mean_over_rows(tmp_path):
    store = make_store(44, missing=[*range(25), 40, 41])  # batches of 10 with 0, 0, 5, 10 and 2 images of 4
    changes = dict(per_device_train_batch_size=10, logging_steps=5, num_train_epochs=1, learning_rate=0.0)
    trainer = make_trainer(tmp_path, store=store, train_sampling_strategy="sequential", **changes)
    trainer.train()
    line = next(line for line in trainer.state.log_history if "loss" in line)
    batches = np.split(np.arange(44), range(10, 44, 10))
    expected = plain_losses(trainer.model, store, batches)
    for name in ("reconstruction_loss", "quantization_loss", "alignment_loss"):
        assert line[name] == pytest.approx(expected[name], rel=1e-4), name
    for name, labels in trainer.data_collator.labels.items():
        alone = total = 0
        for rows in batches:
            both = labels[rows[store.present["image"][rows]]]  # the positives are drawn among items that have both
            total += len(both)
            alone += sum(int((both == label).sum() == 1) for label in both)
        assert total == 17 and line[f"without_partner_{name}"] == pytest.approx(alone / total, abs=1e-5)


def test_codebooks_that_are_the_latents_make_no_giant_of_the_gradient(tmp_path):
    # Ten items, eight codewords: most seeds are latents, and of those items next to nothing is left after a level.
    store = make_store(10)
    trainer = make_trainer(tmp_path, store=store, num_train_epochs=3, model_changes={"num_pseudo_labels": 2})
    trainer.train()
    norms = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    assert len(norms) == 3 and all(0 < norm < 100 for norm in norms)


def test_the_learning_rate_falls_to_nothing_over_the_planned_steps(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=20, save_strategy="no")
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert max(rates) == pytest.approx(1e-2, rel=0.05) and rates[-1] < 3e-4
    assert all(later <= rate for rate, later in itertools.pairwise(rates[rates.index(max(rates)) :]))


def test_a_quantizer_in_which_nothing_is_trained_is_refused(tmp_path):
    config = MacRecQuantizerConfig(method="residual-kmeans", modalities={"text": 10, "image": 10})
    with pytest.raises(ValueError, match="nothing is trained: it is finished"):
        make_trainer(tmp_path, model=MacRecQuantizer(config))


def test_embeddings_that_are_no_numbers_are_refused_before_the_first_step(tmp_path):
    arrays = make_store().arrays
    arrays["image"][7, 1] = np.nan
    trainer = make_trainer(tmp_path, store=arrays, num_train_epochs=1)
    with pytest.raises(ValueError, match="image"):
        trainer.train()


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


@pytest.mark.parametrize(("width", "threads"), [(256, 1), (264, 2)])
def test_a_narrow_quantizer_takes_its_steps_on_one_thread(tmp_path, monkeypatch, width, threads):
    changes = dict(max_steps=2, save_strategy="no")
    trainer = make_trainer(tmp_path, model_changes={"hidden_sizes": (width,)}, **changes)
    assert threads_of_steps(trainer, monkeypatch) == ({threads}, {2})
