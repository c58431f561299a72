"""`macrec prepare`: published research data → `items.jsonl` and `interactions.csv`."""

import argparse
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from .common import add_overwrite_flag, make_output, seconds_since
from .next_steps import after_prepare
from .numbers import number, whole

HELP = "Turns Amazon reviews, RecBole or MQL4GRec files into items.jsonl and interactions.csv."
WORK = ("items.jsonl", "interactions.csv")
FAILED = "failed_images.jsonl"
FORMATS = ("amazon2018", "amazon2014", "amazon2023", "recbole", "mql4grec")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", required=True, choices=FORMATS, help="layout of the input, see docs/data_formats.md"
    )
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="a folder, or the file of interactions and the file of items",
    )
    parser.add_argument("--output", required=True, help="folder for items.jsonl, interactions.csv and images/")
    add_overwrite_flag(parser)
    parser.add_argument(
        "--k-core",
        type=whole(1),
        default=None,
        metavar="K",
        help="keep users and items with at least K interactions, until all have them; 1 keeps everything (default: 5; "
        "paper, section Datasets. 1 for mql4grec, whose files are filtered already)",
    )
    parser.add_argument(
        "--no-images",
        action="store_true",
        help="do not fetch photos that are named by URL; the URLs stay in items.jsonl (default: fetch them)",
    )
    parser.add_argument("--workers", type=whole(1), default=16, help="downloads at a time (default: 16; ours)")
    parser.add_argument(
        "--retries",
        type=whole(0),
        default=3,
        help="further tries for each photo after a passing failure (default: 3; ours)",
    )
    parser.add_argument(
        "--timeout",
        type=number(0, above=True),
        default=20.0,
        help="seconds to wait for an answer; one photo may take six times as long, with all tries (default: 20; ours)",
    )
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="fetch photos from this machine and its network too (default: from public addresses alone)",
    )


def run(args: argparse.Namespace) -> str:
    from ..data.image_download import remove_old_photos
    from ..data.output_folder import output_folder
    from ..data.prepare import prepare

    output = make_output(args.output, WORK, args.overwrite)
    with output_folder(output, last="interactions.csv", stale=(FAILED,)) as beside:
        done = prepare(args.format, split_inputs(args.input), beside, args.k_core)
        photos, kept = ("", None) if args.no_images else fetch_photos(beside, output / "images", args)
    if kept is not None:
        remove_old_photos(output / "images", (row["item_id"] for row in read_rows(output / "items.jsonl")), kept)
    left_out = {
        "items without metadata": done.without_metadata,
        "repeats": done.repeats,
        "outside the core": done.outside_core,
    }
    found = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
    bare = f", {done.without_photo:,} of them name no photo" if done.without_photo else ""
    return (
        f"{done.num_users:,} users, {done.num_items:,} items{photos}{bare}, {done.num_interactions:,} interactions"
        + (f" (left out: {found})" if found else "")
        + f" in {seconds_since(args.started)}: {output}\n{after_prepare(output)}"
    )


def split_inputs(inputs: list[str]) -> list[str]:
    """Paths; a list of a YAML file arrives as one word with commas."""
    return [path for word in inputs for path in ([word] if Path(word).exists() else word.split(","))]


def fetch_photos(output: Path, images: Path, args: argparse.Namespace) -> tuple[str, Collection[str]]:
    """Replaces URLs in items.jsonl by files under images/; what failed goes into failed_images.jsonl.

    Returns:
        A few words, and the names of the files.
    """
    from ..data.image_download import download_images
    from ..model.files import replacing

    urls = {row["item_id"]: row["image"] for row in read_rows(output / "items.jsonl") if row.get("image")}
    if not urls:
        return "", ()
    report = download_images(
        urls,
        images,
        workers=args.workers,
        retries=args.retries,
        timeout=args.timeout,
        allow_private=args.allow_private_addresses,
    )
    with replacing(output / "items.jsonl") as beside, open(beside, "w", encoding="utf-8") as file:
        for row in read_rows(output / "items.jsonl"):
            name = report.files.get(row["item_id"])
            file.write(json.dumps({**row, "image": f"images/{name}" if name else None}, ensure_ascii=False) + "\n")
    kept = report.files.values()
    if not report.failed:
        return f" ({len(kept):,} photos)", kept
    with open(output / FAILED, "w", encoding="utf-8") as file:
        for item, reason in report.failed.items():
            file.write(json.dumps({"item_id": item, "url": urls[item], "reason": reason}, ensure_ascii=False) + "\n")
    return f" ({len(kept):,} photos, {len(report.failed):,} failed: {FAILED}; --overwrite tries again)", kept


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a jsonl, one at a time."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
