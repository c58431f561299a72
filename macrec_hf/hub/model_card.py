"""The model card of a recommender: what it is, how to use it, what it was made of and how well it did."""

import re
import textwrap
from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, Protocol, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index
from transformers import PreTrainedModel

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

PICTURE_NAME = "code_usage.png"
NAME = "Generative recommender over semantic IDs"
_COLUMNS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
_TASK, _TASK_NAME = "semantic-id-recommendation", "Next item by full ranking"
_BASELINES = ("random", "popularity", "recent_then_popularity", "co_visitation", "co_visitation_new_items")
_START, _END = "<!-- results: `macrec evaluate` writes what stands here -->", "<!-- end of results -->"
_TAGS = ["recommender-system", "generative-recommendation", "semantic-ids", "macrec", "multimodal", _TASK]
_USAGE = """```python
from macrec_hf import MacRecRecommender

recommender = MacRecRecommender.from_pretrained("path or repository")
recommender.recommend([[{items}]], top_k=10)
```"""
_MODEL_USAGE = """Without `macrec_hf`, with the code that this repository carries (read it first), model, tokenizer and
quantizer load on their own:

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("path or repository", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("path or repository", trust_remote_code=True)
```"""
_PIPELINE_USAGE = """Without `macrec_hf`, with the code that this repository carries (read it first):

```python
from transformers import pipeline

recommend = pipeline("semantic-id-recommendation", model="path or repository", trust_remote_code=True)
recommend([{items}], top_k=10)
```"""
_REMOTE_USAGE = {True: _MODEL_USAGE, "recommender": _PIPELINE_USAGE}
_CITATION = """## Citation

```bibtex
@inproceedings{zhang2026macrec,
  title = {Multi-Aspect Cross-modal Quantization for Generative Recommendation},
  author = {Zhang, Fuwei and Liu, Xiaoyu and Xi, Dongbo and Yin, Jishen and Chen, Huan and Yan, Peng and
            Zhuang, Fuzhen and Zhang, Zhao},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year = {2026}
}
```"""


class _Table(Protocol):
    """What is read of a `SemanticIdTable`."""

    item_ids: list[str]
    modalities: tuple[str, ...]
    num_levels: int
    codebook_size: int
    codes: "dict[str, torch.Tensor]"
    report: dict[str, dict]

    @property
    def num_items(self) -> int: ...

    def collision_rate(self, modality: str) -> float: ...


def model_card(
    model: PreTrainedModel,
    table: _Table,
    quantizer: PreTrainedModel | None = None,
    metrics: Mapping[str, Any] | None = None,
    *,
    training: Mapping[str, Any] | None = None,
    license: str = "unknown",
    picture: str | None = None,
    code: bool | str = False,
) -> str:
    """The text of `README.md`, with the metadata that the Hub reads.

    Args:
        model, table, quantizer: the parts of the model directory.
        metrics: see [`with_results`].
        training: what made the model, each part optional: `{"command": text, "data": {name: value}, "settings":
            {name: value}, "losses": {name: last value}, "quantizer_losses": {name: last value}}`.
        license: an identifier of the Hub, such as `apache-2.0`; the weights are as free as the data they came from.
        picture: file name of the picture of code usage beside the card.
        code: what of the code the directory carries, as `include_code` of `hub.saving.save_model_directory` says it.
    """
    training = training or {}
    data = ModelCardData(library_name="macrec_hf", license=license, tags=_TAGS)
    items = ", ".join(f'"{item}"' for item in table.item_ids[:2])
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {NAME}",
        "Writes the semantic ID of the item that a user is likely to want next, given the items that the user took. "
        "Made with `macrec_hf` after *Multi-Aspect Cross-modal Quantization for Generative Recommendation* (MACRec).",
        "## Use\n\n" + _USAGE.format(items=items),
        _REMOTE_USAGE[code].format(items=items) if code else "",
        _table_section("Data", training.get("data")),
        _catalogue(table),
        f"![Items with each code, most used first; the line is the even share]({picture})" if picture else "",
        _sizes(model, quantizer),
        _losses(model, quantizer, training),
        _made_by(training),
        "## Limits\n\nIt knows the items of its catalogue only, and recommends what people with similar histories "
        "took; it has been trained on one shop's customers. An item that was taken before may be recommended again.",
        f"## Licence\n\n{_licence(license)}",
        _CITATION,
    ]
    text = "\n\n".join(section for section in sections if section) + "\n"
    return with_results(text, metrics) if metrics else text


