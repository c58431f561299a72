"""The words of the doctor's page: each is explained on the page itself, and leads there wherever it is used.

On the page, so that the links work from a file, in a Space and without a network.
"""

import re
from collections.abc import Iterable, Iterator

from markupsafe import Markup, escape

# word → how it is spelled elsewhere (a pattern), and what it means.
WORDS: dict[str, tuple[str, str]] = {
    "Semantic ID": (
        r"semantic IDs?|IDs?",
        "A few codes that stand for one item, such as <a_3><b_77><c_1>: one ID for its text, another for its photo. "
        "Items that are alike have IDs that begin alike, and what the model learns about one helps with the others.",
    ),
    "Code, level, codebook": (
        r"codebooks?|codes?|levels?",
        "An ID is written from left to right. At each place, a level, stands one of a fixed number of codes, and all "
        "codes of a level are its codebook. The first level tells the roughest groups, each further one finer ones.",
    ),
    "Modality": (
        r"modality(?:'s)?|modalities",
        "One kind of data about items: their texts, or their photos. Each has IDs of its own.",
    ),
    "Prefix": (r"prefix(?:es)?", "The first codes of an ID. Items with the same prefix are meant to be alike."),
    "Embedding": (
        r"embeddings?",
        "A row of numbers that stands for a text or a photo; `macrec embed` makes them. Alike items have alike rows.",
    ),
    "Quantizer": (
        r"quantizer(?:'s)?",
        "The small model that turns embeddings into codes; `macrec quantize` trains it.",
    ),
    "Dead code": (
        r"dead codes?",
        "A code that no item has. The recommender carries a word for it that it never learns.",
    ),
    "Perplexity": (
        r"perplexity",
        "To how many evenly used codes the real use amounts: 256 if all 256 are used alike, 1 if all items have the "
        "same one.",
    ),
    "Gini": (r"Gini", "How unevenly the codes are used: 0 = all alike, towards 1 = one code has all items."),
    "Collision": (
        r"collision rate|collisions?|resolution",
        "Items that get the same ID. The rate is 1 − distinct IDs / items. At first the quantizer gives alike items "
        "the same ID; then these are resolved: the nearest item keeps it, the others get the nearest ID that is free.",
    ),
    "Shared information": (
        r"shared information|adjusted mutual information",
        "How far the first codes of text and photo put items into the same groups: none = no more than by chance, 1 = "
        "the same groups (scikit-learn's adjusted mutual information).",
    ),
    "Likeness": (
        r"likeness|cosine",
        "The mean cosine of two items' embeddings: 1 = they point the same way, 0 = they have nothing in common.",
    ),
    "Ensemble": (r"ensemble", "The mean of what the model says by texts and what it says by photos."),
    "Blend": (
        r"blend",
        "The score by which lists are made: what the model says and what customers did, weighed on purchases that "
        "neither of the two had seen.",
    ),
    "NDCG@10": (
        r"NDCG@10",
        "How well a list of ten finds the next purchase: 1 = always in the first place, 0 = never among the ten; "
        "lower places count less.",
    ),
    "Standardised weight": (
        r"standardised weights?",
        "By how much a term moves the score when it is one standard deviation above its mean, so that weights of "
        "different terms can be compared. Forms of one count belong together: one may be above 0 and the other below.",
    ),
}
_SPELLINGS = {f"w{place}": pattern for place, (pattern, _) in enumerate(WORDS.values())}
_ANY = re.compile(
    rf"(?<![\w<`-])(?:{'|'.join(f'(?P<{name}>{pattern})' for name, pattern in _SPELLINGS.items())})(?![\w>`-])",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"(`[^`]*`|--[a-z][\w-]*)")


def explained(text: str, known: Iterable[str] = ()) -> Markup:
    """A text in which the first use of each word leads to its explanation; everything else is escaped.

    Flags and what stands between backticks are commands, and no word of them leads anywhere.

    Args:
        known: anchors of words that need no explanation.
    """
    seen = set(known)
    pieces: list[Markup] = []
    for place, part in enumerate(_COMMAND.split(text)):
        pieces += [Markup("<code>{}</code>").format(part.strip("`"))] if place % 2 else _linked(part, seen)
    return Markup("").join(pieces)


def with_commands(text: str) -> Markup:
    """[`explained`] for a page without the explanations: commands stand out, and no word leads anywhere."""
    return explained(text, _SPELLINGS)


def _linked(text: str, seen: set[str]) -> Iterator[Markup]:
    """A text in pieces.

    Args:
        seen: anchors of words that lead to their explanation already; grows.
    """
    end = 0
    for found in _ANY.finditer(text):
        name = found.lastgroup
        if name is None or name in seen:
            continue
        seen.add(name)
        yield escape(text[end : found.start()])
        yield Markup('<a class="term" href="#{}">{}</a>').format(name, found[0])
        end = found.end()
    yield escape(text[end:])


def glossary() -> list[tuple[str, str, Markup]]:
    """`(anchor, word, what it means)` of each word, in the order of the page."""
    words = zip(_SPELLINGS, WORDS.items(), strict=True)
    return [(anchor, word, explained(meaning, [anchor])) for anchor, (word, (_, meaning)) in words]
