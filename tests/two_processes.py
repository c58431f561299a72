"""Trains both stages in float64 without dropout and writes what came out: run by one process, and by two.

`one_then_two(OUT)` forks one process of 8 rows into OUT/1, then two of 4 into OUT/2; this file as a script under
`accelerate launch` with two processes is those two alone.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, PartialState
from blend_tools import tiny_recommender
from forks import fork, fork_two, free_port, wait_for
from transformers import TrainerCallback
from transformers.models.t5.modeling_t5 import T5LayerNorm

from macrec_hf import (
    EmbeddingStore,
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecQuantizerTrainer,
    MacRecQuantizerTrainingArguments,
    MacRecTrainer,
    MacRecTrainingArguments,
    RecommendationTasksBuilder,
    SemanticIdTable,
    SemanticIdTokenizer,
)
from macrec_hf.catalogue.catalogue_batches import CatalogueCollator
from macrec_hf.model.blend import BLEND_NAME
from macrec_hf.model.purchase_counts import COUNTS_NAME
from macrec_hf.training.blend_fitting import blend_directory
from macrec_hf.training.serving_counts import refresh_directory

BATCH, STEPS = 8, 20
# Each loss by itself, and the whole: (contrastive weights, alignment weight), for a catalogue with and without gaps.
QUANTIZERS = {
    "own": ((0.0, 0.0, 0.0), 0.0),
    "contrastive": ((1.0, 0.5, 1.0), 0.0),
    "alignment": ((0.0, 0.0, 0.0), 1.0),
    "all": ((0.0, 0.3, 0.1), 0.1),
}
RECOMMENDERS = {"generation": 0.0, "alignment": 1.0}


def processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


class DoubleLayerNorm(T5LayerNorm):
    """T5's own goes through float32, whatever the model: what is equal to 1e-16 before may differ by 1e-7 after."""

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


class Watch(TrainerCallback):
    """Keeps the gradients of the first step."""

    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradients is None:
            self.gradients = {
                name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
                for name, weight in getattr(model, "module", model).named_parameters()
            }


class DoubleCollator(CatalogueCollator):
    def __call__(self, rows):
        batch = super().__call__(rows)
        batch["embeddings"] = {name: values.double() for name, values in batch["embeddings"].items()}
        return batch


def settings(folder, **changes) -> dict:
    return dict(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // processes(),
        per_device_eval_batch_size=3,
        learning_rate=3e-3,
        logging_steps=5,
        save_strategy="no",
        max_grad_norm=0.0,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **changes,
    )


def store(missing: bool, num_items: int = 43) -> EmbeddingStore:
    random = np.random.default_rng(0)
    centres = random.standard_normal((6, 7)).astype("f4")
    cluster = random.integers(6, size=num_items)
    arrays = {name: centres[cluster] + 0.3 * random.standard_normal((num_items, 7)).astype("f4") for name in "tv"}
    gone = {"image": [str(row) for row in range(num_items) if row % 3 == 0], "text": ["4", "7"]} if missing else {}
    return EmbeddingStore({"text": arrays["t"], "image": arrays["v"]}, missing=gone)


def outcome(trainer, watch, found, name) -> None:
    found[f"{name}/loss"] = torch.tensor([line["loss"] for line in trainer.state.log_history if "loss" in line])
    for key, value in watch.gradients.items():
        found[f"{name}/gradient/{key}"] = value
    for key, value in trainer.accelerator.unwrap_model(trainer.model).named_parameters():
        found[f"{name}/weight/{key}"] = value.detach().clone()


def train_quantizers(folder, found) -> None:
    for missing in (False, True):
        for name, (contrastive, alignment) in QUANTIZERS.items():
            torch.manual_seed(0)
            config = MacRecQuantizerConfig(
                modalities={"text": 7, "image": 7}, num_levels=3, codebook_size=6, codebook_dim=4, hidden_sizes=(9,),
                num_pseudo_labels=5, contrastive_weights=contrastive, alignment_weight=alignment,
            )  # fmt: skip
            catalogue, watch = store(missing), Watch()
            trainer = MacRecQuantizerTrainer(
                MacRecQuantizer(config).double(),
                MacRecQuantizerTrainingArguments(**settings(folder / f"{name}{missing}", eval_strategy="no")),
                data_collator=DoubleCollator(catalogue),
                train_dataset=catalogue,
                callbacks=[watch],
            )
            trainer.train()
            outcome(trainer, watch, found, f"quantizer-{name}-{missing}")
            for line in trainer.state.log_history:
                for key in (key for key in line if key.endswith("_loss") or key.startswith(("contrast", "without"))):
                    found[f"quantizer-{name}-{missing}/part/{key}/{line['step']}"] = torch.tensor(line[key])
            trainer.model.float()
            figures = trainer.evaluate()
            for key in ("eval_collision_rate", "eval_reconstruction_loss", "eval_alignment_loss", "eval_loss"):
                found[f"quantizer-{name}-{missing}/{key}"] = torch.tensor(figures[key])


