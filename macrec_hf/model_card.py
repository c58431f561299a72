"""The model card of a recommender: what it is, how to use it, how well it did."""

from collections.abc import Mapping

from huggingface_hub import ModelCardData

_USAGE = """```python
from macrec_hf import MacRecRecommender

recommender = MacRecRecommender.from_pretrained("path or repository")
recommender.recommend([[{items}]], top_k=10)
```"""


def model_card(model, table, quantizer=None, metrics: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """The text of `README.md`, with the metadata that the Hub reads.

    Args:
        model, table, quantizer: the parts of the model directory.
        metrics: `{"ensemble": {"hr@10": …}, …}`; every part that holds numbers becomes a row.
    """
    data = ModelCardData(
        library_name="macrec_hf",
        tags=["recommender-system", "generative-recommendation", "semantic-ids", "macrec", "multimodal"],
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# Generative recommender over semantic IDs",
        "Writes the semantic ID of the item that a user is likely to want next, given the items that the user took. "
        "Made with `macrec_hf` after *Multi-Aspect Cross-modal Quantization for Generative Recommendation* (MACRec).",
        "## Use\n\n" + _USAGE.format(items=", ".join(f'"{item}"' for item in table.item_ids[:2])),
        _catalogue(table),
        _sizes(model, quantizer),
        _metrics(metrics) if metrics else "",
        "## Limits\n\nIt knows the items of its catalogue only, and recommends what people with similar histories "
        "took; it has been trained on one shop's customers. An item that was taken before may be recommended again.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _catalogue(table) -> str:
    lines = [f"{table.num_items:,} items, {table.num_levels} codes from {table.codebook_size} each.", ""]
    lines += ["| modality | items with an ID | share an ID (collision rate) |", "|---|---|---|"]
    for modality in table.modalities:
        with_id = int((table.codes[modality][:, 0] >= 0).sum())
        lines.append(f"| {modality} | {with_id:,} | {100 * table.collision_rate(modality):.2f} % |")
    return "## Catalogue\n\n" + "\n".join(lines)


def _sizes(model, quantizer) -> str:
    config = model.config
    lines = [
        f"T5, {config.num_layers} + {config.num_decoder_layers} layers, {config.num_heads} heads, width "
        f"{config.d_model}, {sum(weight.numel() for weight in model.parameters()):,} weights; reads the "
        f"last {config.max_history} items."
    ]
    if quantizer is not None:
        fingerprint = getattr(quantizer.config, "embeddings_fingerprint", None)
        trained_on = f", trained on the embeddings `{fingerprint}`" if fingerprint else ""
        lines.append(f"The quantizer that made the IDs is in `quantizer/`{trained_on}.")
    return "## Model\n\n" + "\n".join(lines)


def _metrics(metrics: Mapping[str, Mapping[str, float]]) -> str:
    columns = ["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10"]
    rows = {name: values for name, values in metrics.items() if isinstance(values, Mapping) and "hr@10" in values}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in rows.items():
        shown = [f"{values[column]:.4f}" if column in values else "" for column in columns]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "## Results\n\nFull ranking over the catalogue, leave-one-out.\n\n" + "\n".join(lines)
