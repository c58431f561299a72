"""`pipeline("semantic-id-recommendation", model=…)`: histories in, ranked items out, in transformers' own way."""

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Pipeline

from .model_files import load_catalogue
from .modeling_macrec import MacRecForConditionalGeneration
from .recommender import MacRecRecommender
from .tokenization_macrec import SemanticIdTokenizer

_OPTIONS = (
    "top_k",
    "num_beams",
    "modality",
    "fusion",
    "allowed_items",
    "excluded_items",
    "exclude_history",
    "on_unknown",
)


class SemanticIdRecommendationPipeline(Pipeline):
    """Recommends items of a catalogue to users, by their histories.

    Args:
        model: the model that `pipeline` has loaded from a model directory or a repository of the Hub; the semantic
            IDs are read from the same place, with the same revision and token.
        recommender: a `MacRecRecommender` to use instead, then `model` and `tokenizer` are its own.
        **kwargs: those of `transformers.Pipeline`, such as `device` and `batch_size` (histories at a time), and the
            options of every call.

    Called with one history (item ids, oldest first) it returns a list of `{"item_id": …, "score": …, "probability": …,
    "title": …}`, best first, each value as in `Recommendation`; with a list of histories a list of such lists; with a
    data set or a generator an iterator. Options: `top_k`, `num_beams`, `modality`, `fusion`, `allowed_items` and
    `excluded_items` (item ids, the same for all histories), `exclude_history`, `on_unknown`, each as in
    `MacRecRecommender.recommend`.

    Raises:
        ValueError: the errors of `MacRecRecommender.recommend`, or an input that is no history.
        OSError: the place where the model came from holds no semantic IDs, or cannot be reached.

    Example:

    ```python
    >>> recommend = pipeline("semantic-id-recommendation", model="user/macrec-shop")
    >>> recommend([["i1", "i7"], ["i3"]], top_k=1, batch_size=2)
    [[{'item_id': 'i9', 'score': -3.1, 'probability': 0.045, 'title': 'Blue mug'}],
     [{'item_id': 'i1', 'score': -2.7, 'probability': 0.067, 'title': None}]]
    ```
    """

    _load_tokenizer = None  # loaded where it is found: a recommender brings its own
    _load_processor = _load_image_processor = _load_feature_extractor = _load_video_processor = False  # type: ignore[assignment]

    def __init__(
        self,
        model: Any,
        tokenizer: SemanticIdTokenizer | None = None,
        *args: Any,
        recommender: MacRecRecommender | None = None,
        **kwargs: Any,
    ):
        if recommender is not None:
            model, tokenizer = recommender.model, recommender.tokenizer
        super().__init__(model, cast(Any, tokenizer), *args, **kwargs)  # transformers names its slow tokenizers alone
        if recommender is None:
            where = getattr(model, "hub_kwargs", {})
            if not model.name_or_path:
                raise ValueError(
                    "Expected the name of a model directory or repository, or a model that was loaded from one, got "
                    "a model that knows no such place. Pass recommender=MacRecRecommender(…)."
                )
            if self.tokenizer is None:
                self.tokenizer = SemanticIdTokenizer.from_pretrained(model.name_or_path, **where)
            catalogue = load_catalogue(model.name_or_path, **where)
            recommender = MacRecRecommender._of_catalogue(
                cast(MacRecForConditionalGeneration, self.model), cast(SemanticIdTokenizer, self.tokenizer), catalogue
            )
        self.recommender = recommender.to(self.device)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """One history, a list of histories, a data set or a generator; what comes back is said at the class."""
        if isinstance(inputs, str):
            raise ValueError(
                f'Expected a history such as ["i1", "i7"], or a list of histories, got the text {inputs!r}. Put item '
                "ids into a list."
            )
        if isinstance(inputs, (list, tuple)):
            if not inputs:
                return []
            single = any(isinstance(item, str) for item in inputs)
            results = super().__call__([list(inputs)] if single else list(inputs), *args, **kwargs)
            return results[0] if single else results
        return super().__call__(inputs, *args, **kwargs)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ValueError(f"Expected options among {', '.join(_OPTIONS)}, got {', '.join(unknown)}.")
        for name in ("allowed_items", "excluded_items"):
            items = options.get(name)
            if items is not None and (isinstance(items, str) or not all(isinstance(item, str) for item in items)):
                raise ValueError(
                    f"{name}: expected item ids that hold for every history, got {items!r}. "
                    "MacRecRecommender.recommend takes limits of each history."
                )
        return {}, options, {}

    def preprocess(self, input_: Any, **options: Any) -> dict[str, Any]:
        """One input: item ids, or a row of a data set with a column `history`."""
        items = input_.get("history") if isinstance(input_, Mapping) else input_
        if items is None or isinstance(items, str) or not isinstance(items, Iterable):
            raise ValueError(f"Expected a history of item ids, oldest first, got {input_!r}.")
        return {"history": list(items)}

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> dict[str, list]:  # type: ignore[override]
        # A batch is a list of histories; without batches the one history comes as it is.
        history = model_inputs["history"]
        if history and isinstance(history[0], list):
            return {"ranked": self.recommender.recommend(history, batch_size=len(history), **options)}
        return {"ranked": self.recommender.recommend([history], **options)[0]}

    def postprocess(self, model_outputs: Mapping[str, Any], **options: Any) -> list[dict[str, Any]]:
        """The ranked items of one history, a dict for each item, best first."""
        return [recommendation.as_dict() for recommendation in model_outputs["ranked"]]

    def _ensure_tensor_on_device(self, inputs: Any, device: torch.device) -> Any:
        return inputs  # item ids: the recommender makes the tensors

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """A whole model directory, as `MacRecRecommender.save_pretrained` writes it."""
        self.recommender.save_pretrained(Path(save_directory), **kwargs)
