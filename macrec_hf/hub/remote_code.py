"""The model's code beside the model: with it, `trust_remote_code=True` loads everything where `macrec_hf` is absent.

A model directory may carry files of `macrec_hf/model/`, flat, at its root: there `transformers` looks for code, for
the quantizer in its subfolder too. By default they are those that its classes reach by `from .x import y`: models,
tokenizer, semantic IDs and constrained `generate`. Recommender and pipeline go along on request. The package itself
never runs them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from transformers.dynamic_module_utils import get_relative_import_files

# Whether and how much of the code goes along: False none, True the models', "recommender" the recommender's as well.
IncludeCode: TypeAlias = bool | Literal["recommender"]

TASK = "semantic-id-recommendation"
_HERE = Path(__file__).parents[1] / "model"
_MODELS = ("configuration_macrec.py", "modeling_macrec.py", "modeling_macrec_quantizer.py", "tokenization_macrec.py")
_RECOMMENDER = ("pipeline.py",)
_PIPELINE = {
    "impl": "pipeline.SemanticIdRecommendationPipeline",
    "pt": ["AutoModelForSeq2SeqLM"],
    "type": "multimodal",
}
# file → what it says about the code
_ENTRIES: Mapping[str, Mapping] = {
    "config.json": {
        "auto_map": {
            "AutoConfig": "configuration_macrec.MacRecConfig",
            "AutoModelForSeq2SeqLM": "modeling_macrec.MacRecForConditionalGeneration",
        },
    },
    # A pair: the class for a tokenizer without, and the one for a tokenizer with the suffix `Fast` in its name.
    "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tokenization_macrec.SemanticIdTokenizer", None]}},
    "quantizer/config.json": {
        "auto_map": {
            "AutoConfig": "configuration_macrec.MacRecQuantizerConfig",
            "AutoModel": "modeling_macrec_quantizer.MacRecQuantizer",
        }
    },
}


def code_files(include_code: IncludeCode = True) -> list[Path]:
    """The files that a model directory takes along: the classes' own, and what they import by `from .x import y`.

    Raises:
        ValueError: for anything but True, False and "recommender".
    """
    if include_code not in (True, False, "recommender"):
        raise ValueError(f"include_code: expected True, False or 'recommender', got {include_code!r}.")
    if not include_code:
        return []
    found = {_HERE / name for name in (*_MODELS, *(_RECOMMENDER if include_code == "recommender" else ()))}
    for root in list(found):
        found |= {Path(path) for path in get_relative_import_files(root)}
    return sorted(found)


def write_code(directory: Path, include_code: IncludeCode = True) -> None:
    """Copies the code into a model directory and names it in the configurations, or takes its names out of them.

    Args:
        directory: with `config.json`, `tokenizer_config.json` and maybe `quantizer/config.json`.
        include_code: False: the directory is one that only an installed `macrec_hf` reads.
    """
    for path in code_files(include_code):
        (directory / path.name).write_bytes(path.read_bytes())
    for name, entries in _ENTRIES.items():
        path = directory / name
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            after = {key: value for key, value in before.items() if key not in ("auto_map", "custom_pipelines")}
            if include_code:
                after |= entries
            if include_code == "recommender" and name == "config.json":
                after["custom_pipelines"] = {TASK: _PIPELINE}
            path.write_text(json.dumps(after, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
