"""`macrec demo`: a shop made from a seed through the same verbs as every other shop, ending with a page to look at."""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import make_output, seconds_since
from .numbers import SEED, whole

if TYPE_CHECKING:
    from ..demo.shop import DemoShop

HELP = "Makes a small shop, runs every verb on it, and writes a page that shows the result."
# Sizes are those that `macrec quantize` and `macrec train` choose by themselves, but there are fewer epochs than their
# 40, so that the demo ends in five minutes.
TRAIN = ["--epochs", "32"]
MADE = ("index.html", "recs.jsonl", "lists.jsonl", "metrics.json", "model", "ids", "emb")  # the page first
SHOWN_CUSTOMERS = 6
SHOWN_HISTORY = 9
SHOWN_ITEMS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="macrec_demo", help="folder for all of it (default: macrec_demo)")
    parser.add_argument("--seed", type=SEED, default=0, help="seed of the shop and of both trainings (default: 0)")
    parser.add_argument("--num-items", type=whole(20), default=300, help="products of the shop (default: 300; ours)")
    parser.add_argument(
        "--num-customers", type=whole(1), default=600, help="customers of the shop (default: 600; ours)"
    )


def run(args: argparse.Namespace) -> str:
    from ..demo.shop import make_demo_shop

    start, output = args.started, make_output(args.output)
    shop = make_demo_shop(output / "shop", args.num_items, args.num_customers, args.seed)
    clear(output)
    say(f"A shop with {args.num_items} products and {args.num_customers} customers: {shop.items.parent}")
    examples = choose_customers(shop, output)
    commands = [(words, run_verb(words)) for words in stages(shop, output, args.seed)]
    page = write_demo_page(shop, output, examples, [(shown(words), seconds) for words, seconds in commands], start)
    verdict = json.loads((output / "metrics.json").read_text())["verdict"]["text"]
    return f"Done in {seconds_since(start)}. Look at {page}\n{verdict}"


def clear(output: Path) -> None:
    """Removes what an earlier demo made there; nobody else's folders."""
    from ..model.files import remove

    if (output / "users.jsonl").is_file() and (output / "shop" / "items.jsonl").is_file():
        for name in MADE:
            remove(output / name)


def stages(shop: "DemoShop", output: Path, seed: int) -> list[list[str]]:
    """The command lines, in order, as lists of words."""
    emb, ids, model, users = (str(output / name) for name in ("emb", "ids", "model", "users.jsonl"))
    interactions, chance = ["--interactions", str(shop.interactions)], ["--seed", str(seed)]
    lists = ["--output", str(output / "metrics.json"), "--predictions", str(output / "lists.jsonl")]
    return [
        ["embed", "--items", str(shop.items), "--output", emb],
        ["quantize", "--embeddings", emb, "--output", ids, *chance],
        ["train", *interactions, "--items", str(shop.items), "--semantic-ids", ids, "--output", model, *TRAIN,
         *chance],
        ["evaluate", "--model", model, *interactions, "--split", "test", *lists],
        ["recommend", "--model", model, "--histories", users, "--output", str(output / "recs.jsonl"),
         "--top-k", str(SHOWN_ITEMS)],
    ]  # fmt: skip


def run_verb(words: list[str]) -> float:
    """Runs one verb as the command line would, after showing it; returns its seconds.

    Raises:
        RuntimeError: the verb failed; it has said why.
    """
    from .main import main

    say(f"\n$ {shown(words)}")
    start = time.monotonic()
    status = main(words)
    if status:
        raise RuntimeError(f"`{shown(words)}` ended with status {status}; its error stands above.")
    return time.monotonic() - start


