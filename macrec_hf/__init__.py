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
    "RankingMetrics": "evaluation.evaluate_metric",
    "Recommendation": "model.ranked_lists",
    "RecommendationCollator": "data.data_collator",
    "RecommendationTasksBuilder": "data.dataset_builders",
    "SemanticIdLogitsProcessor": "model.logits_process",
    "SemanticIdRecommendationPipeline": "model.pipeline",
    "SemanticIdTable": "model.semantic_ids",
    "SemanticIdTokenizer": "model.tokenization_macrec",
    "SemanticIdTrie": "model.trie",
    "add_items": "catalogue.indexing",
    "build_semantic_ids": "catalogue.indexing",
    "codebook_report": "doctor.figures",
    "evaluate": "evaluation.evaluate",
    "exact_scores": "model.scoring",
    "remove_items": "catalogue.indexing",
    "semantic_id_beam_search": "model.beam_search",
}

__all__ = [
    "CodebookHealthCallback",
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
    "RankingMetrics",
    "Recommendation",
    "RecommendationCollator",
    "RecommendationTasksBuilder",
    "SemanticIdLogitsProcessor",
    "SemanticIdRecommendationPipeline",
    "SemanticIdTable",
    "SemanticIdTokenizer",
    "SemanticIdTrie",
    "add_items",
    "build_semantic_ids",
    "codebook_report",
    "evaluate",
    "exact_scores",
    "remove_items",
    "semantic_id_beam_search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'macrec_hf' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from .catalogue.embedding_store import EmbeddingStore
    from .catalogue.indexing import add_items, build_semantic_ids, remove_items
    from .data.data_collator import RecommendationCollator
    from .data.dataset_builders import InteractionsBuilder, ItemsBuilder, RecommendationTasksBuilder
    from .doctor.figures import codebook_report
    from .doctor.health_callback import CodebookHealthCallback
    from .evaluation.evaluate import evaluate
    from .evaluation.evaluate_metric import RankingMetrics
    from .model.beam_search import semantic_id_beam_search
    from .model.configuration_macrec import MacRecConfig, MacRecQuantizerConfig
    from .model.logits_process import SemanticIdLogitsProcessor
    from .model.modeling_macrec import MacRecForConditionalGeneration, MacRecOutput
    from .model.modeling_macrec_quantizer import MacRecQuantizer, MacRecQuantizerOutput
    from .model.pipeline import SemanticIdRecommendationPipeline
    from .model.ranked_lists import Recommendation
    from .model.recommender import MacRecRecommender
    from .model.scoring import exact_scores
    from .model.semantic_ids import SemanticIdTable
    from .model.tokenization_macrec import SemanticIdTokenizer
    from .model.trie import SemanticIdTrie
    from .training.trainer_macrec import MacRecTrainer
    from .training.trainer_quantizer import MacRecQuantizerTrainer
    from .training.training_args import MacRecQuantizerTrainingArguments, MacRecTrainingArguments
