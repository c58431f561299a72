"""The model card of a recommender: what it is, how to use it, what it was made of and how well it did."""

import re
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index
from transformers import PreTrainedModel

from ..model.configuration_macrec import RESIDUAL_KMEANS
from ..model.model_files import CARD_NAME
from ..model.purchase_counts import FEW_CUSTOMERS, PurchaseCounts
from ..model.semantic_ids import SemanticIdTable
from .markdown import render

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

PICTURE_NAME = "code_usage.png"
NAME = "Generative recommender over semantic IDs"
_COLUMNS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
_TASK, _TASK_NAME = "semantic-id-recommendation", "Next item by full ranking"
_BASELINES = (
    "random",
    "popularity",
    "recent_then_popularity",
    "co_visitation",
    "co_occurrence",
    "co_visitation_new_items",
    "markov_chain",
    "item_regression",
)
_START, _END = "<!-- results: `macrec evaluate` writes what stands here -->", "<!-- end of results -->"
_NO_RESULTS = "## Results\n\nNone: the blend was fitted anew since. `macrec evaluate` measures it."
_COUNTS_START, _COUNTS_END = "<!-- what customers bought -->", "<!-- end of what customers bought -->"
_COUNTS = {
    "none": 'No counts of purchases are in here: lists are the model\'s own (`fusion="average"`).',
    "rounded": "`purchase_counts.safetensors` holds how often items and pairs of items were bought, without days and "
    "without pairs of fewer than five customers; `blend.json` holds the weights of these counts beside the model's. "
    "No customer is named.",
    "all": "`purchase_counts.safetensors` holds how often items and pairs of items were bought, and, where purchases "
    "have dates, on which days items were; `blend.json` holds the weights of these counts beside the model's. No "
    "customer is named, but a pair that one customer bought says what that customer bought.",
}
_TAGS = ["recommender-system", "generative-recommendation", "semantic-ids", "macrec", "multimodal", _TASK]


def model_card(
    model: PreTrainedModel,
    table: SemanticIdTable,
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
    training = {"command": None, "data": None, "settings": None} | dict(training or {})
    card = render(
        "model_card.md.jinja",
        metadata=ModelCardData(library_name="macrec_hf", license=license, tags=_TAGS).to_yaml(),
        name=NAME,
        items=table.item_ids[:2],
        code=code,
        training=training,
        table=table,
        catalogue=_catalogue(table),
        picture=picture,
        config=model.config,
        num_weights=_num_weights(model),
        quantizer=None if quantizer is None else _quantizer(quantizer),
        losses=_losses(model, quantizer, training),
        license=license,
    )
    return with_results(card, metrics) if metrics else card


def precision(arguments: "TrainingArguments") -> str:
    """In what a training computes, in words: its arguments say it once they are made."""
    return "bfloat16 autocast" if arguments.bf16 else "float16 autocast" if arguments.fp16 else "float32"


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
        "precision": precision(arguments),
        "seed": arguments.seed,
    }
    if (rate := cast(Any, arguments).cross_modal_rate) < 1:
        settings["cross-modal examples in an epoch"] = f"{rate:.3g} of them"
    if arguments.load_best_model_at_end and state.best_model_checkpoint:
        settings["step of the weights"] = state.best_model_checkpoint.rpartition("-")[2]
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
            whole report of `macrec evaluate` with its `intervals`, `split` and `num_users`. Of its two columns, own
            history shown and hidden, the one that it says is to be quoted.

    Raises:
        ValueError: the metadata, between the lines `---` at its beginning, cannot be read.
    """
    try:
        parsed = ModelCard(card, ignore_metadata_errors=True)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            "expected `key: value` in YAML between the lines --- at its beginning, got: "
            f"{' '.join(str(error).split())}. Mend it, or take these lines out."
        ) from error
    data = cast(ModelCardData, parsed.data)
    data.model_name, data.eval_results = NAME, _eval_results(metrics)
    if not data.eval_results:
        return card
    eval_results_to_model_index(NAME, data.eval_results)  # raises what the Hub would refuse
    section = f"{_START}\n{_results(metrics)}{_END}"
    body = parsed.text.strip("\n")
    if _START in body and _END in body:
        body = _exchanged(body, _START, _END, section)
    elif "\n## Data\n" in body:
        body = body.replace("\n## Data\n", f"\n{section}\n\n## Data\n", 1)
    else:
        body = f"{body}\n\n{section}"
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"


def kind_of_counts(counts: PurchaseCounts) -> str:
    """ "rounded" where neither days nor pairs of fewer than five customers are in them, else "all"."""
    return "rounded" if counts.sale_days is None and (counts.customers >= FEW_CUSTOMERS).all() else "all"


def says_of_counts(card: str) -> bool:
    """Whether a card has the section on what customers bought."""
    return 0 <= card.find(_COUNTS_START) < card.rfind(_COUNTS_END)


def tell_of_counts(directory: Path, beside: Path, new_blend: bool = False) -> None:
    """Writes the card of a directory into `beside`, from where it will be moved: all counts are in there now.

    What is no UTF-8, and the ends of lines, stay as they are; without a card nothing is written.

    Args:
        new_blend: whether the blend is another one, so that results of an evaluation before are no longer its own.
    """
    path = directory / CARD_NAME
    if path.is_file():
        card = path.read_bytes().decode("utf-8", "surrogateescape")
        card = with_counts(without_results(card) if new_blend else card, "all")
        (beside / CARD_NAME).write_bytes(card.encode("utf-8", "surrogateescape"))


def without_results(card: str) -> str:
    """The card with a word in place of its results, and none in its metadata."""
    if not 0 <= card.find(_START) < card.rfind(_END):
        return card
    end = "\r\n" if "\r\n" in card else "\n"
    section = f"{_START}\n{_NO_RESULTS}\n{_END}".replace("\n", end)
    card = _exchanged(card, _START, _END, section)
    metadata = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", card, flags=re.M | re.S)
    if metadata is None:
        return card
    # Up to the next key, which is neither indented nor an entry of a list, and the comments before that.
    following = r"(?=(?:^(?:#[^\n]*|[ \t\r]*)\n)*(?:^[^\s#-]|\Z))"
    kept = re.sub(rf"^[\"']?model-index[\"']?:.*?{following}", "", metadata[1], flags=re.M | re.S)
    return card[: metadata.start(1)] + kept + card[metadata.end(1) :]


def with_counts(card: str, counts: str) -> str:
    """The card with a section on what its directory holds of customers' purchases, in place of any before.

    Args:
        card: text of a `README.md`, also one that people wrote.
        counts: "all", "rounded" or "none": what lies in the directory, which `kind_of_counts` says of counts.
    """
    end = "\r\n" if "\r\n" in card else "\n"
    section = f"{_COUNTS_START}\n## Customers' data\n\n{_COUNTS[counts]}\n{_COUNTS_END}".replace("\n", end)
    if says_of_counts(card):
        return _exchanged(card, _COUNTS_START, _COUNTS_END, section)
    head, limits, rest = card.partition(f"{end}## Limits{end}")
    return f"{head}{end}{section}{end}{limits}{rest}" if limits else f"{card.rstrip()}{end}{end}{section}{end}"


def _quoted(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures, with the users' own history shown or hidden, whichever the report says is to be quoted."""
    return {**metrics, **metrics["hidden"]} if metrics.get("quoted") == "hidden" else metrics


