"""`import macrec_hf` loads neither transformers nor torch; whoever loads them finds our classes, in any order."""

import json
import subprocess
import sys

import pytest
import torch
from hub_tools import NUM_ITEMS, tiny_recommender

LOADS = """
import json, sys
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
folder = sys.argv[1]
made = [
    AutoTokenizer.from_pretrained(folder),
    AutoConfig.from_pretrained(folder),
    AutoModelForSeq2SeqLM.from_pretrained(folder),
    AutoModel.from_pretrained(folder, subfolder="quantizer"),
]
made.append(pipeline("semantic-id-recommendation", model=folder, device="cpu"))
made[-1](["i1"])
print(json.dumps([f"{type(one).__module__}.{type(one).__name__}" for one in made]))
"""
EXPECTED = [
    "macrec_hf.model.tokenization_macrec.SemanticIdTokenizer",
    "macrec_hf.model.configuration_macrec.MacRecConfig",
    "macrec_hf.model.modeling_macrec.MacRecForConditionalGeneration",
    "macrec_hf.model.modeling_macrec_quantizer.MacRecQuantizer",
    "macrec_hf.model.pipeline.SemanticIdRecommendationPipeline",
]


def run(program: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    recommender = tiny_recommender(item_counts=torch.arange(NUM_ITEMS))
    return str(recommender.save_pretrained(tmp_path_factory.mktemp("auto") / "model", include_code=False))


ORDERS = [
    "import macrec_hf",
    "import transformers, macrec_hf",
    "import macrec_hf; from transformers import AutoModel",
    "from transformers import AutoModel; import macrec_hf",
    "import macrec_hf; import transformers.generation.utils",  # itself in the middle of loading the Auto classes
    "from macrec_hf import SemanticIdTokenizer",
    "from macrec_hf.model.configuration_macrec import MacRecConfig",  # ours in the middle of loading transformers
    "from macrec_hf.training.training_args import MacRecTrainingArguments",
]
# A process for each order, which has loaded what takes long and of which we know nothing.
FORKS = """
import gc, os, sys
import accelerate, pandas, safetensors.torch, scipy.stats, sklearn.metrics, tokenizers, torch._dynamo
import huggingface_hub.hf_api, huggingface_hub.repocard, huggingface_hub.serialization, jinja2, PIL.ImageOps, regex
assert not {"macrec_hf", "transformers"} & set(sys.modules)
gc.freeze()
for program in sys.argv.pop().split("\f"):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        exec(program)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, program
"""


# The hook that waits for transformers goes when its work is done, and stays until then.
HOOK = """
import importlib.util, sys
import macrec_hf

def waiting():
    return [finder.library for finder in sys.meta_path if type(finder).__module__ == "macrec_hf.auto_classes"]

assert importlib.util.find_spec("transformers") is not None and "transformers" not in sys.modules
before = waiting()
import transformers
assert type(transformers.__spec__.loader).__name__ == "SourceFileLoader"
assert "macrec" in transformers.CONFIG_MAPPING
print(repr([before, waiting()]).replace("'", '"'))
"""


@pytest.fixture(scope="module")
def told(directory):
    """What each program says, in one process of its own after the other."""
    programs = [*(first + LOADS for first in ORDERS), HOOK]
    return [json.loads(line) for line in run(FORKS, directory, "\f".join(programs)).splitlines()]


def test_auto_classes_know_ours_in_any_order_of_imports(told):
    assert dict(zip(ORDERS, told[:-1], strict=True)) == dict.fromkeys(ORDERS, EXPECTED)


def test_the_hook_goes_when_its_work_is_done_and_stays_until_then(told):
    assert told[-1] == [["peft.utils.constants", "transformers"], ["peft.utils.constants"]]


def test_nothing_heavy_is_loaded_before_it_is_asked_for():
    told = "; import sys; print(sorted({'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules)))"
    words = [["--help"], ["--version"], ["bake"]]
    for program in ("import macrec_hf", *(f"import macrec_hf.cli; macrec_hf.cli.main({line})" for line in words)):
        assert run(program + told).splitlines()[-1] == "[]", program


def test_no_help_and_no_misspelt_or_missing_flag_of_a_verb_loads_anything_heavy():
    told = run("""
import json, sys
from macrec_hf.cli.main import VERBS, main

loaded = {}
for verb in VERBS:
    for words in ([verb, "--help"], [verb, "--zzzz", "x"], *([["train"], ["quantize"]] if verb == "train" else [])):
        try:
            raise RuntimeError(f"{words} ended with {main(words)}")
        except SystemExit as stopped:
            assert stopped.code == (0 if "--help" in words else 2), words
        loaded[" ".join(words)] = sorted({"torch", "transformers", "numpy", "pandas"} & set(sys.modules))
print()
print(json.dumps(loaded))
""")
    loaded = json.loads(told.splitlines()[-1])
    assert len(loaded) >= 20 and {words for words, heavy in loaded.items() if heavy} == set()


@pytest.mark.parametrize("order", ["import peft.utils, macrec_hf", "import macrec_hf, peft.utils"])
def test_lora_without_target_modules_adapts_what_it_adapts_of_t5(order, tmp_path):
    """On a stand-in for the one file of PEFT that counts: PEFT is not among our requirements."""
    for folder, text in (("peft", ""), ("peft/utils", "from . import constants")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(text)
    name = "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"
    constants = tmp_path / "peft" / "utils" / "constants.py"
    constants.write_text(f"{name} = {{'t5': ['q', 'v']}}")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {order}; "
    assert run(f"{program}print(peft.utils.constants.{name}['macrec'])").strip() == "['q', 'v']"
    constants.write_text("")
    run(program)
