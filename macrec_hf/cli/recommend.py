"""`macrec recommend`: ranked items for one history, or for a file of users."""

import argparse
import dataclasses
import json
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    add_decoding_arguments,
    add_device_flag,
    check_writable,
    chosen_decoding,
    ranking_device,
    seconds_since,
)
from .history_flag import quotes_missing, read_history
from .inputs import add_item_column, add_model, add_title_column, read_titles
from .messages import for_terminal
from .next_steps import after_recommend
from .numbers import whole
from .run_folder import check_finished

if TYPE_CHECKING:
    from ..model.ranked_lists import Recommendation

logger = logging.getLogger(__name__)
HELP = "Recommends items of the catalogue for one history, or for every user of a file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "model directory of `macrec train`, or a repository of the Hub")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--history",
        metavar="I1,I7",
        help="item ids, oldest first, with commas between them; one with a comma in quotes, '\"a,b\",c', and "
        "--history=-1,c where the first begins with a dash",
    )
    source.add_argument(
        "--histories", metavar="USERS.jsonl", help='one user a line: {"user_id": "u1", "history": ["i1", "i7"]}'
    )
    parser.add_argument("--output", metavar="RECS.jsonl", help="where the lists go (default: shown)")
    parser.add_argument(
        "--top-k", type=whole(1), default=10, help="items for each user (default: 10; paper, largest K)"
    )
    parser.add_argument("--json", action="store_true", help="show one JSON object a user (default: a table)")
    parser.add_argument(
        "--modality", default="ensemble", help="ensemble, or one modality's name (default: ensemble; paper)"
    )
    parser.add_argument(
        "--items", metavar="ITEMS.jsonl", help="titles to show (default: those that the model directory keeps)"
    )
    add_item_column(parser)
    add_title_column(parser)
    parser.add_argument(
        "--exclude-history", action=argparse.BooleanOptionalAction,
        help="leave out what the user has taken (default: where fewer than 1 %% of purchases are repeats)",
    )  # fmt: skip
    parser.add_argument(
        "--on-unknown", choices=("raise", "skip"), default="raise",
        help="items that the catalogue lacks: stop, or leave them out (default: raise; ours)",
    )  # fmt: skip
    add_decoding_arguments(parser)
    add_device_flag(parser, "auto, a GPU of CUDA if there is one")


def run(args: argparse.Namespace) -> str:
    from ..model.files import replacing
    from ..model.recommender import MacRecRecommender

    device = ranking_device(args)
    check_writable(args.output)
    decoding = chosen_decoding(args)  # refused before the model is read
    users = [(None, read_history(args.history))] if args.history is not None else read_histories(Path(args.histories))
    check_finished(args.model)
    recommender = MacRecRecommender.from_pretrained(
        args.model, device=device, dtype=args.dtype, max_history=args.max_history
    )
    known = recommender.table.item_ids
    titles = read_titles(args.items, args.item_column, args.title_column, known) or recommender.item_titles
    try:
        found = recommender.recommend(
            [history for _, history in users],
            **dataclasses.asdict(decoding) | {"fusion": args.fusion},
            exclude_history=args.exclude_history,
            on_unknown=args.on_unknown,
            progress=len(users) > decoding.users_at_a_time(recommender.model.device),
        )
    except ValueError as error:
        places = re.findall(r" in history (\d+): it is not among the \d+ items|^History (\d+) holds", str(error))
        place = int("".join(places[-1])) if places else len(users)  # the last: ids may hold any words
        whose = f" History {place} is that of user {users[place][0]!r}." if place < len(users) else ""
        hint = whose if args.history is None else quotes_missing(users[0][1], known)
        raise ValueError(f"{error}{hint}") from error
    answers = [_answer(user, ranked, titles) for (user, _), ranked in zip(users, found, strict=True)]
    lines = [json.dumps(answer, ensure_ascii=False) for answer in answers]
    if args.output:
        with replacing(args.output) as beside:
            beside.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    if args.json:
        sys.stdout.write("".join(for_terminal(line) + "\n" for line in lines))
    elif not args.output:
        sys.stdout.write("\n".join(_table(answer) for answer in answers) + "\n")
    items = sum(len(ranked) for ranked in found)
    lists, whom = ("recommendation" + "s" * (items != 1), "user" + "s" * (len(users) != 1))
    summary = f"{items} {lists} for {len(users)} {whom} in {seconds_since(args.started)}"
    if cold := sum(not set(history).intersection(known) for _, history in users):
        summary += f", popular items for {cold} of them, whose history names no item of the catalogue"
    summary += f": {args.output}" if args.output else ""
    if args.json:  # stdout belongs to the JSON
        sys.stderr.write(summary + "\n")
        return ""
    return f"{summary}\n{after_recommend(args)}"


def read_histories(path: Path) -> list[tuple[str, list[str]]]:
    """`(user_id, item ids)` of each line of a file of users.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no text, no line at all, or too many that are no `{"user_id": …, "history": […]}`;
            some are skipped with a warning.
    """
    from ..data.text_files import parsed_lines

    if not path.is_file():
        raise FileNotFoundError(f"--histories: expected a file with one user a line, found none at {path}.")
    users = [user for _, user in parsed_lines(path, _user, '{"user_id": "u1", "history": ["i1", "i7"]} in every line')]
    if not users:
        raise ValueError(f"{path}: expected at least one user, got an empty file.")
    if again := len(users) - len({user for user, _ in users}):
        logger.warning(
            f"{path}: {again:,} of {len(users):,} lines are of a user with an earlier one: each gets a list."
        )
    return users


def _user(line: str) -> tuple[str, list[str]]:
    from ..data.text_files import json_id, json_object

    row = json_object(line)
    user, history = row.get("user_id"), row.get("history")
    if user is None or user == "":
        raise ValueError("no user_id")
    if not isinstance(history, list):
        raise ValueError("no list of items as history")
    return json_id("user_id", user), [json_id("item", item) for item in history]


def _answer(user: str | None, ranked: "list[Recommendation]", titles: dict[str, str]) -> dict:
    entries = [_entry(recommendation, titles) for recommendation in ranked]
    return ({} if user is None else {"user_id": user}) | {"recommendations": entries}


def _entry(recommendation: "Recommendation", titles: dict[str, str]) -> dict[str, Any]:
    probability = recommendation.probability
    entry = {
        "item_id": recommendation.item_id,
        "score": round(recommendation.score, 6),
        "probability": None if probability is None else float(f"{probability:.6g}"),
    }
    if titles:
        entry["title"] = titles.get(recommendation.item_id, "")
    return entry | {"reasons": list(recommendation.reasons)}


def _table(answer: dict) -> str:
    lines = [f"user {for_terminal(answer['user_id'])}"] if "user_id" in answer else []
    ids = [for_terminal(entry["item_id"]) for entry in answer["recommendations"]]
    width = max(map(len, [*ids, "item_id"]))
    lines.append(f"{'rank':>4}  {'item_id':<{width}}  {'score':>9}")
    for rank, (item, entry) in enumerate(zip(ids, answer["recommendations"], strict=True), start=1):
        said = "; ".join(entry["reasons"])
        about = entry.get("title", "") + (f"  ({said})" if said else "")
        lines.append(f"{rank:>4}  {item:<{width}}  {entry['score']:>9.4f}  {for_terminal(about)}".rstrip())
    return "\n".join(lines)
