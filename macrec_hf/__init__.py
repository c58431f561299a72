"""macrec_hf: multimodal generative recommendation (MACRec) the Hugging Face way.

Names are imported when they are first used, and transformers' Auto classes are told of ours when transformers is
loaded: `import macrec_hf` and `macrec --help` load neither it nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .auto_classes import register_our_classes

__version__ = "0.1.0"

register_our_classes()

# name → the file that holds it
_HOMES = {
    "CodebookHealthCallback": "doctor.health_callback",
    "Decoding": "model.ensemble",
    "EmbeddingStore": "catalogue.embedding_store",
    "InteractionsBuilder": "data.dataset_builders",
    "ItemsBuilder": "data.dataset_builders",
    "MacRecConfig": "model.configuration_macrec",
    "MacRecForConditionalGeneration": "model.modeling_macrec",
    "MacRecOutput": "model.modeling_macrec",
    "MacRecQuantizer": "model.modeling_macrec_quantizer",
    "MacRecQuantizerConfig": "model.configuration_macrec",
    "MacRecQuantizerOutput": "model.modeling_macrec_quantizer",
    "MacRecQuantizerTrainer": "training.trainer_quantizer",
    "MacRecQuantizerTrainingArguments": "training.training_args",
    "MacRecRecommender": "model.recommender",
    "MacRecTrainer": "training.trainer_macrec",
    "MacRecTrainingArguments": "training.training_args",
    "QuantizerSizes": "training.sizes",
    "RankedLists": "model.ranked_lists",
    "RankingMetrics": "evaluation.evaluate_metric",
    "Recommendation": "model.ranked_lists",
    "RecommendationCollator": "data.data_collator",
    "RecommendationTasksBuilder": "data.dataset_builders",
    "RecommenderSizes": "training.sizes",
    "SemanticIdLogitsProcessor": "model.logits_process",
    "SemanticIdRecommendationPipeline": "model.pipeline",
    "SemanticIdTable": "model.semantic_ids",
    "SemanticIdTokenizer": "model.tokenization_macrec",
    "SemanticIdTrie": "model.trie",
    "add_co_purchases": "catalogue.co_purchases",
    "add_items": "catalogue.indexing",
    "baseline_lists": "evaluation.baselines",
    "bootstrap_interval": "evaluation.ranking_metrics",
    "build_semantic_ids": "catalogue.indexing",
    "co_purchase_ids": "catalogue.co_purchase_ids",
    "codebook_report": "doctor.figures",
    "cornac_baseline": "evaluation.cornac_baselines",
    "embed_items": "catalogue.item_encoders",
    "evaluate": "evaluation.evaluate",
    "evaluation_report": "evaluation.report",
    "exact_scores": "model.model_decoding",
    "history_sources": "model.ensemble",
    "leave_one_out": "data.splits",
    "load_encoders": "catalogue.encoders",
    "load_recommendation_tasks": "data.recommendation_tasks",
    "make_demo_shop": "demo.shop",
    "make_encoders": "catalogue.encoders",
    "paired_bootstrap": "evaluation.ranking_metrics",
    "quantizer_sizes": "training.sizes",
    "rank_catalogue": "model.ensemble",
    "ranking_metrics": "evaluation.ranking_metrics",
    "read_interactions": "data.readers",
    "read_items": "data.readers",
    "recommender_sizes": "training.sizes",
    "remove_items": "catalogue.indexing",
    "semantic_id_beam_search": "model.beam_search",
    "task_names": "model.tokenization_macrec",
    "user_histories": "data.histories",
    "user_metrics": "evaluation.ranking_metrics",
    "validation_halves": "data.splits",
    "write_lists": "evaluation.outside_lists",
}

__all__ = [
    "CodebookHealthCallback",
    "Decoding",
    "EmbeddingStore",
    "InteractionsBuilder",
    "ItemsBuilder",
    "MacRecConfig",
    "MacRecForConditionalGeneration",
    "MacRecOutput",
    "MacRecQuantizer",
    "MacRecQuantizerConfig",
    "MacRecQuantizerOutput",
    "MacRecQuantizerTrainer",
    "MacRecQuantizerTrainingArguments",
    "MacRecRecommender",
    "MacRecTrainer",
    "MacRecTrainingArguments",
    "QuantizerSizes",
    "RankedLists",
    "RankingMetrics",
    "Recommendation",
    "RecommendationCollator",
    "RecommendationTasksBuilder",
    "RecommenderSizes",
    "SemanticIdLogitsProcessor",
    "SemanticIdRecommendationPipeline",
    "SemanticIdTable",
    "SemanticIdTokenizer",
    "SemanticIdTrie",
    "add_co_purchases",
    "add_items",
    "baseline_lists",
    "bootstrap_interval",
    "build_semantic_ids",
    "co_purchase_ids",
    "codebook_report",
    "cornac_baseline",
    "embed_items",
    "evaluate",
    "evaluation_report",
    "exact_scores",
    "history_sources",
    "leave_one_out",
    "load_encoders",
    "load_recommendation_tasks",
    "make_demo_shop",
    "make_encoders",
    "paired_bootstrap",
    "quantizer_sizes",
    "rank_catalogue",
    "ranking_metrics",
    "read_interactions",
    "read_items",
    "recommender_sizes",
    "remove_items",
    "semantic_id_beam_search",
    "task_names",
    "user_histories",
    "user_metrics",
    "validation_halves",
    "write_lists",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'macrec_hf' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from .catalogue.co_purchase_ids import co_purchase_ids
    from .catalogue.co_purchases import add_co_purchases
    from .catalogue.embedding_store import EmbeddingStore
    from .catalogue.encoders import load_encoders, make_encoders
    from .catalogue.indexing import add_items, build_semantic_ids, remove_items
    from .catalogue.item_encoders import embed_items
    from .data.data_collator import RecommendationCollator
    from .data.dataset_builders import InteractionsBuilder, ItemsBuilder, RecommendationTasksBuilder
    from .data.histories import user_histories
    from .data.readers import read_interactions, read_items
    from .data.recommendation_tasks import load_recommendation_tasks
    from .data.splits import leave_one_out, validation_halves
    from .demo.shop import make_demo_shop
    from .doctor.figures import codebook_report
    from .doctor.health_callback import CodebookHealthCallback
    from .evaluation.baselines import baseline_lists
    from .evaluation.cornac_baselines import cornac_baseline
    from .evaluation.evaluate import evaluate
    from .evaluation.evaluate_metric import RankingMetrics
    from .evaluation.outside_lists import write_lists
    from .evaluation.ranking_metrics import bootstrap_interval, paired_bootstrap, ranking_metrics, user_metrics
    from .evaluation.report import evaluation_report
    from .model.beam_search import semantic_id_beam_search
    from .model.configuration_macrec import MacRecConfig, MacRecQuantizerConfig
    from .model.ensemble import Decoding, history_sources, rank_catalogue
    from .model.logits_process import SemanticIdLogitsProcessor
    from .model.model_decoding import exact_scores
    from .model.modeling_macrec import MacRecForConditionalGeneration, MacRecOutput
    from .model.modeling_macrec_quantizer import MacRecQuantizer, MacRecQuantizerOutput
    from .model.pipeline import SemanticIdRecommendationPipeline
    from .model.ranked_lists import RankedLists, Recommendation
    from .model.recommender import MacRecRecommender
    from .model.semantic_ids import SemanticIdTable
    from .model.tokenization_macrec import SemanticIdTokenizer, task_names
    from .model.trie import SemanticIdTrie
    from .training.sizes import QuantizerSizes, RecommenderSizes, quantizer_sizes, recommender_sizes
    from .training.trainer_macrec import MacRecTrainer
    from .training.trainer_quantizer import MacRecQuantizerTrainer
    from .training.training_args import MacRecQuantizerTrainingArguments, MacRecTrainingArguments
