"""A small demo shop with all that `macrec app` needs, made once a process. Its models are real but untrained."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch

from macrec_hf import (
    MacRecConfig,
    MacRecForConditionalGeneration,
    MacRecQuantizer,
    MacRecQuantizerConfig,
    MacRecRecommender,
    SemanticIdTokenizer,
    build_semantic_ids,
)
from macrec_hf.app.shop import Shop
from macrec_hf.catalogue.encoders import make_encoders
from macrec_hf.catalogue.item_encoders import embed_items
from macrec_hf.data.readers import read_items
from macrec_hf.demo.shop import make_demo_shop

NUM_ITEMS = 40
SOLD_OUT = 3  # each third item
ODD_TITLE = '${1+1} {{value}} <b>bold</b> & "quoted"'
NO_PHOTO, ODD = "p0005", "p0002"


@functools.cache
def shop_folder() -> Path:
    """`shop/` with photos, `items.jsonl` with stock, `emb/` and `model/` with quantizer, counts and titles."""
    around = Path(tempfile.mkdtemp(prefix="app-tests-"))
    atexit.register(shutil.rmtree, around, ignore_errors=True)
    folder = around / "corner_shop-of__Ana_"
    folder.mkdir()
    shop = make_demo_shop(folder / "shop", num_items=NUM_ITEMS, num_customers=5)
    rows = [json.loads(line) for line in shop.items.read_text(encoding="utf-8").splitlines()]
    for place, row in enumerate(rows):
        row["image"] = None if row["item_id"] == NO_PHOTO else f"shop/{row['image']}"
        row["in_stock"] = place % SOLD_OUT != 0
        row["title"] = ODD_TITLE if row["item_id"] == ODD else row["title"]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    embedded = embed_items(read_items(folder / "items.jsonl"), make_encoders(), progress=False)
    embedded.save(folder / "emb")
    _model(embedded).save_pretrained(folder / "model")
    return folder


def _model(store) -> MacRecRecommender:
    torch.manual_seed(0)
    config = MacRecQuantizerConfig(
        modalities=store.modalities, num_levels=3, codebook_size=8, codebook_dim=8, hidden_sizes=(32,),
        contrastive_weights=(0.0, 0.1, 0.1),
    )  # fmt: skip
    config.embeddings_fingerprint, config.encoders = store.fingerprint(), store.encoders
    quantizer = MacRecQuantizer(config).eval()
    # Codes near the latents, level by level, as training would leave them: items of a kind share prefixes.
    codebooks = {}
    for name in store.modalities:
        rest = quantizer.encode_latents({name: torch.from_numpy(store.rows(name, range(len(store))))})[name].detach()
        levels = []
        for level in range(3):
            levels.append(rest[torch.randperm(len(rest))[:8]].clone())
            rest = rest - levels[level][torch.cdist(rest, levels[level]).argmin(1)]
        codebooks[name] = torch.stack(levels)
    quantizer.set_codebooks(codebooks)
    table = build_semantic_ids(quantizer, store)
    tokenizer = SemanticIdTokenizer.from_table(table)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    model = MacRecForConditionalGeneration(
        MacRecConfig(vocab_size=len(tokenizer), num_levels=3, max_history=5, initializer_factor=8.0, **sizes)
    )
    titles = {item: f"Model's title of {item}" for item in table.item_ids}
    counts = torch.arange(len(store)).flip(0)  # p0000 is the most popular
    return MacRecRecommender(
        model=model, tokenizer=tokenizer, table=table, quantizer=quantizer, item_counts=counts, item_titles=titles
    )


@functools.cache
def open_shop() -> Shop:
    folder = shop_folder()
    return Shop.open(folder / "model", items=folder / "items.jsonl", encoders=folder / "emb")
