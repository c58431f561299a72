"""What of a text is counted: its words, and pieces of words where a script sets no blanks between them."""

import re
import unicodedata
from collections.abc import Iterator

from sklearn.feature_extraction.text import HashingVectorizer

PIECES = (1, 2, 3)  # letters of a piece
# Scripts without blanks between words (Han, kana, Thai, Lao, Tibetan, Burmese, Khmer), and Hangul, whose words carry
# many endings.
_SCRIPTS = (
    "\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u1980-\u19ff\u1a20-\u1aaf\u3005-\u3007\u3041-\u30ff"
    "\u3105-\u318f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uaa60-\uaa7f\uac00-\ud7ff\uf900-\ufaff"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_SCRIPTS}]+")
_ANY = re.compile(f"[{_SCRIPTS}\uff01-\uffdc]")  # also the wide and narrow forms of their keyboards


class WordsAndPieces:
    """A function from a text to what is counted of it.

    Of most scripts these are the words and pairs of words. In scripts without blanks a text is one word from end to
    end, which no other text has: there all pieces of one to three letters are counted instead.
    """

    def __init__(self) -> None:
        self._words = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+").build_analyzer()

    def __call__(self, text: str) -> list[str]:
        """Words in lower case, pairs of them with a blank between, and pieces."""
        if not _ANY.search(text):
            return self._words(text)
        text = unicodedata.normalize("NFKC", text)
        return self._words(_RUN.sub(" ", text)) + [piece for run in _RUN.findall(text) for piece in _pieces(run)]


def _pieces(run: str) -> Iterator[str]:
    letters = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in run)
    for word in letters.split():
        for size in PIECES:
            yield from (word[start : start + size] for start in range(len(word) - size + 1))