def shop(folder):
    """11 users, 14 items, one without a photo; 11 users are not a multiple of two processes or of a batch of 3."""
    random = np.random.default_rng(1)
    codes = {}
    for name in ("text", "image"):
        distinct = random.permutation(64)[:14]
        codes[name] = torch.from_numpy(np.stack(np.unravel_index(distinct, (4, 4, 4)), axis=1))
    codes["image"][5] = -1
    table = SemanticIdTable([f"i{row}" for row in range(14)], codes, codebook_size=4)
    lines = ["user_id,item_id,timestamp"]
    for user in range(11):
        lines += [f"u{user},i{item},{step}" for step, item in enumerate(random.permutation(14)[: 4 + user % 3])]
    path = folder / "interactions.csv"
    with PartialState().main_process_first():
        if not path.exists():
            path.write_text("\n".join(lines))
        builder = RecommendationTasksBuilder(path, table, cache_dir=folder / "cache")
        builder.download_and_prepare()
    return table, builder.as_dataset()


def train_recommenders(folder, found) -> None:
    for name, weight in RECOMMENDERS.items():
        arguments = settings(folder / name, eval_strategy="no", generation_num_beams=14)
        args = MacRecTrainingArguments(**arguments)
        table, tasks = shop(folder)
        tokenizer = SemanticIdTokenizer.from_table(table)
        torch.manual_seed(0)
        config = MacRecConfig(
            vocab_size=len(tokenizer), num_levels=3, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1,
            num_heads=2, dropout_rate=0.0, implicit_alignment_weight=weight,
        )  # fmt: skip
        model, watch = MacRecForConditionalGeneration(config).double(), Watch()
        for module in model.modules():
            if type(module) is T5LayerNorm:
                module.__class__ = DoubleLayerNorm
        trainer = MacRecTrainer(
            model, args, train_dataset=tasks["train"],
            eval_dataset=tasks["validation"], processing_class=tokenizer, table=table, callbacks=[watch],
        )  # fmt: skip
        trainer.train()
        outcome(trainer, watch, found, f"recommender-{name}")
        for key, value in trainer.ranking(tasks["validation"]).items():
            found[f"recommender-{name}/{key}"] = torch.tensor(value, dtype=torch.float64)


def blend(folder, found) -> None:
    """Fits a blend and counts for it, then counts anew, and keeps the bytes of what was written."""
    accelerator, model = Accelerator(cpu=True), folder / "model"
    if accelerator.is_main_process:
        tiny_recommender(24).save_pretrained(model, include_code=False)
    accelerator.wait_for_everyone()
    random = np.random.default_rng(0)
    rows = [(f"u{row % 60}", f"i{(row % 60 + row // 60 + random.integers(3)) % 24}", row) for row in range(400)]
    bought = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    blend_directory(model, bought.iloc[:350], accelerator)
    for name, renew in (("fitted", False), ("refreshed", True)):
        if renew:
            refresh_directory(model, bought, accelerator)
        accelerator.wait_for_everyone()
        for kind, file in (("blend", BLEND_NAME), ("counts", COUNTS_NAME)):
            found[f"{name}/{kind}"] = torch.frombuffer(bytearray((model / file).read_bytes()), dtype=torch.uint8)


def main(folder: Path) -> None:
    folder = folder / str(processes())
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, torch.Tensor] = {}
    train_quantizers(folder, found)
    train_recommenders(folder, found)
    blend(folder, found)
    if int(os.environ.get("RANK", 0)) == 0:
        torch.save({"processes": processes(), "found": found}, folder / "found.pt")
    if processes() > 1:  # nobody leaves before all are done
        torch.distributed.barrier()


def one_then_two(folder: Path) -> None:
    wait_for(fork(lambda: main(folder)))
    fork_two(lambda: main(folder), free_port())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # torch sometimes aborts while it leaves a process group; what counts is written by now
