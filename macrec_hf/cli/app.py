"""`macrec app`: a page to try a model with, in the browser."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .common import add_device_flag, make_output, ranking_device
from .inputs import add_allow_outside, add_item_column, add_model, add_shown_columns, shown_columns
from .numbers import whole
from .run_folder import check_finished

if TYPE_CHECKING:
    from ..app.shop import Shop

HELP = """Serves a page on this machine: pick items by photo as a history, see what is recommended; switch modality,
beams, history and stock; add a new item by photo and title and see where it lands. Ctrl-C ends it.
--space writes the folder of a Hugging Face Space with the same page instead."""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, "folder of `macrec train`, or a repository of the Hub")
    parser.add_argument(
        "--items",
        metavar="ITEMS.jsonl",
        help="titles, photos and, in a column in_stock, what can be bought (default: titles of the model directory, "
        "no photos)",
    )
    add_item_column(parser)
    add_shown_columns(parser)
    add_allow_outside(parser)
    parser.add_argument(
        "--encoders",
        metavar="EMB",
        help="folder of `macrec embed` whose encoders the semantic IDs come from: items can be added (default: they "
        "cannot)",
    )
    add_device_flag(parser, "auto, a GPU of CUDA if there is one")
    parser.add_argument("--title", help="head of the page (default: heading of the model card, or name of the folder)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address that is listened on; 0.0.0.0 for other machines too (default: 127.0.0.1, this machine; ours)",
    )
    parser.add_argument(
        "--port",
        type=whole(1, 65535),
        help="port that is listened on (default: 7860, or the next that is free; Gradio's)",
    )
    parser.add_argument("--browser", action="store_true", help="open it in the browser (default: say where it is)")
    parser.add_argument(
        "--share",
        action="store_true",
        help="a public address through Gradio's servers, for a week (default: none, nothing leaves this machine)",
    )
    parser.add_argument(
        "--space", metavar="DIR", help="write a Space with model, small photos and encoders there, and end"
    )
    parser.add_argument(
        "--counts",
        choices=("none", "rounded", "all"),
        help="of --space: which counts of purchases, customers' data, go along with a model directory; rounded: pairs "
        "of at least five customers, no days (default: none, so that lists are the model's own there; ours)",
    )


def run(args: argparse.Namespace) -> str | None:
    if args.counts is not None and not (args.space and Path(args.model).is_dir()):
        raise ValueError(
            f"--counts {args.counts}: expected --space and a model directory of this machine, whose counts go into "
            "the Space. A repository of the Hub serves with what it was uploaded with; see counts of push_to_hub."
        )
    if args.space:
        from ..app.space import write_space

        folder = make_output(args.space)
        said = write_space(folder, _open(args), args.model, args.encoders, args.counts or "none")
        return f"{said}: {folder}. Upload it: hf upload USER/NAME {folder} --repo-type space"
    launch_page = _page()  # before the model is read: without Gradio there is no use in it
    shop = _open(args)
    launch_page(shop, host=args.host, port=args.port, share=args.share, browser=args.browser, on_ready=_say_where)
    return None


def _page() -> Callable[..., None]:
    """What serves the page; Gradio is imported by nobody before."""
    try:
        from ..app.page import launch_page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise RuntimeError(
            "Expected gradio to be installed, which serves the page, and found none: pip install 'macrec-hf[app]'."
        ) from error
    return launch_page


def _open(args: argparse.Namespace) -> "Shop":
    from ..app.shop import Shop

    check_finished(args.model)
    device = ranking_device(args)
    shop = Shop.open(
        args.model,
        items=args.items,
        encoders=args.encoders,
        device=device,
        title=args.title,
        item_column=args.item_column,
        allow_outside=args.allow_outside,
        **shown_columns(args),
    )
    if args.items is None:
        logger.warning("Without --items there are no photos on the page.")
    return shop


def _say_where(address: str) -> None:
    from transformers.utils import logging as library

    # From here on it speaks of single visitors, whom the page tells itself.
    library.set_verbosity_error()
    sys.stdout.write(f"The page is open at {address} (Ctrl-C ends it)\n")
    sys.stdout.flush()
