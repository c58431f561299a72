"""Ways to train that are not the default, each beside it: `python benchmarks/recipe.py --name hm --output runs ...`.

    python benchmarks/recipe.py --name hm --interactions interactions.csv --semantic-ids ids/ --output runs \\
        --variants default,parts --seeds 0,1,2 -- --epochs 10
    python benchmarks/recipe.py --name hm --output runs --compare

A variant is `macrec train` with flags of its own or with one thing exchanged (below); words after `--` go to all of
them. Of each model is kept what it gives the validation users of the half that chooses: NDCG@10 of the ensemble, own
history shown, without a blend; and its CPU minutes. What is there is not made again. `--compare` prints each variant
less the default, the mean of the seeds that both have, paired over users, with 90 % intervals.

    python benchmarks/recipe.py --name hm --interactions interactions.csv --output runs --decode

`--decode` trains nothing either: it ranks anew with the default's models, from more beams, and with a part of the
items' log-popularity taken off each log-probability; coverage is the share of the catalogue in anybody's first ten.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `macrec` does, before torch is loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402

from macrec_hf import MacRecRecommender, paired_bootstrap, read_interactions  # noqa: E402
from macrec_hf.cli.main import main as macrec  # noqa: E402
from macrec_hf.data.histories import user_histories  # noqa: E402
from macrec_hf.data.splits import split_users, validation_halves  # noqa: E402
from macrec_hf.data.task_rows import TaskBatch, TaskRows  # noqa: E402
from macrec_hf.model.ensemble import ENSEMBLE, Decoding, history_sources, rank_catalogue  # noqa: E402
from macrec_hf.model.ranked_lists import RankedLists, sort_lists  # noqa: E402
from macrec_hf.training.trainer_macrec import MacRecTrainer  # noqa: E402

DEFAULT = "default"
BEAMS, PARTS = (20, 100), (0.0, 0.1, 0.2, 0.3, 0.5)


def parts_of_histories(whole: float) -> Callable[[], contextmanager]:
    """Sources lose a random number of their oldest items, anew each time: all contiguous parts of all histories.

    Args:
        whole: share of the sources that stay whole.
    """

    @contextmanager
    def exchanged() -> Iterator[None]:
        read = TaskRows.__getitems__

        def shortened(rows: TaskRows, chosen: list[int]) -> TaskBatch:
            batch = read(rows, chosen)
            levels = batch.labels.shape[1]
            lengths = batch.inside.sum(axis=1)
            opening = (lengths - 1) % levels  # a task's token, or none; `</s>` ends a source
            items = (lengths - 1) // levels
            keep = torch.rand(len(items)).numpy() < whole
            first = (torch.rand(len(items)).numpy() * items).astype(np.int64)  # 0 … items - 1
            begin = np.where(keep, 0, first * levels)
            width = batch.inside.shape[1]
            places = np.arange(width)
            moved = places + np.where(places < opening[:, None], 0, begin[:, None])
            tokens = np.take_along_axis(batch.input_ids, np.minimum(moved, width - 1), axis=1)
            inside = places < (lengths - begin)[:, None]
            used = int(inside.sum(axis=1).max())
            return TaskBatch(tokens[:, :used], inside[:, :used], batch.labels, batch.item)

        with mock.patch.object(TaskRows, "__getitems__", shortened):
            yield

    return exchanged


@contextmanager
def codebook_start() -> Iterator[None]:
    """Embeddings of codes begin as the quantizer's codewords, through one random matrix, at T5's own scale."""
    begin = MacRecTrainer._before_training

    def started(trainer: MacRecTrainer, resuming: bool) -> None:
        begin(trainer, resuming)
        if resuming:
            return
        weight = trainer.model.get_input_embeddings().weight
        chance = torch.Generator().manual_seed(0)
        size = trainer.quantizer.config.codebook_size
        with torch.no_grad():
            for name in trainer.table.modalities:
                levels = trainer.quantizer.quantizers[name].codebooks
                matrix = None
                for level, codes in enumerate(levels):
                    vectors = codes.detach().float()
                    if matrix is None:
                        matrix = torch.randn(vectors.shape[1], weight.shape[1], generator=chance)
                    projected = vectors @ matrix
                    rows = torch.tensor(
                        [trainer.processing_class.code_token_id(name, level, code) for code in range(size)]
                    )
                    weight[rows] = projected / projected.std() * weight[rows].std()

    with mock.patch.object(MacRecTrainer, "_before_training", started):
        yield


@contextmanager
def nothing() -> Iterator[None]:
    yield


VARIANTS: dict[str, tuple[Callable[[], contextmanager], list[str]]] = {
    DEFAULT: (nothing, []),
    "parts": (parts_of_histories(0.0), []),
    "half parts": (parts_of_histories(0.5), []),
    "decay 0.01": (nothing, ["--weight-decay", "0.01", "--warmup", "0.05"]),  # the default of earlier releases
    "decay 0.05": (nothing, ["--weight-decay", "0.05"]),
    "decay 0.2": (nothing, ["--weight-decay", "0.2"]),
    "codebook": (codebook_start, []),
    "item positions": (nothing, ["--num-item-positions", "20"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the data set: one folder of runs each")
    parser.add_argument("--interactions")
    parser.add_argument("--semantic-ids")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--compare", action="store_true", help="print what is there, train nothing")
    parser.add_argument("--decode", action="store_true", help="rank anew with the default's models, train nothing")
    args, more = parser.parse_known_args()
    folder = args.output / args.name
    if args.decode:
        decode(args, folder / DEFAULT)
        return
    if not args.compare:
        for seed in args.seeds:
            for name in args.variants:
                run(args, [word for word in more if word != "--"], folder / name / str(seed), name, seed)
    compare(folder)


def run(args: argparse.Namespace, more: list[str], folder: Path, name: str, seed: int) -> None:
    """Trains a variant with a seed and keeps what it gives each user, unless that is there."""
    if (folder / "users.json").exists():
        return
    exchanged, flags = VARIANTS[name]
    words = ["train", "--interactions", args.interactions, "--semantic-ids", args.semantic_ids, *more, *flags]
    began = time.process_time()
    with exchanged():
        if macrec([*words, "--seed", str(seed), "--output", str(folder / "model"), "--overwrite"]):
            raise SystemExit(f"{name}, seed {seed}: macrec train failed.")
    minutes = (time.process_time() - began) / 60
    users, targets, lists, _ = ranked(args, folder / "model", [Decoding()])
    found = gains(lists[0], targets)
    kept = {"minutes": minutes, "users": users, "ndcg@10": found.tolist()}
    (folder / "users.json").write_text(json.dumps(kept))
    print(f"{name}, seed {seed}: {found.mean():.4f} in {minutes:.1f} CPU minutes", flush=True)


def ranked(
    args: argparse.Namespace, model: Path, decodings: Sequence[Decoding]
) -> tuple[list[str], np.ndarray, list[RankedLists], np.ndarray]:
    """The validation users of the half that chooses: ids, targets and the ensemble's lists, without a blend.

    Returns:
        With them, how often each item was bought in what trains.
    """
    recommender = MacRecRecommender.from_pretrained(model)
    table = recommender.table
    users = split_users(user_histories(read_interactions(args.interactions), table.row_of), "validation")
    half, _ = validation_halves(users.user_ids)
    sources = history_sources(recommender.task_encoder, [users.histories[user] for user in half], table.modalities)
    lists = [
        rank_catalogue(recommender.model, recommender.tries, sources, decoding)[ENSEMBLE] for decoding in decodings
    ]
    counts = np.bincount(np.concatenate(users.counted), minlength=table.num_items)
    return [users.user_ids[user] for user in half], np.asarray(users.targets)[half], lists, counts


def gains(lists: RankedLists, targets: np.ndarray) -> np.ndarray:
    """NDCG@10 of each user."""
    hit = lists.items[:, :10] == targets[:, None]
    return np.where(hit.any(axis=1), 1 / np.log2(hit.argmax(axis=1) + 2), 0.0)


def decode(args: argparse.Namespace, folder: Path) -> None:
    """Prints what other decodings of the default's models give, each less the usual one."""
    figures: dict[str, list[tuple[np.ndarray, float]]] = {}
    for model in sorted(folder.glob("*/model")):
        _, targets, lists, counts = ranked(args, model, [Decoding(num_beams=beams) for beams in BEAMS])
        for beams, found in zip(BEAMS, lists, strict=True):
            for part in PARTS if beams == max(BEAMS) else (0.0,):
                scores = found.scores - part * np.log1p(counts[found.items])
                again = RankedLists(*sort_lists(found.items, np.where(found.items >= 0, scores, -np.inf)))
                coverage = len(np.unique(again.items[:, :10])) / len(counts)
                figures.setdefault(f"{beams} beams, less {part:g} log-popularity", []).append(
                    (gains(again, targets), coverage)
                )
    usual = np.mean([found for found, _ in next(iter(figures.values()))], axis=0)
    for name, seeds in figures.items():
        found, coverage = np.mean([one for one, _ in seeds], axis=0), np.mean([one for _, one in seeds])
        gap = paired_bootstrap(found, usual, level=0.9)
        print(
            f"{name}: {found.mean():.4f} of {len(seeds)} seeds, coverage {coverage:.1%}, less the usual "
            f"{gap.difference:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        )


def compare(folder: Path) -> None:
    """Prints the figures of every variant, and its difference to the default."""
    runs = {
        path.name: {int(one.parent.name): json.loads(one.read_text()) for one in sorted(path.glob("*/users.json"))}
        for path in sorted(folder.iterdir())
    }
    for name, seeds in ((name, seeds) for name, seeds in runs.items() if seeds):  # others are under way
        figures = ", ".join(f"seed {seed}: {np.mean(one['ndcg@10']):.4f}" for seed, one in seeds.items())
        minutes = [one["minutes"] for one in seeds.values()]
        text = f"{name}: {figures}; {min(minutes):.1f} to {max(minutes):.1f} CPU minutes"
        common = seeds.keys() & runs.get(DEFAULT, {}).keys()
        if name != DEFAULT and common:
            means = [np.mean([by[seed]["ndcg@10"] for seed in common], axis=0) for by in (seeds, runs[DEFAULT])]
            gap = paired_bootstrap(*means, level=0.9)
            text += (
                f"; less the default ({len(common)} seeds) {gap.difference:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
            )
        print(text)


if __name__ == "__main__":
    main()
