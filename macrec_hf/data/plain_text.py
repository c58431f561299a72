"""HTML of shops → one line of plain text."""

import html
import re

# Of HTML, old ones too. Another `<name>` stands in a text as often for itself, and so does one of the second group
# that nothing closes (sizes `<S>`, `<small>`).
_UNCLOSED = (
    "b body br center col dd div dt em font h1 h2 h3 h4 h5 h6 hr html i img input li ol p span strong table tbody td "
    "th tr ul wbr"
)
_CLOSED = (
    "a abbr acronym address applet area article aside audio base bdi bdo big blink blockquote button canvas caption "
    "cite code colgroup data del details dfn dialog dir dl embed fieldset figcaption figure footer form frame head "
    "frameset header iframe ins kbd label legend link main map mark marquee menu meta meter nav nobr noframes object "
    "noscript optgroup option output param picture pre progress q rp rt ruby s samp script section select small "
    "source strike style sub summary sup svg template textarea tfoot thead time title track tt u var video"
)
_ELEMENTS = frozenset(f"{_UNCLOSED} {_CLOSED}".split())
_CLOSING = re.compile(r"</([a-z][\w:.-]*+)")
_TAG = re.compile(r"""<(/?)([a-zA-Z][\w:.-]*+)((?:[^<>"']++|"[^"<]*+"|'[^'<]*+')*+)>""")
_ATTRIBUTES = re.compile(
    r"""(?:\s*+(?:[\w:.@-]++\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s"'<>]++)"""
    r"""|(?:nowrap|noshade|compact|disabled|checked|selected|hidden|controls|loop|allowfullscreen)(?![\w=-])))++\s*+/?""",
    re.IGNORECASE,
)
# A quotation mark that is not closed, or a text that was cut within a tag.
_BROKEN_TAG = re.compile(
    rf"<(?:{'|'.join(_ELEMENTS)})\s+[\w:-]+\s*=[^<>]*(?:>|\Z)"
    rf"|</[a-z]\w*\s*\Z|<(?:{'|'.join(name for name in sorted(_ELEMENTS) if len(name) > 1)})\s*/?\Z",
    re.IGNORECASE,
)
_DECLARATION = re.compile(r"<!\[CDATA\[|\]\]>|<![a-zA-Z\[][^<>]*>|<\?[a-zA-Z][^<>]*>")
_HIDDEN = re.compile(
    r"""<!--(?:-?>|.*?(?:--!?>|\Z))|<(script|style)(?:\s+[\w:-]+\s*=[^<>]*)?\s*>(.*?)(</\1\s*>|\Z)""",
    re.IGNORECASE | re.DOTALL,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]*);")
_TWO_HALVES = re.compile(r"&#(\d{5});&#(\d{5});")
_HALF = re.compile("[\ud800-\udfff]")


def plain_text(text: str) -> str:
    """A text without tags, comments, scripts and styles, its entities resolved, on one line.

    Only what is shaped like a tag is taken for one: comparisons and hearts (`a < b but b > c`, `I <3 you`) stay.
    Entities that were encoded twice, and tags whose brackets were encoded, are resolved too.
    """
    text = _without_tags(whole_letters(text))
    for entities in (html.unescape, _unescape_closed, _unescape_closed):
        if "&" not in text:
            break
        text = _without_tags(entities(_TWO_HALVES.sub(_joined, text)))
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()


def whole_letters(text: str) -> str:
    """The same text with U+FFFD for each half of an emoji, which no file can hold; two halves become the emoji."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _HALF.search(text) else text


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    text = _DECLARATION.sub(" ", _HIDDEN.sub(_unhidden, text))
    closed = set(_CLOSING.findall(text.lower())).union(_UNCLOSED.split())
    text = _TAG.sub(lambda found: " " if _is_tag(found, closed) else found[0], text)
    return _BROKEN_TAG.sub(" ", text)


def _unhidden(found: re.Match[str]) -> str:
    """Of a style or script without an end that was named only: what follows, if it reads like words."""
    kept = found[1] and not found[3] and not re.search(r"[{}();=]", found[2])
    return found[0] if kept else " "


def _is_tag(found: re.Match[str], closed: set[str]) -> bool:
    """Whether it is shaped like a tag; without attributes it must be among `closed`, or be what no text names."""
    closing, name, rest = found[1], found[2].lower(), found[3].strip()
    if closing:
        return not rest
    if rest in ("", "/"):
        return rest == "/" or name in closed or ":" in name or "-" in name
    return _ATTRIBUTES.fullmatch(rest) is not None and ("=" in rest or name in _ELEMENTS)


def _unescape_closed(text: str) -> str:
    """Entities with their semicolon: in a text that is resolved already, `&copy` may stand for itself."""
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def _joined(found: re.Match[str]) -> str:
    first, second = int(found[1]), int(found[2])
    if 0xD800 <= first < 0xDC00 <= second < 0xE000:
        return chr(0x10000 + ((first - 0xD800) << 10) + second - 0xDC00)
    return found[0]
