"""Two encoders that need no weights: words counted in a text, colours and edges counted in a photo.

Both work in two steps. `batch_features` turns a batch into raw counts; `catalogue_embeddings` reduces the counts of
the whole catalogue by a singular value decomposition that is fitted on the first call and kept, so that items which
arrive later land in the same space. Both end centred and scaled by one number to a mean square of 1 per element, so
that the quantizer's reconstruction loss (eq. 10) weighs the modalities alike.

They are ours, a stand-in where no weights can be had: the paper takes LLaMA for texts and ViT-L/14 for photos.
"""

import warnings

import numpy as np
import scipy.sparse
from PIL import Image
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from .encoder_base import centre_and_scale, text_columns_setting
from .words import WordsAndPieces

HASH_BUCKETS = 2**17  # words and word pairs; two words that share a bucket are rare below 20,000 different ones
PHOTO_SIZE = 96  # side in pixels at which photos are counted: stripes survive, JPEG noise does not
GRID = 4  # a photo is cut into GRID x GRID cells
HUES, GREYS, ORIENTATIONS = 12, 5, 8
EDGE_WEIGHT = 0.5  # edges count for half as much as colours


class _OfflineEncoder:
    """What both share: the size, the seed, and what was learned from the first catalogue."""

    name = "offline"

    def __init__(self, dimension: int, seed: int):
        self.dimension, self.seed = dimension, seed
        self.state: dict[str, np.ndarray] = {}

    @property
    def settings(self) -> dict:
        """What it takes to make the same encoder again, for `meta.json`."""
        return {"dimension": self.dimension, "seed": self.seed}


class OfflineTextEncoder(_OfflineEncoder):
    """Hashed TF-IDF of words and word pairs, then truncated SVD, rows brought to equal length.

    Of scripts without blanks between words (Chinese, Japanese, Thai) pieces of words are counted.

    Args:
        dimension: embedding size; lowered to the number of items minus one where the catalogue is small.
        seed: of the randomised SVD.

    Attributes:
        columns: of the items table, joined into the texts; None before the first ones.
    """

    def __init__(self, dimension: int = 256, seed: int = 0):
        super().__init__(dimension, seed)
        self.columns: list[str] | None = None
        self._hasher = HashingVectorizer(
            n_features=HASH_BUCKETS,
            analyzer=WordsAndPieces(),
            alternate_sign=False,
            norm=None,
            dtype=np.float32,
        )

    @property
    def settings(self) -> dict:
        """With the columns that were read, once they are known."""
        return super().settings | text_columns_setting(self)

    def batch_features(self, texts: list[str]) -> scipy.sparse.csr_matrix:
        """Counts, sparse (batch_size, HASH_BUCKETS)."""
        return self._hasher.transform(texts)

    def catalogue_embeddings(self, counts: scipy.sparse.csr_matrix) -> np.ndarray:
        """Counts of all items, (num_items, HASH_BUCKETS), to float32 (num_items, dimension).

        A row is NaN where no word is known to the encoder: possible only for items that arrive after fitting.
        """
        if not self.state:
            self._fit(counts)
        weights = TfidfTransformer(sublinear_tf=True)
        weights.idf_ = self.state["idf"]
        rows = weights.transform(counts[:, self.state["columns"]]) @ self.state["components"].T
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, length, out=np.full_like(rows, np.nan), where=length > 0)
        return centre_and_scale(rows, self.state)

    def _fit(self, counts: scipy.sparse.csr_matrix) -> None:
        columns = np.unique(counts.indices)
        weights = TfidfTransformer(sublinear_tf=True).fit(counts[:, columns])
        components = _components(weights.transform(counts[:, columns]), self.dimension, self.seed)
        idf = np.asarray(weights.idf_, dtype=np.float32)
        self.state = {"columns": columns.astype(np.int64), "idf": idf, "components": components}


