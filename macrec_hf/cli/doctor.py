"""`macrec doctor`: how healthy semantic IDs are, as a page for people and as JSON."""

import argparse
import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from .common import check_writable, seconds_since
from .inputs import (
    add_allow_outside,
    add_item_column,
    add_shown_columns,
    open_embeddings,
    open_semantic_ids,
    read_pairs,
    shown_columns,
)
from .next_steps import after_doctor
from .numbers import SEED
from .run_folder import check_finished

if TYPE_CHECKING:
    from ..catalogue.embedding_store import EmbeddingStore
    from ..model.semantic_ids import SemanticIdTable

HELP = """Examines semantic IDs: use of the codes, collisions, agreement of the modalities, whether items that share a
prefix look alike; with advice, and of a model what each source of its blend finds. Writes one HTML page that needs
nothing else. --embeddings and --items show more."""
DEFAULT_OUTPUT = "report.html"
MAPS = ("tsne", "pca", "none")
_PATTERNS = ["semantic_ids.*", "checksums.json", "item_titles.json", "quantizer/*.json", "quantizer/*.safetensors"]
_PATTERNS += ["blend.json"]

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "semantic_ids",
        metavar="MODEL_OR_IDS",
        help="folder of `macrec train` or `macrec quantize`, a repository of the Hub, or "
        "text=X.index_lemb.json,image=X.index_vitemb.json",
    )
    parser.add_argument(
        "--output", metavar="FILE.html", help=f"the page (default: {DEFAULT_OUTPUT}; none with --json alone)"
    )
    parser.add_argument("--json", action="store_true", help="show all figures as JSON (default: one line)")
    parser.add_argument(
        "--embeddings",
        help="folder of `macrec embed`, or text=a.npy,image=b.npy: likeness and maps (default: neither)",
    )
    parser.add_argument("--item-ids", help="JSON list of item ids, a row each, for .npy files (default: the folder's)")
    parser.add_argument(
        "--items", metavar="ITEMS.jsonl", help="titles and photos to show (default: titles of the model directory)"
    )
    add_item_column(parser)
    add_shown_columns(parser)
    add_allow_outside(parser)
    parser.add_argument(
        "--map", choices=MAPS, default="tsne", help="how maps are drawn: t-SNE takes seconds (default: tsne; ours)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of the maps and of the items shown (default: 0; ours)")
    parser.set_defaults(modalities=None)  # of --embeddings: all


def run(args: argparse.Namespace) -> str:
    from ..doctor.advice import findings
    from ..doctor.figures import codebook_report
    from ..doctor.verdict import blend_verdict, mend_first, verdict
    from ..model.blend import BLEND_NAME
    from ..model.files import reading

    output = args.output or (None if args.json else DEFAULT_OUTPUT)
    check_writable(output)
    folder = _local_folder(args.semantic_ids)
    if folder is not None:
        check_finished(folder, "train` or `macrec quantize")
    store = open_embeddings(args) if args.embeddings else None
    with nullcontext() if folder is None else reading(folder, "semantic_ids.*", "quantizer/*", BLEND_NAME):
        table = open_semantic_ids(args.semantic_ids if folder is None else str(folder))
        before = table.report or _before(folder, table, store)
        weights, blend = _contrastive_weights(folder), _blend(folder)
    report = codebook_report(table, store, before=before) | {"contrastive_weights": weights}
    found = findings(report)
    if output:
        known = _known_items(args, folder, "image" in table.modalities)
        _write_page(Path(output), args, report, table, store, known, blend)
    if args.json:
        return json.dumps(report | {"blend": blend, "checks": found}, indent=2, ensure_ascii=False)
    problems = [finding["title"] for finding in found if finding["status"] == "warning"]
    said = f"{len(problems)} to look at ({'; '.join(problems)})" if problems else "nothing to mend"
    made = sum(finding["status"] != "unknown" for finding in found)
    checks = f"{len(found)} checks" if made == len(found) else f"{made} of {len(found)} checks could be made"
    figures = f"{table.num_items} items, {checks}: {said} in {seconds_since(args.started)}: {output}"
    following = after_doctor(args, _is_model(args.semantic_ids, folder), mend_first(found))
    return "\n".join([verdict(report, found), *([blend_verdict(blend)] if blend else []), figures, following])


