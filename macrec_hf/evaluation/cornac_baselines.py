"""SASRec, BERT4Rec and an independent TIGER, trained by Cornac, under the contract of the other baselines."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .baselines import History, popularity_order

Baseline = Callable[[History, History, int, int, int], np.ndarray]


def cornac_baseline(name: str, item_features: np.ndarray | None = None, **options: Any) -> Baseline:
    """A next-item model of Cornac as a baseline: it learns from the training sequences that it is given.

    Cornac (Salah et al., "Cornac: A comparative framework for multimodal recommender systems", JMLR 2020) is
    installed by `pip install 'macrec-hf[baselines]'`. Its models know nothing of semantic IDs of ours. It trains for a
    fixed number of epochs, as nothing is held back to stop by: compare several, on the validation split.

    Args:
        name: "SASRec", "BERT4Rec", "TIGER", or another of Cornac's next-item models that scores a history without
            knowing whose it is.
        item_features: float `(num_items, size)`, a row of each item's content, such as the text embeddings. TIGER
            makes its IDs of them; the others take none.
        options: of the model's constructor, such as `n_epochs=20, embedding_dim=64`; the seed comes with the call.

    Returns:
        A function `(train_histories, histories, num_items, width, seed)`, all as for [`baseline_lists`]: lists of
        item rows, int64 `(num_users, width)`, best first, without repeats, -1 where the catalogue is exhausted. Equal
        scores go by popularity, as do items that TIGER's beams (`n_beams`) did not reach; an empty history is
        answered with the bestsellers.

    Raises:
        ValueError: Cornac is not installed, has no such next-item model, or none with these options; when called,
            features that are missing for TIGER or of another number of items.
    """
    model_class = _model_class(name)
    try:
        model_class(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected options of Cornac's constructor, got {options}: {error}.") from error
    if name == "TIGER" and item_features is None:
        raise ValueError(
            "item_features: expected a row for each item, of which TIGER makes its IDs, got none. Embeddings will do: "
            'EmbeddingStore.open("emb").rows("text", slice(None)).'
        )

    def lists(train_histories: History, histories: History, num_items: int, width: int, seed: int = 0) -> np.ndarray:
        if item_features is not None and len(item_features) != num_items:
            raise ValueError(
                f"item_features: expected a row for each of the {num_items:,} items of the catalogue, in its order, "
                f"got {len(item_features):,}."
            )
        model = model_class(**options, seed=seed)
        with torch.random.fork_rng():  # Cornac seeds the generator of the whole process
            model.fit(_dataset(train_histories, num_items, item_features))
        place = np.empty(num_items, dtype=np.int64)
        place[popularity_order(train_histories, num_items)] = np.arange(num_items)
        best = [_best(model, history, place)[:width] for history in histories]
        found = np.array(best, dtype=np.int64).reshape(len(histories), min(width, num_items))
        return np.pad(found, ((0, 0), (0, width - found.shape[1])), constant_values=-1)

    return lists


def _model_class(name: str) -> Any:
    try:
        from cornac import models
    except ImportError as error:
        raise ValueError(
            f"Expected Cornac to be installed, which trains {name}, and found none ({error}): pip install "
            "'macrec-hf[baselines]'."
        ) from error
    found = getattr(models, name, None)
    if not (isinstance(found, type) and issubclass(found, models.NextItemRecommender)):
        raise ValueError(
            f"Expected one of Cornac's next-item models, such as SASRec, BERT4Rec or TIGER, got {name!r}. Capitals "
            "count."
        )
    return found


def _dataset(train_histories: Sequence[np.ndarray], num_items: int, item_features: np.ndarray | None) -> Any:
    """One session a user. Rows keep their numbers, so that items nobody bought are scored too."""
    from cornac.data import FeatureModality, SequentialDataset

    purchases = [
        (user, user, int(row), when) for user, rows in enumerate(train_histories) for when, row in enumerate(rows)
    ]
    same = OrderedDict((row, row) for row in range(num_items))
    dataset = SequentialDataset.build(purchases, fmt="USIT", global_iid_map=same)
    if item_features is not None:
        dataset.add_modalities(item_feature=FeatureModality(np.asarray(item_features, dtype=np.float32)))
    return dataset


def _best(model: Any, history: np.ndarray, place: np.ndarray) -> np.ndarray:
    """All rows, best first."""
    scores = model.score(None, history.tolist()) if len(history) else np.zeros(len(place))
    return np.lexsort((place, -np.asarray(scores, dtype=np.float64)))
