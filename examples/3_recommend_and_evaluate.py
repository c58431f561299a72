"""Recommend with the model of example 2, evaluate it, and decode with plain `model.generate`.

python examples/3_recommend_and_evaluate.py
"""

import argparse
from pathlib import Path

import torch

from macrec_hf import (
    Decoding,
    MacRecRecommender,
    SemanticIdLogitsProcessor,
    history_sources,
    leave_one_out,
    rank_catalogue,
    ranking_metrics,
    read_interactions,
    read_items,
    semantic_id_beam_search,
    user_histories,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples_output"))
    parser.add_argument("--num-beams", type=int, default=20)
    args = parser.parse_args()
    shop, folder = args.output / "shop", args.output / "model"
    if not folder.is_dir():
        raise SystemExit(f"{folder}: expected the model of example 2; run examples/2_train_recommender.py first.")

    # 1. Model, tokenizer and catalogue come in one folder.
    recommender = MacRecRecommender.from_pretrained(folder)
    model, tokenizer, table = recommender.model, recommender.tokenizer, recommender.table

    # 2. Recommend: item ids in, ranked item ids out.
    titles = dict(read_items(shop / "items.jsonl")[["item_id", "title"]].itertuples(index=False))
    histories = user_histories(read_interactions(shop / "interactions.csv"), table.row_of)
    known, targets = leave_one_out(histories, "test")
    history = [table.item_ids[row] for row in known[0]]
    print("bought:", ", ".join(titles[item] for item in history))
    for item, score in recommender.recommend([history], top_k=5, num_beams=args.num_beams)[0]:
        print(f"  {score:7.2f}  {titles[item]}")

    # 3. Evaluate: every user's last item, ranked among the whole catalogue, by modality and ensembled.
    sources = history_sources(recommender.task_encoder, known, table.modalities)
    lists = rank_catalogue(model, recommender.tries, sources, Decoding(num_beams=args.num_beams))
    for part, figures in ranking_metrics(lists, targets).items():
        print(f"{part:>9}: HR@10 {figures['hr@10']:.3f}  NDCG@10 {figures['ndcg@10']:.3f}")

    # 4. The same lists from plain `generate`: the processor lets it write only IDs that an item has.
    trie, source = recommender.tries["text"], torch.tensor([sources["text"][0]])
    beams = {"num_beams": args.num_beams, "num_return_sequences": args.num_beams}
    beams |= {"attention_mask": torch.ones_like(source), "return_dict_in_generate": True, "output_scores": True}
    plain = model.generate(source, logits_processor=[SemanticIdLogitsProcessor(trie)], **beams)
    print("plain generate:", tokenizer.decode(plain.sequences[0], skip_special_tokens=True))

    # 5. And from the fast decoder, through the same method.
    fast = model.generate(source, custom_generate=semantic_id_beam_search, trie=trie, **beams)
    print("fast decoder:  ", tokenizer.decode(fast.sequences[0], skip_special_tokens=True))
    same = torch.equal(plain.sequences, fast.sequences)
    difference = (plain.sequences_scores - fast.sequences_scores).abs().max()
    print(f"same lists: {same}, largest difference of scores {difference:.1e}")


if __name__ == "__main__":
    main()