def _blend(folder: Path | None) -> dict | None:
    """The figures of a model directory's blend; None where there is none."""
    from ..doctor.blend_figures import blend_figures
    from ..model.blend import BLEND_NAME, Blend

    if folder is None or not (folder / BLEND_NAME).is_file():
        return None
    return blend_figures(Blend.load(folder))


def _local_folder(argument: str) -> Path | None:
    """The folder behind MODEL_OR_IDS, fetched from the Hub where it is none here; None for index.json files.

    Raises:
        OSError: neither a folder nor a repository that can be reached.
    """
    if read_pairs(argument) is not None:
        return None
    from ..model.files import hub_folder

    return hub_folder(argument, _PATTERNS, "a folder, a repository of the Hub or text=X.json,image=Y.json")


def _is_model(argument: str, folder: Path | None) -> bool:
    """Whether MODEL_OR_IDS is a model directory, or a repository of one; of a repository the IDs alone are fetched."""
    return folder is not None and (not Path(argument).is_dir() or (folder / "config.json").is_file())


def _before(folder: Path | None, table: "SemanticIdTable", store: "EmbeddingStore | None") -> dict:
    """Collisions of the quantizer's own codes, where the folder has it and these are its embeddings."""
    if folder is None or store is None or not (folder / "quantizer").is_dir():
        return {}
    from ..catalogue.indexing import encode_catalogue
    from ..doctor.figures import store_rows
    from ..model.modeling_macrec_quantizer import MacRecQuantizer
    from ..model.vector_quantization import collision_rate

    quantizer = MacRecQuantizer.from_pretrained(folder / "quantizer").eval()
    learned, given = quantizer.config.embeddings_fingerprint, store.fingerprint()
    if learned and learned != given:
        logger.warning(
            "--embeddings: expected those that the quantizer was trained on (%s), got others (%s): collisions before "
            "resolution are left out, and likeness may say little.",
            learned,
            given,
        )
        return {}
    raw, found = encode_catalogue(quantizer, store), {}
    in_table, in_store = store_rows(table, store)
    for name in table.modalities:
        codes, now = raw[name][in_store], table.codes[name][in_table]
        present = codes[:, 0] >= 0
        moved = int((codes != now).any(1)[present].sum())
        rate = collision_rate(codes, quantizer.config.codebook_size)
        found[name] = {"collision_rate_before": rate, "num_moved": moved}
    return found


def _contrastive_weights(folder: Path | None) -> list[float] | None:
    """Of the quantizer's levels, for the advice; None where the folder has no quantizer."""
    if folder is None or not (folder / "quantizer").is_dir():
        return None
    from ..model.configuration_macrec import MacRecQuantizerConfig

    return list(MacRecQuantizerConfig.from_pretrained(folder / "quantizer").contrastive_weights or ())


def _known_items(args: argparse.Namespace, folder: Path | None, pictured: bool) -> dict[str, dict]:
    """`{item id: {"title", "image" (path or None)}}`."""
    if args.items is not None:
        from ..doctor.pictures import known_items

        return known_items(args.items, args.item_column, args.allow_outside, pictured, **shown_columns(args))
    titles = folder / "item_titles.json" if folder is not None else None
    if titles is None or not titles.is_file():
        return {}
    content = json.loads(titles.read_text(encoding="utf-8"))
    return {item: {"title": title, "image": None} for item, title in content.items()}


def _write_page(
    output: Path,
    args: argparse.Namespace,
    report: dict,
    table: "SemanticIdTable",
    store: "EmbeddingStore | None",
    known: dict[str, dict],
    blend: dict | None,
) -> None:
    from ..doctor.page import report_page
    from ..doctor.pictures import embedding_maps, prefix_examples, shown_items
    from ..model.files import replacing

    examples = prefix_examples(table, known, args.seed) if known else None
    maps = embedding_maps(table, store, args.map, args.seed) if store is not None and args.map != "none" else None
    facts = [
        f"{args.semantic_ids}: {table.num_items:,} items, {' and '.join(table.modalities)}, {table.num_levels} levels "
        f"of {table.codebook_size} codes."
    ]
    shown = shown_items(examples, known) if examples else None
    page = report_page(report, facts=facts, examples=examples, items=shown, maps=maps, blend=blend)
    with replacing(output) as beside:
        beside.write_text(page, encoding="utf-8")
