"""SASRec, BERT4Rec and TIGER of another library, Cornac, in one table with the model of example 2.

python examples/7_other_libraries.py

Needs `pip install 'macrec-hf[baselines]'`. Ten epochs show that all three run; which is best takes longer to tell.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from macrec_hf import (
    EmbeddingStore,
    MacRecRecommender,
    cornac_baseline,
    evaluate,
    leave_one_out,
    read_interactions,
    user_histories,
    write_lists,
)

WIDTH = 50  # places: enough to be judged without the user's own history too


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples_output"))
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    folder, interactions = args.output / "model", read_or_none(args.output / "shop" / "interactions.csv")
    if interactions is None or not folder.is_dir():
        raise SystemExit(f"{folder}: expected the model of example 2; run examples/2_train_recommender.py first.")
    recommender = MacRecRecommender.from_pretrained(folder)
    table = recommender.table

    # 1. What may be learned (all but each user's last two purchases), and the histories that are asked about.
    histories = user_histories(interactions, table.row_of)
    train, _ = leave_one_out(histories, "train")
    known, _ = leave_one_out(histories, "test")

    # 2. TIGER makes IDs of its own from the texts' embeddings, in the order of the table.
    store = EmbeddingStore.open(args.output / "emb")
    texts = store.rows("text", np.array([store.item_ids.index(item) for item in table.item_ids]))
    common = {"n_epochs": args.epochs, "max_len": 10, "learning_rate": 0.003}
    small = {"d_model": 64, "d_ff": 128, "num_heads": 4, "d_kv": 16, "num_enc_layers": 1, "num_dec_layers": 1}
    baselines = {
        "sasrec": cornac_baseline("SASRec", embedding_dim=64, **common),
        "bert4rec": cornac_baseline("BERT4Rec", embedding_dim=64, **common),
        "cornac_tiger": cornac_baseline(
            "TIGER", texts, tokenizer="rkmeans", rqvae_codebook_size=32, n_beams=20, **small, **common
        ),
    }

    # 3. Lists in a file each; any library can write this form.
    files = {}
    for name, baseline in baselines.items():
        start = time.monotonic()
        files[name] = args.output / f"{name}.jsonl"
        write_lists(files[name], histories.user_ids, baseline(train, known, table.num_items, WIDTH, 0), table.item_ids)
        print(f"{name}: trained and asked in {time.monotonic() - start:.0f} s")

    # 4. The same metrics, intervals and paired tests for everybody.
    report = evaluate(recommender, interactions, lists=files)
    for name in ("ensemble", *files, "co_occurrence", "popularity"):
        low, high = report["intervals"][name]["hr@10"]
        print(f"{name:>13}: HR@10 {report[name]['hr@10']:.3f} ({low:.3f}–{high:.3f})")
    print(report["verdict"]["text"])


def read_or_none(path):
    return read_interactions(path) if path.is_file() else None


if __name__ == "__main__":
    main()
