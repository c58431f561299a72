"""The words of the doctor's page lead to their explanations."""

import re

import pytest

from macrec_hf.doctor.blend_figures import source_words
from macrec_hf.doctor.glossary import WORDS, explained, glossary, with_commands
from macrec_hf.model.blend import SOURCES


def links(text):
    return re.findall(r'<a class="term" href="#(\w+)">([^<]*)</a>', explained(text))


def test_the_first_use_of_a_word_leads_to_its_explanation():
    anchors = {word: anchor for anchor, word, _ in glossary()}
    code, dead, spread = (anchors[word] for word in ("Code, level, codebook", "Dead code", "Perplexity"))
    linked = [(dead, "Dead codes"), (code, "codes"), (spread, "perplexity")]
    assert links("Dead codes, codes and a code: perplexity, dead codes") == linked
    assert links("modalities and IDs") == [(anchors["Modality"], "modalities"), (anchors["Semantic ID"], "IDs")]
    assert links("Collision rate before") == [(anchors["Collision"], "Collision rate")]


def test_parts_of_other_words_and_commands_lead_nowhere():
    assert links("decoded identity; --codebook-size; <code_1>") == []
    assert explained("`macrec quantize --codebook-size 8`: see <b>") == (
        "<code>macrec quantize --codebook-size 8</code>: see &lt;b&gt;"
    )
    assert explained("lower --learning-rate, a-b") == "lower <code>--learning-rate</code>, a-b"


def test_where_there_are_no_explanations_commands_stand_out_all_the_same():
    assert with_commands("IDs <b>: `macrec doctor`") == "IDs &lt;b&gt;: <code>macrec doctor</code>"


def test_every_explanation_has_a_place_of_its_own_and_names_no_word_that_is_not_there():
    anchors = [anchor for anchor, _, _ in glossary()]
    assert len(set(anchors)) == len(anchors) == len(WORDS)
    for anchor, word, meaning in glossary():
        targets = re.findall(r'href="#(\w+)"', meaning)
        assert set(targets) <= set(anchors) and anchor not in targets, word
        assert links(word.split(",")[0]), f"{word} is not found by its own spelling"


@pytest.mark.parametrize("name", ["blend", "model", *SOURCES])
def test_every_source_of_a_blend_has_words(name):
    assert source_words(name)