def _ranked_lists(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    return {name: values for name, values in metrics.items() if isinstance(values, Mapping) and "hr@10" in values}


def _eval_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    """One result a figure of the model's own lists; the baselines beside them are no results of the model."""
    metrics = _quoted(metrics)
    intervals, results = metrics.get("intervals", {}), []
    ours = metrics.get("model_rows")
    for name, values in _ranked_lists(metrics).items():
        if name in _BASELINES or (ours is not None and name not in ours):
            continue
        for column in _COLUMNS:
            if column in values:
                arguments: dict[str, Any] = {"lists": name}
                if "quoted" in metrics:
                    arguments["own_history"] = metrics["quoted"]
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


def _exchanged(card: str, start: str, end: str, section: str) -> str:
    """The card with another section from one mark to the other."""
    return re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _: section, card, flags=re.S)


def _results(metrics: Mapping[str, Any]) -> str:
    metrics = _quoted(metrics)
    intervals = metrics.get("intervals", {})
    rows = {}
    for name, values in _ranked_lists(metrics).items():
        rows[name] = [f"{values[column]:.4f}" if column in values else "" for column in _COLUMNS]
        for place, column in enumerate(_COLUMNS):
            if column in values and column in intervals.get(name, {}):
                low, high = intervals[name][column]
                rows[name][place] += f" [{low:.4f}, {high:.4f}]"
    return render(
        "results.md.jinja",
        columns=_COLUMNS,
        rows=rows,
        has_intervals=bool(intervals),
        num_users=metrics.get("num_users"),
        split=metrics.get("split", "test"),
        quoted=metrics.get("quoted"),
        verdict=metrics.get("verdict", {}).get("text"),
        settings=metrics.get("settings"),
    )


def _catalogue(table: SemanticIdTable) -> list[dict[str, Any]]:
    """Of each modality the items with an ID and the collision rates, `before` None where it is not known."""
    return [
        {
            "name": name,
            "num_items": int((table.codes[name][:, 0] >= 0).sum()),
            "now": table.collision_rate(name),
            "before": table.report.get(name, {}).get("collision_rate_before"),
        }
        for name in table.modalities
    ]


def _num_weights(model: PreTrainedModel) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _quantizer(quantizer: PreTrainedModel) -> dict[str, Any]:
    return {
        "num_weights": _num_weights(quantizer),
        "method": quantizer.config.method,
        "embeddings": getattr(quantizer.config, "embeddings_fingerprint", None),
        "encoders": getattr(quantizer.config, "encoders", None) or {},
    }


def _losses(
    model: PreTrainedModel, quantizer: PreTrainedModel | None, training: Mapping[str, Any]
) -> list[tuple[str, str, str, str]]:
    """Part, loss, weight and, where the training told it, last value of every loss."""
    last, first = training.get("losses", {}), training.get("quantizer_losses", {})
    aligned = model.config.implicit_alignment_weight
    rows = [
        ("recommender", "generation (cross-entropy)", "1", _number(last.get("generation_loss"))),
        ("recommender", "implicit alignment", f"{aligned:g}", _number(last.get("alignment_loss"))),
    ]
    if quantizer is not None and quantizer.config.method != RESIDUAL_KMEANS:
        config = quantizer.config
        contrastive = ", ".join(f"{weight:g}" for weight in config.contrastive_weights) + " by level"
        values = [value for name, value in sorted(first.items()) if name.startswith("contrastive_loss")]
        rows += [
            ("quantizer", "reconstruction", "1", _number(first.get("reconstruction_loss"))),
            ("quantizer", f"quantization (commitment {config.commitment_weight:g})", "1",
             _number(first.get("quantization_loss"))),
            ("quantizer", "cross-modal contrastive", contrastive, ", ".join(map(_number, values))),
            ("quantizer", "cross-modal alignment", f"{config.alignment_weight:g}",
             _number(first.get("alignment_loss"))),
        ]  # fmt: skip
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