def trainer_facts(trainer: "Trainer") -> dict[str, Any]:
    """What a `MacRecTrainer` knows of its training, for `model_card(training=…)`."""
    state, arguments, config = trainer.state, trainer.args, cast(PreTrainedModel, trainer.model).config
    settings = {
        "steps": state.global_step,
        "epochs": f"{state.epoch or 0:g}",
        "batch size": arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps,
        "learning rate": f"{arguments.learning_rate:g}",
        "weight decay": f"{arguments.weight_decay:g}",
        "dropout": f"{config.dropout_rate:g}",
        "seed": arguments.seed,
    }
    if state.best_metric is not None:
        settings[f"best validation {arguments.metric_for_best_model}"] = f"{state.best_metric:.4f}"
    examples = {} if trainer.train_dataset is None else {"training examples": len(cast(Sized, trainer.train_dataset))}
    return {"data": examples, "settings": settings, "losses": last_losses(state.log_history)}


def last_losses(log_history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The last value of each training loss of a Trainer's log."""
    return {
        name: value
        for entry in log_history
        for name, value in entry.items()
        if "loss" in name and not name.startswith(("eval_", "train_"))
    }


def with_results(card: str, metrics: Mapping[str, Any]) -> str:
    """The card with these results in place of any before: a section, and the metadata's `model-index`.

    Args:
        card: text of a `README.md`, also one that people wrote.
        metrics: `{"ensemble": {"hr@10": …}, …}`, as `evaluation.ranking_metrics.ranking_metrics` gives them, or the
            whole report of `macrec evaluate` with its `intervals`, `split` and `num_users`.
    """
    parsed = ModelCard(card, ignore_metadata_errors=True)
    data = cast(ModelCardData, parsed.data)
    data.model_name, data.eval_results = NAME, _eval_results(metrics)
    if not data.eval_results:
        return card
    eval_results_to_model_index(NAME, data.eval_results)  # raises what the Hub would refuse
    section = f"{_START}\n## Results\n\n{_results(metrics)}\n{_END}"
    body = parsed.text.strip("\n")
    if _START in body and _END in body:
        body = re.sub(re.escape(_START) + ".*" + re.escape(_END), lambda _: section, body, flags=re.S)
    elif "\n## Data\n" in body:
        body = body.replace("\n## Data\n", f"\n{section}\n\n## Data\n", 1)
    else:
        body = f"{body}\n\n{section}"
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"


def _ranked_lists(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    return {name: values for name, values in metrics.items() if isinstance(values, Mapping) and "hr@10" in values}


def _eval_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    """One result a figure of the model's own lists; the baselines beside them are no results of the model."""
    intervals, results = metrics.get("intervals", {}), []
    for name, values in _ranked_lists(metrics).items():
        if name in _BASELINES:
            continue
        for column in _COLUMNS:
            if column in values:
                arguments: dict[str, Any] = {"lists": name}
                if column in intervals.get(name, {}):
                    arguments["interval_95"] = [round(float(bound), 6) for bound in intervals[name][column]]
                results.append(
                    EvalResult(
                        task_type=_TASK,
                        task_name=_TASK_NAME,
                        dataset_type="interactions",
                        dataset_name="Interactions, leave one out",
                        dataset_split=metrics.get("split"),
                        metric_type=column,
                        metric_name=f"{column.upper()} ({name})",
                        metric_value=round(float(values[column]), 6),
                        metric_args=arguments,
                    )
                )
    return results


def _results(metrics: Mapping[str, Any]) -> str:
    intervals = metrics.get("intervals", {})
    rows = [["", *(column.upper() for column in _COLUMNS)]]
    for name, values in _ranked_lists(metrics).items():
        cells = [f"{values[column]:.4f}" if column in values else "" for column in _COLUMNS]
        for place, column in enumerate(_COLUMNS):
            if cells[place] and column in intervals.get(name, {}):
                low, high = intervals[name][column]
                cells[place] += f" [{low:.4f}, {high:.4f}]"
        rows.append([name, *cells])
    about = "Full ranking over the catalogue, leave one out"
    if metrics.get("num_users"):
        about += f": {metrics['num_users']:,} users, their {metrics.get('split', 'test')} items"
    about += ". In brackets: 95 % bootstrap intervals over the users." if intervals else "."
    return textwrap.fill(about, 115) + "\n\n" + _markdown(rows)


def _catalogue(table: _Table) -> str:
    reports = {name: table.report.get(name, {}) for name in table.modalities}
    resolved = any("collision_rate_before" in report for report in reports.values())
    rows = [["modality", "items with an ID", "share an ID (collision rate)"]]
    rows[0] += ["before collisions were resolved"] if resolved else []
    for name in table.modalities:
        with_id = int((table.codes[name][:, 0] >= 0).sum())
        row = [name, f"{with_id:,}", f"{100 * table.collision_rate(name):.2f} %"]
        before = reports[name].get("collision_rate_before")
        rows.append(row + ([f"{100 * before:.2f} %" if before is not None else ""] if resolved else []))
    head = f"{table.num_items:,} items, {table.num_levels} codes from {table.codebook_size} each."
    return f"## Catalogue\n\n{head}\n\n{_markdown(rows)}"


def _sizes(model: PreTrainedModel, quantizer: PreTrainedModel | None) -> str:
    config = model.config
    lines = [
        f"T5, {config.num_layers} + {config.num_decoder_layers} layers, {config.num_heads} heads, width "
        f"{config.d_model}, {sum(weight.numel() for weight in model.parameters()):,} weights; reads the "
        f"last {config.max_history} items."
    ]
    if quantizer is not None:
        fingerprint = getattr(quantizer.config, "embeddings_fingerprint", None)
        encoders = getattr(quantizer.config, "encoders", None) or {}
        trained_on = f", trained on the embeddings `{fingerprint}`" if fingerprint else ""
        made_by = "".join(f"; {name} by `{encoder}`" for name, encoder in encoders.items())
        weights = sum(weight.numel() for weight in quantizer.parameters())
        lines.append(f"The quantizer that made the IDs is in `quantizer/`: {weights:,} weights{trained_on}{made_by}.")
    return "## Model\n\n" + "\n".join(lines)


def _losses(model: PreTrainedModel, quantizer: PreTrainedModel | None, training: Mapping[str, Any]) -> str:
    """Every loss with its weight, and the last value where the training told it."""
    last, first = training.get("losses", {}), training.get("quantizer_losses", {})
    aligned = model.config.implicit_alignment_weight
    rows = [
        ["recommender", "generation (cross-entropy)", "1", _number(last.get("generation_loss"))],
        ["recommender", "implicit alignment", f"{aligned:g}", _number(last.get("alignment_loss"))],
    ]
    if quantizer is not None:
        config = quantizer.config
        contrastive = ", ".join(f"{weight:g}" for weight in config.contrastive_weights) + " by level"
        values = [value for name, value in sorted(first.items()) if name.startswith("contrastive_loss")]
        rows += [
            ["quantizer", "reconstruction", "1", _number(first.get("reconstruction_loss"))],
            ["quantizer", f"quantization (commitment {config.commitment_weight:g})", "1",
             _number(first.get("quantization_loss"))],
            ["quantizer", "cross-modal contrastive", contrastive, ", ".join(map(_number, values))],
            ["quantizer", "cross-modal alignment", f"{config.alignment_weight:g}",
             _number(first.get("alignment_loss"))],
        ]  # fmt: skip
    told = any(row[3] for row in rows)
    head = ["part", "loss", "weight", "last value"]
    return "## Losses\n\n" + _markdown([row if told else row[:3] for row in [head, *rows]])


def _made_by(training: Mapping[str, Any]) -> str:
    parts = []
    if training.get("command"):
        parts.append(f"```bash\n{training['command']}\n```")
    if training.get("settings"):
        parts.append(_markdown([["setting", "value"], *_rows(training["settings"])]))
    return "## Training\n\n" + "\n\n".join(parts) if parts else ""


def _licence(license: str) -> str:
    if license == "unknown":
        return (
            "Not chosen yet: weights trained on a shop's data belong to whoever may grant that. `macrec_hf`, whose "
            "code may stand here, is Apache-2.0."
        )
    return f"Weights and semantic IDs: {license}. `macrec_hf`, whose code may stand here, is Apache-2.0."


def _table_section(title: str, values: Mapping[str, Any] | None) -> str:
    return f"## {title}\n\n" + _markdown([["", ""], *_rows(values)]) if values else ""


def _rows(values: Mapping[str, Any]) -> list[list[str]]:
    return [[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in values.items()]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
