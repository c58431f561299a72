"""`macrec evaluate`: HR@K and NDCG@K of a model directory by full ranking, beside baselines."""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .card import add_results
from .common import (
    add_decoding_arguments,
    add_device_flag,
    check_writable,
    chosen_decoding,
    ranking_device,
    seconds_since,
)
from .inputs import add_interaction_columns, add_model, interaction_columns, read_pairs
from .next_steps import after_evaluate
from .numbers import SEED, whole
from .run_folder import check_finished
from .seeds import mean_report, seed_folders
from .tables import answer

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..data.splits import SplitUsers
    from ..data.time_split import FutureUsers
    from ..evaluation.evaluate import SplitRanking

logger = logging.getLogger(__name__)
HELP = """Ranks the whole catalogue for every user: HR@K and NDCG@K with 95 % bootstrap intervals, per modality and
ensembled, beside baselines, with each user's own history shown and hidden. The last item of each user tests, the one
before validates; baselines count all but these two. Or by time: one list a user, made at --cut, and all later
purchases test."""
LISTED = 10  # items of a user in --predictions: the largest K


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(
        parser, "model directory of `macrec train`, the folder of its --seeds (mean ± sd), or a repository of the Hub"
    )
    parser.add_argument("--interactions", required=True, help="interactions.csv/.jsonl/.parquet, or X.inter.json")
    add_interaction_columns(parser)
    parser.add_argument(
        "--split", choices=("test", "validation", "time"), default="test",
        help="which items to predict; time: everything from --cut on (default: test; paper)",
    )  # fmt: skip
    parser.add_argument(
        "--cut", metavar="DATE",
        help="of --split time, such as 2020-03-01: lists are made from the purchases before that day (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--lists", metavar="NAME=FILE.jsonl", nargs="+",
        help='what other libraries recommend, to stand in the same table: {"user_id": …, "items": [best first]} a '
        "line, 50 places or more (default: none)",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FILE.json", help="where the figures go (default: shown only)")
    parser.add_argument(
        "--tables", action="store_true",
        help="show every row and figure, own history shown and hidden, as --output keeps them (default: the model's "
        "row, the best other one and those of --lists)",
    )  # fmt: skip
    parser.add_argument("--predictions", metavar="FILE.jsonl", help="where each user's lists go (default: nowhere)")
    parser.add_argument(
        "--no-card",
        action="store_true",
        help="leave the model card alone, which else takes up test results of all users that are not in doubt",
    )
    add_decoding_arguments(parser)
    add_device_flag(parser, "auto, a GPU of CUDA if there is one")
    parser.add_argument(
        "--limit-users", type=whole(1), help="evaluate so many users, evenly spaced (default: all; for a quick look)"
    )
    parser.add_argument(
        "--seed", type=SEED, default=0, help="of the bootstrap and the random baseline (default: 0; ours)"
    )


def run(args: argparse.Namespace) -> str:
    from accelerate import Accelerator

    from ..evaluation.report import quoted_column
    from ..model.files import replacing_together
    from ..model.model_files import CARD_NAME

    on_cpu = ranking_device(args) == "cpu"
    for path in (args.output, args.predictions):
        check_writable(path)
    accelerator = Accelerator(cpu=on_cpu)
    seeds = seed_folders(args.model)
    if not seeds:
        check_finished(args.model)
    predictions = [Path(args.predictions)] if args.predictions else []
    if seeds:
        predictions = [path.with_suffix(f".seed-{seed}{path.suffix}") for path in predictions for seed in seeds]
    of_seeds = [path.resolve() for path in predictions] if seeds else []
    for flag, path in (("output", args.output), *(("lists", path) for path in named_lists(args.lists).values())):
        if path and Path(path).resolve() in of_seeds:
            raise ValueError(f"--{flag} {path}: expected a file of its own, got that of a seed's --predictions.")
    places = [*predictions, *([Path(args.output)] if args.output else [])] if accelerator.is_main_process else []
    with replacing_together(*places) as besides:
        lists = iter(besides if predictions else ())
        reports = {folder: evaluate_model(args, folder, next(lists, None), accelerator)
                   for folder in seeds.values() or [args.model]}  # fmt: skip
        report = mean_report(dict(zip(seeds, reports.values(), strict=True))) if seeds else reports[args.model]
        if args.output and besides:
            timed = report | {"seconds": round(time.monotonic() - args.started, 1)}
            besides[-1].write_text(json.dumps(timed, indent=2))
    if not accelerator.is_main_process:
        return ""
    sys.stdout.write("\n".join(answer(report, lists=named_lists(args.lists), tables=args.tables)) + "\n")
    cards = [Path(folder) / CARD_NAME for folder, of_model in reports.items() if add_results(args, folder, of_model)]
    written = "".join(f", {path}" for path in (args.output, args.predictions, *cards) if path)
    row = report.get("seeds", [report])[0]["verdict"]["row"]
    best, models = quoted_column(report)[row], f" of {len(seeds)} models" if seeds else ""
    summary = (
        f"{report['num_users']} users, {args.split}: {row} HR@10 {best['hr@10']:.4f}, NDCG@10 "
        f"{best['ndcg@10']:.4f} (own history {report['quoted']}){models} in {seconds_since(args.started)}{written}"
    )
    return "\n".join([summary, *_verdicts(report), after_evaluate(next(iter(reports)), args.split)])


def evaluate_model(
    args: argparse.Namespace, name: str | Path, predictions: Path | None, accelerator: "Accelerator"
) -> dict:
    """The report of one model directory, the same in every process; its lists go into `predictions`, a new file."""
    from ..data.readers import read_interactions
    from ..data.text_files import warn_once
    from ..evaluation.evaluate import rank_split
    from ..evaluation.own_history import OFTEN, of_one_moment
    from ..model.recommender import MacRecRecommender

    decoding = chosen_decoding(args)  # refused before the model is read
    lists = named_lists(args.lists)
    recommender = MacRecRecommender.from_pretrained(
        name, device=accelerator.device, dtype=args.dtype, max_history=args.max_history
    )
    interactions = read_interactions(args.interactions, **interaction_columns(args))
    ranking = rank_split(
        recommender, interactions, args.split, decoding, cut=args.cut, lists=lists, limit_users=args.limit_users,
        seed=args.seed, accelerator=accelerator, progress=True,
    )  # fmt: skip
    if args.split != "time" and accelerator.is_main_process:
        same, tested = of_one_moment(interactions, args.split)
        if same > OFTEN * tested:
            warn_once(
                logger,
                f"{args.interactions}: {same:,} of {tested:,} users bought what tests them in the same moment as "
                "something in their history, as lines of one order: these foretell each other, which is no forecast. "
                "`macrec train --until` and --split time test what is bought later.",
            )
    if predictions is not None:
        _write_predictions(predictions, ranking, recommender.table.item_ids)
    return ranking.report(accelerator)


def named_lists(words: list[str] | None) -> dict[str, str]:
    """`name=FILE` words, or several of them with commas between, as a dict.

    Raises:
        ValueError: a word of another form, or a name that stands twice.
    """
    found: dict[str, str] = {}
    for word in words or []:
        pairs = read_pairs(word)
        if pairs is None or pairs.keys() & found.keys():
            raise ValueError(f"--lists: expected name=FILE.jsonl, each name once, got {word!r}.")
        found |= pairs
    return found


def _write_predictions(path: Path, ranking: "SplitRanking", ids: list[str]) -> None:
    """One line a user: `{"user_id": …, "target": …, "ensemble": [[item_id, score], …], …, "hidden": {…}}`."""

    def named(place: int, column: str) -> dict[str, Any]:
        line = {}
        for name, ranked in ranking.columns[column].items():
            pairs = zip(ranked.items[place, :LISTED].tolist(), ranked.scores[place, :LISTED].tolist(), strict=True)
            line[name] = [[ids[item], round(score, 6)] for item, score in pairs if item >= 0]
        return line

    users = ranking.users
    with path.open("w", encoding="utf-8") as file:
        for place, user in enumerate(users.user_ids):
            line: dict[str, Any] = {"user_id": user, **_targets(users, place, ids), **named(place, "shown")}
            line["hidden"] = named(place, "hidden")
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _targets(users: "SplitUsers | FutureUsers", place: int, ids: list[str]) -> dict[str, Any]:
    """What a user took next, or by time the later purchases."""
    from ..data.time_split import FutureUsers

    if isinstance(users, FutureUsers):
        known = [*ids, *users.unknown_ids]
        return {"targets": [known[target] for target in users.targets[users.owners == place]]}
    return {"target": ids[users.targets[place]]}


def _verdicts(report: dict) -> list[str]:
    """The verdict, or one for each seed."""
    if "seeds" in report:
        return [f"Seed {of_seed['seed']}: {of_seed['verdict']['text']}" for of_seed in report["seeds"]]
    return [report["verdict"]["text"]]
