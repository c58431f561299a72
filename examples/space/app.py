"""The page of `macrec app` as a Space. Photos and encoders, if there are any, lie beside it."""

from pathlib import Path

from macrec_hf.app.page import launch_page
from macrec_hf.app.shop import Shop

HERE = Path(__file__).parent
MODEL = "user/macrec-shop"
ITEMS, ENCODERS = (path if path.exists() else None for path in (HERE / "items.jsonl", HERE / "encoders"))

if __name__ == "__main__":
    launch_page(Shop.open(MODEL, items=ITEMS, encoders=ENCODERS, title="A shop to try"), host="0.0.0.0", port=7860)