class OfflineImageEncoder(_OfflineEncoder):
    """Where in the photo which colours and which edge directions are, then a principal component analysis.

    Args:
        dimension: embedding size; lowered to the number of items minus one where the catalogue is small.
        seed: of the randomised SVD.
    """

    photo_size = 4 * PHOTO_SIZE  # pixels of the shorter side that a photo is opened with

    def __init__(self, dimension: int = 128, seed: int = 0):
        super().__init__(dimension, seed)

    def batch_features(self, photos: list[Image.Image]) -> np.ndarray:
        """Histograms, float32 (batch_size, num_bins)."""
        return np.stack([photo_histograms(photo) for photo in photos])

    def catalogue_embeddings(self, histograms: np.ndarray) -> np.ndarray:
        """Histograms of all items, (num_items, num_bins), to float32 (num_items, dimension)."""
        if not self.state:
            centre = histograms.mean(axis=0)
            components = _components(histograms - centre, self.dimension, self.seed)
            self.state = {"centre": centre, "components": components}
        rows = (histograms - self.state["centre"]) @ self.state["components"].T
        return centre_and_scale(rows, self.state)


def photo_histograms(photo: Image.Image) -> np.ndarray:
    """One RGB photo to float32 (num_bins,): colours (dark and light hues, greys) and edge directions per grid cell.

    Square roots of shares: their Euclidean distance is the Hellinger distance of the histograms.
    """
    small = photo.convert("RGB").resize((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.BOX)
    hue, saturation, value = (np.asarray(band, dtype=np.float32) / 255 for band in small.convert("HSV").split())
    chroma = saturation * value
    down, right = np.gradient(np.asarray(small.convert("L"), dtype=np.float32) / 255)
    angle = np.arctan2(down, right) % np.pi / np.pi
    colours = np.concatenate(
        [
            _soft_histogram(hue * HUES, chroma * (1 - value), HUES, circular=True),
            _soft_histogram(hue * HUES, chroma * value, HUES, circular=True),
            _soft_histogram(value * (GREYS - 1), 1 - chroma, GREYS),
        ]
    )
    edges = _soft_histogram(angle * ORIENTATIONS, np.hypot(down, right), ORIENTATIONS, circular=True)
    # A floor under the sum: the few faint edges of a plain photo must not weigh like a full pattern.
    floor = 0.02 * PHOTO_SIZE**2
    shares = [colours / colours.sum(), EDGE_WEIGHT**2 * edges / (edges.sum() + floor)]
    return np.sqrt(np.concatenate(shares)).astype(np.float32)


def _soft_histogram(position: np.ndarray, weight: np.ndarray, num_bins: int, circular: bool = False) -> np.ndarray:
    """Per grid cell and bin the sum of `weight`, each pixel shared between its two nearest bins."""
    lower = np.floor(position).astype(np.int64)
    upper_share = position - lower
    cell = np.arange(PHOTO_SIZE) * GRID // PHOTO_SIZE
    cell = cell[:, None] * GRID + cell[None, :]
    total = np.zeros(GRID * GRID * num_bins)
    for bins, share in ((lower, 1 - upper_share), (lower + 1, upper_share)):
        bins = bins % num_bins if circular else np.minimum(bins, num_bins - 1)
        total += np.bincount((cell * num_bins + bins).ravel(), (weight * share).ravel(), minlength=len(total))
    return total


def _components(features: np.ndarray | scipy.sparse.csr_matrix, dimension: int, seed: int) -> np.ndarray:
    """The leading right singular vectors, float32 (at most dimension, num_columns)."""
    rows, columns = features.shape
    if columns == 1:  # one word in all of the catalogue: one direction, which scikit-learn refuses to look for
        return np.ones((1, 1), dtype=np.float32)
    size = max(1, min(dimension, rows - 1, columns))
    with warnings.catch_warnings():  # identical items have no variance to explain: 0 / 0 in a figure nobody reads
        warnings.simplefilter("ignore", RuntimeWarning)
        svd = TruncatedSVD(size, n_iter=5, random_state=seed).fit(features)
    return np.asarray(svd.components_, dtype=np.float32)
