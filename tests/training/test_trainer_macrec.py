import numpy as np
import pytest
import torch
from recommender_training import make_shop, make_trainer
from thread_numbers import threads_of_steps
from transformers import TrainerCallback

from macrec_hf import (
    MacRecForConditionalGeneration,
    MacRecTrainer,
    MacRecTrainingArguments,
    SemanticIdTrie,
    exact_scores,
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shop"))


def test_ranking_is_the_brute_force_ranking_of_the_whole_catalogue(shop, tmp_path):
    trainer = make_trainer(shop, tmp_path)
    table, tokenizer, tasks = shop
    metrics = trainer.evaluate()
    rows = [row for row in tasks["validation"] if row["task"] == 0]
    images = {row["user"]: row for row in tasks["validation"] if row["task"] == 1}
    model = trainer.model.eval()
    tries = {name: SemanticIdTrie.from_table(table, tokenizer, name) for name in table.modalities}
    hits = {"text": [], "image": [], "ensemble": []}
    for row in rows:
        scores = {}
        for name, source in (("text", row), ("image", images[row["user"]])):
            ids = torch.tensor([source["input_ids"]])
            scores[name] = exact_scores(model, ids, torch.ones_like(ids), tries[name])[0]
        scores["ensemble"] = (scores["text"] + scores["image"]) / 2
        for name, values in scores.items():
            hits[name].append(float((values > values[row["item"]]).sum() < 5))
    assert metrics["eval_hr@5"] == pytest.approx(np.mean(hits["ensemble"]))
    assert metrics["eval_text_hr@5"] == pytest.approx(np.mean(hits["text"]))
    assert metrics["eval_image_hr@5"] == pytest.approx(np.mean(hits["image"]))


def test_training_lowers_the_loss_logs_its_parts_and_keeps_the_best_checkpoint(shop, tmp_path):
    trainer = make_trainer(shop, tmp_path, num_train_epochs=8, load_best_model_at_end=True, save_total_limit=1)
    trainer.train()
    steps = [line for line in trainer.state.log_history if "loss" in line]
    assert steps[-1]["loss"] < 0.85 * steps[0]["loss"]
    for line in steps:
        assert line["loss"] == pytest.approx(line["generation_loss"] + 0.01 * line["alignment_loss"], rel=1e-3)
    evaluations = [line["eval_ndcg@10"] for line in trainer.state.log_history if "eval_ndcg@10" in line]
    assert len(evaluations) == 8 and trainer.state.best_metric == max(evaluations)
    assert trainer.evaluate()["eval_ndcg@10"] == pytest.approx(max(evaluations))


@pytest.mark.parametrize(("width", "kernels", "threads"), [(64, True, 1), (72, True, 2), (64, False, 2)])
def test_a_narrow_model_takes_its_steps_on_one_thread(shop, tmp_path, monkeypatch, width, kernels, threads):
    changes = dict(max_steps=2, save_strategy="no", use_cpu_kernels=kernels)
    trainer = make_trainer(shop, tmp_path, model_changes={"d_model": width}, **changes)
    assert threads_of_steps(trainer, monkeypatch) == ({threads}, {2})


class StopAfter(TrainerCallback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.epoch >= self.epoch


def test_resume_goes_on_bit_for_bit(shop, tmp_path):
    whole = make_trainer(shop, tmp_path / "a")
    whole.train()
    make_trainer(shop, tmp_path / "b", callbacks=[StopAfter(1)]).train()
    rest = make_trainer(shop, tmp_path / "b")
    rest.train(resume_from_checkpoint=True)
    assert rest.state.global_step == whole.state.global_step
    for (name, a), (_, b) in zip(whole.model.named_parameters(), rest.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_accumulation_averages_the_generation_loss(shop, tmp_path):
    # 1 × 16 and 4 × 4 see the same rows of one length; without the alignment both steps are the same mean.
    weights = []
    for size, accumulation in ((16, 1), (4, 4)):
        trainer = make_trainer(
            shop,
            tmp_path / str(size),
            model_changes={"implicit_alignment_weight": 0.0, "dropout_rate": 0.0},
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            eval_strategy="no",
            train_sampling_strategy="sequential",
            max_grad_norm=0.0,
            warmup_steps=0,
            optim="sgd",
            learning_rate=1.0,
        )
        before = trainer.model.shared.weight.detach().clone()
        trainer.train()
        weights.append(trainer.model.shared.weight.detach() - before)
    assert weights[0].abs().max() > 1e-3
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_some_users_only_and_no_table(shop, tmp_path):
    trainer = make_trainer(shop, tmp_path, num_eval_users=3)
    assert {round(trainer.ranking(shop[2]["validation"])["hr@10"] * 3, 6)} <= {0.0, 1.0, 2.0, 3.0}
    plain = MacRecTrainer(
        trainer.model,
        MacRecTrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
        eval_dataset=shop[2]["validation"],
    )
    assert "eval_loss" in plain.evaluate() and not any("hr@" in name for name in plain.evaluate())


def test_what_is_missing_is_named(shop, tmp_path):
    table, _, tasks = shop
    with pytest.raises(ValueError, match="expected the SemanticIdTokenizer"):
        MacRecTrainer(make_trainer(shop, tmp_path).model, None, table=table)
    trainer = make_trainer(shop, tmp_path)
    for part in ({"quantizer": trainer.model}, {"item_counts": np.arange(14)}, {"item_titles": {}}):
        with pytest.raises(ValueError, match="table: expected .* beside quantizer, item_counts or item_titles"):
            MacRecTrainer(trainer.model, None, **part)
    with pytest.raises(ValueError, match="item_counts: expected whole numbers of at least 0, one for each of"):
        MacRecTrainer(trainer.model, None, processing_class=shop[1], table=table, item_counts=np.arange(13))
    evaluated = dict(eval_strategy="epoch", report_to="none", use_cpu=True)
    data = {"train_dataset": tasks["train"], "eval_dataset": tasks["validation"]}
    with pytest.raises(ValueError, match="because metric_for_best_model is 'ndcg@10', got None"):
        MacRecTrainer(trainer.model, MacRecTrainingArguments(str(tmp_path), **evaluated), **data)
    by_loss = MacRecTrainingArguments(str(tmp_path), metric_for_best_model="loss", max_steps=1, **evaluated)
    plain = MacRecTrainer(trainer.model, by_loss, **data)
    plain.train()
    assert plain.state.best_metric == plain.state.log_history[-2]["eval_loss"]
    with pytest.raises(ValueError, match=r"found no \['user'\]"):
        trainer.evaluate(tasks["validation"].remove_columns("user"))


def test_embeddings_may_learn_at_a_rate_of_their_own(shop, tmp_path):
    trainer = make_trainer(shop, tmp_path, embedding_learning_rate=0.5)
    optimizer = trainer.create_optimizer()
    weight = trainer.model.get_input_embeddings().weight
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == len(list(trainer.model.parameters()))
    assert rates.pop(id(weight)) == (0.5, 0.0)
    assert {rate for rate, _ in rates.values()} == {trainer.args.learning_rate}
    trainer.train()
    assert trainer.optimizer.param_groups[-1]["lr"] < 0.5  # the schedule moves it too


def test_the_model_and_its_checkpoints_know_the_catalogue(shop, tmp_path):
    """Also where the model came with another one, as `macrec train --start-from` loads it."""
    table, tokenizer, _ = shop
    trainer = make_trainer(shop, tmp_path / "first", max_steps=2, save_steps=2, save_strategy="steps")
    assert trainer.model.semantic_ids is table
    trainer.train()
    loaded = MacRecForConditionalGeneration.from_pretrained(tmp_path / "first" / "checkpoint-2")
    assert loaded.semantic_ids == table
    written = loaded.generate(torch.tensor([tokenizer("<a_0><b_0><c_0>").input_ids]), num_return_sequences=5)
    trie = SemanticIdTrie.from_table(table, tokenizer, "text")
    other = SemanticIdTrie.from_table(table, tokenizer, "image")
    assert (torch.maximum(trie.leaf_of_tokens(written[:, 1:]), other.leaf_of_tokens(written[:, 1:])) >= 0).all()
