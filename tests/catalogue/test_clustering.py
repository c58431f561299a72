import logging
import warnings

import numpy as np

from macrec_hf.catalogue import clustering
from macrec_hf.catalogue.clustering import codebook_seeds, kmeans, pseudo_labels


def blobs(num_clusters=4, size=30, seed=0):
    random = np.random.default_rng(seed)
    centres = 50 * random.standard_normal((num_clusters, 3))
    return np.concatenate([centre + random.standard_normal((size, 3)) for centre in centres]).astype(np.float32)


def same_partition(labels, truth):
    return len({(a, b) for a, b in zip(labels, truth, strict=True)}) == len(set(truth)) == len(set(labels))


def test_pseudo_labels_find_the_blobs_and_skip_missing_items():
    present = np.ones(120, dtype=bool)
    present[[5, 77]] = False
    points = blobs()
    points[5] = 1e9  # whatever stands in a missing row
    labels = pseudo_labels(points, 4, present)
    assert (labels[~present] == -1).all()
    assert same_partition(labels[present], np.repeat(np.arange(4), 30)[present])


def test_large_catalogues_take_mini_batches(monkeypatch):
    monkeypatch.setattr(clustering, "MINI_BATCH_ABOVE", 50)
    _, labels = kmeans(blobs(), 4, seed=1)
    assert labels.shape == (120,) and set(labels) <= set(range(4))
    assert len(set(labels[:30])) == 1  # a blob is never cut


def test_photos_that_are_all_but_equal_leave_clusters_empty_without_a_word():
    points = np.repeat(blobs(4, 1).astype(np.float64), 3, axis=0)
    points[::3] += 1e-15  # other numbers, but no cluster of their own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, labels = kmeans(points, 8)
    assert same_partition(labels, np.repeat(np.arange(4), 3))


def test_more_clusters_than_items_are_lowered_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        labels = pseudo_labels(blobs(2, 5), 512, name="image")
    assert len(set(labels)) == 10 and "image: 512 pseudo-label clusters" in caplog.text


def test_items_that_look_the_same_are_one_cluster(caplog):
    points = np.repeat(blobs(2, 3), 4, axis=0)
    points[0] = 0
    points[1] = -0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn's own notice
        labels = pseudo_labels(points, 12)
    assert same_partition(labels, np.unique(points, axis=0, return_inverse=True)[1].reshape(-1))
    assert "only 7 items with different embeddings are there; using 7 clusters" in caplog.text


def test_codebook_seeds_are_distinct_and_near_the_data_even_with_few_items():
    few = np.array([[0.0, 0], [10, 0], [0, 10]], dtype=np.float32)
    seeds = codebook_seeds(np.repeat(few, 4, axis=0), 16)
    assert seeds.shape == (16, 2) and len(np.unique(seeds, axis=0)) == 16
    nearest = np.linalg.norm(seeds[:, None] - few[None], axis=-1).min(axis=1)
    assert nearest.max() < 1.0
    assert (np.sort(np.linalg.norm(seeds[:3, None] - few[None], axis=-1).min(axis=1)) == 0).all()


def test_codebook_seeds_are_k_means_centres():
    points = blobs()
    seeds = codebook_seeds(points, 4)
    means = points.reshape(4, 30, 3).mean(axis=1)
    assert np.allclose(sorted(map(tuple, seeds.tolist())), sorted(map(tuple, means.tolist())), atol=1e-3)
