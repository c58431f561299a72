"""What each part of the blend is worth: `python benchmarks/blend.py --model model --interactions purchases.csv`.

The model ranks the validation users whose purchases weights are fitted on, and the test users; then weights are fitted
anew without each group of terms, and each source is tried alone. A row of the table for each, validation and test side
by side: NDCG@10 and HR@10, on the test items with the 95 % interval of the paired difference to the blend. Validation
figures are cross-fitted. Below it:

    log-loss    of the test items that are among the candidates, by the blend and by the blend without the model, with
                the paired difference: lower is better
    halved      the blend with the weights of the model's terms halved, since they were fitted one purchase before the
                one that they are used for
    catalogue   HR@10 where every item of the catalogue is a candidate, less HR@10 of the blend's candidates

The column is that of the repeat rate: under 1 % own items are left out.
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from macrec_hf import Decoding, MacRecRecommender, history_sources, rank_catalogue, read_interactions, user_histories  # noqa: E402
from macrec_hf.data.splits import split_users  # noqa: E402
from macrec_hf.evaluation.blend_lists import blend_inputs, candidates_of  # noqa: E402
from macrec_hf.evaluation.ranking_metrics import paired_bootstrap  # noqa: E402
from macrec_hf.model.blend import SOURCES  # noqa: E402
from macrec_hf.model.ensemble import ENSEMBLE  # noqa: E402
from macrec_hf.model.limits import Limits  # noqa: E402
from macrec_hf.model.model_decoding import score_items  # noqa: E402
from macrec_hf.model.ranked_lists import log_softmax  # noqa: E402
from macrec_hf.training.blend_fitting import fit_and_guard  # noqa: E402
from macrec_hf.training.blend_purchases import candidates_to_weigh, purchases_to_explain  # noqa: E402

GROUPS = {  # what a row goes without: the beginnings of its terms
    "the model": ("scored_",),
    "pairs of purchases": ("before_", "after_", "near_", "next_", "last_next_", "together_", "cosine_", "regression_"),
    "sales and their time": ("sold", "days_since_sale", "is_new"),
    "own items": ("own",),
    "content": ("alike_", "family"),
}
USERS_AT_A_TIME = 256


def main():
    args = parse_arguments()
    recommender = MacRecRecommender.from_pretrained(args.model)
    interactions = read_interactions(args.interactions)
    known = purchases_to_explain(interactions, recommender.table.row_of, None)
    blocks, ranked, about = candidates_to_weigh(recommender, known, progress=True)
    blend = fit_and_guard(blocks, ranked)
    test = Test(recommender, interactions, about, args.limit_users)
    found = {"blend": row(blend.about["ndcg@10"]["blend"], test.gains(blend.weights), None)}
    for name, starts in GROUPS.items():
        fewer = fit_and_guard(
            [replace(block, candidates=block.candidates.without(*starts)) for block in blocks], ranked
        )
        figures = test.gains(fewer.weights)
        found[f"without {name}"] = row(fewer.about["ndcg@10"]["blend"], figures, test.gains(blend.weights))
        if name == "the model":
            losses = test.losses(blend.weights), test.losses(fewer.weights)
    for name, weights in SOURCES.items():
        found[f"{name} alone"] = row(blend.about["ndcg@10"][name], test.gains(weights), test.gains(blend.weights))
    found["the model alone"] = row(blend.about["ndcg@10"]["model"], test.of_model, test.gains(blend.weights))
    halved = {name: weight / (1 + name.startswith(GROUPS["the model"])) for name, weight in blend.weights.items()}
    found["the model's weights halved"] = row(None, test.gains(halved), test.gains(blend.weights))
    report = {"about": about, "users": test.num_users, "rows": found, "among candidates": float(test.among.mean())}
    report["log-loss, blend − without the model"] = paired_bootstrap(*losses)._asdict() | {"blend": losses[0].mean()}
    if args.catalogue:
        everything = test.whole_catalogue(blend.weights)
        report["HR@10, every item a candidate"] = float(everything.mean())
    print(as_table(report))
    if args.output:
        Path(args.output).write_text(json.dumps(report, indent=1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory of `macrec train`")
    parser.add_argument("--interactions", required=True, help="what it was trained on")
    parser.add_argument("--limit-users", type=int, help="test users, evenly spaced (default: all)")
    parser.add_argument("--catalogue", action="store_true", help="the last line too, which takes a while")
    parser.add_argument("--output", help="figures as JSON (default: none)")
    return parser.parse_args()


class Test:
    """The test users' candidates, kept: every row of the table weighs the same ones."""

    def __init__(self, recommender, interactions, about, limit):
        users = split_users(user_histories(interactions, recommender.table.row_of), "test").some(limit)
        self.users, self.num_users, self.num_items = users, len(users), recommender.table.num_items
        self.inputs = blend_inputs(recommender, users, about["window"])
        hides = Limits(len(users), self.num_items, histories=users.histories) if about["hides_history"] else None
        self.limits = hides
        modalities = recommender.table.modalities
        sources = history_sources(recommender.task_encoder, users.histories, modalities)
        read = recommender.model, recommender.tries, sources
        self.score = partial(score_items, *read)
        lists = rank_catalogue(*read, Decoding(), limits=hides, progress=True)
        self.of_model = gains_of(lists[ENSEMBLE].items, users.targets)
        self.lists = {name: lists[name] for name in modalities}
        self.blocks = [self.candidates(block, self.limits) for block in self.parts()]
        targets = [users.targets[block] for block in self.parts()]
        pairs = zip(self.blocks, targets, strict=True)
        self.among = np.concatenate([(block.items == wanted[:, None]).any(axis=1) for block, wanted in pairs])

    def parts(self):
        return np.array_split(np.arange(self.num_users), max(1, self.num_users // USERS_AT_A_TIME))

    def candidates(self, block, limits, wanted=10):
        candidates = candidates_of(self.inputs, self.users, block, self.lists, limits, wanted)
        return candidates.with_scores(self.score(candidates.items, block))

    def gains(self, weights):
        """HR@10 and NDCG@10 of each user, `(2, num_users)`."""
        lists = np.concatenate([block.ranked(weights, 10).items for block in self.blocks])
        return gains_of(lists, self.users.targets)

    def losses(self, weights):
        """−log P of the targets that are among the candidates."""
        found = []
        for block, users in zip(self.blocks, self.parts(), strict=True):
            logs = log_softmax(block.scores(weights))
            hit = block.items == self.users.targets[users][:, None]
            found.append(-logs[hit])
        return np.concatenate(found)

    def whole_catalogue(self, weights):
        """HR@10 of each user where every item is a candidate, which the limits of few candidates bring about."""
        limits = self.limits or Limits(self.num_users, self.num_items, torch.ones(self.num_items, dtype=torch.bool))
        hits = []
        for block in np.array_split(np.arange(self.num_users), max(1, self.num_users // 32)):
            items = self.candidates(block, limits, wanted=self.num_items + 1).ranked(weights, 10).items
            hits.append((items == self.users.targets[block][:, None]).any(axis=1))
        return np.concatenate(hits)


def gains_of(items, targets):
    hit = items[:, :10] == targets[:, None]
    return np.stack([hit.any(axis=1), (hit / np.log2(np.arange(hit.shape[1]) + 2.0)).sum(axis=1)])


def row(validation, test, of_blend):
    found = {"validation ndcg@10": validation, "hr@10": float(test[0].mean()), "ndcg@10": float(test[1].mean())}
    if of_blend is not None:
        found["difference"] = paired_bootstrap(test[1], of_blend[1])._asdict()
    return found


def as_table(report):
    lines = [f"{report['users']:,} test users, {report['about']}", ""]
    lines += ["| | validation NDCG@10 | test NDCG@10 | test HR@10 | NDCG@10 less the blend's |", "|---" * 5 + "|"]
    for name, found in report["rows"].items():
        validation = "–" if found["validation ndcg@10"] is None else f"{found['validation ndcg@10']:.4f}"
        paired = found.get("difference")
        shown = (
            "" if paired is None else f"{paired['difference']:+.4f} ({paired['low']:+.4f} to {paired['high']:+.4f})"
        )
        lines.append(f"| {name} | {validation} | {found['ndcg@10']:.4f} | {found['hr@10']:.4f} | {shown} |")
    rest = {name: value for name, value in report.items() if name not in ("about", "users", "rows")}
    return "\n".join([*lines, "", *(f"{name}: {value}" for name, value in rest.items())])


if __name__ == "__main__":
    main()
