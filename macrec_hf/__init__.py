"""macrec_hf: multimodal generative recommendation (MACRec) the Hugging Face way.

Names are imported when they are first used, so that `import macrec_hf` and `macrec --help` stay quick.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

# `macrec VERB` and `python -m macrec_hf.cli VERB`: waiting threads sleep instead of spinning, unless the user has chosen.
# Beside other work on the same cores, spinning makes small steps ten times slower. The thread library reads this once,
# when torch is loaded, which the next imports do; a process that only imports the package keeps its own settings.
if sys.argv[0].endswith(("macrec", "macrec.exe")) or "macrec_hf.cli" in sys.orig_argv:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_macrec import MacRecConfig, MacRecQuantizerConfig
from .modeling_macrec import MacRecForConditionalGeneration
from .modeling_macrec_quantizer import MacRecQuantizer
from .tokenization_macrec import SemanticIdTokenizer

__version__ = "0.1.0"

AutoConfig.register(MacRecQuantizerConfig.model_type, MacRecQuantizerConfig, exist_ok=True)
AutoConfig.register(MacRecConfig.model_type, MacRecConfig, exist_ok=True)
AutoModel.register(MacRecQuantizerConfig, MacRecQuantizer, exist_ok=True)
AutoModelForSeq2SeqLM.register(MacRecConfig, MacRecForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(MacRecConfig, tokenizer_class=SemanticIdTokenizer, exist_ok=True)
# As transformers registers its own tasks: the class is named, and imported when a pipeline is made.
PIPELINE_REGISTRY.supported_tasks["semantic-id-recommendation"] = {
    "impl": f"{__name__}.pipeline_recommendation.SemanticIdRecommendationPipeline",
    "pt": (AutoModelForSeq2SeqLM,),
    "type": "multimodal",
}

# name → the file that holds it
_HOMES = {
    "CodebookHealthCallback": "trainer_codebook_health",
    "EmbeddingStore": "embedding_store",
    "InteractionsBuilder": "dataset_builders",
    "ItemsBuilder": "dataset_builders",
    "MacRecConfig": "configuration_macrec",
    "MacRecForConditionalGeneration": "modeling_macrec",
    "MacRecOutput": "modeling_macrec",
    "MacRecQuantizer": "modeling_macrec_quantizer",
    "MacRecQuantizerConfig": "configuration_macrec",
    "MacRecQuantizerOutput": "modeling_macrec_quantizer",
    "MacRecQuantizerTrainer": "trainer_quantizer",
    "MacRecRecommender": "recommender",
    "MacRecTrainer": "trainer_macrec",
    "RankingMetrics": "metrics",
    "RecommendationCollator": "data_collator",
    "RecommendationTasksBuilder": "dataset_builders",
    "SemanticIdLogitsProcessor": "logits_process",
    "SemanticIdRecommendationPipeline": "pipeline_recommendation",
    "SemanticIdTable": "semantic_ids",
    "SemanticIdTokenizer": "tokenization_macrec",
    "SemanticIdTrie": "semantic_id_trie",
    "add_items": "indexing",
    "build_semantic_ids": "indexing",
    "codebook_report": "codebook_figures",
    "exact_scores": "scoring",
    "remove_items": "indexing",
    "semantic_id_beam_search": "beam_search",
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
    "MacRecRecommender",
    "MacRecTrainer",
    "RankingMetrics",
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
    from .beam_search import semantic_id_beam_search
    from .codebook_figures import codebook_report
    from .data_collator import RecommendationCollator
    from .dataset_builders import InteractionsBuilder, ItemsBuilder, RecommendationTasksBuilder
    from .embedding_store import EmbeddingStore
    from .indexing import add_items, build_semantic_ids, remove_items
    from .logits_process import SemanticIdLogitsProcessor
    from .metrics import RankingMetrics
    from .modeling_macrec import MacRecOutput
    from .modeling_macrec_quantizer import MacRecQuantizerOutput
    from .pipeline_recommendation import SemanticIdRecommendationPipeline
    from .recommender import MacRecRecommender
    from .scoring import exact_scores
    from .semantic_id_trie import SemanticIdTrie
    from .semantic_ids import SemanticIdTable
    from .trainer_codebook_health import CodebookHealthCallback
    from .trainer_macrec import MacRecTrainer
    from .trainer_quantizer import MacRecQuantizerTrainer