def shown(words: list[str]) -> str:
    return shlex.join(["macrec", *words])


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def choose_customers(shop: "DemoShop", output: Path) -> list[dict]:
    """Customers for the page, evenly spaced; their histories without the last purchase become `users.jsonl`."""
    from ..data.readers import read_interactions

    interactions = read_interactions(shop.interactions)
    everyone = list(interactions.sort_values("timestamp", kind="stable").groupby("user_id", sort=True)["item_id"])
    chosen = everyone[:: max(1, len(everyone) // SHOWN_CUSTOMERS)][:SHOWN_CUSTOMERS]
    examples = [
        {"user_id": user, "history": items.tolist()[:-1], "target": items.tolist()[-1]} for user, items in chosen
    ]
    lines = [json.dumps({"user_id": example["user_id"], "history": example["history"]}) for example in examples]
    (output / "users.jsonl").write_text("\n".join(lines) + "\n")
    return examples


def write_demo_page(
    shop: "DemoShop", output: Path, examples: list[dict], commands: list[tuple[str, float]], start: float
) -> Path:
    """Gathers what the verbs left in `output` and writes `index.html` there."""
    from ..data.readers import read_items
    from ..demo.one_product import one_product
    from ..demo.page import write_page
    from ..model.semantic_ids import SemanticIdTable

    items = read_items(shop.items)
    products: dict[str, dict[str, Any]] = {
        str(row.item_id): {"item_id": row.item_id, "title": row.title, "image": row.image}
        for row in items.itertuples()
    }
    metrics = json.loads((output / "metrics.json").read_text())
    recommended = evaluated_lists(output / "lists.jsonl", metrics["verdict"]["row"], metrics["quoted"])
    customers = [
        {
            "name": example["user_id"],
            "history": [products[item] for item in example["history"][-SHOWN_HISTORY:]],
            "target": products[example["target"]],
            "recommended": [products[item] for item in recommended[example["user_id"]]],
        }
        for example in examples
    ]
    ids, model = output / "ids", output / "model"
    curves = {
        "Quantizer: loss": log_lines(ids, {"training": "loss", "reconstruction": "eval_reconstruction_loss"}),
        "Quantizer: collision rate before it is resolved": log_lines(ids, {"collision rate": "eval_collision_rate"}),
        "Recommender: loss": log_lines(model, {"training": "loss", "validation": "eval_loss"}),
        "Recommender: validation": log_lines(model, {"HR@10": "eval_hr@10", "NDCG@10": "eval_ndcg@10"}),
    }
    facts = [
        f"{len(items)} products and {metrics['num_users']} customers made from a seed, and every stage of macrec_hf "
        f"run on them, in {seconds_since(start)}.",
    ]
    last = [example["history"][-1] for example in examples]
    return write_page(
        output / "index.html",
        customers=customers,
        metrics=metrics,
        curves=curves,
        facts=facts,
        commands=commands,
        example=one_product(SemanticIdTable.from_pretrained(ids), products, last),
        next_steps=next_steps(shop, output),
    )


def next_steps(shop: "DemoShop", output: Path) -> list[tuple[str, str]]:
    """`(what it is for, command line)`."""
    items, model = ["--items", str(shop.items)], str(output / "model")
    report = ["--embeddings", str(output / "emb"), *items, "--output", str(output / "report.html")]
    return [
        ("click through the shop", shown(["app", model, *items, "--encoders", str(output / "emb")])),
        ("are the IDs any good?", shown(["doctor", model, *report])),
        ("a history of your own", shown(["recommend", model, "--history", "p0001,p0007"])),
    ]


def evaluated_lists(path: Path, row: str, column: str) -> dict[str, list[str]]:
    """`{user_id: [item_id, ...]}` of one row of `macrec evaluate --predictions`.

    Not those of `macrec recommend`: the counts that serve hold all purchases, the last one of each customer too.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    if column == "hidden":
        lines = [{"user_id": line["user_id"], **line["hidden"]} for line in lines]
    return {line["user_id"]: [item for item, _ in line[row][:SHOWN_ITEMS]] for line in lines}


def log_lines(directory: Path, wanted: dict[str, str]) -> dict[str, list[tuple[float, float]]]:
    """`{name: [(step, value), ...]}` from the Trainer's log in `directory`, lines without a value left out."""
    history = json.loads((directory / "training_log.json").read_text())
    lines = {name: [(entry["step"], entry[key]) for entry in history if key in entry] for name, key in wanted.items()}
    return {name: line for name, line in lines.items() if line}
