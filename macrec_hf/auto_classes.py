"""Makes our classes known to transformers' Auto classes and pipelines, as soon as transformers is there.

Registering takes transformers and torch, which take seconds to load. So `import macrec_hf` loads neither: it registers
at once where transformers has been imported already, and else as soon as somebody imports it.

That moment, right after transformers' own `__init__` has run, is the one at which nothing of it is half loaded: it
imports its parts only when they are asked for. Later moments, such as the end of `transformers.models.auto`, lie
inside other imports of transformers, where a model of ours finds classes that it needs not yet defined.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def register_our_classes() -> None:
    """Tells transformers and PEFT of our classes: now where they are loaded, else right after they are."""
    _once_loaded("transformers", _register_with_transformers)
    _once_loaded("peft.utils.constants", _register_with_peft)


def _register_with_transformers() -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.pipelines import PIPELINE_REGISTRY

    from .model.configuration_macrec import MacRecConfig, MacRecQuantizerConfig
    from .model.modeling_macrec import MacRecForConditionalGeneration
    from .model.modeling_macrec_quantizer import MacRecQuantizer
    from .model.tokenization_macrec import SemanticIdTokenizer

    AutoConfig.register(MacRecQuantizerConfig.model_type, MacRecQuantizerConfig, exist_ok=True)
    AutoConfig.register(MacRecConfig.model_type, MacRecConfig, exist_ok=True)
    AutoModel.register(MacRecQuantizerConfig, MacRecQuantizer, exist_ok=True)
    AutoModelForSeq2SeqLM.register(MacRecConfig, MacRecForConditionalGeneration, exist_ok=True)
    AutoTokenizer.register(MacRecConfig, tokenizer_class=SemanticIdTokenizer, exist_ok=True)
    # As transformers registers its own tasks: the class is named, and imported when a pipeline is made.
    PIPELINE_REGISTRY.supported_tasks["semantic-id-recommendation"] = {
        "impl": f"{__package__}.model.pipeline.SemanticIdRecommendationPipeline",
        "pt": (AutoModelForSeq2SeqLM,),
        "type": "multimodal",
    }


def _register_with_peft() -> None:
    """`LoraConfig()` without `target_modules` then adapts what it adapts of any T5: queries and values."""
    constants = sys.modules["peft.utils.constants"]
    # PEFT is not among our requirements, so any version may come: one that keeps no such list is left alone.
    modules_of = getattr(constants, "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", {})
    if "t5" in modules_of:
        modules_of.setdefault("macrec", modules_of["t5"])


def _once_loaded(library: str, register: Callable[[], None]) -> None:
    if library in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Finder(library, register))


class _Finder(MetaPathFinder):
    """Finds one library where everybody else finds it, and has our classes registered once it is loaded.

    To look for a module is not to import it (`importlib.util.find_spec`), so the finder stays until it is loaded.
    """

    def __init__(self, library: str, register: Callable[[], None]):
        self.library, self.register = library, register

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.library:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(Loader):
    """Loads a library by its own loader, which it then leaves in its place, and registers."""

    def __init__(self, loader: Loader, finder: _Finder):
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.register()
        sys.meta_path.remove(self._finder)
