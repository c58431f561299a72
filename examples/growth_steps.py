"""What example 6 measures of a catalogue that grew."""

import json

import numpy as np

from macrec_hf import EmbeddingStore, bootstrap_interval, history_sources, rank_catalogue, user_metrics


def report(title, recommender, known, targets, old, new=None, embeddings=None):
    """HR@10 of the known targets, and how often new items stand in the first ten places."""
    sources = history_sources(recommender.task_encoder, known, recommender.table.modalities)
    lists = rank_catalogue(recommender.model, recommender.tries, sources)["ensemble"]
    hits = user_metrics(lists, targets)["hr@10"]
    low, high = bootstrap_interval(hits[:, None], 0.95, 1000, 0)
    line = {
        "hr@10 of old items": round(float(hits.mean()), 4),
        "95 %": [round(float(low[0]), 4), round(float(high[0]), 4)],
    }
    if new is not None:
        first = lists.items[:, :10]
        is_new = first >= old.num_items
        line["users shown a new item"] = round(float(is_new.any(axis=1).mean()), 4)
        line["new items reached"] = f"{len(np.unique(first[is_new]))} of {recommender.table.num_items - old.num_items}"
        line |= likeness(first, is_new, known, old, new, embeddings)
    print(f"{title}: {json.dumps(line)}")


def likeness(first, is_new, known, old, new, embeddings):
    """Mean cosine of a shown new item and the items of the history that it was shown to, beside that of any other."""
    figures = {}
    for name in new.modalities:
        item_rows = {item: row for row, item in enumerate(embeddings.item_ids)}
        before = unit(embeddings.rows(name, [item_rows[item] for item in old.item_ids]))
        arrived = unit(new.rows(name, np.arange(len(new))))
        taste = [before[items].mean(axis=0) for items in known]
        pairs = [(user, item - old.num_items) for user, row in enumerate(first) for item in row[is_new[user]]]
        if pairs:
            shown = np.mean([taste[user] @ arrived[item] for user, item in pairs])
            figures[f"{name}: cosine to the history"] = round(float(shown), 3)
            figures[f"{name}: any user, any new item"] = round(float((np.stack(taste) @ arrived.T).mean()), 3)
    return figures


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def changed_copies(store, count=30):
    """New items for the demo shop: embeddings of some old ones, moved a little."""
    generator = np.random.default_rng(0)
    rows = np.sort(generator.choice(len(store), count, replace=False))
    arrays = {
        name: values + 0.1 * values.std() * generator.standard_normal(values.shape).astype(np.float32)
        for name, values in store[rows].items()
    }
    return EmbeddingStore(arrays, [f"new-{store.item_ids[row]}" for row in rows])
